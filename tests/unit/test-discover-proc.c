/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Guests here are copies of this program under QEMU's name, which just wait. */
#include "daemon/discover-proc.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/unit/unit.h"

#define WAIT_ENV "TEST_DISCOVER_PROC_WAIT"
/* The end is our pid: the same test may run elsewhere on this host. */
static char guest_uuid[] = "c7a5fdbd-edaf-9455-926a-d65c16db1809";

static char dir[32], program[64];
static int proc_fd;

static void copy_program(void)
{
	char buf[65536];
	int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int to = open(program, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
	ssize_t n;

	assert_true(from >= 0 && to >= 0);
	while ((n = read(from, buf, sizeof(buf))) > 0)
		assert_int_equal(write(to, buf, (size_t)n), n);
	(void)close(from);
	(void)close(to);
}

static int set_up(void **state _unused_)
{
	(void)snprintf(dir, sizeof(dir), "/tmp/test-discover.XXXXXX");
	assert_non_null(mkdtemp(dir));
	(void)snprintf(program, sizeof(program), "%s/qemu-system-x86_64", dir);
	copy_program();
	proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return proc_fd < 0;
}

static int tear_down(void **state _unused_)
{
	(void)close(proc_fd);
	(void)unlink(program);
	(void)rmdir(dir);
	return 0;
}

/* --- processes ---------------------------------------------------------------------------- */

static char *const guest_args[] = {
	(char[]){ "qemu" }, (char[]){ "-name" }, (char[]){ "guest=web (1)\n" }, (char[]){ "-uuid" },
	guest_uuid, (char[]){ "-qmp" }, (char[]){ "unix:/run/q,server=on" }, NULL,
};
static char *const probe_args[] = {
	(char[]){ "qemu" }, (char[]){ "-M" }, (char[]){ "none" }, NULL,
};

/* ready_fd stays open; the program says there that it runs (main). */
static _noreturn_ void exec_guest(char *const *args, int ready_fd)
{
	char number[16];

	(void)snprintf(number, sizeof(number), "%d", ready_fd);
	(void)setenv(WAIT_ENV, number, 1);
	(void)execv(program, args);
	_exit(1);
}

/* A pipe whose writing end survives exec. */
static void ready_pipe(int ret[2])
{
	assert_int_equal(pipe2(ret, O_CLOEXEC), 0);
	assert_int_equal(fcntl(ret[1], F_SETFD, 0), 0);
}

static void ready_wait(int ends[2])
{
	char c;

	(void)close(ends[1]);
	assert_int_equal(read(ends[0], &c, 1), 1);
	(void)close(ends[0]);
}

/* Returns when the process runs the program. */
static pid_t start(char *const *args, bool in_pid_namespace)
{
	int ready[2];
	pid_t pid;

	ready_pipe(ready);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (!in_pid_namespace)
			exec_guest(args, ready[1]);
		if (unshare(CLONE_NEWPID) < 0 || (pid = fork()) < 0)
			_exit(1);
		if (pid == 0) {
			(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
			exec_guest(args, ready[1]);
		}
		(void)close(ready[1]);
		for (;;)
			(void)pause();
	}
	ready_wait(ready);
	return pid;
}

static void end(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* --- what was found; other guests of this machine are left out ------------------------------ */

struct found {
	struct proc_guest last;
	size_t n;
};

static int note_guest(const struct proc_guest *g, void *userdata)
{
	struct found *f = userdata;

	if (!streq(g->cmdline.uuid, guest_uuid))
		return 0;
	f->last = *g;
	f->n++;
	return 0;
}

static size_t scan(struct discover_proc *d, struct found *f)
{
	f->n = 0;
	assert_true(discover_proc_scan(d, proc_fd, note_guest, f) >= 0);
	return f->n;
}

static void finds(void **state _unused_)
{
	struct discover_proc *d;
	struct found f = { 0 };
	pid_t a, b, probe;

	assert_int_equal(discover_proc_new(&d), 0);
	assert_int_equal(scan(d, &f), 0);
	a = start(guest_args, false);
	probe = start(probe_args, false);
	assert_int_equal(scan(d, &f), 1);
	assert_int_equal(f.last.pid, a);
	assert_int_equal(f.last.uid, geteuid());
	assert_int_equal(f.last.is_root, geteuid() == 0);
	assert_int_equal(f.last.own_program, geteuid() != 0);
	assert_string_equal(f.last.exe, "qemu-system-x86_64");
	assert_string_equal(f.last.cmdline.name, "web (1)?");
	assert_int_equal(f.last.cmdline.n_monitors, 1);
	/* Told once. */
	assert_int_equal(scan(d, &f), 0);
	b = start(guest_args, false);
	assert_int_equal(scan(d, &f), 1);
	assert_int_equal(f.last.pid, b);
	discover_proc_forget(d, a);
	assert_int_equal(scan(d, &f), 1);
	assert_int_equal(f.last.pid, a);
	discover_proc_forget(d, 0);
	assert_int_equal(scan(d, &f), 2);
	end(a);
	end(b);
	end(probe);
	assert_int_equal(scan(d, &f), 0);
	discover_proc_free(d);
	discover_proc_free(NULL);
}

static int stop_at(const struct proc_guest *g, void *userdata)
{
	return streq(g->cmdline.uuid, guest_uuid) ? *(int *)userdata : 0;
}

static void stops(void **state _unused_)
{
	struct discover_proc *d;
	struct found f = { 0 };
	int r = -ECANCELED;
	pid_t a;

	assert_int_equal(discover_proc_new(&d), 0);
	a = start(guest_args, false);
	assert_int_equal(discover_proc_scan(d, proc_fd, stop_at, &r), -ECANCELED);
	/* What was not taken is told again. */
	assert_int_equal(scan(d, &f), 1);
	discover_proc_forget(d, 0);
	r = 1;
	assert_true(discover_proc_scan(d, proc_fd, stop_at, &r) >= 0);
	assert_int_equal(scan(d, &f), 1);
	assert_int_equal(scan(d, &f), 0);
	end(a);
	discover_proc_free(d);
}

/* libvirt and shells fork, and execute QEMU later: same pid, same start time. */
static void found_after_exec(void **state _unused_)
{
	struct discover_proc *d;
	struct found f = { 0 };
	int go[2], ready[2];
	char c;
	pid_t pid;

	assert_int_equal(discover_proc_new(&d), 0);
	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	ready_pipe(ready);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)!read(go[0], &c, 1);
		exec_guest(guest_args, ready[1]);
	}
	assert_int_equal(scan(d, &f), 0);
	assert_int_equal(write(go[1], "", 1), 1);
	ready_wait(ready);
	assert_int_equal(scan(d, &f), 1);
	assert_int_equal(f.last.pid, pid);
	end(pid);
	(void)close(go[0]);
	(void)close(go[1]);
	discover_proc_free(d);
}

