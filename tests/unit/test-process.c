/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/unit/unit.h"

/* --- parsers ------------------------------------------------------------------------------ */

#define TAIL " S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9876543 22 33 18446744073709551615"

static void expect_stat(const char *text)
{
	struct process_stat s;

	assert_int_equal(process_parse_stat(text, strlen(text), &s), 0);
	assert_int_equal(s.pid, 42);
	assert_int_equal(s.ppid, 7);
	assert_int_equal(s.state, 'S');
	assert_true(s.start_ticks == 9876543);
}

static void stat_names(void **state _unused_)
{
	expect_stat("42 (qemu)" TAIL "\n");
	expect_stat("42 (a b)" TAIL "\n");
	expect_stat("42 ()" TAIL "\n");
	expect_stat("42 (x) R 1 1 1)" TAIL "\n");
	expect_stat("42 (x) Z 1 (\n) (y)" TAIL);
	expect_stat("42 ())))\xff\x01)" TAIL);
}

static void stat_refused(void **state _unused_)
{
	static const char *const bad[] = {
		"",
		"42",
		"42 ",
		"42 (",
		"42 (x",
		"42 )x(" TAIL,
		"42 (x)",
		"42 (x) ",
		"42 (x) S",
		"42 (x) 5 7",
		"42 (x) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0",
		"42 (x) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 -5",
		"42 (x) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 99999999999999999999",
		"99999999999 (x)" TAIL,
		"x (x)" TAIL,
		"42 (x) S -7 42 42",
	};
	struct process_stat s = { .pid = 5 };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(process_parse_stat(bad[i], strlen(bad[i]), &s), -EINVAL);
	assert_int_equal(s.pid, 5);
}

static int parse_uid(const char *text, uid_t *ret)
{
	return process_parse_uid(text, strlen(text), ret);
}

static void uids(void **state _unused_)
{
	uid_t uid = 5;

	assert_int_equal(parse_uid("Name:\tUid:\\nx\nUid:\t1000\t64055\t0\t0\nGid:\t0\n", &uid), 0);
	assert_int_equal(uid, 64055);
	uid = 5;
	assert_int_equal(parse_uid("", &uid), -EINVAL);
	assert_int_equal(parse_uid("Name:\tx\nUid:\t", &uid), -EINVAL);
	assert_int_equal(parse_uid("Name:\tx\nUid:\t1", &uid), -EINVAL);
	assert_int_equal(parse_uid("Name:\tx\nUid:\t1\t", &uid), -EINVAL);
	assert_int_equal(parse_uid("Name:\tx\nUid:\t1\t4294967296", &uid), -EINVAL);
	assert_int_equal(uid, 5);
}

static void printable(void **state _unused_)
{
	char to[8];

	process_copy_printable(to, sizeof(to), "a\n\x1b[1\xc3", 6);
	assert_string_equal(to, "a??[1?");
	process_copy_printable(to, sizeof(to), "0123456789", 10);
	assert_string_equal(to, "0123456");
	process_copy_printable(to, 1, "x", 1);
	assert_string_equal(to, "");
}

/* --- live processes ----------------------------------------------------------------------- */

/* A child that runs fn and then waits to be killed; returns once fn is done. */
static pid_t child_start(void (*fn)(void))
{
	int ready[2];
	char c;
	pid_t pid;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn();
		(void)!write(ready[1], "", 1);
		for (;;)
			(void)pause();
	}
	(void)close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	(void)close(ready[0]);
	return pid;
}

