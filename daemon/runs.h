/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Planning of engine remap: which pages of a RAM block are merged together.
 *
 * A run is neighbouring guest pages that map neighbouring slots: one mapping instead of one a
 * page. Zero pages become holes and cost no mapping at all. A lone page costs its process up to
 * two mappings (about 400 bytes of kernel memory against the 4096 it frees), which is worth it
 * while the bound on mappings is far; near the bound longer runs go first.
 *
 * Pure.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/units.h"

/* What a page is to become, instead of a slot's number. */
#define RUN_NONE UINT32_MAX	  /* stays as it is */
#define RUN_ZERO (UINT32_MAX - 1) /* a hole */

struct run {
	uint32_t first; /* page within the block */
	uint32_t n_pages;
	uint32_t slot; /* of the first page, or RUN_ZERO */
};

/* Mappings that a run of slots may add to the process: it splits the one it lies in. */
#define RUN_MAPS 2U

/* Slot of page i, RUN_ZERO or RUN_NONE. Asked in order, more than once. */
typedef uint32_t run_slot_fn(uint32_t i, void *userdata);
/* The first page at or after i that may have one; the number of pages when there is none. */
typedef uint32_t run_skip_fn(uint32_t i, void *userdata);

/*
 * The runs of a block whose first page is at address start, in order; none crosses a multiple of
 * 2 MiB of the address space (the agent's transactions do not). At most max_runs are written,
 * and runs that add mappings only as far as max_maps reaches: the shortest are left out first.
 * Returns the number written.
 */
size_t runs_plan(hva start, uint32_t n_pages, run_slot_fn *slot_of, run_skip_fn *skip, void *userdata,
		 uint64_t max_maps, struct run *ret, size_t max_runs);
