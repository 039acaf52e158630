/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Member: a guest that is enrolled, as its trust domain sees it: RAM blocks in the ledger, agent,
 * tracker, and what its last pass found.
 *
 * At most one job works for a member at a time (busy): the tracker and the agent belong to that
 * job while it runs, everything else to the loop. Jobs of other members may read this guest's
 * memory through the process (comparing twins); refs keeps it open until they are done. A guest
 * that exits or is un-enrolled is marked gone at once; its pages leave the trees and the ledger when
 * its own job is done, and the member is freed with the last reference.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/log.h"
#include "daemon/agent-link.h"
#include "daemon/budget.h"
#include "daemon/domain.h"
#include "daemon/guest.h"
#include "daemon/ledger.h"
#include "daemon/marks.h"
#include "daemon/memory.h"
#include "daemon/process.h"
#include "daemon/range-set.h"
#include "daemon/tracker.h"
#include "daemon/turns.h"

enum thp_policy {
	THP_KEEP,  /* never split a huge page */
	THP_SPLIT, /* split where at least thp_split pages of it are freed */
};

/* What the policy says, in the units that the pass and the engines want. The loop's alone: it may
 * change while a job runs. */
struct member_policy {
	enum policy_engine engine; /* never AUTO: decided when the guest enters */
	uint64_t min_age_usec;
	enum thp_policy thp;
	uint32_t thp_split;	 /* pages of 512 */
	uint32_t max_maps;	 /* ranges that an engine may add */
	uint64_t cow_backoff_usec; /* how long a page is left alone whose shared copy was written */
};

struct leave;
struct member;
struct unmerge;
struct remap_list;

/* Whether QEMU has userfaultfd to itself: yield.h. */
struct yield {
	enum yield_state {
		YIELD_NO,
		YIELD_WANTED,
		YIELD_GIVEN,
	} state;
	uint64_t until_usec; /* monotonic: not taken back before */
	char why[192];
	bool looking, looked; /* its monitor is being asked, and sees no reason against taking it back */
	void (*done)(struct member *m, int r, void *userdata);
	void *userdata;
};

struct member_counts {
	uint64_t present_pages, huge_pages, swapped_pages; /* as of the last pass */
	uint64_t unmapped_pages; /* SHARED, and not in its page table, as of the last pass */
	uint64_t agent_bytes;  /* the agent's memory when the last pass began */
	uint64_t vm_pages;     /* its whole address space when the last pass began */
	uint64_t read_pages;   /* read in the last pass */
	uint64_t read_total;   /* ever */
	uint64_t written_pages; /* reported written in the last pass */
	uint64_t passes;
	uint64_t pass_usec; /* how long the last pass took, waiting included */
	uint64_t cpu_nsec; /* ever, all threads of ours for this guest */
	uint64_t kept_huge_pages; /* candidates left alone because their huge page is kept whole */
	uint64_t unmarked_pages; /* and because ksmd could not look at them without such huge pages */
};

