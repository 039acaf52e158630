/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/varlink.h"

#include <ctype.h>

/* A framer without a message on the way keeps no more than this. */
#define FRAMER_IDLE_BYTES KIB(16)

void varlink_framer_init(struct varlink_framer *f, size_t max)
{
	*f = (struct varlink_framer){ .max = max };
}

void varlink_framer_done(struct varlink_framer *f)
{
	free(f->buf);
	f->buf = NULL;
	f->start = f->end = f->size = f->scanned = 0;
}

size_t varlink_framer_room(const struct varlink_framer *f)
{
	return f->max + 1 - (f->end - f->start);
}

bool varlink_framer_partial(const struct varlink_framer *f)
{
	return f->end > f->start;
}

/* Makes buf hold len more bytes after end; doubling keeps the cost of a long message linear. */
static int framer_reserve(struct varlink_framer *f, size_t len)
{
	size_t have = f->end - f->start, size = MAX(f->size, (size_t)1024);
	char *grown;

	if (f->end + len <= f->size)
		return 0;
	if (f->start > 0) {
		memmove(f->buf, f->buf + f->start, have);
		f->scanned -= f->start;
		f->start = 0;
		f->end = have;
	}
	while (size < have + len)
		size *= 2;
	size = MIN(size, f->max + 1);
	if (size <= f->size)
		return 0;
	grown = realloc(f->buf, size);
	if (!grown)
		return -ENOMEM;
	f->buf = grown;
	f->size = size;
	return 0;
}

int varlink_framer_feed(struct varlink_framer *f, const void *data, size_t len)
{
	int r;

	if (len > varlink_framer_room(f))
		return -ENOBUFS;
	if (len == 0)
		return 0;
	r = framer_reserve(f, len);
	if (r < 0)
		return r;
	memcpy(f->buf + f->end, data, len);
	f->end += len;
	return 0;
}

int varlink_framer_next(struct varlink_framer *f, const char **ret, size_t *ret_len)
{
	const char *nul;

	if (f->start == f->end) {
		if (f->size > FRAMER_IDLE_BYTES)
			varlink_framer_done(f);
		f->start = f->end = f->scanned = 0;
		return 0;
	}
	nul = memchr(f->buf + f->scanned, '\0', f->end - f->scanned);
	if (!nul) {
		f->scanned = f->end;
		return f->end - f->start > f->max ? -EMSGSIZE : 0;
	}
	*ret = f->buf + f->start;
	*ret_len = (size_t)(nul - *ret);
	f->start += *ret_len + 1;
	f->scanned = f->start;
	return 1;
}

/* Checks [A-Za-z0-9]([-]*[A-Za-z0-9])* with the length given. */
static bool label_is_valid(const char *s, size_t len)
{
	if (len == 0 || !isalnum((unsigned char)s[0]) || !isalnum((unsigned char)s[len - 1]))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)s[i]) && s[i] != '-')
			return false;
	return true;
}

bool varlink_name_is_valid(const char *name)
{
	const char *dot, *label = name;
	unsigned n_labels = 0;

	if (strlen(name) >= VARLINK_NAME_MAX || !isalpha((unsigned char)name[0]))
		return false;
	for (; (dot = strchr(label, '.')); label = dot + 1, n_labels++)
		if (!label_is_valid(label, (size_t)(dot - label)))
			return false;
	if (n_labels < 2 || !isupper((unsigned char)label[0]))
		return false;
	for (const char *p = label; *p; p++)
		if (!isalnum((unsigned char)*p))
			return false;
	return true;
}

/* The object in a message. Duplicate names are refused: two readers could see two meanings. */
static int load_object(const char *buf, size_t len, json_t **ret)
{
	json_error_t error;
	json_t *o = json_loadb(buf, len, JSON_REJECT_DUPLICATES, &error);

	if (!o)
		return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EBADMSG;
	if (!json_is_object(o)) {
		json_decref(o);
		return -EBADMSG;
	}
	*ret = o;
	return 0;
}

/* An optional boolean member; null counts as absent. */
static int get_flag(json_t *o, const char *name, bool *ret)
{
	json_t *v = json_object_get(o, name);

	if (v && !json_is_boolean(v) && !json_is_null(v))
		return -EINVAL;
	*ret = json_is_true(v);
	return 0;
}

