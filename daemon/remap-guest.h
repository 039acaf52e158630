/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Engine remap, the part that concerns a guest's mappings of the store: handing the store over,
 * giving everything back, and making anonymous memory of what the guest has copied.
 *
 * All for a worker that holds the member; they wait for the agent.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "daemon/member.h"

/* enum ring_advice for these enum vm_flag: what new mappings must be given. */
uint32_t remap_advice_of(uint32_t vm_flags);
/* Has the agent map the store at its present size. */
int remap_map_store(struct member *m);
/*
 * All mappings that the guest has of a store, whichever daemon made it, as they are now, and how
 * many pages of them it has no copy of: so many are to be allocated when all are given back.
 */
struct remap_list;
int remap_list_new(const struct member *m, struct remap_list **ret, uint64_t *ret_copies);
void remap_list_free(struct remap_list *list);
/* All pages of these mappings. */
uint64_t remap_list_pages(const struct remap_list *list);
/*
 * Makes pages of the guest's own, in anonymous memory, of the mappings from number *at on, up to
 * max_pages or one run of at most 2 MiB, and moves *at. The tracker is to be armed again. Returns
 * the pages of these mappings, 0 when there are no more, or -errno. Some may still be in mappings
 * of the store (pinned, most likely), some even shared (no memory): look again.
 */
int64_t remap_list_give_back(struct member *m, const struct remap_list *list, size_t *at,
			     uint64_t max_pages);
/*
 * Makes anonymous memory of the mappings of the store whose pages the guest has all copied, so that
 * they can merge again and their slots become free; the tracker learns of it. Where the
 * process does direct I/O, only if it can be proven that no device writes to them (pins.h). Sets
 * n_maps to the mappings of the store that are left. Returns the pages reclaimed, or -errno.
 */
int64_t remap_reclaim(struct member *m);
