/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fault points: named places where a test makes this process die or a call fail.
 *
 * $MEMSHARED_FAULT holds "NAME:ACTION[:NTH]", several separated by commas. ACTION is "kill"
 * (SIGKILL to ourselves: what a crash at this instruction leaves behind), "stop" (SIGSTOP: a test
 * does something just then and sends SIGCONT) or the name of an errno such as ENOMEM
 * (FAULT_ERRNO() gives it back). NTH is which passage acts, from 1 (default: every one). Without
 * the variable a fault point costs one load and a branch.
 *
 * Names are "module-step", e.g. "ksm-marked". Any thread.
 */
#pragma once

#include <stdbool.h>

/* Reads the variable; -EINVAL when it can't be understood. Call once, before threads. */
int fault_init(void);

extern bool fault_active;
int fault_hit(const char *name);

/* A place where the process may be killed. */
#define FAULT_POINT(name)                    \
	do {                                 \
		if (fault_active)            \
			(void)fault_hit(name); \
	} while (0)

/* 0, or the -errno that the test asked for here. */
#define FAULT_ERRNO(name) (fault_active ? fault_hit(name) : 0)