static void child_end(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void wait_exit(const struct process *p)
{
	struct pollfd pfd = { .fd = p->pidfd, .events = POLLIN };

	assert_int_equal(poll(&pfd, 1, 10000), 1);
}

static void nothing(void)
{
}

static void hostile_name(void)
{
	(void)prctl(PR_SET_NAME, "a) Z 1 (\n)");
}

static void opens(void **state _unused_)
{
	pid_t pid = child_start(hostile_name);
	struct process p;

	assert_int_equal(process_open(&p, pid), 0);
	assert_int_equal(p.pid, pid);
	assert_true(p.start_ticks > 0);
	assert_int_equal(p.uid, geteuid());
	assert_string_equal(p.exe, "test-process");
	assert_true(process_alive(&p));
	assert_int_equal(process_check(&p), 0);
	child_end(pid);
	assert_false(process_alive(&p));
	assert_int_equal(process_check(&p), -ESRCH);
	process_close(&p);
	process_close(&p);
	assert_int_equal(p.proc_fd, -1);
}

static void no_process(void **state _unused_)
{
	pid_t pid = child_start(nothing);
	struct process p;

	child_end(pid);
	assert_int_equal(process_open(&p, pid), -ESRCH);
	assert_int_equal(process_open(&p, 0), -ESRCH);
	assert_int_equal(process_open(&p, -1), -ESRCH);
	assert_int_equal(p.pidfd, -1);
}

static void zombie(void **state _unused_)
{
	pid_t pid = child_start(nothing);
	struct process before, p;

	assert_int_equal(process_open(&before, pid), 0);
	assert_int_equal(kill(pid, SIGKILL), 0);
	wait_exit(&before);
	assert_int_equal(process_open(&p, pid), -ENOEXEC);
	assert_false(process_alive(&before));
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	process_close(&before);
}

/* The exec happens when the test says so: the child waits on stdin. */
static void exec_on_signal(int sig _unused_)
{
	(void)execlp("sleep", "sleep", "1000", NULL);
	_exit(1);
}

static void prepare_exec(void)
{
	(void)signal(SIGUSR1, exec_on_signal);
}

static void execs(void **state _unused_)
{
	pid_t pid = child_start(prepare_exec);
	uint64_t deadline = now_usec() + 10 * USEC_PER_SEC;
	struct process p;
	int r;

	assert_int_equal(process_open(&p, pid), 0);
	assert_int_equal(kill(pid, SIGUSR1), 0);
	do
		r = process_check(&p);
	while (r == 0 && now_usec() < deadline);
	assert_int_equal(r, -ESTALE);
	assert_true(process_alive(&p));
	process_close(&p);
	child_end(pid);
}

/* --- reading ------------------------------------------------------------------------------ */

#define AREA_PAGES 8U
#define HOLE_PAGE  5U

static unsigned char *area;

static void area_new(void **state _unused_)
{
	area = mmap(NULL, AREA_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(area != MAP_FAILED);
}

static void fill_area(void)
{
	for (unsigned i = 0; i < AREA_PAGES; i++)
		memset(area + i * PAGE_BYTES, (int)i + 1, PAGE_BYTES);
	(void)munmap(area + HOLE_PAGE * PAGE_BYTES, PAGE_BYTES);
}

static void reads(void **state)
{
	unsigned char buf[AREA_PAGES * PAGE_BYTES];
	hva start;
	struct process p;
	pid_t pid;

	area_new(state);
	start = HVA((uintptr_t)area);
	pid = child_start(fill_area);
	assert_int_equal(process_open(&p, pid), 0);
	assert_int_equal(process_read_pages(&p, start, 0, buf), 0);
	assert_int_equal(process_read_pages(&p, start, 2, buf), 2);
	assert_int_equal(buf[0], 1);
	assert_int_equal(buf[2 * PAGE_BYTES - 1], 2);
	/* Up to the hole, nothing at the hole, and on after it. */
	assert_int_equal(process_read_pages(&p, start, AREA_PAGES, buf), HOLE_PAGE);
	assert_int_equal(process_read_pages(&p, hva_add_pages(start, HOLE_PAGE), 1, buf), -EFAULT);
	assert_int_equal(process_read_pages(&p, hva_add_pages(start, HOLE_PAGE + 1), 2, buf), 2);
	assert_int_equal(buf[0], HOLE_PAGE + 2);
	assert_int_equal(process_read_pages(&p, HVA(UINT64_MAX & ~(PAGE_BYTES - 1)), 1, buf),
			 -EFAULT);
	child_end(pid);
	assert_int_equal(process_read_pages(&p, start, 1, buf), -ESRCH);
	process_close(&p);
	(void)munmap(area, AREA_PAGES * PAGE_BYTES);
}

/* Opened at any moment of its short life, a process is itself, a zombie or gone. */
static void short_lives(void **state _unused_)
{
	for (unsigned i = 0; i < 300; i++) {
		struct process p;
		pid_t pid = fork();
		int r;

		assert_true(pid >= 0);
		if (pid == 0)
			_exit(0);
		r = process_open(&p, pid);
		assert_true(r == 0 || r == -ESRCH || r == -ENOEXEC);
		if (r == 0)
			wait_exit(&p);
		process_close(&p);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stat_names), cmocka_unit_test(stat_refused),
		cmocka_unit_test(uids),	      cmocka_unit_test(printable),
		cmocka_unit_test(opens),      cmocka_unit_test(no_process),
		cmocka_unit_test(zombie),     cmocka_unit_test(execs),
		cmocka_unit_test(reads),      cmocka_unit_test(short_lives),
	};

	return cmocka_run_group_tests_name("process", tests, NULL, NULL);
}
