/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The parsers on good and bad answers, and the client against servers that behave badly. */
#include "daemon/qmp.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "daemon/libvirt-xml.h"
#include "tests/unit/unit.h"

/* --- parsers ------------------------------------------------------------------------------ */

static json_t *load(const char *text)
{
	json_t *j = json_loads(text, JSON_DECODE_ANY, NULL);

	assert_non_null(j);
	return j;
}

static void frames(void **state _unused_)
{
	static const char text[] = "\r\n {\"a\": [1, {\"}\": \"\\\"}\"}]}\r\n{\"b\":1}";
	static const char *const bad[] = { "x", "[1]", "]", "\"a\"", "\n\n1" };
	struct qmp_framer f = { 0 };
	size_t len = strlen(text), first = 27;
	char deep[200];

	/* Fed byte by byte. */
	for (size_t n = 0; n < first; n++)
		assert_int_equal(qmp_frame(&f, text, n), 0);
	assert_int_equal(qmp_frame(&f, text, first), first);
	f = (struct qmp_framer){ 0 };
	assert_int_equal(qmp_frame(&f, text, len), first);
	f = (struct qmp_framer){ 0 };
	assert_int_equal(qmp_frame(&f, text + first, len - first), len - first);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		f = (struct qmp_framer){ 0 };
		assert_int_equal(qmp_frame(&f, bad[i], strlen(bad[i])), -EPROTO);
	}
	deep[0] = '{';
	memset(deep + 1, '[', sizeof(deep) - 1);
	f = (struct qmp_framer){ 0 };
	assert_int_equal(qmp_frame(&f, deep, sizeof(deep)), -EPROTO);
}

static int parse_message(const char *text, struct qmp_message *ret)
{
	return qmp_parse_message(text, strlen(text), ret);
}

static void messages(void **state _unused_)
{
	static const char *const bad[] = {
		"",    "{}",	 "[]", "{\"return\": 1, \"id\": \"x\"}", "{\"return\": 1, \"id\": -1}",
		"{\"x", "{\"a\": 1}", "1",  "{\"return\": 1, \"return\": 2}", "{\"return\": \"\xff\"}",
	};
	struct qmp_message m;

	assert_int_equal(parse_message("{\"return\": {}, \"id\": 7}", &m), 0);
	assert_int_equal(m.kind, QMP_RETURN);
	assert_int_equal(m.id, 7);
	qmp_message_done(&m);
	assert_int_equal(parse_message("{\"event\": \"STOP\", \"data\": {}}", &m), 0);
	assert_int_equal(m.kind, QMP_EVENT);
	assert_int_equal(m.id, -1);
	qmp_message_done(&m);
	assert_int_equal(parse_message("{\"error\": {\"class\": \"X\"}}", &m), 0);
	assert_int_equal(m.kind, QMP_ERROR);
	qmp_message_done(&m);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse_message(bad[i], &m), -EPROTO);
}

static void memdevs(void **state _unused_)
{
	static struct qmp_memdev d[QMP_MEMDEVS_MAX];
	static const char *const bad[] = {
		"{}", "[1]", "[{}]", "[{\"size\": \"1\"}]", "[{\"size\": -1}]",
		"[{\"size\": 1, \"id\": 5}]", "[{\"size\": 1, \"merge\": 1}]",
		"[{\"size\": 1}, {\"size\": 1.5}]",
	};
	json_t *j = load("[{\"id\": \"pc.ram\", \"size\": 134217728, \"merge\": true, \"dump\": false,"
			 "\"prealloc\": false, \"share\": true, \"host-nodes\": []},"
			 "{\"size\": 4096}, {\"id\": \"../x\", \"size\": 1}]");
	size_t n = 0;

	assert_int_equal(qmp_parse_memdevs(j, d, &n), 0);
	json_decref(j);
	assert_int_equal(n, 3);
	assert_string_equal(d[0].id, "pc.ram");
	assert_true(d[0].size_bytes == 134217728);
	assert_true(d[0].merge && d[0].share && !d[0].dump && !d[0].prealloc);
	assert_string_equal(d[1].id, "");
	assert_string_equal(d[2].id, "");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		j = load(bad[i]);
		assert_int_equal(qmp_parse_memdevs(j, d, &n), -EPROTO);
		json_decref(j);
	}
	j = json_array();
	for (size_t i = 0; i <= QMP_MEMDEVS_MAX; i++)
		assert_int_equal(json_array_append_new(j, load("{\"size\": 1}")), 0);
	assert_int_equal(qmp_parse_memdevs(j, d, &n), -EPROTO);
	json_decref(j);
	assert_int_equal(n, 3);
	assert_string_equal(d[0].id, "pc.ram");
}

