/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Seccomp filters: what our interpreter says is what the kernel does; a filter can be read back by
 * ptrace; PTRACE_O_SUSPEND_SECCOMP takes it out of force for the borrowed thread; and QEMU's own
 * sandbox lets through the one form of clone that we use, and kills for others.
 */
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "daemon/attach/filter.h"
#include "daemon/attach/needs.h"
#include "daemon/attach/plant.h"
#include "daemon/attach/tracee.h"
#include "tests/platform/platform.h"

#define DEADLINE (now_usec() + 10 * USEC_PER_SEC)
#define PROGRAMS 400
#define STEPS	 12
#define CALLS	 16

static uint64_t random_state = UINT64_C(0x6d656d7368617265);

static uint32_t any(uint32_t below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)((random_state >> 16) % below);
}

/* One instruction that the kernel accepts at this place, loads and arithmetic mostly. */
static struct sock_filter any_instruction(unsigned left)
{
	static const uint16_t codes[] = {
		BPF_LD | BPF_W | BPF_ABS,   BPF_LD | BPF_W | BPF_ABS,	BPF_LD | BPF_IMM,
		BPF_LDX | BPF_IMM,	    BPF_ALU | BPF_ADD | BPF_K,	BPF_ALU | BPF_SUB | BPF_X,
		BPF_ALU | BPF_MUL | BPF_K,  BPF_ALU | BPF_DIV | BPF_X,	BPF_ALU | BPF_AND | BPF_K,
		BPF_ALU | BPF_OR | BPF_X,   BPF_ALU | BPF_XOR | BPF_K,	BPF_ALU | BPF_LSH | BPF_K,
		BPF_ALU | BPF_RSH | BPF_K,  BPF_ALU | BPF_NEG,		BPF_MISC | BPF_TAX,
		BPF_MISC | BPF_TXA,	    BPF_JMP | BPF_JEQ | BPF_K,	BPF_JMP | BPF_JGT | BPF_X,
		BPF_JMP | BPF_JGE | BPF_K,  BPF_JMP | BPF_JSET | BPF_K, BPF_JMP | BPF_JA,
		BPF_LD | BPF_W | BPF_LEN,
	};
	struct sock_filter i = { .code = codes[any(ARRAY_SIZE(codes))], .k = any(40) };

	if (i.code == (BPF_LD | BPF_W | BPF_ABS))
		i.k = any(16) * 4;
	if (BPF_CLASS(i.code) == BPF_JMP) {
		i.jt = (uint8_t)any(left);
		i.jf = (uint8_t)any(left);
		i.k = BPF_OP(i.code) == BPF_JA ? any(left) : i.k;
	}
	/* Shifts of 32 and more are refused by newer kernels. */
	if (BPF_OP(i.code) == BPF_LSH || BPF_OP(i.code) == BPF_RSH)
		i.k %= 32;
	return i;
}

/* Random arithmetic on the call's data, then an errno made of the outcome's low bits; only calls
 * numbered 5000 and up are judged, so that the child lives. */
