/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that have the fingerprint of another one, on their way to be shared with it: each is read
 * once more, and copied into the store.
 *
 * Nothing is decided here: a guest may write between our look and the merge, and its twin's may
 * have. Bytes are compared by who merges, while the pages cannot change.
 *
 * Thread: any; everything is in the arguments.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/fingerprint.h"
#include "common/units.h"
#include "daemon/ledger.h"
#include "daemon/process.h"
#include "daemon/store.h"

struct pair {
	page_id page, twin;
	uint64_t fingerprint; /* of both, when they were scanned */
	hva at; /* of the page */
	slot_id slot; /* reserved for it, or SLOT_ID_NONE */
	/* Results. */
	bool same;   /* it still has that fingerprint */
	bool stored; /* its slot holds what it had then */
};

/* Pages read at a time: they stay in the second-level cache until they are hashed and copied. */
#define PAIR_CHUNK_PAGES 64U

/* Says of up to PAIR_CHUNK_PAGES pairs, whose pages are all in this process, whether they are the same; a page
 * that cannot be read is not. copies has room for n pages: each as it was read. */
void pair_read(const struct process *p, const struct fingerprint_seed *seed, struct pair *pairs, uint32_t n,
	       uint8_t *copies);
/* Writes the copies of those that are the same into their slots, if they have one: neighbours in one call. */
void pair_store(const struct store *s, struct pair *pairs, uint32_t n, const uint8_t *copies);
