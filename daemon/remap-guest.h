/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Engine remap, the part that concerns a guest's mappings of the store: handing the store over,
 * giving everything back, and making anonymous memory of what the guest has copied.
 *
 * All for a worker that holds the member; they wait for the agent.
 */
#pragma once

#include "daemon/kept.h"

#include <stddef.h>
#include <stdint.h>

#include "daemon/member.h"

/* enum ring_advice for these enum vm_flag: what new mappings must be given. */
uint32_t remap_advice_of(uint32_t vm_flags);
/* Flags of a transaction that replaces such mappings of m. What it makes must be tracked as they were,
 * else it counts as written in every pass. */
uint32_t remap_flags_of(const struct member *m, uint32_t vm_flags);
/* Has the agent map the store at its present size. */
int remap_map_store(struct member *m);
/* Before pages are moved: does a device that was plugged in since the guest entered forbid it (-EPERM)? Looks
 * once a second. */
int remap_look_at_devices(struct member *m);
enum remap_which {
	REMAP_ALL,     /* of any store, whichever daemon made it */
	REMAP_FOREIGN, /* of other stores than the domain's: from before the guest came here */
	REMAP_OWN,     /* of the domain's store, and of them only pages without a copy, with their slots */
};
/*
 * Mappings that the guest has of stores, as they are now, and how many pages of them it has no copy
 * of: so many are to be allocated when all are given back. A store is known by the name of the
 * file: a guest that calls one of its own so gets its pages back from that. -E2BIG when these are
 * larger than its RAM.
 */
struct remap_list;
int remap_list_new(const struct member *m, enum remap_which which, struct remap_list **ret,
		   uint64_t *ret_copies);
void remap_list_free(struct remap_list *list);
/* All pages of these mappings. */
uint64_t remap_list_pages(const struct remap_list *list);
/* Good until the list is freed. *ret_maps: as the member's n_maps. */
const struct ring_run *remap_list_runs(const struct remap_list *list, size_t *ret_n, uint64_t *ret_maps);
/* Notes the labels of the stores. -ENOSPC. */
int remap_list_note_stores(const struct remap_list *list, struct kept *kept);
/*
 * Makes pages of the guest's own, in anonymous memory, of the mappings from number *at on, up to
 * max_pages or one run of at most 2 MiB, and moves *at. The tracker is to be armed again. Returns
 * the pages of these mappings, 0 when there are no more, or -errno. Some may still be in mappings
 * of the store (pinned, or just written, most likely), some even shared (no memory): look again. hot: that was
 * done many times, and the guest is thought to write to what is left all the time.
 */
int64_t remap_list_give_back(struct member *m, const struct remap_list *list, size_t *at,
			     uint64_t max_pages, bool hot);
/*
 * Makes anonymous memory of the mappings of the store whose pages the guest has all copied, so that
 * they can merge again and their slots become free; the tracker learns of it. Only where it can be proven
 * that no device writes to them: where the process does direct I/O, by the host's pins (pins.h). Looks
 * at what is mapped in these ranges, or everywhere (NULL): then n_maps is set to the mappings of the
 * store that are left. Copies of orphans (NULL, or slots that no page shares) are cut out of
 * mappings in which other pages are still shared, as far as the policy's mappings reach: else both the
 * guest's copy and the slot would be held. Returns the pages reclaimed, or -errno; *ret_all: none
 * was refused but for cuts.
 */
int64_t remap_reclaim(struct member *m, const struct range_set *where, const struct slot_map *orphans,
		      bool *ret_all);
/*
 * The same for copies in parts of such mappings, which are cut there: runs in order of address, each within one
 * mapping, all pages copied; their results are written. What is none is refused by the agent (-EINVAL), and
 * nothing is changed. The tracker is to be told. Returns the pages reclaimed, or -errno.
 */
int64_t remap_reclaim_runs(struct member *m, struct ring_run *runs, size_t n);
