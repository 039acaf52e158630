/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/control-fixture.h"

#include <fcntl.h>
#include <sys/wait.h>

static void garbage_is_dropped(void **state)
{
	static const char *const garbage[] = { "GET / HTTP/1.1\r\n\r\n", "[]", "{}", "{", "",
					       "{\"method\":\"a.b.C\"}}", "\xff\xfe" };
	struct fixture *f = *state;
	struct control_counters n;
	int fd;

	for (size_t i = 0; i < ARRAY_SIZE(garbage); i++) {
		fd = connect_to(f->path);
		say(f, fd, garbage[i]);
		expect_hangup(f, fd);
		(void)close(fd);
	}
	control_counters(f->control, &n);
	assert_int_equal(n.dropped, ARRAY_SIZE(garbage));
	assert_int_equal(n.connections, 0);
	fd = connect_to(f->path);
	STILL_THERE(f, fd);
	(void)close(fd);
}

static void nul_storm(void **state)
{
	struct fixture *f = *state;
	static char nuls[MIB(2)];
	int fd = connect_to(f->path);

	assert_false(send_all(f, fd, nuls, sizeof(nuls)));
	(void)close(fd);
	fd = connect_to(f->path);
	STILL_THERE(f, fd);
	(void)close(fd);
}

static void oversize_is_dropped(void **state)
{
	struct fixture *f = *state;
	static char big[MIB(2)];
	int fd = connect_to(f->path);

	memset(big, 'x', sizeof(big));
	assert_false(send_all(f, fd, big, sizeof(big)));
	(void)close(fd);
	await_no_connection(f);
}

static void half_a_call(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f->path), other = connect_to(f->path);

	assert_true(send_all(f, fd, "{\"method\":\"org.ex", 17));
	STILL_THERE(f, other);
	/* Byte by byte is fine. */
	for (const char *p = "ample.test.Rooted\"}"; *p; p++)
		assert_true(send_all(f, fd, p, 1));
	assert_true(send_all(f, fd, "", 1));
	expect(f, fd, getuid() == 0 ? "{\"parameters\":{}}"
				    : "{\"error\":\"org.example.test.PermissionDenied\","
				      "\"parameters\":{\"message\":\"only root may call Rooted\"}}");
	assert_true(send_all(f, fd, "{\"method\":\"org.ex", 17));
	(void)close(fd);
	(void)close(other);
	await_no_connection(f);
}

static void slow_reader_blocks_only_itself(void **state)
{
	static const char call[] = CALL_WITH("Big", "{\"n\":4000000}");
	struct fixture *f = *state;
	int fd = connect_to(f->path), other = connect_to(f->path);
	struct control_counters n;

	/* Many calls, nothing read: the server stops after the first whose answer waits. */
	for (unsigned i = 0; i < 50; i++)
		(void)send(fd, call, sizeof(call), MSG_NOSIGNAL);
	for (unsigned i = 0; i < 20; i++)
		turn(f);
	control_counters(f->control, &n);
	assert_true(n.calls <= 1);
	STILL_THERE(f, other);
	(void)close(fd);
	(void)close(other);
	await_no_connection(f);
}

static void too_big_an_answer_is_dropped(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f->path);

	say(f, fd, CALL_WITH("Big", "{\"n\":17000000}"));
	expect_hangup(f, fd);
	(void)close(fd);
	await_no_connection(f);
}

