/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The seccomp interpreter, and what is made of its verdicts. */
#include <fcntl.h>
#include <linux/audit.h>
#include <sys/syscall.h>

#include "common/io.h"
#include "daemon/agent/ring.h"
#include "daemon/attach/filter.h"
#include "daemon/attach/needs.h"
#include "daemon/attach/plant.h"
#include "tests/unit/unit.h"

#define S(code, k)	    ((struct sock_filter)BPF_STMT(code, k))
#define J(code, k, jt, jf)  ((struct sock_filter)BPF_JUMP(BPF_JMP | (code), k, jt, jf))
#define ALLOW		    S(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define LOAD(member)	    S(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, member))

static const struct seccomp_data call = {
	.nr = 77,
	.arch = AUDIT_ARCH_X86_64,
	.instruction_pointer = 0x123456789a,
	.args = { 0xaaaabbbbcccc, 2, 3 },
};

static uint32_t run(const struct sock_filter *code, size_t n)
{
	uint32_t verdict;

	assert_int_equal(filter_run(code, n, &call, &verdict), 0);
	return verdict;
}
#define RUN(...)                                          \
	run((const struct sock_filter[]){ __VA_ARGS__ },  \
	    sizeof((const struct sock_filter[]){ __VA_ARGS__ }) / sizeof(struct sock_filter))

static int fails(const struct sock_filter *code, size_t n)
{
	uint32_t verdict = 4711;
	int r = filter_run(code, n, &call, &verdict);

	assert_int_equal(verdict, 4711);
	return r;
}
#define FAILS(...)                                         \
	fails((const struct sock_filter[]){ __VA_ARGS__ }, \
	      sizeof((const struct sock_filter[]){ __VA_ARGS__ }) / sizeof(struct sock_filter))

#define RET_A S(BPF_RET | BPF_A, 0)
#define IMM(k) S(BPF_LD | BPF_IMM, k)
#define ALU(op, k) S(BPF_ALU | (op) | BPF_K, k)

static void loads(void **state _unused_)
{
	assert_int_equal(RUN(LOAD(nr), RET_A), 77);
	assert_int_equal(RUN(LOAD(arch), RET_A), AUDIT_ARCH_X86_64);
	assert_int_equal(RUN(LOAD(instruction_pointer), RET_A), 0x3456789a);
	assert_int_equal(RUN(S(BPF_LD | BPF_W | BPF_ABS, 16), RET_A), 0xbbbbcccc);
	assert_int_equal(RUN(S(BPF_LD | BPF_W | BPF_ABS, 20), RET_A), 0xaaaa);
	assert_int_equal(RUN(S(BPF_LD | BPF_W | BPF_LEN, 0), RET_A), 64);
	assert_int_equal(RUN(IMM(5), S(BPF_ST, 3), IMM(6), S(BPF_LD | BPF_MEM, 3), RET_A), 5);
	assert_int_equal(RUN(S(BPF_LDX | BPF_IMM, 9), S(BPF_STX, 15), S(BPF_LD | BPF_MEM, 15),
			     RET_A), 9);
	assert_int_equal(RUN(S(BPF_LDX | BPF_IMM, 9), S(BPF_MISC | BPF_TXA, 0), RET_A), 9);
	assert_int_equal(RUN(IMM(8), S(BPF_MISC | BPF_TAX, 0), IMM(1),
			     S(BPF_ALU | BPF_ADD | BPF_X, 0), RET_A), 9);
}

static void arithmetic(void **state _unused_)
{
	assert_int_equal(RUN(IMM(UINT32_MAX), ALU(BPF_ADD, 2), RET_A), 1);
	assert_int_equal(RUN(IMM(1), ALU(BPF_SUB, 2), RET_A), UINT32_MAX);
	assert_int_equal(RUN(IMM(7), ALU(BPF_MUL, 6), RET_A), 42);
	assert_int_equal(RUN(IMM(43), ALU(BPF_DIV, 6), RET_A), 7);
	assert_int_equal(RUN(IMM(0xff), ALU(BPF_AND, 0x18), RET_A), 0x18);
	assert_int_equal(RUN(IMM(1), ALU(BPF_OR, 6), RET_A), 7);
	assert_int_equal(RUN(IMM(5), ALU(BPF_XOR, 6), RET_A), 3);
	assert_int_equal(RUN(IMM(1), ALU(BPF_LSH, 31), RET_A), 0x80000000);
	assert_int_equal(RUN(IMM(0x80000000), ALU(BPF_RSH, 31), RET_A), 1);
	assert_int_equal(RUN(IMM(1), ALU(BPF_NEG, 0), RET_A), UINT32_MAX);
	/* A division by X = 0 ends the program. */
	assert_int_equal(RUN(IMM(1), S(BPF_ALU | BPF_DIV | BPF_X, 0), ALLOW),
			 SECCOMP_RET_KILL_THREAD);
}

