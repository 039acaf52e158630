/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A recursive-descent parser of the description language; DEPTH_MAX bounds its recursion. */
#include "common/interface.h"

#include <ctype.h>

#include "common/interface-type.h"
#include "common/util.h"

#define DEPTH_MAX 16U
#define WORD_MAX  128U

static const char *const simple_types[] = {
	[TYPE_BOOL] = "bool",	  [TYPE_INT] = "int",	    [TYPE_FLOAT] = "float",
	[TYPE_STRING] = "string", [TYPE_OBJECT] = "object",
};

static void type_free(struct type *t)
{
	if (!t)
		return;
	type_free(t->element);
	for (struct field *f = t->fields, *next; f; f = next) {
		next = f->next;
		type_free(f->type);
		free(f->name);
		free(f);
	}
	free(t->name);
	free(t);
}

static void type_freep(struct type **t)
{
	type_free(*t);
}
#define _cleanup_type_ _cleanup_(type_freep)

static void member_free(struct member *m)
{
	if (!m)
		return;
	type_free(m->in);
	type_free(m->out);
	free(m->name);
	free(m);
}

static void member_freep(struct member **m)
{
	member_free(*m);
}

void interface_free(struct interface *i)
{
	if (!i)
		return;
	for (struct member *m = i->members, *next; m; m = next) {
		next = m->next;
		member_free(m);
	}
	free(i->name);
	free(i);
}

static void interface_freep(struct interface **i)
{
	interface_free(*i);
}

/* --- parser ----------------------------------------------------------------------------- */

struct parser {
	const char *p, *end;
	size_t line;
	unsigned depth;
};

static void skip_blanks(struct parser *s)
{
	for (; s->p < s->end; s->p++) {
		if (*s->p == '#')
			while (s->p + 1 < s->end && s->p[1] != '\n')
				s->p++;
		else if (*s->p == '\n')
			s->line++;
		else if (*s->p != ' ' && *s->p != '\t' && *s->p != '\r')
			return;
	}
}

/* Takes the token if it comes next. */
static bool accept_token(struct parser *s, const char *token)
{
	size_t len = strlen(token);

	skip_blanks(s);
	if ((size_t)(s->end - s->p) < len || memcmp(s->p, token, len) != 0)
		return false;
	s->p += len;
	return true;
}

static int expect_token(struct parser *s, const char *token)
{
	return accept_token(s, token) ? 0 : -EINVAL;
}

/* A run of letters, digits, '_' and those of extra, that starts with a letter. */
static int parse_word(struct parser *s, const char *extra, char ret[WORD_MAX])
{
	size_t len = 0;

	skip_blanks(s);
	while (s->p + len < s->end && s->p[len] &&
	       (isalnum((unsigned char)s->p[len]) || s->p[len] == '_' || strchr(extra, s->p[len])))
		len++;
	if (len == 0 || len >= WORD_MAX || !isalpha((unsigned char)s->p[0]))
		return -EINVAL;
	memcpy(ret, s->p, len);
	ret[len] = '\0';
	s->p += len;
	return 0;
}

static int parse_type(struct parser *s, struct type **ret);

bool type_has_field(const struct type *t, const char *name)
{
	for (const struct field *f = t->fields; f; f = f->next)
		if (streq(f->name, name))
			return true;
	return false;
}

/* One "name: type" or, in an enum, "name"; *t is an enum once its first name had no type. */
static int parse_field(struct parser *s, struct type *t, struct field **ret)
{
	struct field *f;
	char name[WORD_MAX];
	int r = parse_word(s, "", name);

	if (r < 0)
		return r;
	if (type_has_field(t, name))
		return -EINVAL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->name = strdup(name);
	if (!f->name) {
		free(f);
		return -ENOMEM;
	}
	*ret = f;
	if (accept_token(s, ":"))
		return t->kind == TYPE_STRUCT ? parse_type(s, &f->type) : -EINVAL;
	if (t->fields != f && t->kind == TYPE_STRUCT)
		return -EINVAL;
	t->kind = TYPE_ENUM;
	return 0;
}

/* What follows "(": a struct or an enum. */
static int parse_fields(struct parser *s, struct type *t)
{
	struct field **tail = &t->fields;

	t->kind = TYPE_STRUCT;
	if (accept_token(s, ")"))
		return 0;
	do {
		int r = parse_field(s, t, tail);

		if (r < 0)
			return r;
		tail = &(*tail)->next;
	} while (accept_token(s, ","));
	return expect_token(s, ")");
}

static int parse_named_type(struct parser *s, struct type *t)
{
	char word[WORD_MAX];
	int r = parse_word(s, "", word);

	if (r < 0)
		return r;
	for (size_t k = 0; k < ARRAY_SIZE(simple_types); k++)
		if (streq(word, simple_types[k])) {
			t->kind = (enum type_kind)k;
			return 0;
		}
	t->kind = TYPE_NAME;
	t->name = strdup(word);
	return t->name ? 0 : -ENOMEM;
}

