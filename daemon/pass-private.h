/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of a pass share: pass.c collects and applies what the tracker says, pass-offer.c reads
 * pages and offers them to the trees, pass-join.c joins the pairs that this gave. All of it is the loop's, but for the fields that a running job
 * owns.
 */
#pragma once

#include <stdint.h>
#include <systemd/sd-event.h>

#include "daemon/pair.h"
#include "daemon/pass.h"
#include "daemon/quiet.h"
#include "daemon/scan.h"

/* Pairs whose pages are copied into the store in one job. */
#define PAIR_BATCH_PAGES 2048U

struct run {
	uint32_t first, n_pages; /* page within the block */
	uint32_t bits;
};

/* A page to read is noted by its index within the block. */
struct pass {
	struct work work; /* must be first: jobs get back to the pass by it */
	const struct pass_env *env;
	struct member *m;
	pass_done_fn *done;
	void *userdata;
	uint64_t started_usec;
	unsigned step_passes; /* member_step_passes() */
	bool steps; /* this pass counts for pages that wait long */
	void (*next)(struct pass *p); /* what to do once the budget allows */
	sd_event_source *timer;

	/* The slice. */
	size_t block;
	uint32_t at, n_pages;
	uint64_t resident_pages; /* of the process, when it began */
	bool everywhere; /* this pass looks at all of it, as far as quiet.h goes */
	struct quiet_range looks[PASS_SLICE_PAGES / LEDGER_PART_PAGES];
	uint32_t n_looks;
	int error; /* of the job */

	/* The worker's while a job runs. */
	struct run *runs;
	uint32_t n_runs, runs_size;
	struct scan_range *ranges;
	uint32_t n_ranges, n_read;
	struct scan_result *results;
	struct pair *pairs;
	uint32_t n_pairs;
	uint32_t pair_at, pair_batch; /* those that are copied now; all before them are done with */
	/* Pages of this block whose twins others are about to join. */
	struct later {
		page_id page, twin;
		uint64_t fingerprint;
	} *later;
	uint32_t n_later;
	unsigned later_waits;
	uint8_t *copies; /* of PAIR_CHUNK_PAGES pages, on their way to the store */
	struct member_counts counts; /* being made in this pass */
};

static inline struct ledger_block *pass_block(const struct pass *p)
{
	return p->m->blocks[p->block];
}

/* Goes on with next now or, if a budget is used up, when it allows; a guest that left ends the pass. */
void pass_then(struct pass *p, void (*next)(struct pass *p));
/* Hands a job to the workers; a full queue ends the pass. */
void pass_submit(struct pass *p, void (*run)(struct work *w), void (*done)(struct work *w));
/* Charges the job, and the loop's own work since start_nsec of its thread's CPU time. */
void pass_charge(struct pass *p, uint64_t start_nsec);
/* Ends the pass; p is gone. */
void pass_finish(struct pass *p, int r);
void pass_next_slice(struct pass *p);

/* pass-offer.c: reads the pages of p->ranges and offers them, and goes on with p->pairs or the next slice. */
void pass_start_scan(struct pass *p);
/* pass-offer.c: offers p->later again; those whose twins are still being joined stay for the next time. */
void pass_offer_later(struct pass *p);
/* pass-join.c: joins a page and its twin by their fingerprint, where there is no store. */
void pass_join_unread(struct pass *p, page_id page, page_id twin, uint64_t fingerprint);
/* pass-join.c: reads and joins p->pairs, and goes on with the next slice. */
void pass_start_join(struct pass *p);
/* Pairs that will not be joined now wait for the next pass. */
void pass_drop_pairs(struct pass *p);
