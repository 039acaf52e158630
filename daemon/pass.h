/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A pass over one member: ask the tracker what was written, bring the ledger up to date, read
 * the pages that have been unchanged for long enough, and offer them to the domain's trees.
 *
 * The member's blocks are worked on in slices, each in up to three jobs, with the loop between:
 *
 *   collect (worker)  tracker -> runs
 *   apply   (loop)    runs -> ledger; which pages to read
 *   scan    (worker)  read, fingerprint
 *   offer   (loop)    fingerprints -> trees; which pages have a twin
 *   store   (worker)  a page that has a twin is read once more, and copied into the store
 *   join    (loop)    twins -> records, candidates
 *
 * The budget is asked before each job and charged after it, so a pass stretches over as much
 * time as it is allowed to take. Pages are read only when their state asks for it: with the wp
 * and softdirty trackers what was not written since it was read is not read again.
 *
 * Owned by the loop.
 */
#pragma once

#include <stdint.h>
#include <systemd/sd-event.h>

#include "daemon/budget.h"
#include "daemon/member.h"
#include "daemon/turns.h"
#include "daemon/work.h"

/* What passes of all members have in common. */
struct pass_env {
	sd_event *event;
	struct work_pool *pool;
	struct ledger *ledger;
	struct budget *cpu;	  /* nanoseconds of CPU */
	struct budget *reads;	  /* pages */
	struct turns *turns;	  /* among passes, while either is short */
	uint64_t interval_usec;
	const bool *stopping; /* the daemon ends */
};

/* r is 0, -ESRCH when the guest died, -ECANCELED, or another error that ended the pass. */
typedef void pass_done_fn(struct member *m, int r, void *userdata);

/* Pages of a slice: bounds the memory of a pass (24 bytes a page at worst) and its longest job. */
#define PASS_SLICE_PAGES 32768U

/* Starts a pass; the member must not be busy and is until done is called (never from within
 * this call). 0, -ENOMEM, -EAGAIN. */
int pass_start(const struct pass_env *env, struct member *m, pass_done_fn *done, void *userdata);