static size_t any_program(struct sock_filter *p)
{
	size_t n = 0;

	p[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
					      offsetof(struct seccomp_data, nr));
	p[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 5000, 1, 0);
	p[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	for (unsigned i = 0; i < STEPS; i++)
		p[n++] = any_instruction(STEPS - i);
	p[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff);
	p[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_OR | BPF_K, SECCOMP_RET_ERRNO | 1);
	p[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_A, 0);
	return n;
}

static int install(struct sock_filter *code, size_t n)
{
	struct sock_fprog program = { (unsigned short)n, code };

	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
}

/* In a child: installs the program, and makes calls until one is judged otherwise. */
static void compare(struct sock_filter *code, size_t n, uint32_t seed)
{
	if (install(code, n) < 0)
		_exit(2);
	for (uint32_t i = 0; i < CALLS; i++) {
		struct seccomp_data d = { .nr = (int)(5000 + (seed + i) % 7),
					  .arch = AUDIT_ARCH_X86_64,
					  .args = { seed * i, i, 0x100000000 + i, seed, ~i, 5 } };
		uint32_t verdict = 0;
		long r;

		/* The instruction's address is not known here: such programs are told apart. */
		errno = 0;
		r = syscall(d.nr, d.args[0], d.args[1], d.args[2], d.args[3], d.args[4], d.args[5]);
		if (filter_run(code, n, &d, &verdict) < 0 || r != -1 ||
		    errno != (int)(verdict & SECCOMP_RET_DATA))
			_exit(1);
	}
	_exit(0);
}

/* Loads of the instruction pointer differ from call to call; and what kills ends the child. */
static bool is_comparable(struct sock_filter *code, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (code[i].code == (BPF_LD | BPF_W | BPF_ABS) &&
		    (code[i].k == offsetof(struct seccomp_data, instruction_pointer) ||
		     code[i].k == offsetof(struct seccomp_data, instruction_pointer) + 4))
			return false;
	return true;
}

static void same_as_kernel(void **state _unused_)
{
	unsigned same = 0, killed = 0;

	for (unsigned i = 0; i < PROGRAMS; i++) {
		struct sock_filter code[STEPS + 8];
		size_t n = any_program(code);
		uint32_t seed = any(1 << 30);
		int status;
		pid_t pid;

		if (!is_comparable(code, n))
			continue;
		pid = must(fork());
		if (pid == 0)
			compare(code, n, seed);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) {
			killed++; /* a division by zero */
			continue;
		}
		assert_true(WIFEXITED(status));
		if (WEXITSTATUS(status) == 1)
			fail_msg("program %u: the kernel judges otherwise", i);
		same += WEXITSTATUS(status) == 0;
	}
	print_message("# %u random filters judged alike, %u ended by a division by zero\n", same,
		      killed);
	assert_true(same > PROGRAMS / 4);
}

/* A child that sleeps under a filter which kills for getpid, with a pipe to wake it. */
static pid_t start_filtered(int *ret_wake)
{
	int fds[2];
	pid_t pid;

	(void)must(pipe(fds));
	pid = must(fork());
	if (pid == 0) {
		struct sock_filter code[] = {
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpid, 0, 1),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		};
		struct pollfd pfd = { .fd = fds[0], .events = POLLIN };

		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)install(code, ARRAY_SIZE(code));
		(void)ppoll(&pfd, 1, NULL, NULL);
		(void)syscall(SYS_getpid);
		_exit(0);
	}
	*ret_wake = fds[1];
	return pid;
}

/* Stops the thread once it sleeps; false when it didn't in time. */
static bool seize_asleep(struct tracee *t, pid_t pid, bool suspend)
{
	uint64_t deadline = DEADLINE;

	while (now_usec() < deadline) {
		if (tracee_seize(t, pid, suspend) == 0 && tracee_stop(t, deadline) == 0 &&
		    t->regs.orig_rax == SYS_ppoll)
			return true;
		tracee_detach(t);
		(void)usleep(1000);
	}
	return false;
}

static struct sock_filter program[BPF_MAXINSNS];

