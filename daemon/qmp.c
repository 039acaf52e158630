/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation.
 *
 * The socket is non-blocking; every wait is a poll() with what is left of the deadline. Bytes
 * are gathered in one buffer until the framer has found the end of an object (QEMU may be set
 * to write its JSON over several lines, so lines are no frames). What follows it in the buffer
 * stays for the next message. An answer carries the id of its call; events come in between.
 */
#include "daemon/qmp.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/util.h"
#include "daemon/libvirt-xml.h"

#define READ_BYTES KIB(16)

struct qmp {
	const struct process *process;
	int fd;
	uint64_t timeout_usec, deadline_usec;
	int64_t last_id;
	bool broken;
	struct qmp_version version;
	char *buf;
	size_t have, size;
};

_printf_(3, 4) static int fail(char reason[QMP_REASON_MAX], int r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(reason, QMP_REASON_MAX, fmt, ap);
	va_end(ap);
	return r;
}

/* --- bytes -------------------------------------------------------------------------------- */

/* 0, -ETIMEDOUT or -errno. */
static int wait_for(struct qmp *q, short events)
{
	for (;;) {
		struct pollfd pfd = { .fd = q->fd, .events = events };
		uint64_t now = now_usec();
		int r;

		if (now >= q->deadline_usec)
			return -ETIMEDOUT;
		/* One more, so that the last part of a millisecond is not waited for busily. */
		r = poll(&pfd, 1, (int)((q->deadline_usec - now) / USEC_PER_MSEC) + 1);
		if (r > 0)
			return 0;
		if (r < 0 && errno != EINTR)
			return -errno;
	}
}

