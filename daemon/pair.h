/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that have the fingerprint of another one, on their way to be shared with it: each is read
 * once more, for the store.
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

struct pair {
	page_id page, twin;
	uint64_t fingerprint; /* of both, when they were scanned */
	hva at; /* of the page */
	/* Result. */
	bool same; /* it still has that fingerprint */
};

/* Fills in the results of n pairs whose pages are all in this process; a page that cannot be read is not
 * the same. copies has room for n pages: each as it was read. */
void pair_read(const struct process *p, const struct fingerprint_seed *seed, struct pair *pairs, uint32_t n,
	       uint8_t *copies);
