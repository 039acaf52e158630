/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/attach/filter.h"

#include <string.h>

#include "common/util.h"

struct machine {
	uint32_t a, x, mem[BPF_MEMWORDS];
};

/* A load into A or X; false for a form that seccomp does not know. */
static bool run_load(const struct sock_filter *i, const struct seccomp_data *data,
		     const struct machine *m, uint32_t *ret)
{
	switch (BPF_MODE(i->code)) {
	case BPF_ABS:
		if (BPF_CLASS(i->code) != BPF_LD || i->k % 4 != 0 || i->k > sizeof(*data) - 4)
			return false;
		memcpy(ret, (const uint8_t *)data + i->k, 4);
		return true;
	case BPF_LEN:
		*ret = sizeof(*data);
		return true;
	case BPF_IMM:
		*ret = i->k;
		return true;
	case BPF_MEM:
		if (i->k >= BPF_MEMWORDS)
			return false;
		*ret = m->mem[i->k];
		return true;
	default:
		return false;
	}
}

/* False for an unknown operation. A division by zero ends the program with verdict 0. */
static bool run_alu(uint16_t code, uint32_t operand, uint32_t *a, bool *ret_zero_division)
{
	switch (BPF_OP(code)) {
	case BPF_ADD:
		*a += operand;
		return true;
	case BPF_SUB:
		*a -= operand;
		return true;
	case BPF_MUL:
		*a *= operand;
		return true;
	case BPF_DIV:
		*ret_zero_division = operand == 0;
		*a = operand ? *a / operand : 0;
		return true;
	case BPF_AND:
		*a &= operand;
		return true;
	case BPF_OR:
		*a |= operand;
		return true;
	case BPF_XOR:
		*a ^= operand;
		return true;
	case BPF_LSH:
		*a <<= operand & 31;
		return true;
	case BPF_RSH:
		*a >>= operand & 31;
		return true;
	case BPF_NEG:
		*a = -*a;
		return true;
	default:
		return false;
	}
}

/* How many instructions to skip; -1 for an unknown condition. */
static int64_t run_jump(const struct sock_filter *i, const struct machine *m)
{
	uint32_t operand = BPF_SRC(i->code) == BPF_X ? m->x : i->k;

	switch (BPF_OP(i->code)) {
	case BPF_JA:
		return i->k;
	case BPF_JEQ:
		return m->a == operand ? i->jt : i->jf;
	case BPF_JGT:
		return m->a > operand ? i->jt : i->jf;
	case BPF_JGE:
		return m->a >= operand ? i->jt : i->jf;
	case BPF_JSET:
		return m->a & operand ? i->jt : i->jf;
	default:
		return -1;
	}
}

/* One instruction that is neither a jump nor a return. */
static bool run_other(const struct sock_filter *i, const struct seccomp_data *data,
		      struct machine *m, bool *ret_zero_division)
{
	switch (BPF_CLASS(i->code)) {
	case BPF_LD:
		return BPF_SIZE(i->code) == BPF_W && run_load(i, data, m, &m->a);
	case BPF_LDX:
		return BPF_SIZE(i->code) == BPF_W && run_load(i, data, m, &m->x);
	case BPF_ST:
	case BPF_STX:
		if (i->k >= BPF_MEMWORDS)
			return false;
		m->mem[i->k] = BPF_CLASS(i->code) == BPF_ST ? m->a : m->x;
		return true;
	case BPF_ALU:
		return run_alu(i->code, BPF_SRC(i->code) == BPF_X ? m->x : i->k, &m->a,
			       ret_zero_division);
	case BPF_MISC:
		if (BPF_MISCOP(i->code) == BPF_TAX)
			m->x = m->a;
		else if (BPF_MISCOP(i->code) == BPF_TXA)
			m->a = m->x;
		else
			return false;
		return true;
	default:
		return false;
	}
}

int filter_run(const struct sock_filter *program, size_t n, const struct seccomp_data *data,
	       uint32_t *ret_verdict)
{
	struct machine m = { 0 };

	if (n > BPF_MAXINSNS)
		return -EINVAL;
	/* Jumps go forward only, so this ends after n steps at most. */
	for (size_t at = 0; at < n; at++) {
		const struct sock_filter *i = &program[at];
		bool zero_division = false;

		if (BPF_CLASS(i->code) == BPF_RET) {
			if (BPF_RVAL(i->code) != BPF_K && BPF_RVAL(i->code) != BPF_A)
				return -EINVAL;
			*ret_verdict = BPF_RVAL(i->code) == BPF_A ? m.a : i->k;
			return 0;
		}
		if (BPF_CLASS(i->code) == BPF_JMP) {
			int64_t skip = run_jump(i, &m);

			if (skip < 0)
				return -EINVAL;
			at += (size_t)skip;
			continue;
		}
		if (!run_other(i, data, &m, &zero_division))
			return -EINVAL;
		if (zero_division) {
			*ret_verdict = SECCOMP_RET_KILL_THREAD;
			return 0;
		}
	}
	return -EINVAL; /* ran off the end */
}

/* The kernel compares actions as signed numbers: KILL_PROCESS (0x80000000) is the smallest. */
static int32_t action_rank(uint32_t verdict)
{
	return (int32_t)(verdict & SECCOMP_RET_ACTION_FULL);
}

uint32_t filter_stricter(uint32_t a, uint32_t b)
{
	return action_rank(b) < action_rank(a) ? b : a;
}

bool filter_passes(uint32_t verdict)
{
	uint32_t action = verdict & SECCOMP_RET_ACTION_FULL;

	return action == SECCOMP_RET_ALLOW || action == SECCOMP_RET_LOG;
}

bool filter_only_fails(uint32_t verdict)
{
	/* Errno 0 would be success without the call having been made. */
	return (verdict & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO &&
	       (verdict & SECCOMP_RET_DATA) != 0;
}

const char *filter_verdict_to_string(uint32_t verdict)
{
	switch (verdict & SECCOMP_RET_ACTION_FULL) {
	case SECCOMP_RET_KILL_THREAD:
		return "kill the thread";
	case SECCOMP_RET_TRAP:
		return "send SIGSYS";
	case SECCOMP_RET_ERRNO:
		return "fail it";
	case SECCOMP_RET_USER_NOTIF:
		return "ask another process";
	case SECCOMP_RET_TRACE:
		return "ask a tracer";
	case SECCOMP_RET_LOG:
		return "log it";
	case SECCOMP_RET_ALLOW:
		return "allow it";
	default:
		/* The kernel takes what it does not know for this. */
		return "kill the process";
	}
}