/* The member "parameters", or an empty object: always owned by the caller. */
static int get_parameters(json_t *o, json_t **ret)
{
	json_t *v = json_object_get(o, "parameters");

	if (v && !json_is_object(v) && !json_is_null(v))
		return -EINVAL;
	v = json_is_object(v) ? json_incref(v) : json_object();
	if (!v)
		return -ENOMEM;
	*ret = v;
	return 0;
}

int varlink_call_parse(const char *buf, size_t len, struct varlink_call *ret)
{
	json_auto_t *o = NULL;
	struct varlink_call c = {};
	const char *name, *dot;
	json_t *method;
	int r;

	r = load_object(buf, len, &o);
	if (r < 0)
		return r;
	method = json_object_get(o, "method");
	if (!method)
		return -EBADMSG;
	name = json_string_value(method);
	if (!name || !varlink_name_is_valid(name))
		return -EINVAL;
	if (get_flag(o, "more", &c.more) < 0 || get_flag(o, "oneway", &c.oneway) < 0 ||
	    get_flag(o, "upgrade", &c.upgrade) < 0)
		return -EINVAL;
	r = get_parameters(o, &c.parameters);
	if (r < 0)
		return r;
	dot = strrchr(name, '.');
	memcpy(c.interface, name, (size_t)(dot - name));
	strcpy(c.method, dot + 1);
	*ret = c;
	return 0;
}

void varlink_call_done(struct varlink_call *c)
{
	json_decref(c->parameters);
	c->parameters = NULL;
}

int varlink_reply_parse(const char *buf, size_t len, struct varlink_reply *ret)
{
	json_auto_t *o = NULL;
	struct varlink_reply reply = {};
	json_t *error;
	int r;

	r = load_object(buf, len, &o);
	if (r < 0)
		return r;
	error = json_object_get(o, "error");
	if (error && (!json_is_string(error) || !varlink_name_is_valid(json_string_value(error))))
		return -EINVAL;
	r = get_flag(o, "continues", &reply.continues);
	if (r < 0)
		return r;
	r = get_parameters(o, &reply.parameters);
	if (r < 0)
		return r;
	if (error) {
		reply.error = strdup(json_string_value(error));
		if (!reply.error) {
			json_decref(reply.parameters);
			return -ENOMEM;
		}
	}
	*ret = reply;
	return 0;
}

void varlink_reply_done(struct varlink_reply *r)
{
	json_decref(r->parameters);
	r->parameters = NULL;
	free(r->error);
	r->error = NULL;
}

/* {NAME: VALUE, "parameters": ..., FLAG: true}; name and flag may be NULL. */
static int build(const char *name, const char *value, json_t *parameters, const char *flag,
		 char **ret, size_t *ret_len)
{
	json_auto_t *o = json_object();
	char *text;

	if (parameters && !json_is_object(parameters))
		return -EINVAL;
	if (!o)
		return -ENOMEM;
	if (name && json_object_set_new(o, name, json_string(value)) < 0)
		return -ENOMEM;
	if (json_object_set_new(o, "parameters",
				parameters ? json_incref(parameters) : json_object()) < 0)
		return -ENOMEM;
	if (flag && json_object_set_new(o, flag, json_true()) < 0)
		return -ENOMEM;
	text = json_dumps(o, JSON_COMPACT);
	if (!text)
		return -ENOMEM;
	*ret = text;
	*ret_len = strlen(text) + 1;
	return 0;
}

int varlink_call_build(const char *method, json_t *parameters, bool more, char **ret,
		       size_t *ret_len)
{
	return build("method", method, parameters, more ? "more" : NULL, ret, ret_len);
}

int varlink_reply_build(json_t *parameters, bool continues, char **ret, size_t *ret_len)
{
	return build(NULL, NULL, parameters, continues ? "continues" : NULL, ret, ret_len);
}

int varlink_error_build(const char *error, json_t *parameters, char **ret, size_t *ret_len)
{
	return build("error", error, parameters, NULL, ret, ret_len);
}
