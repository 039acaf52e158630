/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Engine remap, the daemon's side: plans which pages of a member become mappings of its
 * domain's store, has the agent carry it out block by block, and brings the ledger up to date.
 *
 * It is engine zero as well, whose domains have no store and no records: pages of zeros become
 * holes, and that is all there is to plan.
 *
 * A round serves one member:
 *
 *   plan    (loop)    CANDIDATE pages whose record has a slot, and ZEROS -> runs -> batches of
 *                     transactions
 *   merge   (worker)  the agent carries a batch out; it compares every byte while the page cannot
 *                     change, and reports each run
 *   apply   (loop)    SHARED, HOLE, or YOUNG again where the page differed or was pinned
 *
 * with the budget asked between batches. The transactions themselves, and what SIGKILL means in
 * each of their steps, are in daemon/agent/transaction.c: the agent finishes a published batch
 * whether we live or not, and what it did is visible as mappings of the store.
 *
 * Owned by the loop.
 */
#pragma once

#include <stdint.h>

#include "daemon/member.h"
#include "daemon/pass.h"

#define MERGE_REMAP_WAITS 16

struct merge_remap_stats {
	uint64_t merged_pages, holes_pages;	/* ever */
	uint64_t busy_pages, different_pages;	/* refused by the agent, ever */
	uint64_t agent_cpu_nsec;
	uint64_t wait_max_nsec; /* the longest that a page of a guest was frozen, ever */
	/* Transactions whose longest freeze was below 2^i microseconds: of time, and of the agent's CPU
	 * time (the rest it had no processor, or slept for a lock). */
	uint64_t wait_histogram[MERGE_REMAP_WAITS], cpu_histogram[MERGE_REMAP_WAITS];
	uint64_t cpu_max_nsec;
	uint64_t urgent_batches, other_batches; /* at real-time priority, or not (urgency.h) */
	int urgency_error;			/* why the last of the others was not */
};

/* r < 0: the round ended early; what was done so far is in the ledger. */
typedef void merge_remap_done_fn(struct member *m, int r, void *userdata);

/* Hands the store over and has it mapped. Worker, when a member enters. */
int merge_remap_enter(struct member *m);

/* Is there enough to do for a round? */
bool merge_remap_wanted(const struct member *m);
/* Starts a round; the member must not be busy and is until done is called (never from within this
 * call). 0, -ENOMEM, -EAGAIN; -EALREADY when there is nothing to merge. */
int merge_remap_round(const struct pass_env *env, struct member *m, struct merge_remap_stats *stats,
		      merge_remap_done_fn *done, void *userdata);
