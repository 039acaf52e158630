/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/qemu-cmdline.h"

#include <jansson.h>

#include "common/parse.h"
#include "common/util.h"
#include "daemon/guest.h"
#include "daemon/libvirt-xml.h"
#include "daemon/process.h"

/* Monitors that are put together from -chardev and -mon. More of them are left out. */
#define CHARDEVS_MAX  32U
#define CHARDEV_BYTES 64U

static bool has_prefix(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool qemu_is_program(const char *exe)
{
	/* Wrapped programs (".qemu-system-x86_64-wrapped") are QEMU, too. */
	if (exe[0] == '.')
		exe++;
	return has_prefix(exe, "qemu-system-") || streq(exe, "qemu-kvm") || streq(exe, "kvm");
}

/* --- options ------------------------------------------------------------------------------ */

/* Copies up to a comma that is not doubled; returns where it ended. Sets *fits. */
static const char *copy_word(const char *at, char *to, size_t size, bool *fits)
{
	size_t n = 0;

	*fits = true;
	for (; *at; at++) {
		if (*at == ',') {
			if (at[1] != ',')
				break;
			at++;
		}
		if (n + 1 < size)
			to[n++] = *at;
		else
			*fits = false;
	}
	to[n] = '\0';
	return at;
}

static bool json_option_get(const char *option, const char *key, char *ret, size_t size)
{
	json_t *j = json_loads(option, 0, NULL);
	const json_t *v = json_object_get(j, key);
	const char *text = json_is_boolean(v) ? (json_is_true(v) ? "on" : "off") :
						json_string_value(v);
	bool found = text && strlen(text) < size;

	if (found)
		(void)snprintf(ret, size, "%s", text);
	json_decref(j);
	return found;
}

/* Does the word at `at` belong to key? Then *ret_value is where its value begins, or NULL for a
 * key alone. */
static bool word_is(const char *at, const char *implied, bool first, const char *key,
		    const char **ret_value)
{
	size_t len = strcspn(at, "=,");

	if (at[len] == '=') {
		*ret_value = at + len + 1;
		return len == strlen(key) && strncmp(at, key, len) == 0;
	}
	if (first && implied) {
		*ret_value = at;
		return streq(implied, key);
	}
	*ret_value = NULL;
	return len == strlen(key) && strncmp(at, key, len) == 0;
}

bool qemu_option_get(const char *option, const char *implied, const char *key, char *ret,
		     size_t size)
{
	char skipped[2];
	bool found = false, fits, first = true;

	if (option[0] == '{')
		return json_option_get(option, key, ret, size);
	for (const char *at = option;; first = false) {
		const char *value;

		if (!word_is(at, implied, first, key, &value)) {
			at = copy_word(at, skipped, sizeof(skipped), &fits);
		} else if (value) {
			at = copy_word(value, ret, size, &fits);
			found = fits;
		} else {
			at = copy_word(at, skipped, sizeof(skipped), &fits);
			(void)snprintf(ret, size, "on");
			found = size > 2;
		}
		if (!*at)
			return found;
		at++;
	}
}

/* --- monitors ----------------------------------------------------------------------------- */

struct chardev {
	char id[CHARDEV_BYTES], path[QEMU_PATH_BYTES];
};

struct collector {
	struct qemu_cmdline *out;
	struct chardev chardevs[CHARDEVS_MAX]; /* that listen on a path */
	char controls[CHARDEVS_MAX][CHARDEV_BYTES]; /* chardevs that -mon uses for QMP */
	size_t n_chardevs, n_controls;
};

static void add_monitor(struct qemu_cmdline *c, const char *path)
{
	if (c->n_monitors < QEMU_MONITORS_MAX && path[0])
		(void)snprintf(c->monitors[c->n_monitors++], QEMU_PATH_BYTES, "%s", path);
}

/* The path of a socket that QEMU listens on. */
static bool listening_path(const char *option, const char *implied, char path[QEMU_PATH_BYTES])
{
	char word[16];
	bool server, abstract;

	if (!qemu_option_get(option, implied, "server", word, sizeof(word)) ||
	    parse_bool(word, &server) < 0 || !server)
		return false;
	if (qemu_option_get(option, implied, "abstract", word, sizeof(word)) &&
	    (parse_bool(word, &abstract) < 0 || abstract))
		return false;
	return qemu_option_get(option, implied, "path", path, QEMU_PATH_BYTES);
}

/* -qmp unix:PATH,server=on,wait=off */
static void take_qmp(struct collector *c, const char *value)
{
	char path[QEMU_PATH_BYTES];

	if (has_prefix(value, "unix:") && listening_path(value + strlen("unix:"), "path", path))
		add_monitor(c->out, path);
}

/* -chardev socket,id=mon0,path=PATH,server=on,wait=off */
static void take_chardev(struct collector *c, const char *value)
{
	struct chardev *d = &c->chardevs[c->n_chardevs];
	char backend[16];

	if (c->n_chardevs == CHARDEVS_MAX ||
	    !qemu_option_get(value, "backend", "backend", backend, sizeof(backend)) ||
	    !streq(backend, "socket") || !listening_path(value, "backend", d->path) ||
	    !qemu_option_get(value, "backend", "id", d->id, sizeof(d->id)))
		return;
	c->n_chardevs++;
}

/* -mon chardev=mon0,mode=control */
static void take_mon(struct collector *c, const char *value)
{
	char mode[16];

	if (c->n_controls < CHARDEVS_MAX &&
	    qemu_option_get(value, "chardev", "mode", mode, sizeof(mode)) &&
	    streq(mode, "control") &&
	    qemu_option_get(value, "chardev", "chardev", c->controls[c->n_controls], CHARDEV_BYTES))
		c->n_controls++;
}

static void join_monitors(struct collector *c)
{
	for (size_t i = 0; i < c->n_controls; i++)
		for (size_t k = 0; k < c->n_chardevs; k++)
			if (streq(c->controls[i], c->chardevs[k].id)) {
				add_monitor(c->out, c->chardevs[k].path);
				break;
			}
}

/* --- the command line --------------------------------------------------------------------- */

static void take_name(struct qemu_cmdline *c, const char *value)
{
	char name[sizeof(c->name)];

	if (qemu_option_get(value, "guest", "guest", name, sizeof(name)))
		process_copy_printable(c->name, sizeof(c->name), name, strlen(name));
}

uint32_t qemu_device_flags(const char *type)
{
	static const struct {
		const char *start;
		uint32_t flag;
	} table[] = {
		{ "virtio-mem", LIBVIRT_VIRTIO_MEM },
		{ "hv-balloon", LIBVIRT_VIRTIO_MEM },
		{ "virtio-balloon", LIBVIRT_HAS_BALLOON },
		{ "vfio-", LIBVIRT_VFIO },
		{ "vhost-vdpa-", LIBVIRT_VDPA },
		{ "vhost-scsi", LIBVIRT_VHOST_SCSI },
		{ "sev-guest", LIBVIRT_SECURE },
		{ "sev-snp-guest", LIBVIRT_SECURE },
		{ "tdx-guest", LIBVIRT_SECURE },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (has_prefix(type, table[i].start))
			return table[i].flag;
	return 0;
}

#define REPORTING "free-page-reporting"

/* As QEMU reads it; what it would refuse is taken for yes. */
static bool is_on(const char *value)
{
	return !streq(value, "off") && !streq(value, "no") && !streq(value, "false") && !streq(value, "n");
}

/* -device TYPE,KEY=VALUE or -object TYPE,... */
static void take_device(struct qemu_cmdline *c, const char *value, const char *type_key)
{
	char word[64];

	if (qemu_option_get(value, type_key, type_key, word, sizeof(word)))
		c->devices |= qemu_device_flags(word);
	if (qemu_option_get(value, type_key, REPORTING, word, sizeof(word)) && is_on(word))
		c->devices |= LIBVIRT_PAGE_REPORTING;
}

/* -global TYPE.KEY=VALUE or driver=TYPE,property=KEY,value=VALUE; -set device.ID.KEY=VALUE */
static void take_property(struct qemu_cmdline *c, const char *value)
{
	const char *key = strstr(value, REPORTING), *word = key ? strrchr(key, '=') : NULL;

	if (word && is_on(word + 1))
		c->devices |= LIBVIRT_PAGE_REPORTING;
}

static const char *option_name(const char *arg)
{
	if (arg[0] != '-')
		return NULL;
	return arg[1] == '-' ? arg + 2 : arg + 1;
}

/* Options after which QEMU prints something and exits. */
static bool is_question(const char *option)
{
	static const char *const questions[] = { "h", "help", "version" };

	for (size_t i = 0; i < ARRAY_SIZE(questions); i++)
		if (streq(option, questions[i]))
			return true;
	return false;
}

static bool is_machine_none(const char *value)
{
	char type[8];

	return qemu_option_get(value, "type", "type", type, sizeof(type)) && streq(type, "none");
}

/* Options whose value may well begin with '-', or is taken here. Of the others it is not known
 * whether they have one; a value that looks like one of our options would be taken for it. */
static bool has_value(const char *option)
{
	static const char *const options[] = {
		"append", "chardev", "device", "global", "incoming",   "M",   "machine",
		"mon",	  "name",    "object", "qmp",	 "qmp-pretty", "set", "uuid",
	};

	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (streq(option, options[i]))
			return true;
	return false;
}

/* value is "" after the last argument. */
static const char *take_option(struct collector *c, const char *option, const char *value)
{
	if (is_question(option))
		return "only asked for help or its version";
	if (streq(option, "name"))
		take_name(c->out, value);
	else if (streq(option, "uuid"))
		(void)guest_copy_uuid(value, c->out->uuid);
	else if (streq(option, "qmp") || streq(option, "qmp-pretty"))
		take_qmp(c, value);
	else if (streq(option, "chardev"))
		take_chardev(c, value);
	else if (streq(option, "mon"))
		take_mon(c, value);
	else if (streq(option, "device"))
		take_device(c->out, value, "driver");
	else if (streq(option, "object"))
		take_device(c->out, value, "qom-type");
	else if (streq(option, "global") || streq(option, "set"))
		take_property(c->out, value);
	else if (streq(option, "incoming"))
		c->out->incoming = true;
	else if ((streq(option, "machine") || streq(option, "M")) && is_machine_none(value))
		return "runs no guest (machine none: somebody asks for its capabilities)";
	return NULL;
}

static int refuse(int r, const char *why, const char **ret_reason)
{
	*ret_reason = why;
	return r;
}

static int collect(const char *buf, size_t len, struct collector *c, const char **ret_reason)
{
	const char *end = buf + len, *arg, *next;

	/* The first argument is the program's name. */
	for (arg = buf + strlen(buf) + 1; arg < end; arg = next) {
		const char *option = option_name(arg), *why;

		next = arg + strlen(arg) + 1;
		if (!option)
			continue;
		why = take_option(c, option, next < end ? next : "");
		if (why)
			return refuse(-ENOMSG, why, ret_reason);
		if (next < end && has_value(option))
			next += strlen(next) + 1;
	}
	return 0;
}

int qemu_parse_cmdline(const char *buf, size_t len, struct qemu_cmdline *ret,
		       const char **ret_reason)
{
	_cleanup_free_ struct collector *c = NULL;
	struct qemu_cmdline cmdline = { 0 };
	int r;

	if (len == 0 || buf[len - 1] != '\0')
		return refuse(-EINVAL, "its command line is empty or cut", ret_reason);
	c = calloc(1, sizeof(*c));
	if (!c)
		return refuse(-ENOMEM, "out of memory", ret_reason);
	c->out = &cmdline;
	r = collect(buf, len, c, ret_reason);
	if (r < 0)
		return r;
	join_monitors(c);
	*ret = cmdline;
	return 0;
}
