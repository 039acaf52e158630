/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Worker threads: bounded jobs away from the daemon's loop.
 *
 * A job runs on some worker; then its done function runs on the loop's thread. A job owns what
 * it points at until done; it never touches the registry, the trees or the ledger. The queue
 * is bounded (WORK_QUEUE_MAX): work_submit() says -EAGAIN when it is full, and the caller, who
 * keeps his own list of what is to be done, submits more when one of his jobs is done.
 */
#pragma once

#include <stdint.h>
#include <systemd/sd-event.h>

#define WORK_QUEUE_MAX	 256U
#define WORK_THREADS_MAX 64U

struct work_pool;

struct work {
	/* Runs on a worker. */
	void (*run)(struct work *w);
	/* Runs on the loop's thread afterwards; may free w. */
	void (*done)(struct work *w);
	/* Thread CPU time that run() took, filled before done(). */
	uint64_t cpu_nsec;
	/* Owned by the pool. */
	struct work *next;
};

int work_pool_new(sd_event *event, unsigned n_threads, struct work_pool **ret);
/* Waits for running jobs; done() is called for all of them, on this thread. */
void work_pool_free(struct work_pool *p);
int work_submit(struct work_pool *p, struct work *w);
unsigned work_pending(const struct work_pool *p);
