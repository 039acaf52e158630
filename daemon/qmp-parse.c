/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/qmp.h"

#include "common/util.h"
#include "daemon/qemu-cmdline.h"

/* Deeper than any answer of QEMU's; far below what would strain the parser's stack. */
#define DEPTH_MAX 64U

int64_t qmp_frame(struct qmp_framer *f, const char *buf, size_t len)
{
	for (; f->at < len; f->at++) {
		char c = buf[f->at];

		if (f->in_string) {
			if (f->escaped)
				f->escaped = false;
			else if (c == '\\')
				f->escaped = true;
			else if (c == '"')
				f->in_string = false;
			continue;
		}
		if (f->depth == 0 && c != '{' && c != ' ' && c != '\r' && c != '\n' && c != '\t')
			return -EPROTO;
		if (c == '"') {
			f->in_string = true;
		} else if (c == '{' || c == '[') {
			if (++f->depth > DEPTH_MAX)
				return -EPROTO;
		} else if ((c == '}' || c == ']') && --f->depth == 0) {
			return (int64_t)++f->at;
		}
	}
	return 0;
}

static int message_of(const json_t *root, struct qmp_message *ret)
{
	static const char *const keys[] = {
		[QMP_GREETING] = "QMP",
		[QMP_RETURN] = "return",
		[QMP_ERROR] = "error",
		[QMP_EVENT] = "event",
	};
	static_assert(ARRAY_SIZE(keys) == QMP_KIND_MAX, "a key for each");
	const json_t *id = json_object_get(root, "id");

	for (unsigned k = 0; k < QMP_KIND_MAX; k++) {
		json_t *body = json_object_get(root, keys[k]);

		if (!body)
			continue;
		if (id && (!json_is_integer(id) || json_integer_value(id) < 0))
			return -EPROTO;
		*ret = (struct qmp_message){
			.kind = (enum qmp_kind)k,
			.id = id ? json_integer_value(id) : -1,
			.body = json_incref(body),
		};
		return 0;
	}
	return -EPROTO;
}

int qmp_parse_message(const char *buf, size_t len, struct qmp_message *ret)
{
	json_error_t error;
	json_t *root;
	int r;

	if (len > QMP_ANSWER_MAX)
		return -EPROTO;
	root = json_loadb(buf, len, JSON_REJECT_DUPLICATES, &error);
	if (!root)
		return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EPROTO;
	r = json_is_object(root) ? message_of(root, ret) : -EPROTO;
	json_decref(root);
	return r;
}

void qmp_message_done(struct qmp_message *m)
{
	json_decref(m->body);
	m->body = NULL;
}

/* --- members ------------------------------------------------------------------------------ */

static int get_string(const json_t *j, const char *key, char *ret, size_t size)
{
	const json_t *v = json_object_get(j, key);

	if (!json_is_string(v))
		return -EPROTO;
	process_copy_printable(ret, size, json_string_value(v), json_string_length(v));
	return 0;
}

/* Absent is false; another type is not. */
static int get_bool(const json_t *j, const char *key, bool *ret)
{
	const json_t *v = json_object_get(j, key);

	if (v && !json_is_boolean(v))
		return -EPROTO;
	*ret = json_is_true(v);
	return 0;
}

bool qmp_id_valid(const char *id)
{
	size_t len = strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._");

	return len > 0 && id[len] == '\0' && len < QMP_ID_BYTES;
}

/* --- answers ------------------------------------------------------------------------------ */

static int parse_memdev(const json_t *j, struct qmp_memdev *ret)
{
	const json_t *id = json_object_get(j, "id"), *size = json_object_get(j, "size");
	struct qmp_memdev d = { 0 };

	if (!json_is_object(j) || !json_is_integer(size) || json_integer_value(size) < 0)
		return -EPROTO;
	d.size_bytes = (uint64_t)json_integer_value(size);
	if (id && !json_is_string(id))
		return -EPROTO;
	/* A cut id would be another's. */
	if (id && qmp_id_valid(json_string_value(id)))
		(void)snprintf(d.id, sizeof(d.id), "%s", json_string_value(id));
	if (get_bool(j, "merge", &d.merge) < 0 || get_bool(j, "dump", &d.dump) < 0 ||
	    get_bool(j, "prealloc", &d.prealloc) < 0 || get_bool(j, "share", &d.share) < 0)
		return -EPROTO;
	*ret = d;
	return 0;
}

int qmp_parse_memdevs(const json_t *j, struct qmp_memdev ret[QMP_MEMDEVS_MAX], size_t *ret_n)
{
	struct qmp_memdev dev;
	size_t i, n = json_array_size(j);

	if (!json_is_array(j) || n > QMP_MEMDEVS_MAX)
		return -EPROTO;
	for (i = 0; i < n; i++)
		if (parse_memdev(json_array_get(j, i), &dev) < 0)
			return -EPROTO;
	for (i = 0; i < n; i++)
		(void)parse_memdev(json_array_get(j, i), &ret[i]);
	*ret_n = n;
	return 0;
}

int qmp_parse_ram(const json_t *j, uint64_t *ret_bytes)
{
	const json_t *base = json_object_get(j, "base-memory"), *plugged = json_object_get(j, "plugged-memory");

	/* A machine that has no slots says nothing of plugged memory. */
	if (!json_is_integer(base) || json_integer_value(base) < 0 ||
	    (plugged && (!json_is_integer(plugged) || json_integer_value(plugged) < 0)))
		return -EPROTO;
	*ret_bytes = (uint64_t)json_integer_value(base) + (uint64_t)json_integer_value(plugged);
	return 0;
}

