/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which system calls are made inside a guest, with which arguments: by the borrowed thread
 * while memshared-attach injects them, and by the agent thread for as long as it lives.
 *
 * Every call that daemon/agent makes must have a line in needs.c: the guest's seccomp filter
 * is asked about each line before anything is injected, since a call that it denies may kill
 * the guest.
 *
 * Life cycle: needs_init(), needs_ask() once for each filter of the thread, then needs_judge().
 * Pure; nothing is allocated.
 */
#pragma once

#include "daemon/attach/filter.h"

enum need_kind {
	NEED_INJECT,   /* made by the borrowed thread, its filter suspended if possible */
	NEED_AGENT,    /* made by the agent, or by the borrowed thread if its tracer died */
	NEED_OPTIONAL, /* made by the agent unless denied */
};

struct need {
	const char *name;
	enum need_kind kind;
	uint32_t denied; /* enum ring_denied, of an optional call */
	int nr;
	uint64_t args[6];
};

/* All of them; a call may be in it several times, with other arguments. */
const struct need *needs_list(size_t *ret_n);

#define NEEDS_MAX 64

struct needs {
	uint32_t verdicts[NEEDS_MAX];
	bool invalid; /* a filter could not be evaluated */
};

void needs_init(struct needs *n);
void needs_ask(struct needs *n, const struct sock_filter *program, size_t len);
/*
 * 0, or -EOPNOTSUPP with the reason: "its seccomp filter would kill the process on futex".
 * *ret_denied (enum ring_denied) are the optional calls that the agent has to do without.
 * suspended: the filter does not act on injected calls (PTRACE_O_SUSPEND_SECCOMP), so one that
 * fails them with an error is no obstacle.
 */
int needs_judge(const struct needs *n, bool suspended, uint32_t *ret_denied, char *reason,
		size_t reason_size);