static void jumps(void **state _unused_)
{
	const struct sock_filter one = S(BPF_RET | BPF_K, 1), two = S(BPF_RET | BPF_K, 2);

	assert_int_equal(RUN(IMM(5), J(BPF_JEQ, 5, 1, 0), one, two), 2);
	assert_int_equal(RUN(IMM(5), J(BPF_JEQ, 6, 1, 0), one, two), 1);
	assert_int_equal(RUN(IMM(5), J(BPF_JGT, 5, 1, 0), one, two), 1);
	assert_int_equal(RUN(IMM(5), J(BPF_JGE, 5, 1, 0), one, two), 2);
	assert_int_equal(RUN(IMM(5), J(BPF_JSET, 4, 1, 0), one, two), 2);
	assert_int_equal(RUN(IMM(5), J(BPF_JSET, 2, 1, 0), one, two), 1);
	assert_int_equal(RUN(J(BPF_JA, 1, 0, 0), one, two), 2);
}

static void not_programs(void **state _unused_)
{
	static struct sock_filter long_one[BPF_MAXINSNS + 1];

	assert_int_equal(fails(NULL, 0), -EINVAL);
	assert_int_equal(FAILS(LOAD(nr)), -EINVAL);
	assert_int_equal(FAILS(J(BPF_JA, UINT32_MAX, 0, 0), ALLOW), -EINVAL);
	assert_int_equal(FAILS(S(BPF_LD | BPF_W | BPF_ABS, 64), ALLOW), -EINVAL);
	assert_int_equal(FAILS(S(BPF_LD | BPF_W | BPF_ABS, UINT32_MAX), ALLOW), -EINVAL);
	assert_int_equal(FAILS(S(BPF_LD | BPF_W | BPF_ABS, 2), ALLOW), -EINVAL);
	assert_int_equal(FAILS(S(BPF_LD | BPF_B | BPF_ABS, 0), ALLOW), -EINVAL);
	assert_int_equal(FAILS(S(BPF_LD | BPF_MEM, 16), ALLOW), -EINVAL);
	assert_int_equal(FAILS(S(BPF_ST, 16), ALLOW), -EINVAL);
	assert_int_equal(FAILS(S(BPF_ALU | 0xf0, 1), ALLOW), -EINVAL);
	assert_int_equal(FAILS(S(BPF_JMP | 0xf0, 1), ALLOW), -EINVAL);
	assert_int_equal(FAILS(S(BPF_RET | BPF_X, 1)), -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(long_one); i++)
		long_one[i] = IMM(0);
	long_one[BPF_MAXINSNS] = ALLOW;
	assert_int_equal(fails(long_one, ARRAY_SIZE(long_one)), -EINVAL);
}

static void verdicts(void **state _unused_)
{
	/* From the strictest to the mildest, as seccomp(2) lists them. */
	static const uint32_t order[] = { SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD,
					  SECCOMP_RET_TRAP,	    SECCOMP_RET_ERRNO | 1,
					  SECCOMP_RET_USER_NOTIF,   SECCOMP_RET_TRACE,
					  SECCOMP_RET_LOG,	    SECCOMP_RET_ALLOW };

	for (size_t i = 0; i + 1 < ARRAY_SIZE(order); i++) {
		assert_int_equal(filter_stricter(order[i], order[i + 1]), order[i]);
		assert_int_equal(filter_stricter(order[i + 1], order[i]), order[i]);
		assert_true(filter_passes(order[i]) == (order[i] == SECCOMP_RET_LOG));
	}
	assert_true(filter_passes(SECCOMP_RET_ALLOW));
	assert_true(filter_only_fails(SECCOMP_RET_ERRNO | EPERM));
	assert_false(filter_only_fails(SECCOMP_RET_ERRNO));
	assert_false(filter_only_fails(SECCOMP_RET_TRAP));
	assert_string_equal(filter_verdict_to_string(0x12340000), "kill the process");
}