int qmp_parse_name(const json_t *j, struct qmp_identity *ret)
{
	if (!json_is_object(j))
		return -EPROTO;
	if (!json_object_get(j, "name")) {
		ret->name[0] = '\0';
		return 0;
	}
	return get_string(j, "name", ret->name, sizeof(ret->name));
}

int qmp_parse_uuid(const json_t *j, struct qmp_identity *ret)
{
	static const char none[] = "00000000-0000-0000-0000-000000000000";
	const json_t *v = json_object_get(j, "UUID");
	const char *s = json_string_value(v);

	if (!s || json_string_length(v) != sizeof(ret->uuid) - 1 ||
	    strspn(s, "0123456789abcdefABCDEF-") != sizeof(ret->uuid) - 1)
		return -EPROTO;
	memcpy(ret->uuid, streq(s, none) ? "" : s, streq(s, none) ? 1 : sizeof(ret->uuid));
	return 0;
}

int qmp_parse_status(const json_t *j, struct qmp_status *ret)
{
	struct qmp_status s;

	if (get_string(j, "status", s.status, sizeof(s.status)) < 0 ||
	    get_bool(j, "running", &s.running) < 0)
		return -EPROTO;
	*ret = s;
	return 0;
}

int qmp_parse_migrate(const json_t *j, struct qmp_migration *ret)
{
	/* A word that is not known here counts as under way: the careful side. */
	static const char *const idle[] = { "none", "completed", "failed", "cancelled" };
	char status[sizeof(ret->status)];

	if (!json_is_object(j))
		return -EPROTO;
	if (!json_object_get(j, "status"))
		(void)snprintf(status, sizeof(status), "none");
	else if (get_string(j, "status", status, sizeof(status)) < 0)
		return -EPROTO;
	memcpy(ret->status, status, sizeof(status));
	ret->active = true;
	for (size_t i = 0; i < ARRAY_SIZE(idle); i++)
		if (streq(status, idle[i]))
			ret->active = false;
	return 0;
}

int qmp_parse_capabilities(const json_t *j, struct qmp_migration *ret)
{
	bool postcopy = false, snapshot = false, on;
	char name[32];

	if (!json_is_array(j))
		return -EPROTO;
	for (size_t i = 0; i < json_array_size(j); i++) {
		const json_t *c = json_array_get(j, i);

		if (get_string(c, "capability", name, sizeof(name)) < 0 ||
		    get_bool(c, "state", &on) < 0)
			return -EPROTO;
		postcopy |= on && streq(name, "postcopy-ram");
		snapshot |= on && streq(name, "background-snapshot");
	}
	ret->postcopy_ram = postcopy;
	ret->background_snapshot = snapshot;
	return 0;
}

/* Of what qom-list gives: [{"name": "pc.ram", "type": "child<memory-backend-ram>"}, ...]. */
static bool parse_child(const json_t *c, const char **ret_name, const char **ret_type)
{
	*ret_name = json_string_value(json_object_get(c, "name"));
	*ret_type = json_string_value(json_object_get(c, "type"));
	return *ret_name && *ret_type;
}

int qmp_parse_backends(const json_t *j, char ret[QMP_MEMDEVS_MAX][QMP_ID_BYTES], size_t *ret_n)
{
	static const char prefix[] = "child<memory-backend-";
	size_t n = 0;

	if (!json_is_array(j))
		return -EPROTO;
	for (size_t i = 0; i < json_array_size(j); i++) {
		const char *name, *type;

		if (!parse_child(json_array_get(j, i), &name, &type))
			return -EPROTO;
		if (strncmp(type, prefix, sizeof(prefix) - 1) != 0 || !qmp_id_valid(name))
			continue;
		if (n == QMP_MEMDEVS_MAX)
			return -EPROTO;
		(void)snprintf(ret[n++], QMP_ID_BYTES, "%s", name);
	}
	*ret_n = n;
	return 0;
}

/* Of a device without an id QEMU makes "device[0]". */
static bool is_device_name(const char *name)
{
	return *name && strlen(name) < QMP_ID_BYTES && !strchr(name, '/');
}

int qmp_parse_devices(const json_t *j, uint32_t *flags, char ret_balloons[QMP_BALLOONS_MAX][QMP_ID_BYTES],
		      size_t *ret_n)
{
	static const char child[] = "child<", balloon[] = "virtio-balloon";
	uint32_t found = 0;
	size_t n = 0;

	if (!json_is_array(j))
		return -EPROTO;
	for (size_t i = 0; i < json_array_size(j); i++) {
		const char *name, *type;

		if (!parse_child(json_array_get(j, i), &name, &type))
			return -EPROTO;
		if (strncmp(type, child, sizeof(child) - 1) != 0)
			continue;
		type += sizeof(child) - 1;
		found |= qemu_device_flags(type);
		if (strncmp(type, balloon, sizeof(balloon) - 1) == 0 && n < QMP_BALLOONS_MAX &&
		    is_device_name(name))
			(void)snprintf(ret_balloons[n++], QMP_ID_BYTES, "%s", name);
	}
	*flags |= found;
	*ret_n = n;
	return 0;
}

int qmp_parse_greeting(const json_t *j, struct qmp_version *ret)
{
	const json_t *v = json_object_get(json_object_get(j, "version"), "qemu");
	static const char *const keys[] = { "major", "minor", "micro" };
	unsigned numbers[ARRAY_SIZE(keys)];

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const json_t *n = json_object_get(v, keys[i]);

		if (!json_is_integer(n) || json_integer_value(n) < 0 || json_integer_value(n) > 999)
			return -EPROTO;
		numbers[i] = (unsigned)json_integer_value(n);
	}
	*ret = (struct qmp_version){ numbers[0], numbers[1], numbers[2] };
	return 0;
}
