/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Walks a type and a JSON value together. Recursion is bounded by the depth of the value
 * (jansson refuses more than 2048 levels), since every step into a type by name also steps
 * into the value.
 */
#include "common/interface.h"

#include "common/interface-type.h"
#include "common/util.h"

/* Where the checker stands, as a chain on the stack from the innermost outwards. */
struct place {
	const struct place *outer;
	const char *name; /* NULL: index counts */
	size_t index;
};

static int fault(const struct place *at, const char *problem, struct interface_fault *ret)
{
	/* Built from its end, because the chain starts there. */
	char text[sizeof(ret->path)];
	size_t start = sizeof(text) - 1;

	text[start] = '\0';
	for (; at; at = at->outer) {
		char part[64];
		int n = at->name ? snprintf(part, sizeof(part), "%s%s",
					    at->outer ? "." : "", at->name)
				 : snprintf(part, sizeof(part), "[%zu]", at->index);
		size_t len = MIN((size_t)n, sizeof(part) - 1);

		if (len > start)
			break;
		start -= len;
		/* Names of unknown members are the client's: only plain characters go on. */
		for (size_t i = 0; i < len; i++)
			text[start + i] = part[i] > ' ' && part[i] < 0x7f ? part[i] : '?';
	}
	strcpy(ret->path, text + start);
	ret->problem = problem;
	return -EINVAL;
}

struct checker {
	bool strict; /* unknown members are faults */
	struct interface_fault *fault;
};

static int check(const struct checker *c, const struct type *t, json_t *v,
		 const struct place *at);

static int check_struct(const struct checker *c, const struct type *t, json_t *v,
			const struct place *at)
{
	const char *key;
	json_t *member;

	for (const struct field *f = t->fields; f; f = f->next) {
		struct place here = { .outer = at, .name = f->name };
		int r;

		member = json_object_get(v, f->name);
		if (!member || json_is_null(member)) {
			if (!f->type->optional)
				return fault(&here, "is missing", c->fault);
			continue;
		}
		r = check(c, f->type, member, &here);
		if (r < 0)
			return r;
	}
	if (c->strict)
		json_object_foreach(v, key, member)
			if (!type_has_field(t, key))
				return fault(&(struct place){ .outer = at, .name = key },
					     "is not known", c->fault);
	return 0;
}

static int check_elements(const struct checker *c, const struct type *t, json_t *v,
			  const struct place *at)
{
	const char *key;
	json_t *element;
	size_t n;
	int r;

	if (t->kind == TYPE_MAP) {
		json_object_foreach(v, key, element) {
			r = check(c, t->element, element,
				  &(struct place){ .outer = at, .name = key });
			if (r < 0)
				return r;
		}
		return 0;
	}
	json_array_foreach(v, n, element) {
		r = check(c, t->element, element, &(struct place){ .outer = at, .index = n });
		if (r < 0)
			return r;
	}
	return 0;
}

/* Is v of this kind, not looking inside? */
static bool kind_fits(const struct type *t, json_t *v)
{
	switch (t->kind) {
	case TYPE_BOOL:
		return json_is_boolean(v);
	case TYPE_INT:
		return json_is_integer(v);
	case TYPE_FLOAT:
		return json_is_number(v);
	case TYPE_STRING:
		return json_is_string(v);
	case TYPE_ARRAY:
		return json_is_array(v);
	case TYPE_ENUM:
		return json_is_string(v) && type_has_field(t, json_string_value(v));
	case TYPE_OBJECT:
	case TYPE_MAP:
	case TYPE_STRUCT:
		return json_is_object(v);
	case TYPE_NAME:
	case TYPE_KIND_MAX:
		break;
	}
	return false;
}

static int check(const struct checker *c, const struct type *t, json_t *v,
		 const struct place *at)
{
	if (t->optional && json_is_null(v))
		return 0;
	if (t->kind == TYPE_NAME)
		t = t->definition;
	if (!kind_fits(t, v))
		return fault(at, "has the wrong type", c->fault);
	if (t->kind == TYPE_STRUCT)
		return check_struct(c, t, v, at);
	if (t->kind == TYPE_ARRAY || t->kind == TYPE_MAP)
		return check_elements(c, t, v, at);
	return 0;
}

static int check_member(const struct member *m, const struct type *t, json_t *v, bool strict,
			struct interface_fault *ret_fault)
{
	const struct checker c = { .strict = strict, .fault = ret_fault };

	return m ? check(&c, t, v, NULL) : -ENOENT;
}

int interface_check_call(const struct interface *i, const char *method, json_t *parameters,
			 struct interface_fault *ret_fault)
{
	const struct member *m = interface_find(i, MEMBER_METHOD, method);

	return check_member(m, m ? m->in : NULL, parameters, true, ret_fault);
}

int interface_check_reply(const struct interface *i, const char *method, json_t *parameters,
			  struct interface_fault *ret_fault)
{
	const struct member *m = interface_find(i, MEMBER_METHOD, method);

	return check_member(m, m ? m->out : NULL, parameters, false, ret_fault);
}

int interface_check_error(const struct interface *i, const char *error, json_t *parameters,
			  struct interface_fault *ret_fault)
{
	const struct member *m = interface_find(i, MEMBER_ERROR, error);

	return check_member(m, m ? m->in : NULL, parameters, false, ret_fault);
}