static void stalled_clients_are_dropped(void **state)
{
	struct fixture *f = *state;
	struct control_config config = config_of(f);
	struct control_counters n;
	int half, deaf, idle, busy;

	config.stall_usec = 50 * USEC_PER_MSEC;
	restart(f, &config);
	idle = connect_to(f->path);
	busy = connect_to(f->path);
	half = connect_to(f->path);
	deaf = connect_to(f->path);
	say(f, busy, CALL("Keep"));
	assert_true(send_all(f, half, "{", 1));
	say(f, deaf, CALL_WITH("Big", "{\"n\":4000000}"));
	expect_hangup(f, half);
	do {
		turn(f);
		control_counters(f->control, &n);
	} while (n.connections > 2);
	/* Who waits for an answer, or for nothing, owes nothing. */
	assert_int_equal(n.dropped, 2);
	STILL_THERE(f, idle);
	assert_int_equal(control_call_reply(f->kept, NULL), 0);
	expect(f, busy, "{\"parameters\":{}}");
	(void)close(idle);
	(void)close(busy);
	(void)close(half);
	(void)close(deaf);
	await_no_connection(f);
}

static void connections_are_bounded(void **state)
{
	struct fixture *f = *state;
	unsigned max = getuid() == 0 ? CONTROL_CONNECTIONS_MAX : CONTROL_CONNECTIONS_USER;
	int fds[CONTROL_CONNECTIONS_MAX + 1];
	char buf[256];

	for (unsigned i = 0; i <= max; i++)
		fds[i] = connect_to(f->path);
	STILL_THERE(f, fds[max - 1]);
	assert_true(hear(f, fds[max], buf, sizeof(buf)));
	assert_non_null(strstr(buf, "\"error\":\"org.example.test.Busy\""));
	expect_hangup(f, fds[max]);
	(void)close(fds[0]);
	STILL_THERE(f, fds[max - 1]);
	fds[0] = connect_to(f->path);
	STILL_THERE(f, fds[0]);
	for (unsigned i = 0; i <= max; i++)
		(void)close(fds[i]);
	await_no_connection(f);
}

/* What another user's client does in its own process; its exit status is the verdict. */
static _noreturn_ void be_other_user(const char *path)
{
	static const char question[] = CALL("Rooted"), open_to_all[] =
		CALL_WITH("Echo", "{\"text\":\"a\"}");
	int fds[CONTROL_CONNECTIONS_USER + 1];
	char buf[512];
	ssize_t n;

	if (setresuid(65534, 65534, 65534) < 0)
		_exit(1);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = connect_to(path);
		(void)fcntl(fds[i], F_SETFL, 0);
	}
	n = send(fds[0], question, sizeof(question), 0);
	n = recv(fds[0], buf, sizeof(buf) - 1, 0);
	buf[n > 0 ? n : 0] = '\0';
	if (!strstr(buf, "PermissionDenied"))
		_exit(2);
	n = send(fds[0], open_to_all, sizeof(open_to_all), 0);
	n = recv(fds[0], buf, sizeof(buf) - 1, 0);
	buf[n > 0 ? n : 0] = '\0';
	if (!streq(buf, "{\"parameters\":{\"text\":\"a\"}}"))
		_exit(3);
	/* One connection more than this user may have. */
	n = recv(fds[ARRAY_SIZE(fds) - 1], buf, sizeof(buf) - 1, 0);
	buf[n > 0 ? n : 0] = '\0';
	_exit(strstr(buf, "of this user") ? 0 : 4);
}

static void other_users(void **state)
{
	struct fixture *f = *state;
	uint64_t deadline = now_usec() + DEADLINE_USEC;
	int status;
	pid_t pid;

	if (getuid() != 0) {
		print_message("# needs root, to become another user\n");
		skip();
	}
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		be_other_user(f->path);
	while (waitpid(pid, &status, WNOHANG) == 0) {
		assert_true(now_usec() < deadline);
		turn(f);
	}
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	await_no_connection(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(garbage_is_dropped),
		test(nul_storm),
		test(oversize_is_dropped),
		test(half_a_call),
		test(slow_reader_blocks_only_itself),
		test(too_big_an_answer_is_dropped),
		test(stalled_clients_are_dropped),
		test(connections_are_bounded),
		test(other_users),
	};

	return cmocka_run_group_tests_name("control-hostile", tests, NULL, NULL);
}
