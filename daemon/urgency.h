/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The priority of an agent's thread while it has pages of its guest frozen.
 *
 * A freeze takes tens of microseconds of work. But a thread with ordinary priority can lose its
 * processor in the middle of it, for some milliseconds, and whoever touches a frozen page
 * waits as long. So for the length of one batch the daemon, from outside, has the kernel prefer the agent
 * to all ordinary threads: SCHED_FIFO, priority 1, the lowest of the real-time priorities, so that
 * whatever an administrator gave one comes first. Where the kernel refuses (no CAP_SYS_NICE, a
 * cgroup without real-time budget) nice -20 is tried, and the batch is carried out in any case.
 *
 * Such a thread can starve others, so it is
 *
 *   short    The planner puts no more than about a millisecond of work into a batch (WORK_NSEC_MAX in
 *            merge-remap.c, RECLAIM_RUNS_MAX in remap-guest.c). What the agent tries again
 *            for lack of memory it tries after a sleep (pause_a_little()), and it never waits by spinning.
 *   ended    agent_batch() takes the priority back when the batch is done, or after
 *            URGENCY_USEC, whatever the agent (or a hostile guest in its place) does meanwhile.
 *   rare     At most half of the processors have one at a time, with a rest after each batch of an
 *            eighth of its time, and the CPU budget counts all of it. Between two batches the agent
 *            sleeps until the daemon, an ordinary process, had its turn.
 *   not handed on  A child of the thread has ordinary priority (RESET_ON_FORK).
 *
 * The kernel's own bound, sched_rt_runtime_us, stays as the administrator has it.
 *
 * What it does not help against: the lock of the guest's address space, held by a thread of the
 * guest's that has no processor. Most faults take no such lock any more (Linux 6.4 and later).
 *
 * What our SIGKILL leaves. Between begin and end, an agent with this priority: it finishes its batch,
 * and then sleeps in futex, where a priority costs nobody anything. The next daemon puts
 * it back when it adopts the agent (urgency_repair()), or --remove ends the thread. A hostile guest
 * whose daemon is killed in that millisecond keeps, until then, one thread that may run before ordinary
 * ones, within sched_rt_runtime_us: a daemon that systemd restarts is back in a second.
 *
 * A guest that names another of its threads as the agent's (the id stands in the ring when an agent is
 * adopted) gets that one preferred, for as short. Threads of others are out of reach.
 *
 * Any thread; urgency_begin() may wait for other agents, up to some milliseconds.
 */
#pragma once

#include <stdint.h>

#include "daemon/process.h"

/* The longest that an agent is urgent, whatever it does. */
#define URGENCY_USEC (20 * USEC_PER_MSEC)

enum urgency_kind {
	URGENCY_NONE,	  /* as all threads of the guest */
	URGENCY_NICE,	  /* nice -20 */
	URGENCY_REALTIME, /* real-time, by us or already by the administrator */
	URGENCY_KIND_MAX,
};

/* As sched_getattr(2) gives it; glibc of Debian 12 has no such struct. */
struct urgency_attr {
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

struct urgency {
	enum urgency_kind kind;
	int error;	  /* why it is not URGENCY_REALTIME: -EPERM, -EBUSY, ...; or 0 */
	bool ours, permit; /* what urgency_end() has to put back */
	struct urgency_attr before;
	uint64_t since_usec;
};

/* Check, apply, verify. Nothing that fails here need stop the batch. */
void urgency_begin(const struct process *p, int32_t tid, struct urgency *ret);
/* May be called twice. */
void urgency_end(const struct process *p, int32_t tid, struct urgency *u);
/* Puts back what a daemon that was killed has left. */
void urgency_repair(const struct process *p, int32_t tid);