static int parse_type_body(struct parser *s, struct type *t)
{
	t->optional = accept_token(s, "?");
	if (accept_token(s, "[]"))
		t->kind = TYPE_ARRAY;
	else if (accept_token(s, "[string]"))
		t->kind = TYPE_MAP;
	else if (accept_token(s, "("))
		return parse_fields(s, t);
	else
		return parse_named_type(s, t);
	return parse_type(s, &t->element);
}

static int parse_type(struct parser *s, struct type **ret)
{
	_cleanup_type_ struct type *t = NULL;
	int r;

	if (s->depth >= DEPTH_MAX)
		return -E2BIG;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	s->depth++;
	r = parse_type_body(s, t);
	s->depth--;
	if (r < 0)
		return r;
	*ret = TAKE_PTR(t);
	return 0;
}

/* A struct, or an enum where that is allowed, and nothing else. */
static int parse_struct(struct parser *s, bool allow_enum, struct type **ret)
{
	_cleanup_type_ struct type *t = NULL;
	int r = parse_type(s, &t);

	if (r < 0)
		return r;
	if (t->optional || (t->kind != TYPE_STRUCT && (t->kind != TYPE_ENUM || !allow_enum)))
		return -EINVAL;
	*ret = TAKE_PTR(t);
	return 0;
}

const struct member *interface_find(const struct interface *i, enum member_kind kind,
				    const char *name)
{
	for (const struct member *m = i->members; m; m = m->next)
		if (m->kind == kind && streq(m->name, name))
			return m;
	return NULL;
}

static int parse_member(struct parser *s, struct interface *i)
{
	static const char *const keywords[] = {
		[MEMBER_TYPE] = "type",
		[MEMBER_METHOD] = "method",
		[MEMBER_ERROR] = "error",
	};
	_cleanup_(member_freep) struct member *m = NULL;
	char word[WORD_MAX];
	size_t kind;
	int r = parse_word(s, "", word);

	if (r < 0)
		return r;
	for (kind = 0; kind < ARRAY_SIZE(keywords); kind++)
		if (streq(word, keywords[kind]))
			break;
	if (kind == ARRAY_SIZE(keywords))
		return -EINVAL;
	r = parse_word(s, "", word);
	if (r < 0)
		return r;
	if (!isupper((unsigned char)word[0]) || interface_find(i, (enum member_kind)kind, word))
		return -EINVAL;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->kind = (enum member_kind)kind;
	m->name = strdup(word);
	if (!m->name)
		return -ENOMEM;
	r = parse_struct(s, kind == MEMBER_TYPE, &m->in);
	if (r == 0 && kind == MEMBER_METHOD) {
		r = expect_token(s, "->");
		if (r == 0)
			r = parse_struct(s, false, &m->out);
	}
	if (r < 0)
		return r;
	*i->tail = TAKE_PTR(m);
	i->tail = &(*i->tail)->next;
	return 0;
}

/* Points names at their definitions. */
static int resolve(const struct interface *i, struct type *t)
{
	const struct member *m;
	int r;

	if (!t)
		return 0;
	if (t->kind == TYPE_NAME) {
		m = interface_find(i, MEMBER_TYPE, t->name);
		if (!m)
			return -EINVAL;
		t->definition = m->in;
	}
	for (struct field *f = t->fields; f; f = f->next) {
		r = resolve(i, f->type);
		if (r < 0)
			return r;
	}
	return resolve(i, t->element);
}

static int parse_text(struct parser *s, struct interface *i)
{
	char word[WORD_MAX];
	int r;

	if (!accept_token(s, "interface"))
		return -EINVAL;
	r = parse_word(s, ".-", word);
	if (r < 0)
		return r;
	i->name = strdup(word);
	if (!i->name)
		return -ENOMEM;
	for (skip_blanks(s); s->p < s->end; skip_blanks(s)) {
		r = parse_member(s, i);
		if (r < 0)
			return r;
	}
	for (struct member *m = i->members; m; m = m->next) {
		r = resolve(i, m->in);
		if (r == 0)
			r = resolve(i, m->out);
		if (r < 0)
			return r;
	}
	return 0;
}

int interface_parse(const char *text, size_t len, struct interface **ret, size_t *ret_line)
{
	struct parser s = { .p = text, .end = text + len, .line = 1 };
	_cleanup_(interface_freep) struct interface *i = calloc(1, sizeof(*i));
	int r;

	if (!i)
		return -ENOMEM;
	i->tail = &i->members;
	r = parse_text(&s, i);
	if (r < 0) {
		if (ret_line)
			*ret_line = s.line;
		return r;
	}
	*ret = TAKE_PTR(i);
	return 0;
}

/* --- what is in it ---------------------------------------------------------------------- */

const char *interface_name(const struct interface *i)
{
	return i->name;
}

const char *interface_method(const struct interface *i, size_t n)
{
	for (const struct member *m = i->members; m; m = m->next)
		if (m->kind == MEMBER_METHOD && n-- == 0)
			return m->name;
	return NULL;
}

bool interface_has_method(const struct interface *i, const char *method)
{
	return interface_find(i, MEMBER_METHOD, method) != NULL;
}

bool interface_has_error(const struct interface *i, const char *error)
{
	return interface_find(i, MEMBER_ERROR, error) != NULL;
}
