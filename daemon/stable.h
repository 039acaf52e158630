/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Stable tree of one trust domain: the pages that are shared now, by fingerprint.
 *
 * A shared page is a record: its fingerprint, its slot in the store (none under engine ksm, where the
 * kernel owns the frame) and its number of sharers. Which guest pages are sharers is known to the ledger
 * (its word of a shared page is the record's index); so a sharer costs nothing here, and a record
 * some 22 bytes, tree included.
 *
 * There is one record of a fingerprint. Another content that has the same one, which takes 2^32 pages to
 * be met by chance, finds the record, is refused by the engine, which compares bytes, and stays
 * private. A cryptographic name for each record, which would tell the two apart, cost a tenth of the
 * CPU until all is merged, and more than half of the memory.
 *
 * A record with no sharer stays until stable_free_record(): its slot may still be mapped.
 * Owned by the daemon's loop.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/units.h"

struct stable;

typedef struct record_id {
	uint32_t n;
} record_id;
#define RECORD_ID(i) ((record_id){ (uint32_t)(i) })

int stable_new(struct stable **ret);
void stable_free(struct stable *s);
/*
 * A new record without sharers. -EEXIST when the fingerprint is there: then *ret is its record.
 * -ENOMEM; -EXFULL when too many records have the upper half of this fingerprint (hashtree.h;
 * which takes somebody who can make them so: leave the page alone).
 */
int stable_insert(struct stable *s, uint64_t fingerprint, slot_id slot, record_id *ret);
bool stable_find(const struct stable *s, uint64_t fingerprint, record_id *ret);
void stable_prefetch(const struct stable *s, uint64_t fingerprint);
slot_id stable_slot(const struct stable *s, record_id r);
uint32_t stable_sharers(const struct stable *s, record_id r);
/* Returns the number of sharers after the change; dropping below zero is a bug. */
uint32_t stable_add_sharer(struct stable *s, record_id r);
uint32_t stable_drop_sharer(struct stable *s, record_id r);
/* The record must have no sharers. */
void stable_free_record(struct stable *s, record_id r);
/* Records with at least one sharer ("shared"), and the sum of sharers over all records. */
uint64_t stable_shared(const struct stable *s);
uint64_t stable_sharers_total(const struct stable *s);
/* Records with or without sharers. */
uint64_t stable_records(const struct stable *s);
uint64_t stable_bytes(const struct stable *s);
/* Calls fn for every record; records may be freed from within fn, but not inserted. */
void stable_foreach(struct stable *s, void (*fn)(struct stable *s, record_id r, void *userdata),
		    void *userdata);
