/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Engine ksm: the kernel merges, the daemon decides what the kernel looks at.
 *
 * Work is done in rounds. A round holds all members of the domain (no passes meanwhile):
 *
 *   CHECK   nobody else tunes KSM, and no process outside the enrolled guests has mergeable memory, or
 *           the round is refused
 *   MARK    the agents mark the ranges that hold candidates MERGEABLE, and take the mark from
 *           ranges that hold none any more
 *   RUN     ksmd runs, within the CPU budget, until all candidates are merged, or until it has tried
 *           all and a full scan merges nothing more; a worker starts and stops it (START, STOP),
 *           for the kernel makes both wait for ksmd
 *   VERIFY  ksmd stopped (run=0 keeps what is merged); page frame numbers say which candidates
 *           share a frame now: those become SHARED. The rest wait, as written pages do.
 *
 * When no round was wanted for a while the marks are folded: what is between them is marked, too,
 * so that a guest's memory is not in thousands of pieces while ksmd stands still (merge-ksm-plan.c).
 *
 * KSM has one stable tree for the whole host: this engine serves one trust domain, and starts
 * ksmd only while no process outside it has mergeable memory, unless the configuration allows it. A
 * process that marks memory while ksmd runs ends the round, within two seconds or so (on a host that is
 * not starved of CPU): what ksmd has merged with its memory until then stays merged until it is written.
 *
 * A round changes guests only through madvise. SIGKILL of the daemon during MARK leaves some
 * ranges marked, and what is between them if they were folded: harmless, ksmd may merge them; the
 * next daemon knows QEMU's own marks from the file that is kept about the guest (kept.h) and takes
 * the others away. During RUN it leaves ksmd running on proven duplicates; the next daemon reads
 * the saved settings and stops it.
 *
 * Owned by the loop.
 */
#pragma once

#include <stdint.h>
#include <systemd/sd-event.h>

#include "daemon/budget.h"
#include "daemon/kept.h"
#include "daemon/ksm.h"
#include "daemon/member.h"
#include "daemon/work.h"

enum merge_ksm_phase {
	MERGE_KSM_IDLE,
	MERGE_KSM_CHECK,
	MERGE_KSM_MARK,
	MERGE_KSM_START,
	MERGE_KSM_RUN,
	MERGE_KSM_STOP,
	MERGE_KSM_VERIFY,
	MERGE_KSM_PHASE_MAX,
};
const char *merge_ksm_phase_to_string(enum merge_ksm_phase p);

enum merge_ksm_kind {
	MERGE_KSM_MERGE,
	MERGE_KSM_AUDIT, /* VERIFY only */
	MERGE_KSM_FOLD,	 /* MARK only */
};

struct merge_ksm_config {
	bool allow_foreign;	/* run ksmd although others have mergeable memory */
	uint32_t pages_to_scan; /* of one wake-up of ksmd */
	uint32_t sleep_msec;	/* between two of them */
	uint64_t interval_usec;	 /* between two passes over a guest */
	uint64_t round_max_usec; /* a round that is not done by then goes on in the next */
};

#define KSM_REFUSAL_BYTES 192U

struct merge_ksm_stats {
	enum merge_ksm_phase phase;
	bool incomplete; /* the last round ran out of time before ksmd was done */
	uint64_t rounds, ksmd_cpu_nsec;
	uint64_t shared_pages;	/* distinct frames with at least two sharers of ours */
	uint64_t sharers_pages; /* guest pages that map them */
	uint64_t gained_pages;	/* of the last round: pages that it found merged and that were not */
	uint64_t missed_pages;	/* candidates that it had time for and that ksmd did not merge */
	uint64_t ranges;	/* marked now */
	uint64_t check_usec;	/* what the last CHECK took */
	uint64_t rmap_items;	/* KSM's own metadata entries for our guests, 64 bytes each */
	char refusal[KSM_REFUSAL_BYTES]; /* why no round can start, or the last one ended; else "" */
};

struct merge_ksm;
typedef void merge_ksm_done_fn(struct domain *d, int r, void *userdata);

int merge_ksm_new(sd_event *event, struct work_pool *pool, struct ledger *ledger, struct ksm *ksm,
		  struct budget *cpu, const struct merge_ksm_config *config, struct merge_ksm **ret);
/* From the next round on. */
void merge_ksm_configure(struct merge_ksm *mk, const struct merge_ksm_config *config);
/* Stops ksmd if a round is running. Host settings are the caller's to restore. */
void merge_ksm_free(struct merge_ksm *mk);
/*
 * Starts a round for the members of d, none of which may be busy. -EBUSY while a round runs, -EAGAIN,
 * -ENOMEM. done is called once, never from within this call; with r < 0 and stats.refusal set when the
 * host does not allow the round.
 */
int merge_ksm_round(struct merge_ksm *mk, struct domain *d, struct member *const *members,
		    size_t n_members, enum merge_ksm_kind kind, merge_ksm_done_fn *done, void *userdata);
/* A member is to leave: the round that holds it, if one does, skips to VERIFY as soon as it can (one
 * batch of ksmd's). */
void merge_ksm_cut(struct merge_ksm *mk, const struct member *m);
void merge_ksm_stats(const struct merge_ksm *mk, struct merge_ksm_stats *ret);

/*
 * Worker, a guest enters the domain: notes what QEMU marked in m and, by a file in
 * guests_fd, for later daemons; then takes all marks away. kept comes with everything but marks. On
 * failure *ret_what says what could not be done, and the guest is as before.
 */
int merge_ksm_enter(struct member *m, int guests_fd, struct kept *kept, const char **ret_what);
/* Worker, for a member that no round holds: only what is to be merged is marked afterwards. */
int merge_ksm_unfold(struct member *m);
/* Worker: everything that is marked MERGEABLE in the guest now; into a set of the caller's. */
int merge_ksm_marks(const struct member *m, struct range_set *ret);
/* Worker: takes the mark from a range, which gives its pages back. -ENOMEM: some stay shared. */
int merge_ksm_unmark(struct member *m, uint64_t start, uint64_t end);
/* Worker, RAM was plugged into m: the same for these ranges. */
int merge_ksm_grow(struct member *m, int guests_fd, const struct range_set *ram);
/* Worker, a guest leaves: puts the marks back as QEMU had them; shared pages become private.
 * -ENOMEM: some stay shared, with our marks, for want of memory. */
int merge_ksm_leave(struct member *m);