static void ram_sizes(void **state _unused_)
{
	static const char *const bad[] = {
		"[]", "{}", "{\"plugged-memory\": 1}", "{\"base-memory\": -1}", "{\"base-memory\": \"1\"}",
		"{\"base-memory\": 1, \"plugged-memory\": -1}", "{\"base-memory\": 1, \"plugged-memory\": 1.5}",
	};
	json_t *j = load("{\"base-memory\": 9223372036854775807, \"plugged-memory\": 9223372036854775807}");
	uint64_t bytes;

	assert_int_equal(qmp_parse_ram(j, &bytes), 0);
	assert_true(bytes == UINT64_MAX - 1);
	json_decref(j);
	j = load("{\"base-memory\": 4096}");
	assert_int_equal(qmp_parse_ram(j, &bytes), 0);
	assert_int_equal(bytes, 4096);
	json_decref(j);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		j = load(bad[i]);
		assert_int_equal(qmp_parse_ram(j, &bytes), -EPROTO);
		json_decref(j);
	}
}

static void identities(void **state _unused_)
{
	struct qmp_identity id = { .name = "old" };
	json_t *j = load("{\"name\": \"a\\u001bb\"}");

	assert_int_equal(qmp_parse_name(j, &id), 0);
	assert_string_equal(id.name, "a?b");
	json_decref(j);
	j = load("{}");
	assert_int_equal(qmp_parse_name(j, &id), 0);
	assert_string_equal(id.name, "");
	assert_int_equal(qmp_parse_uuid(j, &id), -EPROTO);
	json_decref(j);
	j = load("{\"UUID\": \"00000000-0000-0000-0000-000000000000\"}");
	assert_int_equal(qmp_parse_uuid(j, &id), 0);
	assert_string_equal(id.uuid, "");
	json_decref(j);
	j = load("{\"UUID\": \"c7a5fdbd-edaf-9455-926a-d65c16db1809\", \"name\": 1}");
	assert_int_equal(qmp_parse_uuid(j, &id), 0);
	assert_string_equal(id.uuid, "c7a5fdbd-edaf-9455-926a-d65c16db1809");
	assert_int_equal(qmp_parse_name(j, &id), -EPROTO);
	json_decref(j);
	j = load("{\"UUID\": \"c7a5fdbd-edaf-9455-926a-d65c16db180\\n\"}");
	assert_int_equal(qmp_parse_uuid(j, &id), -EPROTO);
	json_decref(j);
}

