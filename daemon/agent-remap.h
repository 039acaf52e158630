/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's block transactions as the daemon calls them: MERGE, UNMERGE, PROTECT, RECLAIM.
 *
 * Many blocks go in one call (as few batches as their runs fill), because a batch costs two wakes,
 * some tens of microseconds. All results are checked before they are believed: the guest can
 * write the ring. What a lie can do is to make the daemon's books wrong about that guest; its
 * pages' slots stay in use until its mappings are gone (store_mark_mapped()).
 *
 * Wait, and return errors, as the calls in agent-link.h.
 */
#pragma once

#include "daemon/agent-link.h"
#include "daemon/store.h"

struct remap_block {
	struct ring_merge head; /* n_runs says how many runs there are */
	struct ring_run *runs;	/* of the caller's; results are put there */
};

/* At most so many runs in one block: one for each page. */
#define REMAP_RUNS_MAX (RING_BLOCK_BYTES / 4096U)

/* Hands the store over, and has it mapped for reading. Again when store_file_bytes() has grown. */
int agent_map_store(struct agent_link *a, const struct store *s);
/*
 * Carries out op on n blocks. Returns how many were carried out, which is n unless the
 * agent refused one; runs that were not reached have result -ECANCELED. -EPROTO for results that
 * no honest agent gives: the link is then to be given up.
 */
int64_t agent_blocks(struct agent_link *a, enum ring_op op, struct remap_block *blocks, uint32_t n);
/* Sums over blocks that were carried out. */
uint64_t remap_blocks_pages(const struct remap_block *blocks, uint32_t n);
