/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The process that an agent is to be planted in: is it the right one, may it be touched, and
 * which of its threads sleeps where it can be borrowed.
 *
 * Reasons are written for administrators, into buffers of REASON_MAX bytes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/process.h"

#define REASON_MAX 160

/* What /proc/PID/task/TID/status says. */
struct thread_status {
	char state; /* R, S, D, T, t, Z, X */
	pid_t tracer; /* 0: none */
	unsigned seccomp; /* 0 none, 1 strict, 2 filter */
	bool vcpu; /* named as QEMU names its vCPU threads ("CPU 0/KVM") */
};
/* Pure. -EINVAL when a line is missing. */
int thread_status_parse(const char *buf, size_t len, struct thread_status *ret);
/* Pure. The number of the call that a thread sleeps in, from /proc/PID/task/TID/syscall;
 * -EAGAIN when it runs or sleeps in none. */
int thread_syscall_parse(const char *buf, size_t len, int64_t *ret_nr);
/* Pure. The processor that a thread ran on last, from /proc/PID/task/TID/stat. -EINVAL. */
int thread_cpu_parse(const char *buf, size_t len, unsigned *ret_cpu);

/* What the caller knows of the process; 0 where it doesn't. */
struct target_identity {
	uint64_t start_ticks;
	dev_t exe_dev;
	ino_t exe_ino;
};

struct target {
	struct process process;
	int task_fd; /* /proc/PID/task */
};

#define TARGET_INIT (struct target){ .process = PROCESS_INIT, .task_fd = -1 }

/* -ESRCH gone, -ESTALE not the process expected, -EOPNOTSUPP not a 64-bit program, ... */
int target_open(struct target *t, pid_t pid, const struct target_identity *expected, char *reason);
void target_close(struct target *t);
/* Whether it may be touched now: -EBUSY when it is stopped or traced, -ESRCH when it ended. */
int target_check(const struct target *t, char *reason);
/* The same for one thread; ret may be NULL. */
int target_check_thread(const struct target *t, pid_t tid, struct thread_status *ret, char *reason);
/* Whether the thread exists, and is one of this process. */
bool target_has_thread(const struct target *t, pid_t tid);
/* Whether the thread sleeps in a call that may be borrowed, and its number. */
bool target_thread_sleeps(const struct target *t, pid_t tid, int64_t *ret_nr);
int target_thread_cpu(const struct target *t, pid_t tid, unsigned *ret_cpu);
/* Threads that can be borrowed, the best first; returns how many. */
size_t target_find_threads(const struct target *t, pid_t *ret_tids, size_t max);
