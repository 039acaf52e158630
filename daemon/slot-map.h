/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which slots of a store are in use: a bit for each, and an allocator that gives neighbouring
 * slots to neighbouring pages.
 *
 * A run of pages wants a run of slots: it becomes one mapping in the guest then. Lone pages go to
 * the lowest free slot, so that they fill the holes and leave long stretches for runs, which are
 * looked for onwards from where the last one was put.
 *
 * Costs one bit a slot. Owned by who made it; no locks.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/units.h"

struct slot_map;

/* Slots are 32-bit numbers of which UINT32_MAX stands for none. */
#define SLOT_MAP_MAX UINT64_C(0xfffffffe)

int slot_map_new(uint64_t n_slots, struct slot_map **ret);
void slot_map_free(struct slot_map *m);
/* Grows only: -EINVAL for fewer slots than there are, -E2BIG for more than SLOT_MAP_MAX. */
int slot_map_grow(struct slot_map *m, uint64_t n_slots);
uint64_t slot_map_size(const struct slot_map *m);
uint64_t slot_map_used(const struct slot_map *m);
bool slot_map_is_used(const struct slot_map *m, slot_id s);
/*
 * Takes up to n_pages free slots in a row, below limit. after (or SLOT_ID_NONE) is the slot of
 * the page before the first: the slots behind it are taken if enough are free there. Returns how
 * many were taken, at least one, or -ENOSPC. A shorter run means that there is no longer one.
 */
int64_t slot_map_take(struct slot_map *m, uint32_t n_pages, slot_id after, uint64_t limit,
		      slot_id *ret_first);
/* Marks a range used or free, whatever it was; what lies outside of the map is ignored. */
void slot_map_set(struct slot_map *m, slot_id first, uint64_t n_pages, bool used);
/* The first run of slots in [from, end) that are used (or free): its length there, 0 for none. */
uint64_t slot_map_next_run(const struct slot_map *m, uint64_t from, uint64_t end, bool used,
			   slot_id *ret_first);
uint64_t slot_map_bytes(const struct slot_map *m);