struct member {
	struct guest *guest;		/* a reference */
	const struct process *process;	/* the guest's */
	struct domain *domain;
	struct agent_link *agent; /* NULL where injecting is not allowed or not possible */
	struct tracker *tracker;
	char tracker_reason[128]; /* why this one */
	struct ledger_block *blocks[RAM_BLOCKS_MAX];
	size_t n_blocks;
	uint64_t growing_pages; /* that are being taken in, and are in no block yet */
	uint64_t ram_pages; /* of all its blocks, when it entered: what we did to it is within that */
	/* Engine ksm: what is marked MERGEABLE in each block now, and what QEMU had marked. */
	struct marks {
		struct mark *v;
		size_t n;
	} marks[RAM_BLOCKS_MAX];
	bool folded; /* what is between a block's marks is marked, too, while ksmd stands still */
	/* Engine remap: mappings that we added (an upper bound), how much of the store the agent has
	 * mapped, and pages that the last round left for good reasons. */
	uint64_t n_maps, store_mapped_bytes, remap_left_pages;
	bool pins_held; /* it does direct I/O, and memory of the host was pinned whenever copies were to be reclaimed */
	uint64_t devices_usec; /* monotonic: when remap_look_at_devices() looked last; the worker's */
	/* What it mapped of the store of an earlier daemon when it entered; NULL: nothing, or known. */
	struct remap_list *found;
	struct range_set qemu_marks;
	struct member_policy policy;
	struct budget cpu; /* the policy's share, for passes over this guest */
	struct turn turn; /* the policy's weight, likewise */
	struct member_counts counts;
	/* So much of it should be in memory. If it is less, pages were swapped out or given up, perhaps
	 * where nothing has changed for long: the next pass looks everywhere. */
	uint64_t resident_pages;
	bool look_everywhere;
	uint64_t shared_pages;	/* sharers in this guest, verified */
	uint64_t next_pass_usec; /* monotonic */
	uint64_t vm_pages_looked; /* when it was last looked whether its RAM is as it was */
	unsigned refs;
	bool busy;
	bool agent_is_late; /* its agent has not gone on with what it was asked for: QEMU stands still */
	bool gone; /* exited or leaving: no new work */
	/* It maps other stores than the domain's, from before it came here: foreign.h */
	bool foreign;
	uint64_t foreign_retry_usec; /* monotonic: these are not given back before */
	char foreign_reason[160]; /* why they could not be; "" */
	bool unmerged; /* its pages are its own and stay so: unmerge.h */
	bool unmerge_failed; /* ... should be, but not all could be given back */
	struct unmerge *unmerge; /* they are being given back; NULL: no */
	struct yield yield;
	struct leave *leave; /* how it leaves; NULL: it exited */
	struct member *next;
};

/* The longest that a job waits for its budget without looking whether the member may still be worked
 * on, and whether the budget was raised. */
#define MEMBER_WAIT_USEC (100 * USEC_PER_MSEC)
/* It is not read and not merged, for as long as it stays so. */
static inline bool member_rests(const struct member *m)
{
	return m->unmerged || m->unmerge || m->foreign || m->domain->adopting;
}

struct member *member_ref(struct member *m);
/* Its pages that share a frame, as far as the ledger knows. */
uint64_t member_sharers(const struct member *m);
/* It has a balloon, which takes shared pages without a word. So what engine remap merges is in its page table
 * from then on, and shared pages that are not there any more are taken for given up; swapped ones, too. Without a
 * balloon they come there when the guest touches them, which costs a tenth less CPU. One that is plugged in
 * finds pages that it has not touched: they count as given up until it does. The loop's. */
bool member_may_balloon(const struct member *m);
/* False while the agent has not done what it was last asked for in time, and may have pages of the guest's in
 * its hands: then the member has no passes and no rounds, and what is armed stays so. */
bool member_agent_is_idle(const struct member *m);
#define MEMBER_AGENT_IS_LATE \
	"its agent does not go on with what it was asked for: QEMU is stopped, traced or frozen"
/* Ends tracking; where the agent is not idle, nothing of the guest is changed. */
void member_drop_tracker(struct member *m);
/* Frees the member with the last reference: the tracker disarms, the agent link closes. */
void member_unref(struct member *m);
/* For log lines. */
struct log_guest member_log(const struct member *m);
/*
 * How long a page must have been unchanged is counted by the passes that found it so, in the few
 * steps that the ledger has room for. The last MEMBER_WAIT_FINE steps are one pass each, so that
 * short waits are exact; those before them are longer where the policy's longest wait needs it: then
 * only one pass in so many counts.
 */
#define MEMBER_WAIT_FINE 15U
unsigned member_step_passes(const struct member_policy *p, uint64_t interval_usec);
/* Steps until a page has been unchanged for usec at least, with passes every interval; 0 for 0. */
unsigned member_wait_steps(uint64_t usec, uint64_t interval_usec, unsigned step_passes);
