/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which processes have mergeable memory: in a directory that stands for /proc, and of real ones. */
#include "daemon/mergeable.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "tests/unit/fake-root.h"

#define SMAPS(flags)                                                     \
	"7f0000000000-7f0000400000 rw-p 00000000 00:00 0 \n"             \
	"Rss:                4096 kB\n"                                  \
	"VmFlags: rd wr mr mw me ac " flags "\n"                         \
	"7f0000500000-7f0000600000 rw-p 00000000 00:00 0  /tmp/VmFlags: mg\n" \
	"VmFlags: rd wr mr mw me ac\n"

static char reason[192];

static bool is_eleven(pid_t pid, void *userdata _unused_)
{
	return pid == 11;
}

static const struct mergeable_look defaults = { .ours = is_eleven, .max_usec = 60 * USEC_PER_SEC };

static int look(struct mergeable_look l)
{
	l.proc_fd = root_fd;
	reason[0] = '\0';
	return mergeable_look(&l, reason, sizeof(reason));
}

static void ksm_stat_tells(void **state _unused_)
{
	put("11/ksm_stat", "ksm_rmap_items 5\nksm_mergeable: yes\n");
	put("12/ksm_stat", "ksm_rmap_items 5\nksm_mergeable: no\n");
	put("12/smaps", "not read");
	put("self/ksm_stat", "ksm_mergeable: yes\n");
	assert_int_equal(look(defaults), 0);
	put("13/ksm_stat", "ksm_rmap_items 0\nksm_mergeable: yes\n");
	put("13/comm", "their\033qemu\n");
	assert_int_equal(look(defaults), -EPERM);
	assert_non_null(strstr(reason, "process 13 (their?qemu) outside"));
}

static void smaps_tell_on_older_kernels(void **state _unused_)
{
	struct mergeable_look quick = defaults;

	quick.quick = true;
	put("11/smaps", SMAPS("mg"));
	put("12/smaps", SMAPS("gm"));
	put("13/ksm_stat", "ksm_rmap_items 0\n");
	put("13/smaps", SMAPS(""));
	assert_int_equal(look(defaults), 0);
	put("13/smaps", SMAPS("mg sd"));
	assert_int_equal(look(defaults), -EPERM);
	assert_non_null(strstr(reason, "process 13"));
	/* ksmd has not come to it yet; then it has. */
	assert_int_equal(look(quick), 0);
	put("13/ksm_stat", "ksm_rmap_items 1\n");
	assert_int_equal(look(quick), -EPERM);
	/* Without ksm_stat there is no other way. */
	put("13/smaps", SMAPS(""));
	put("14/smaps", SMAPS("mg"));
	assert_int_equal(look(quick), -EPERM);
}

static void what_cannot_be_told_refuses(void **state _unused_)
{
	struct mergeable_look l = defaults;
	_Atomic bool stop = true;

	put("12/smaps", SMAPS(""));
	put("12/comm", "db\n");
	l.max_usec = 0;
	(void)usleep(10);
	assert_int_equal(look(l), -ETIME);
	assert_non_null(strstr(reason, "process 12 (db)"));
	l = defaults;
	l.stop = &stop;
	assert_int_equal(look(l), -ECANCELED);
	put("13/smaps", "nonsense\n");
	assert_int_equal(look(defaults), -EINVAL);
	assert_non_null(strstr(reason, "process 13"));
	assert_non_null(strstr(reason, "AllowForeign"));
	put("13/smaps", "");
	assert_int_equal(mkdirat(root_fd, "13/ksm_stat", 0700), 0);
	assert_int_equal(mkdirat(root_fd, "13/task", 0700), 0);
	assert_int_equal(look(defaults), 0);
	assert_int_equal(unlinkat(root_fd, "13/smaps", 0), 0);
	assert_int_equal(mkdirat(root_fd, "13/smaps", 0700), 0);
	assert_int_equal(look(defaults), -EISDIR);
	l = defaults;
	l.proc_fd = -1;
	assert_int_equal(mergeable_look(&l, reason, sizeof(reason)), -EBADF);
	assert_non_null(strstr(reason, "cannot be listed"));
}

static void those_that_went_do_not_count(void **state _unused_)
{
	assert_int_equal(mkdirat(root_fd, "12", 0700), 0);
	/* An exited first thread, and no other. */
	put("13/ksm_stat", "");
	put("13/smaps", "");
	assert_int_equal(mkdirat(root_fd, "13/task", 0700), 0);
	put("14/ksm_stat", "");
	put("14/task/14/ksm_stat", "");
	put("14/task/15/ksm_stat", "ksm_mergeable: no\n");
	put("14/task/16/ksm_stat", "ksm_mergeable: no\n");
	assert_int_equal(look(defaults), 0);
	put("14/task/15/ksm_stat", "ksm_mergeable: yes\n");
	put("14/task/16/ksm_stat", "ksm_mergeable: yes\n");
	assert_int_equal(look(defaults), -EPERM);
}

static _noreturn_ void *sleep_on(void *p _unused_)
{
	for (;;)
		(void)pause();
}

/* A process with marked memory whose first thread has exited. */
static _noreturn_ void be_headless(int ready_fd, bool marked)
{
	void *p = mmap(NULL, MIB(1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_t t;

	if (p == MAP_FAILED || (marked && madvise(p, MIB(1), MADV_MERGEABLE) < 0) ||
	    pthread_create(&t, NULL, sleep_on, NULL) != 0)
		_exit(77);
	(void)!write(ready_fd, "r", 1);
	pthread_exit(NULL);
}

static void expect_of_headless(bool marked, int expected)
{
	char path[32], line[1024];
	int ready[2], status, r = -1;
	pid_t pid;
	char c;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		be_headless(ready[1], marked);
	(void)close(ready[1]);
	if (read(ready[0], &c, 1) == 1) {
		_cleanup_close_ int fd = -1;

		(void)snprintf(path, sizeof(path), "/proc/%d", (int)pid);
		fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		do
			assert_int_equal(io_read_line(fd, "stat", line, sizeof(line)), 0);
		while (!strstr(line, ") Z "));
		r = mergeable_process(&defaults, fd);
	}
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, &status, 0);
	(void)close(ready[0]);
	if (WIFEXITED(status))
		skip(); /* a kernel without KSM */
	assert_int_equal(r, expected);
}

static void a_first_thread_that_exits_hides_nothing(void **state _unused_)
{
	expect_of_headless(true, 1);
	expect_of_headless(false, 0);
}

static void all_of_this_host_can_be_looked_at(void **state _unused_)
{
	struct mergeable_look l = defaults;
	_cleanup_close_ int fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (geteuid() != 0)
		skip();
	l.proc_fd = fd;
	r = mergeable_look(&l, reason, sizeof(reason));
	assert_true(r == 0 || r == -EPERM);
}

#define IN_ROOT(f) cmocka_unit_test_setup_teardown(f, make_root, remove_root)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_ROOT(ksm_stat_tells),
		IN_ROOT(smaps_tell_on_older_kernels),
		IN_ROOT(what_cannot_be_told_refuses),
		IN_ROOT(those_that_went_do_not_count),
		cmocka_unit_test(a_first_thread_that_exits_hides_nothing),
		cmocka_unit_test(all_of_this_host_can_be_looked_at),
	};

	return cmocka_run_group_tests_name("mergeable", tests, NULL, NULL);
}