static int send_all(struct qmp *q, const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = send(q->fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		int r;

		if (n >= 0) {
			text += n;
			len -= (size_t)n;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return errno == ECONNRESET ? -EPIPE : -errno;
		r = wait_for(q, POLLOUT);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Some more bytes into the buffer. */
static int receive_some(struct qmp *q)
{
	ssize_t n;
	int r;

	if (q->have >= QMP_ANSWER_MAX)
		return -EPROTO;
	if (q->size - q->have < READ_BYTES) {
		size_t size = q->size + MAX(q->size, (size_t)READ_BYTES);
		char *grown = realloc(q->buf, size);

		if (!grown)
			return -ENOMEM;
		q->buf = grown;
		q->size = size;
	}
	for (;;) {
		n = recv(q->fd, q->buf + q->have, q->size - q->have, MSG_DONTWAIT);
		if (n > 0) {
			q->have += (size_t)n;
			return 0;
		}
		if (n == 0 || errno == ECONNRESET)
			return -EPIPE;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		r = wait_for(q, POLLIN);
		if (r < 0)
			return r;
	}
}

static int receive_message(struct qmp *q, struct qmp_message *ret)
{
	struct qmp_framer framer = { 0 };
	int64_t len;
	int r;

	while ((len = qmp_frame(&framer, q->buf, q->have)) == 0) {
		r = receive_some(q);
		if (r < 0)
			return r;
	}
	if (len < 0)
		return (int)len;
	r = qmp_parse_message(q->buf, (size_t)len, ret);
	q->have -= (size_t)len;
	memmove(q->buf, q->buf + len, q->have);
	return r;
}

/* --- connecting --------------------------------------------------------------------------- */

/* The socket as the guest sees it: another mount namespace or chroot is normal in containers. */
static int open_path(const struct process *p, const char *path, int *ret_fd)
{
	char in_root[sizeof(((struct sockaddr_un *)0)->sun_path) + 8];

	/* What does not fit into a socket's address was not given as one. */
	if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return -ENAMETOOLONG;
	(void)snprintf(in_root, sizeof(in_root), path[0] == '/' ? "root%s" : "cwd/%s", path);
	*ret_fd = openat(p->proc_fd, in_root, O_PATH | O_CLOEXEC);
	return *ret_fd < 0 ? -errno : 0;
}

static int connect_socket(struct qmp *q, const char *path)
{
	_cleanup_close_ int at = -1;
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int r = open_path(q->process, path, &at);

	if (r < 0)
		return r;
	q->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (q->fd < 0)
		return -errno;
	(void)snprintf(sun.sun_path, sizeof(sun.sun_path), "/proc/self/fd/%d", at);
	if (connect(q->fd, (const struct sockaddr *)&sun, sizeof(sun)) < 0)
		/* EAGAIN: others wait already. */
		return errno == EAGAIN ? -EBUSY : -errno;
	return 0;
}

/* Who called listen(2) on it: QEMU itself, unless it was handed a socket, as libvirt does; that
 * one is libvirt's to use anyway. */
static int check_peer(struct qmp *q, char reason[QMP_REASON_MAX])
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(q->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return fail(reason, -errno, "the monitor's owner is not known: %m");
	if (!process_alive(q->process))
		return fail(reason, -ESRCH, "the guest has exited");
	if (peer.pid != q->process->pid)
		return fail(reason, -EPERM,
			    "the monitor socket belongs to process %d, not to the guest", peer.pid);
	return 0;
}

static int read_greeting(struct qmp *q, char reason[QMP_REASON_MAX])
{
	struct qmp_message m;
	int r = receive_message(q, &m);

	if (r == -ETIMEDOUT)
		return fail(reason, -EBUSY,
			    "the monitor does not answer: another client (libvirt?) holds it");
	if (r == -EPIPE)
		return fail(reason, r, "the monitor hung up");
	if (r == 0) {
		r = m.kind == QMP_GREETING ? qmp_parse_greeting(m.body, &q->version) : -EPROTO;
		qmp_message_done(&m);
	}
	return r < 0 ? fail(reason, r, "the socket is no QMP monitor") : 0;
}

static int start(struct qmp *q, const char *path, char reason[QMP_REASON_MAX])
{
	int r = connect_socket(q, path);

	if (r == -EBUSY)
		return fail(reason, r, "other clients wait for the monitor already");
	if (r < 0)
		return fail(reason, r, "cannot connect to the monitor: %s", strerror(-r));
	r = check_peer(q, reason);
	if (r == 0)
		r = read_greeting(q, reason);
	if (r == 0)
		r = qmp_call(q, "qmp_capabilities", NULL, reason, NULL);
	return r;
}

int qmp_open(const struct process *p, const char *path, uint64_t timeout_usec,
	     char reason[QMP_REASON_MAX], struct qmp **ret)
{
	struct qmp *q = calloc(1, sizeof(*q));
	int r;

	reason[0] = '\0';
	if (!q)
		return fail(reason, -ENOMEM, "out of memory");
	q->process = p;
	q->fd = -1;
	q->timeout_usec = timeout_usec;
	q->deadline_usec = now_usec() + timeout_usec;
	r = start(q, path, reason);
	if (r < 0) {
		qmp_close(q);
		return r;
	}
	*ret = q;
	return 0;
}

void qmp_close(struct qmp *q)
{
	if (!q)
		return;
	close_fdp(&q->fd);
	free(q->buf);
	free(q);
}

struct qmp_version qmp_version(const struct qmp *q)
{
	return q->version;
}

/* --- calls -------------------------------------------------------------------------------- */

static int send_command(struct qmp *q, const char *command, json_t *arguments)
{
	json_t *root = json_pack("{s:s, s:I}", "execute", command, "id", (json_int_t)++q->last_id);
	char *text;
	int r;

	if (!root || (arguments && json_object_set(root, "arguments", arguments) < 0)) {
		json_decref(root);
		return -ENOMEM;
	}
	text = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	if (!text)
		return -ENOMEM;
	r = send_all(q, text, strlen(text));
	free(text);
	return r;
}

/* The answer to the last command; events before it are dropped. */
static int receive_answer(struct qmp *q, struct qmp_message *ret)
{
	for (unsigned n = 0; n <= QMP_EVENTS_MAX; n++) {
		int r = receive_message(q, ret);

		if (r < 0)
			return r;
		if (ret->kind != QMP_EVENT) {
			if (ret->kind != QMP_GREETING && ret->id == q->last_id)
				return 0;
			qmp_message_done(ret);
			return -EPROTO;
		}
		qmp_message_done(ret);
	}
	return -EPROTO;
}

static int refused(const json_t *error, const char *command, char reason[QMP_REASON_MAX])
{
	const char *class = json_string_value(json_object_get(error, "class"));
	const json_t *desc = json_object_get(error, "desc");
	char words[QMP_REASON_MAX - 64] = "no reason given";

	if (class && streq(class, "CommandNotFound"))
		return fail(reason, -EOPNOTSUPP, "this QEMU does not know %s", command);
	if (json_is_string(desc))
		process_copy_printable(words, sizeof(words), json_string_value(desc),
				       json_string_length(desc));
	return fail(reason, -EREMOTEIO, "QEMU refused %.32s: %s", command, words);
}

static int broke(struct qmp *q, int r, const char *command, char reason[QMP_REASON_MAX])
{
	q->broken = true;
	if (!process_alive(q->process))
		return fail(reason, -ESRCH, "the guest has exited");
	switch (r) {
	case -ETIMEDOUT:
		return fail(reason, r, "the monitor did not answer %s in %u ms", command,
			    (unsigned)(q->timeout_usec / USEC_PER_MSEC));
	case -EPIPE:
		return fail(reason, r, "the monitor hung up during %s", command);
	case -EPROTO:
		return fail(reason, r, "the monitor's answer to %s makes no sense", command);
	default:
		return fail(reason, r, "%s failed: %s", command, strerror(-r));
	}
}

int qmp_call(struct qmp *q, const char *command, json_t *arguments, char reason[QMP_REASON_MAX],
	     json_t **ret)
{
	struct qmp_message m;
	int r = q->broken ? -EPIPE : 0;

	reason[0] = '\0';
	q->deadline_usec = now_usec() + q->timeout_usec;
	if (r == 0)
		r = send_command(q, command, arguments);
	json_decref(arguments);
	if (r == 0)
		r = receive_answer(q, &m);
	if (r < 0)
		return broke(q, r, command, reason);
	if (m.kind == QMP_ERROR)
		r = refused(m.body, command, reason);
	else if (ret)
		*ret = json_incref(m.body);
	qmp_message_done(&m);
	return r;
}

/* --- questions ---------------------------------------------------------------------------- */

static int no_sense(struct qmp *q, int r, const char *command, char reason[QMP_REASON_MAX])
{
	return r < 0 ? broke(q, r, command, reason) : 0;
}

int qmp_query_memdevs(struct qmp *q, char reason[QMP_REASON_MAX],
		      struct qmp_memdev ret[QMP_MEMDEVS_MAX], size_t *ret_n)
{
	json_t *j;
	int r = qmp_call(q, "query-memdev", NULL, reason, &j);

	if (r < 0)
		return r;
	r = qmp_parse_memdevs(j, ret, ret_n);
	json_decref(j);
	return no_sense(q, r, "query-memdev", reason);
}

int qmp_query_ram(struct qmp *q, char reason[QMP_REASON_MAX], uint64_t *ret_bytes)
{
	json_t *j;
	int r = qmp_call(q, "query-memory-size-summary", NULL, reason, &j);

	if (r < 0)
		return r;
	r = qmp_parse_ram(j, ret_bytes);
	json_decref(j);
	return no_sense(q, r, "query-memory-size-summary", reason);
}

int qmp_query_identity(struct qmp *q, char reason[QMP_REASON_MAX], struct qmp_identity *ret)
{
	struct qmp_identity id = { 0 };
	json_t *name, *uuid;
	int r = qmp_call(q, "query-name", NULL, reason, &name);

	if (r < 0)
		return r;
	r = qmp_parse_name(name, &id);
	json_decref(name);
	if (r < 0)
		return no_sense(q, r, "query-name", reason);
	r = qmp_call(q, "query-uuid", NULL, reason, &uuid);
	if (r < 0)
		return r;
	r = qmp_parse_uuid(uuid, &id);
	json_decref(uuid);
	if (r < 0)
		return no_sense(q, r, "query-uuid", reason);
	*ret = id;
	return 0;
}

int qmp_query_status(struct qmp *q, char reason[QMP_REASON_MAX], struct qmp_status *ret)
{
	json_t *j;
	int r = qmp_call(q, "query-status", NULL, reason, &j);

	if (r < 0)
		return r;
	r = qmp_parse_status(j, ret);
	json_decref(j);
	return no_sense(q, r, "query-status", reason);
}

int qmp_query_migration(struct qmp *q, char reason[QMP_REASON_MAX], struct qmp_migration *ret)
{
	struct qmp_migration m = { 0 };
	json_t *state, *capabilities;
	int r = qmp_call(q, "query-migrate", NULL, reason, &state);

	if (r < 0)
		return r;
	r = qmp_parse_migrate(state, &m);
	json_decref(state);
	if (r < 0)
		return no_sense(q, r, "query-migrate", reason);
	r = qmp_call(q, "query-migrate-capabilities", NULL, reason, &capabilities);
	if (r < 0)
		return r;
	r = qmp_parse_capabilities(capabilities, &m);
	json_decref(capabilities);
	if (r < 0)
		return no_sense(q, r, "query-migrate-capabilities", reason);
	*ret = m;
	return 0;
}

int qmp_list_backends(struct qmp *q, char reason[QMP_REASON_MAX],
		      char ret[QMP_MEMDEVS_MAX][QMP_ID_BYTES], size_t *ret_n)
{
	json_t *j;
	int r = qmp_call(q, "qom-list", json_pack("{s:s}", "path", "/objects"), reason, &j);

	if (r < 0)
		return r;
	r = qmp_parse_backends(j, ret, ret_n);
	json_decref(j);
	return no_sense(q, r, "qom-list", reason);
}

static int get_bool(struct qmp *q, const char *path, const char *property, char reason[QMP_REASON_MAX],
		    bool *ret)
{
	json_t *j;
	int r = qmp_call(q, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", property), reason, &j);

	if (r < 0)
		return r;
	if (json_is_boolean(j))
		*ret = json_is_true(j);
	else
		r = no_sense(q, -EPROTO, "qom-get", reason);
	json_decref(j);
	return r;
}

/* parent: where QEMU has devices with an id, or without. */
static int query_devices_of(struct qmp *q, const char *parent, char reason[QMP_REASON_MAX], uint32_t *flags)
{
	char balloons[QMP_BALLOONS_MAX][QMP_ID_BYTES];
	json_t *j;
	size_t n = 0;
	int r = qmp_call(q, "qom-list", json_pack("{s:s}", "path", parent), reason, &j);

	if (r < 0)
		return r;
	r = no_sense(q, qmp_parse_devices(j, flags, balloons, &n), "qom-list", reason);
	json_decref(j);
	for (size_t i = 0; i < n && r >= 0; i++) {
		char path[QMP_ID_BYTES + 32];
		bool reporting = false;

		(void)snprintf(path, sizeof(path), "%s/%s", parent, balloons[i]);
		r = get_bool(q, path, "free-page-reporting", reason, &reporting);
		if (r >= 0 && reporting)
			*flags |= LIBVIRT_PAGE_REPORTING;
		/* It was unplugged just then, or is of a QEMU that has no such thing. */
		if (r == -EREMOTEIO)
			r = 0;
	}
	return r;
}

int qmp_query_devices(struct qmp *q, char reason[QMP_REASON_MAX], uint32_t *ret)
{
	uint32_t flags = 0;
	int r = query_devices_of(q, "/machine/peripheral", reason, &flags);

	if (r >= 0)
		r = query_devices_of(q, "/machine/peripheral-anon", reason, &flags);
	if (r >= 0)
		*ret = flags;
	return r;
}

static int object_path(const char *id, char ret[QMP_ID_BYTES + 16], char reason[QMP_REASON_MAX])
{
	if (!qmp_id_valid(id))
		return fail(reason, -EINVAL, "not the id of a memory backend");
	(void)snprintf(ret, QMP_ID_BYTES + 16, "/objects/%s", id);
	return 0;
}

int qmp_get_merge(struct qmp *q, const char *id, char reason[QMP_REASON_MAX], bool *ret)
{
	char path[QMP_ID_BYTES + 16];
	int r = object_path(id, path, reason);

	return r < 0 ? r : get_bool(q, path, "merge", reason, ret);
}

int qmp_set_merge(struct qmp *q, const char *id, bool merge, char reason[QMP_REASON_MAX])
{
	char path[QMP_ID_BYTES + 16];
	int r = object_path(id, path, reason);

	if (r < 0)
		return r;
	return qmp_call(q, "qom-set",
			json_pack("{s:s, s:s, s:b}", "path", path, "property", "merge", "value",
				  (int)merge),
			reason, NULL);
}