static void migrations(void **state _unused_)
{
	static const struct {
		const char *text, *status;
		bool active;
	} good[] = {
		{ "{}", "none", false },
		{ "{\"status\": \"none\"}", "none", false },
		{ "{\"status\": \"completed\", \"ram\": {}}", "completed", false },
		{ "{\"status\": \"postcopy-active\"}", "postcopy-active", true },
		{ "{\"status\": \"setup\"}", "setup", true },
		{ "{\"status\": \"of-the-future\"}", "of-the-future", true },
	};
	struct qmp_migration m = { 0 };
	json_t *j;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		j = load(good[i].text);
		assert_int_equal(qmp_parse_migrate(j, &m), 0);
		assert_string_equal(m.status, good[i].status);
		assert_int_equal(m.active, good[i].active);
		json_decref(j);
	}
	j = load("[{\"capability\": \"xbzrle\", \"state\": true},"
		 "{\"capability\": \"postcopy-ram\", \"state\": true},"
		 "{\"capability\": \"background-snapshot\", \"state\": false}]");
	assert_int_equal(qmp_parse_capabilities(j, &m), 0);
	assert_true(m.postcopy_ram);
	assert_false(m.background_snapshot);
	assert_int_equal(qmp_parse_migrate(j, &m), -EPROTO);
	json_decref(j);
	j = load("[{\"capability\": \"xbzrle\", \"state\": 1}]");
	assert_int_equal(qmp_parse_capabilities(j, &m), -EPROTO);
	json_decref(j);
}

static void devices(void **state _unused_)
{
	char balloons[QMP_BALLOONS_MAX][QMP_ID_BYTES];
	uint32_t flags = LIBVIRT_SECURE;
	size_t n;
	json_t *j = load("[{\"name\": \"type\", \"type\": \"string\"},"
			 "{\"name\": \"device[0]\", \"type\": \"child<virtio-balloon-pci>\"},"
			 "{\"name\": \"a/b\", \"type\": \"child<virtio-balloon-pci>\"},"
			 "{\"name\": \"m\", \"type\": \"child<virtio-mem-pci>\"},"
			 "{\"name\": \"virtio-mem\", \"type\": \"child<virtio-net-pci>\"}]");

	assert_int_equal(qmp_parse_devices(j, &flags, balloons, &n), 0);
	assert_int_equal(flags, LIBVIRT_SECURE | LIBVIRT_VIRTIO_MEM | LIBVIRT_HAS_BALLOON);
	assert_int_equal(n, 1);
	assert_string_equal(balloons[0], "device[0]");
	json_decref(j);
	j = load("[{\"name\": \"m\", \"type\": \"child<vfio-pci>\"}, {\"name\": 1, \"type\": \"x\"}]");
	assert_int_equal(qmp_parse_devices(j, &flags, balloons, &n), -EPROTO);
	assert_int_equal(flags, LIBVIRT_SECURE | LIBVIRT_VIRTIO_MEM | LIBVIRT_HAS_BALLOON);
	json_decref(j);
	j = load("{}");
	assert_int_equal(qmp_parse_devices(j, &flags, balloons, &n), -EPROTO);
	json_decref(j);
}

static void others(void **state _unused_)
{
	static char ids[QMP_MEMDEVS_MAX][QMP_ID_BYTES];
	struct qmp_version v;
	struct qmp_status s;
	size_t n;
	json_t *j = load("[{\"name\": \"type\", \"type\": \"string\"},"
			 "{\"name\": \"pc.ram\", \"type\": \"child<memory-backend-ram>\"},"
			 "{\"name\": \"a/b\", \"type\": \"child<memory-backend-ram>\"},"
			 "{\"name\": \"m\", \"type\": \"child<memory-backend-memfd>\"}]");

	assert_int_equal(qmp_parse_backends(j, ids, &n), 0);
	assert_int_equal(n, 2);
	assert_string_equal(ids[1], "m");
	assert_int_equal(qmp_parse_greeting(j, &v), -EPROTO);
	assert_int_equal(qmp_parse_status(j, &s), -EPROTO);
	json_decref(j);
	j = load("{\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}},"
		 "\"status\": \"paused\", \"running\": false}");
	assert_int_equal(qmp_parse_greeting(j, &v), 0);
	assert_int_equal(v.major, 7);
	assert_int_equal(v.micro, 22);
	assert_int_equal(qmp_parse_status(j, &s), 0);
	assert_string_equal(s.status, "paused");
	json_decref(j);
	assert_true(qmp_id_valid("pc.ram"));
	assert_false(qmp_id_valid(""));
	assert_false(qmp_id_valid("a/../b"));
	assert_false(qmp_id_valid("0123456789012345678901234567890123456789012345678901234567890123"));
}