static void in_a_container(void **state _unused_)
{
	struct discover_proc *d;
	struct found f = { 0 };
	pid_t parent;

	if (geteuid() != 0) {
		print_message("a pid namespace needs root\n");
		skip();
	}
	assert_int_equal(discover_proc_new(&d), 0);
	parent = start(guest_args, true);
	assert_int_equal(scan(d, &f), 1);
	assert_true(f.last.pid != parent && f.last.pid > 1);
	end(parent);
	discover_proc_free(d);
}

/* Scans while processes come, execute and go at any moment. One that has just executed, and does not
 * live long, may be found. */
static void storm(void **state _unused_)
{
	struct discover_proc *d;
	struct found f = { 0 };

	assert_int_equal(discover_proc_new(&d), 0);
	for (unsigned i = 0; i < 100; i++) {
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			(void)unsetenv(WAIT_ENV);
			(void)execl(program, "qemu", "-name", "short", NULL);
			_exit(1);
		}
		for (unsigned k = 0; k <= i % 4; k++)
			assert_in_range(scan(d, &f), 0, 1);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
	}
	discover_proc_free(d);
}

static void one_process(void **state _unused_)
{
	char reason[DISCOVER_REASON_BYTES] = "";
	struct proc_guest g;
	pid_t a = start(guest_args, false), probe = start(probe_args, false), child;

	assert_int_equal(discover_proc_pid(proc_fd, a, &g, reason), 0);
	assert_int_equal(g.pid, a);
	assert_true(g.start_ticks > 0);
	assert_string_equal(g.cmdline.uuid, guest_uuid);
	assert_int_equal(discover_proc_pid(proc_fd, probe, &g, reason), -ENOMSG);
	assert_non_null(strstr(reason, "machine none"));
	assert_int_equal(discover_proc_pid(proc_fd, getpid(), &g, reason), -ENOMSG);
	assert_non_null(strstr(reason, "not QEMU"));
	assert_int_equal(discover_proc_pid(proc_fd, 0, &g, reason), -ESRCH);
	assert_int_equal(discover_proc_pid(proc_fd, -5, &g, reason), -ESRCH);
	end(a);
	end(probe);
	assert_int_equal(discover_proc_pid(proc_fd, a, &g, reason), -ESRCH);
	child = fork();
	assert_true(child >= 0);
	if (child == 0)
		_exit(0);
	assert_int_equal(waitid(P_PID, (id_t)child, NULL, WEXITED | WNOWAIT), 0);
	assert_int_equal(discover_proc_pid(proc_fd, child, &g, reason), -ENOEXEC);
	assert_int_equal(waitpid(child, NULL, 0), child);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds),	 cmocka_unit_test(stops),
		cmocka_unit_test(found_after_exec), cmocka_unit_test(in_a_container),
		cmocka_unit_test(storm),	 cmocka_unit_test(one_process),
	};

	if (strstr(program_invocation_short_name, "qemu") != NULL) {
		const char *ready = getenv(WAIT_ENV);

		if (ready && write(atoi(ready), "", 1) == 1)
			for (;;)
				(void)pause();
		return 0;
	}
	(void)snprintf(guest_uuid + 24, sizeof(guest_uuid) - 24, "%012d", (int)getpid());
	return cmocka_run_group_tests_name("discover-proc", tests, set_up, tear_down);
}