static void suspended(void **state _unused_)
{
	const uint64_t none[6] = { 0 };
	struct tracee t = { 0 };
	int wake, status;
	pid_t pid = start_filtered(&wake);
	int64_t result;

	assert_true(seize_asleep(&t, pid, true));
	if (!t.suspended) {
		(void)kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, __WALL);
		SKIP("filters cannot be suspended here");
	}
	assert_int_equal(tracee_read_filter(&t, 0, program), 4);
	assert_int_equal(program[1].k, SYS_getpid);
	assert_int_equal(tracee_read_filter(&t, 1, program), -ENOENT);
	assert_int_equal(tracee_borrow(&t), 0);
	assert_int_equal(tracee_call(&t, 0, 0, SYS_getpid, none, DEADLINE, &result), 0);
	assert_int_equal(result, pid);
	assert_int_equal(tracee_restore(&t, DEADLINE), 0);
	tracee_detach(&t);
	/* Once we are gone it is in force again. */
	assert_int_equal(write(wake, "x", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
	(void)close(wake);
}

static bool is_filtered(pid_t pid)
{
	char path[64], line[128];
	bool filtered = false;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	while (f && !filtered && fgets(line, sizeof(line), f))
		filtered = streq(line, "Seccomp:\t2\n");
	fclosep(&f);
	return filtered;
}

static uint32_t verdict_of(const struct tracee *t, uint64_t clone_flags)
{
	struct seccomp_data d = { .nr = SYS_clone, .arch = AUDIT_ARCH_X86_64,
				  .args = { clone_flags, 0x7f0000000000, 0x7f0000001000,
					    0x7f0000001000, 0x7f0000002000 } };
	uint32_t all = SECCOMP_RET_ALLOW, verdict;
	int n;

	for (unsigned i = 0; (n = tracee_read_filter(t, i, program)) > 0; i++) {
		assert_int_equal(filter_run(program, (size_t)n, &d, &verdict), 0);
		all = filter_stricter(all, verdict);
	}
	assert_int_equal(n, -ENOENT);
	return all;
}

/* Whether all that we need passes, even unsuspended. */
static int judge(const struct tracee *t, char *reason)
{
	struct needs needs;
	uint32_t denied;
	int n;

	needs_init(&needs);
	for (unsigned i = 0; (n = tracee_read_filter(t, i, program)) > 0; i++)
		needs_ask(&needs, program, (size_t)n);
	n = needs_judge(&needs, false, &denied, reason, 160);
	return n < 0 ? n : (int)denied;
}

static pid_t start_qemu(void)
{
	pid_t pid = must(fork());

	if (pid == 0) {
		int null = open("/dev/null", O_RDWR);

		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)dup2(null, 0);
		(void)dup2(null, 1);
		(void)dup2(null, 2);
		(void)execlp("qemu-system-x86_64", "qemu-system-x86_64", "-machine", "none",
			     "-accel", "tcg", "-nodefaults", "-display", "none", "-sandbox",
			     "on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
			     "resourcecontrol=deny",
			     (char *)NULL);
		_exit(77);
	}
	return pid;
}

static void qemu_sandbox(void **state _unused_)
{
	pid_t pid = geteuid() == 0 ? start_qemu() : 0;
	struct tracee t = { 0 };
	uint64_t deadline = now_usec() + 60 * USEC_PER_SEC;
	char reason[160] = "";
	int status = 0;

	if (pid == 0)
		SKIP("reading a filter needs root");
	while (!is_filtered(pid) && now_usec() < deadline && waitpid(pid, &status, WNOHANG) == 0)
		(void)usleep(1000);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		SKIP("no qemu-system-x86_64");
	assert_true(seize_asleep(&t, pid, true));
	assert_int_equal(verdict_of(&t, PLANT_CLONE_FLAGS), SECCOMP_RET_ALLOW);
	assert_false(filter_passes(verdict_of(&t, PLANT_CLONE_FLAGS | CLONE_VFORK)));
	assert_false(filter_passes(verdict_of(&t, PLANT_CLONE_FLAGS & ~CLONE_SYSVSEM)));
	print_message("# on clone with other flags QEMU's filter would %s\n",
		      filter_verdict_to_string(verdict_of(&t, PLANT_CLONE_FLAGS | CLONE_VFORK)));
	if (judge(&t, reason) != 0)
		fail_msg("%s", reason);
	tracee_detach(&t);
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
}

static int begin(void **state _unused_)
{
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGCHLD);
	return sigprocmask(SIG_BLOCK, &set, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(same_as_kernel),
		cmocka_unit_test(suspended),
		cmocka_unit_test(qemu_sandbox),
	};

	return cmocka_run_group_tests_name("seccomp-filter", tests, begin, NULL);
}