/* --- a server that misbehaves ------------------------------------------------------------- */

enum manner {
	GOOD,
	PRETTY,	    /* one byte at a time, over several lines, events in between */
	SILENT,	    /* as while another client holds it */
	NO_MONITOR, /* says something else */
	NO_ANSWER,
	HANGS_UP,
	EXITS,
	WRONG_ID,
	TOO_LONG, /* never ends its answer */
	TOO_MANY, /* nothing but events */
	NO_SENSE, /* an answer of another form */
	REFUSES,
	UNKNOWN,
};

#define GREETING                                                                         \
	"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, " \
	"\"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n"

struct server {
	pid_t pid;
	struct process p;
	char dir[32], path[64];
};

static void say(int fd, const char *text, bool bytewise)
{
	size_t len = strlen(text), n = bytewise ? 1 : len;

	for (size_t at = 0; at < len; at += n)
		if (send(fd, text + at, n, MSG_NOSIGNAL) < 0)
			_exit(0);
}

static const char *answer_to(const char *command)
{
	if (streq(command, "query-memdev"))
		return "[{\"id\": \"pc.ram\", \"size\": 1048576, \"merge\": true}]";
	if (streq(command, "query-memory-size-summary"))
		return "{\"base-memory\": 1048576}";
	if (streq(command, "query-status"))
		return "{\"status\": \"running\", \"running\": true}";
	if (streq(command, "query-name"))
		return "{\"name\": \"web\"}";
	if (streq(command, "query-uuid"))
		return "{\"UUID\": \"c7a5fdbd-edaf-9455-926a-d65c16db1809\"}";
	if (streq(command, "query-migrate-capabilities") || streq(command, "qom-list"))
		return "[]";
	if (streq(command, "qom-get"))
		return "true";
	return "{}";
}

