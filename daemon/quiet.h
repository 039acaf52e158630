/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which parts of a RAM block a pass looks at.
 *
 * To ask the kernel what was written costs by the mappings that merging made, written or not; tracker
 * rehash, which knows nothing, has all pages read and compared. So a part in which no page changed its
 * state for a while is looked at less often: the longer it was quiet, the rarer, but never so rarely
 * that a change waits for longer than a quarter of the time that went before it, nor for more than
 * QUIET_PASSES_MAX passes. What was written meanwhile is not lost: the kernel's mark, or the difference,
 * stays until it is looked at. Parts take turns, so that passes cost about the same.
 *
 * Not with softdirty, which has one mark for a whole process.
 *
 * Owned by the loop.
 */
#pragma once

#include <stdbool.h>

#include "daemon/ledger.h"
#include "daemon/pagemap.h"

#define QUIET_PASSES_MAX 16U

/* Parts that are looked at together, so that there are few ranges to ask for: 32 MiB. */
#define QUIET_GROUP_PARTS 16U

struct quiet_range {
	uint32_t first, n_pages; /* page within the block */
};

/* A part that was quiet for so many passes is looked at once in so many. Pure. */
unsigned quiet_interval(unsigned quiet_passes);

/* What of the pages [at, at + n_pages) of the block this pass looks at, all: everything. at is the
 * first page of a part. ret has room for one range a part; returns how many. What is known of the
 * present pages in these ranges is forgotten. */
uint32_t quiet_plan(struct ledger_block *b, uint32_t at, uint32_t n_pages, uint64_t pass, bool all,
		    struct quiet_range *ret);
/* What the tracker said of pages within such a range. */
void quiet_note_run(struct ledger_block *b, uint32_t first, uint32_t n_pages, uint32_t bits);
/* After all changes of state that followed from it: were the parts of the range quiet? */
void quiet_end(struct ledger_block *b, const struct quiet_range *range, uint64_t pass);
/* Adds the pages of the block, each part's as it was when it was last looked at. */
void quiet_count(const struct ledger_block *b, uint64_t *present, uint64_t *swapped, uint64_t *huge,
		 uint64_t *unmapped);
