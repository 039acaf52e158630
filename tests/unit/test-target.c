/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What /proc and wait statuses say of a thread. */
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "daemon/attach/target.h"
#include "daemon/attach/tracee.h"
#include "tests/unit/unit.h"

static int parse(const char *text, struct thread_status *ret)
{
	return thread_status_parse(text, strlen(text), ret);
}

static void statuses(void **state _unused_)
{
	struct thread_status s = { .state = '!' };

	assert_int_equal(parse("Name:\tqemu\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t5\n"
			       "TracerPid:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n", &s), 0);
	assert_int_equal(s.state, 'S');
	assert_int_equal(s.tracer, 0);
	assert_int_equal(s.seccomp, 2);
	assert_false(s.vcpu);
	assert_int_equal(parse("Name:\tCPU 0/KVM\nState:\tT (stopped)\nTracerPid:\t77\n", &s), 0);
	assert_int_equal(s.state, 'T');
	assert_int_equal(s.tracer, 77);
	assert_int_equal(s.seccomp, 0);
	assert_true(s.vcpu);
	assert_int_equal(parse("Name:\tALL CPUs/TCG\nState:\tS (x)\nTracerPid:\t0\n", &s), 0);
	assert_true(s.vcpu);
	/* A name cannot fake a line: the kernel escapes the newline. */
	assert_int_equal(parse("Name:\ta\\nTracerPid:\\t7\nState:\tS (x)\nTracerPid:\t0\n", &s), 0);
	assert_int_equal(s.tracer, 0);
}

static void bad_statuses(void **state _unused_)
{
	static const char *const bad[] = {
		"",
		"Name:\tx\n",
		"Name:\tx\nState:\tS\n",
		"Name:\tx\nTracerPid:\t0\n",
		"Name:\tx\nState:\tS\nTracerPid:\t\n",
		"Name:\tx\nState:\tS\nTracerPid:\t-1\n",
		"Name:\tx\nState:\tS\nTracerPid:\t99999999999\n",
		"Name:\tx\nState:\tS\nTracerPid:\t0\nSeccomp:\t3\n",
		"Name:\tx\nTracerPid:\t0\nState:\t",
	};
	struct thread_status s = { .state = '!' };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse(bad[i], &s), -EINVAL);
	assert_int_equal(s.state, '!');
}

static int nr_of(const char *line, int64_t *ret)
{
	return thread_syscall_parse(line, strlen(line), ret);
}

static void syscall_lines(void **state _unused_)
{
	int64_t nr = -7;

	assert_int_equal(nr_of("running", &nr), -EAGAIN);
	assert_int_equal(nr_of("-1 0x7ffd 0x7f00", &nr), -EAGAIN);
	assert_int_equal(nr_of("", &nr), -EAGAIN);
	assert_int_equal(nr_of("271", &nr), -EAGAIN);
	assert_int_equal(nr_of("99999999999 0x0", &nr), -EAGAIN);
	assert_int_equal(nr, -7);
	assert_int_equal(nr_of("271 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffd 0x7f00", &nr), 0);
	assert_int_equal(nr, 271);
}

static int cpu_of(const char *line, unsigned *ret)
{
	return thread_cpu_parse(line, strlen(line), ret);
}

static void processors(void **state _unused_)
{
	static const char line[] = "7 (a) b) S 1 7 7 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 99 1 2 3 4 5 "
				   "6 7 8 0 0 0 0 0 0 0 17 13 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
	unsigned cpu = 77;
	char cut[sizeof(line)];

	assert_int_equal(cpu_of("", &cpu), -EINVAL);
	assert_int_equal(cpu_of(")", &cpu), -EINVAL);
	assert_int_equal(cpu_of("7 (a) S 1 2", &cpu), -EINVAL);
	for (size_t n = 0; n < (size_t)(strstr(line, "13 ") - line); n++) {
		memcpy(cut, line, n);
		cut[n] = '\0';
		assert_int_equal(cpu_of(cut, &cpu), -EINVAL);
	}
	assert_int_equal(cpu, 77);
	assert_int_equal(cpu_of(line, &cpu), 0);
	assert_int_equal(cpu, 13);
}

static int stopped(int sig, int event)
{
	return event << 16 | sig << 8 | 0x7f;
}

static void stops(void **state _unused_)
{
	assert_int_equal(stop_classify(0), STOP_GONE);
	assert_int_equal(stop_classify(SIGKILL), STOP_GONE);
	assert_int_equal(stop_classify(stopped(SIGTRAP, PTRACE_EVENT_STOP)), STOP_EVENT);
	assert_int_equal(stop_classify(stopped(SIGSTOP, PTRACE_EVENT_STOP)), STOP_GROUP);
	assert_int_equal(stop_classify(stopped(SIGTTIN, PTRACE_EVENT_STOP)), STOP_GROUP);
	assert_int_equal(stop_classify(stopped(SIGTRAP | 0x80, 0)), STOP_SYSCALL);
	assert_int_equal(stop_classify(stopped(SIGTRAP, 0)), STOP_SIGNAL);
	assert_int_equal(stop_classify(stopped(SIGSTOP, 0)), STOP_SIGNAL);
	assert_int_equal(stop_classify(stopped(SIGUSR1, 0)), STOP_SIGNAL);
	assert_int_equal(stop_classify(stopped(SIGTRAP, PTRACE_EVENT_EXEC)), STOP_EVENT);
}

static bool restartable(int64_t rax, int64_t orig_rax, uint64_t cs)
{
	struct user_regs_struct regs = {
		.rax = (unsigned long long)rax,
		.orig_rax = (unsigned long long)orig_rax,
		.cs = cs,
	};

	return tracee_regs_restartable(&regs);
}

static void gate(void **state _unused_)
{
	static const int64_t results[] = { -512, -513, -514, -516 };

	for (size_t i = 0; i < ARRAY_SIZE(results); i++)
		assert_true(restartable(results[i], SYS_ppoll, 0x33));
	assert_false(restartable(-515, SYS_ppoll, 0x33));
	assert_false(restartable(-EINTR, SYS_ppoll, 0x33));
	assert_false(restartable(0, SYS_ppoll, 0x33));
	assert_false(restartable(-512, -1, 0x33));
	assert_false(restartable(-512, SYS_ppoll, 0x23)); /* 32-bit code */
	assert_false(restartable(-512, SYS_ioctl, 0x33)); /* a vCPU */
	assert_false(restartable(-512, SYS_epoll_wait, 0x33));
	assert_false(restartable(-512, SYS_ppoll | 0x40000000, 0x33)); /* x32 */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(statuses), cmocka_unit_test(bad_statuses),
		cmocka_unit_test(syscall_lines), cmocka_unit_test(stops),
		cmocka_unit_test(gate), cmocka_unit_test(processors),
	};

	return cmocka_run_group_tests_name("target", tests, NULL, NULL);
}