static void answer_badly(int fd, enum manner how)
{
	switch (how) {
	case NO_ANSWER:
		(void)pause();
		break;
	case HANGS_UP:
		(void)close(fd);
		(void)pause();
		break;
	case EXITS:
		_exit(0);
	case WRONG_ID:
		say(fd, "{\"return\": {}, \"id\": 4711}\r\n", false);
		break;
	case TOO_LONG:
		say(fd, "{\"return\": \"", false);
		for (;;)
			say(fd, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", false);
	case TOO_MANY:
		for (;;)
			say(fd, "{\"event\": \"X\"}", false);
	default:
		break;
	}
}

static void answer(int fd, enum manner how, const json_t *call)
{
	const char *command = json_string_value(json_object_get(call, "execute"));
	const char *text = answer_to(command);
	long long id = json_integer_value(json_object_get(call, "id"));
	char line[512];

	if (!streq(command, "qmp_capabilities"))
		answer_badly(fd, how);
	if (how == PRETTY)
		say(fd, "{\r\n  \"event\": \"STOP\"\r\n}\r\n", true);
	if (how == NO_SENSE && !streq(command, "qmp_capabilities"))
		text = "[[]]";
	(void)snprintf(line, sizeof(line), "{\r\n\"return\": %s,\r\n \"id\": %lld}\r\n", text, id);
	if ((how == REFUSES || how == UNKNOWN) && !streq(command, "qmp_capabilities"))
		(void)snprintf(line, sizeof(line),
			       "{\"id\": %lld, \"error\": {\"class\": \"%s\", \"desc\": \"no\\n\"}}", id,
			       how == UNKNOWN ? "CommandNotFound" : "GenericError");
	say(fd, line, how == PRETTY);
}

static void serve(int fd, enum manner how)
{
	char buf[4096];
	ssize_t n;

	if (how == NO_MONITOR)
		say(fd, "220 mail.example.org ESMTP\r\n", false);
	else if (how != SILENT)
		say(fd, GREETING, how == PRETTY);
	/* Each call comes in one piece. */
	while ((n = recv(fd, buf, sizeof(buf), 0)) > 0) {
		json_t *call = json_loadb(buf, (size_t)n, 0, NULL);

		if (!call)
			_exit(2);
		answer(fd, how, call);
		json_decref(call);
	}
}

static int listen_at(const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(listen(fd, 1), 0);
	return fd;
}

/* listening: the child has the socket; else whoever calls makes one. */
static void server_start(struct server *s, enum manner how, bool listening)
{
	int ready[2];
	char c;

	(void)snprintf(s->dir, sizeof(s->dir), "/tmp/test-qmp.XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	(void)snprintf(s->path, sizeof(s->path), "%s/monitor", s->dir);
	assert_int_equal(pipe(ready), 0);
	s->pid = fork();
	assert_true(s->pid >= 0);
	if (s->pid == 0) {
		int fd;

		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (chdir(s->dir) < 0)
			_exit(1);
		fd = listening ? listen_at(s->path) : -1;
		(void)!write(ready[1], "", 1);
		while (listening)
			serve(accept(fd, NULL, NULL), how);
		for (;;)
			(void)pause();
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	(void)close(ready[0]);
	(void)close(ready[1]);
	assert_int_equal(process_open(&s->p, s->pid), 0);
}

static void server_end(struct server *s)
{
	(void)kill(s->pid, SIGKILL);
	assert_int_equal(waitpid(s->pid, NULL, 0), s->pid);
	process_close(&s->p);
	(void)unlink(s->path);
	(void)rmdir(s->dir);
}

#define TIMEOUT_USEC (20 * USEC_PER_SEC)

static void ask_all(enum manner how)
{
	static struct qmp_memdev devs[QMP_MEMDEVS_MAX];
	static char ids[QMP_MEMDEVS_MAX][QMP_ID_BYTES];
	char reason[QMP_REASON_MAX];
	struct qmp_migration migration;
	struct qmp_identity id;
	struct qmp_status status;
	struct server s;
	struct qmp *q;
	uint64_t bytes;
	size_t n;
	bool merge;

	server_start(&s, how, true);
	assert_int_equal(qmp_open(&s.p, s.path, TIMEOUT_USEC, reason, &q), 0);
	assert_int_equal(qmp_version(q).major, 7);
	assert_int_equal(qmp_query_memdevs(q, reason, devs, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(qmp_query_ram(q, reason, &bytes), 0);
	assert_int_equal(bytes, 1048576);
	assert_int_equal(qmp_query_identity(q, reason, &id), 0);
	assert_string_equal(id.name, "web");
	assert_int_equal(qmp_query_status(q, reason, &status), 0);
	assert_true(status.running);
	assert_int_equal(qmp_query_migration(q, reason, &migration), 0);
	assert_false(migration.active);
	assert_int_equal(qmp_list_backends(q, reason, ids, &n), 0);
	assert_int_equal(n, 0);
	assert_int_equal(qmp_get_merge(q, "pc.ram", reason, &merge), 0);
	assert_true(merge);
	assert_int_equal(qmp_set_merge(q, "pc.ram", false, reason), 0);
	assert_int_equal(qmp_set_merge(q, "../pc.ram", false, reason), -EINVAL);
	qmp_close(q);
	/* Relative to the guest's own directory. */
	assert_int_equal(qmp_open(&s.p, "monitor", TIMEOUT_USEC, reason, &q), 0);
	qmp_close(q);
	server_end(&s);
}

static void answers(void **state _unused_)
{
	ask_all(GOOD);
	ask_all(PRETTY);
	qmp_close(NULL);
}

static void bad_servers(void **state _unused_)
{
	static const struct {
		enum manner how;
		int r;
		bool lost; /* nothing more can be asked */
	} cases[] = {
		{ HANGS_UP, -EPIPE, true },   { EXITS, -ESRCH, true },
		{ WRONG_ID, -EPROTO, true },  { TOO_LONG, -EPROTO, true },
		{ TOO_MANY, -EPROTO, true },  { NO_SENSE, -EPROTO, true },
		{ REFUSES, -EREMOTEIO, false }, { UNKNOWN, -EOPNOTSUPP, false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char reason[QMP_REASON_MAX] = "";
		struct qmp_status status;
		struct server s;
		struct qmp *q;
		int r;

		server_start(&s, cases[i].how, true);
		assert_int_equal(qmp_open(&s.p, s.path, TIMEOUT_USEC, reason, &q), 0);
		r = qmp_query_status(q, reason, &status);
		/* Exiting shows as a hang-up a moment before it shows in the pidfd. */
		if (cases[i].how == EXITS && r == -EPIPE)
			r = -ESRCH;
		assert_int_equal(r, cases[i].r);
		assert_true(strlen(reason) > 0);
		r = qmp_query_status(q, reason, &status);
		if (cases[i].lost)
			assert_true(r == -EPIPE || r == -ESRCH);
		else
			assert_int_equal(r, cases[i].r);
		qmp_close(q);
		server_end(&s);
	}
}

static void deadlines(void **state _unused_)
{
	const uint64_t timeout_usec = 100 * USEC_PER_MSEC;
	char reason[QMP_REASON_MAX];
	struct qmp_status status;
	struct server s;
	uint64_t start;
	struct qmp *q;

	server_start(&s, SILENT, true);
	start = now_usec();
	assert_int_equal(qmp_open(&s.p, s.path, timeout_usec, reason, &q), -EBUSY);
	assert_true(now_usec() - start >= timeout_usec);
	assert_non_null(strstr(reason, "holds it"));
	server_end(&s);

	server_start(&s, NO_ANSWER, true);
	assert_int_equal(qmp_open(&s.p, s.path, timeout_usec, reason, &q), 0);
	assert_int_equal(qmp_query_status(q, reason, &status), -ETIMEDOUT);
	assert_int_equal(qmp_query_status(q, reason, &status), -EPIPE);
	qmp_close(q);
	server_end(&s);
}

static void no_monitors(void **state _unused_)
{
	char reason[QMP_REASON_MAX], long_path[200];
	struct server s;
	struct qmp *q;
	int fd;

	server_start(&s, NO_MONITOR, true);
	assert_int_equal(qmp_open(&s.p, s.path, TIMEOUT_USEC, reason, &q), -EPROTO);
	assert_int_equal(qmp_open(&s.p, "/nonexistent/x", TIMEOUT_USEC, reason, &q), -ENOENT);
	assert_int_equal(qmp_open(&s.p, "/etc/passwd", TIMEOUT_USEC, reason, &q), -ECONNREFUSED);
	memset(long_path, 'x', sizeof(long_path));
	long_path[sizeof(long_path) - 1] = '\0';
	assert_int_equal(qmp_open(&s.p, long_path, TIMEOUT_USEC, reason, &q), -ENAMETOOLONG);
	server_end(&s);

	/* Somebody else's socket under the guest's path. */
	server_start(&s, GOOD, false);
	fd = listen_at(s.path);
	assert_int_equal(qmp_open(&s.p, s.path, TIMEOUT_USEC, reason, &q), -EPERM);
	assert_non_null(strstr(reason, "not to the guest"));
	(void)close(fd);
	server_end(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames),	cmocka_unit_test(messages),
		cmocka_unit_test(ram_sizes),
		cmocka_unit_test(memdevs),	cmocka_unit_test(identities),
		cmocka_unit_test(migrations),	cmocka_unit_test(others),
		cmocka_unit_test(devices),
		cmocka_unit_test(answers),	cmocka_unit_test(bad_servers),
		cmocka_unit_test(deadlines),	cmocka_unit_test(no_monitors),
	};

	return cmocka_run_group_tests_name("qmp", tests, NULL, NULL);
}