/* One filter that gives a verdict to one call and allows the rest. */
static int judge(uint32_t nr, uint32_t verdict, bool suspended, uint32_t *ret_denied, char *reason)
{
	const struct sock_filter code[] = { LOAD(nr), J(BPF_JEQ, nr, 0, 1),
					    S(BPF_RET | BPF_K, verdict), ALLOW };
	const struct sock_filter allow = ALLOW;
	struct needs n;

	needs_init(&n);
	needs_ask(&n, code, ARRAY_SIZE(code));
	needs_ask(&n, &allow, 1);
	return needs_judge(&n, suspended, ret_denied, reason, 160);
}

static void judgements(void **state _unused_)
{
	const uint32_t kill = SECCOMP_RET_KILL_PROCESS, eperm = SECCOMP_RET_ERRNO | EPERM;
	char reason[160] = "";
	uint32_t denied;

	assert_int_equal(judge(SYS_reboot, kill, true, &denied, reason), 0);
	assert_int_equal(denied, 0);
	assert_int_equal(judge(SYS_futex, kill, true, &denied, reason), -EOPNOTSUPP);
	assert_string_equal(reason, "its seccomp filter would kill the process on futex");
	assert_int_equal(judge(SYS_futex, eperm, true, &denied, reason), -EOPNOTSUPP);
	assert_int_equal(judge(SYS_futex, SECCOMP_RET_USER_NOTIF, true, &denied, reason),
			 -EOPNOTSUPP);
	assert_int_equal(judge(SYS_socketpair, kill, true, &denied, reason), -EOPNOTSUPP);
	assert_int_equal(judge(SYS_socketpair, eperm, true, &denied, reason), 0);
	assert_int_equal(judge(SYS_socketpair, eperm, false, &denied, reason), -EOPNOTSUPP);
	assert_int_equal(judge(SYS_userfaultfd, kill, false, &denied, reason), 0);
	assert_int_equal(denied, RING_DENIED_USERFAULTFD);
	assert_int_equal(judge(SYS_prctl, eperm, false, &denied, reason), 0);
	assert_int_equal(denied, RING_DENIED_SET_NAME);
}

static char *read_source(const char *name)
{
	const char *dir = getenv("MEMSHARED_SRCDIR");
	char path[512], *text = NULL;
	size_t len;

	(void)snprintf(path, sizeof(path), "%s/%s", dir ? dir : ".", name);
	if (io_read_file(AT_FDCWD, path, MIB(1), &text, &len) < 0) {
		print_message("no %s: the sources are not here\n", path);
		skip();
	}
	return text;
}

/* Whatever the agent can call is asked about: syscall.h and needs.c name the same calls. */
static void complete(void **state _unused_)
{
	_cleanup_free_ char *calls = read_source("daemon/agent/syscall.h");
	_cleanup_free_ char *lines = read_source("daemon/attach/needs.c");
	unsigned n = 0;

	for (char *at = calls; (at = strstr(at, "sys_call(__NR_")); n++) {
		char wanted[64];

		at += sizeof("sys_call(__NR_") - 1;
		(void)snprintf(wanted, sizeof(wanted), "SYS_%.*s,", (int)strcspn(at, ", "), at);
		if (!strstr(lines, wanted))
			fail_msg("needs.c has no line with %s", wanted);
	}
	assert_true(n > 10);
}

static void bad_filter(void **state _unused_)
{
	const struct sock_filter bad = IMM(0);
	uint32_t denied = 4711;
	char reason[160];
	struct needs n;

	needs_init(&n);
	needs_ask(&n, &bad, 1);
	assert_int_equal(needs_judge(&n, true, &denied, reason, sizeof(reason)), -EOPNOTSUPP);
	assert_int_equal(denied, 4711);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loads),      cmocka_unit_test(arithmetic),
		cmocka_unit_test(jumps),      cmocka_unit_test(not_programs),
		cmocka_unit_test(verdicts),   cmocka_unit_test(judgements),
		cmocka_unit_test(bad_filter), cmocka_unit_test(complete),
	};

	return cmocka_run_group_tests_name("filter", tests, NULL, NULL);
}
