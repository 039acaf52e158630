/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of engine ksm share. */
#pragma once

#include "daemon/frames.h"
#include "daemon/merge-ksm.h"

struct merge_ksm {
	/* Immutable. */
	sd_event *event;
	struct work_pool *pool;
	struct ledger *ledger;
	struct ksm *ksm;
	struct budget *cpu;
	struct merge_ksm_config config;

	/* The round. */
	struct domain *domain;
	struct member **members;
	size_t n_members;
	merge_ksm_done_fn *done;
	void *userdata;
	struct ksm_job *jobs; /* one a member */
	struct frames frames; /* of their marked pages, while VERIFY counts them */
	size_t n_running;
	int error;
	sd_event_source *timer;
	struct ksm_switch {
		struct work work; /* must be first */
		struct merge_ksm *mk;
		int error;
	} turn; /* starts or stops ksmd */
	struct ksm_check {
		struct work work; /* must be first */
		struct merge_ksm *mk;
		bool allow_foreign;
		bool under_way; /* again, while ksmd runs: due at again_usec */
		uint64_t began_usec, again_usec;
		_Atomic bool stop; /* set by the loop: the worker is to end */
		int error;
		char refusal[KSM_REFUSAL_BYTES];
	} check;
	uint64_t started_usec, ksmd_nsec;
	uint64_t full_scans, merged, marked_scan, progress_scan;
	/* When KSM has merged so many pages of our guests, all candidates are merged. What was written
	 * since it was merged counts until ksmd comes by, and a page whose last other sharer went
	 * counts, too (stale): then it must have come by everywhere, and find nothing more. */
	uint64_t goal_pages, merged_last_poll;
	bool stale, paused, converged, cut;
	bool rested; /* ksmd has been stopped: VERIFY waits for the check that is under way */
	enum merge_ksm_kind kind;
	struct merge_ksm_stats stats;
};

/* What a worker does for one member in MARK and VERIFY. */
struct ksm_job {
	struct work work; /* must be first */
	struct merge_ksm *mk;
	struct member *m;
	int error;
	struct ksm_plan {
		struct ring_advise *advice; /* for the agent */
		uint32_t n_advice;
		uint64_t n_candidates; /* and pages of zeros, in what is marked then */
	} plan;
	struct run_list {
		struct page_run *v;
		size_t n, size;
	} runs;			  /* what the tracker said of the marked ranges and between them */
	/* The frame of each marked page, in order; 0: none of its own, or not known. */
	uint64_t *pfns;
	uint64_t n_pfns, pfn_end; /* the latter: all are below it */
	uint64_t rmap_items;
};

/* The states of pages that the engine is to merge or has merged. */
static inline bool merge_ksm_wants(enum page_state s)
{
	return s >= PAGE_STATE_ZEROS && s <= PAGE_STATE_SHARED;
}
_Static_assert(PAGE_STATE_ZEROS < PAGE_STATE_CANDIDATE && PAGE_STATE_CANDIDATE < PAGE_STATE_SHARED,
	       "the three states that engines serve are neighbours");

/* Loop: sets m->marks to what is to be marked, and *ret to the advice for the agent that makes it so (the
 * caller's to free), which must be given. -ENOMEM. */
int merge_ksm_plan(const struct ledger *l, struct member *m, struct ksm_plan *ret);
/* Worker: marks what is between m's marks, too. Before ksmd runs again, the advice of a plan or
 * merge_ksm_unfold() takes that back. */
int merge_ksm_fold(struct member *m);

/* Loop: the round's first phase. -EAGAIN: no worker is to be had. */
int merge_ksm_check(struct merge_ksm *mk);
/* Loop, at each poll of a running ksmd: has anybody come whose memory it would merge? Cuts the round. */
void merge_ksm_check_again(struct merge_ksm *mk);
/* Loop: the second. */
void merge_ksm_mark(struct merge_ksm *mk);

/* Loop: one job for each member; done is called for each, and may be before this returns. */
void merge_ksm_submit_jobs(struct merge_ksm *mk, void (*run)(struct work *w), void (*done)(struct work *w));
/* Loop: common end of a job; true when it was the last one. A guest that died is no error. */
bool merge_ksm_job_done(struct ksm_job *job);
/* Loop: the round is over. */
void merge_ksm_finish_round(struct merge_ksm *mk, int r);
/* Loop: the round's last phase, once ksmd rests. */
void merge_ksm_verify(struct merge_ksm *mk);
