/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Stable tree of one trust domain: the pages that are shared now, by identity.
 *
 * A shared page is a record: its identity (SHA-256 keyed by the domain), its slot in the store
 * (neither under engine ksm, where the kernel owns the frame and compares) and its number of
 * sharers. Which guest pages are sharers is known to the ledger (its word of a shared page is the record's
 * index); so a sharer costs nothing here, and a record at most 64 bytes, tree included.
 *
 * Looked up by fingerprint first; where several records have the same fingerprint the
 * identity tells them apart, so SHA-256 is computed once for each shared page and not for
 * each sharer.
 *
 * A record with no sharer stays until stable_free_record(): its slot may still be mapped.
 * Owned by the daemon's loop.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/fingerprint.h"
#include "common/hashtree.h"
#include "common/units.h"

struct stable;

typedef struct record_id {
	uint32_t n;
} record_id;
#define RECORD_ID(i) ((record_id){ (uint32_t)(i) })

int stable_new(struct stable **ret);
void stable_free(struct stable *s);
/*
 * A new record without sharers. -EEXIST when the identity is there: then *ret is the record found.
 * -ENOMEM; -EXFULL when HASHTREE_EQUAL_MAX other identities have this fingerprint (which takes
 * somebody who can make fingerprints collide: leave the page alone).
 */
int stable_insert(struct stable *s, uint64_t fingerprint, const struct identity *id, slot_id slot,
		  record_id *ret);
/* Up to max records with this fingerprint. */
size_t stable_find(const struct stable *s, uint64_t fingerprint, record_id *ret, size_t max);
void stable_prefetch(const struct stable *s, uint64_t fingerprint);
/* The record with this fingerprint and identity, or -ENOENT. */
int stable_find_identity(const struct stable *s, uint64_t fingerprint, const struct identity *id,
			 record_id *ret);
/* The pointer is good until the record is freed. */
const struct identity *stable_identity(const struct stable *s, record_id r);
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
