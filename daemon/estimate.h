/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Estimate: what merging would save, found by reading only. Enrolled or not, the guests are not
 * changed, nothing is brought into memory, and no tree is touched.
 *
 * Each guest's present pages are read once and their fingerprints sorted; equal neighbours
 * within a list and equal entries across lists are the answer. Fingerprints stand for pages
 * here (64 bits: one false match in ten billion pages or so), since nothing is merged by them.
 *
 * Memory is bounded: with more than ESTIMATE_KEPT_MAX pages, only fingerprints that are
 * multiples of a sampling factor are kept. Sampling by content keeps equal pages together,
 * so the counts just have to be multiplied.
 *
 * Owned by the loop; reading and sorting are done by workers.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "common/fingerprint.h"
#include "daemon/work.h"

#define ESTIMATE_KEPT_MAX   (UINT64_C(32) << 20) /* fingerprints: 256 MiB */
#define ESTIMATE_GUESTS_MAX 1024U

struct estimate_guest {
	pid_t pid;
	bool gone;	    /* exited meanwhile, or cannot be read: not in any figure */
	char reason[128];   /* why it cannot be read */
	uint64_t ram_pages, present_pages;
	uint64_t zero_pages;	/* present pages that hold zeros */
	uint64_t within_pages;	/* freed by merging within the guest, zeros left out */
	uint64_t skipped_pages; /* present and not readable */
};

/* Guests that would share with each other; indices into the guests asked for. */
struct estimate_group {
	const char *name; /* the caller's */
	const size_t *guests;
	size_t n_guests;
	/* Results. */
	uint64_t present_pages, zero_pages, within_pages, cross_pages;
};

struct estimate_result {
	struct estimate_guest *guests;
	size_t n_guests;
	/* common_pages of guests i and j is pairs[i * n_guests + j]. */
	uint64_t *pairs;
	struct estimate_group *groups;
	size_t n_groups;
	uint64_t elapsed_usec, read_pages;
	uint32_t sampled; /* one fingerprint in so many was kept; 1: all */
};

struct estimate;
typedef void estimate_progress_fn(uint64_t done_pages, uint64_t total_pages, void *userdata);
/* The result is valid during the call; r < 0 when memory ran out or it was cancelled. */
typedef void estimate_done_fn(const struct estimate_result *result, int r, void *userdata);

/* Starts. Groups (with their guest lists) must stay valid until done. done is called once, never
 * from within this call, and the estimate is freed after it. */
int estimate_start(sd_event *event, struct work_pool *pool, const pid_t *pids, size_t n,
		   struct estimate_group *groups, size_t n_groups, estimate_progress_fn *progress,
		   estimate_done_fn *done, void *userdata, struct estimate **ret);
/* Stops as soon as possible; done is called with -ECANCELED. */
void estimate_cancel(struct estimate *e);
