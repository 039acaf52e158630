/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Comparing pages that have the same fingerprint, byte by byte, and naming those that are equal.
 *
 * The pages are copied first, so a guest may write between our look and the merge: what is
 * found equal here is proven a duplicate, not frozen. The engine compares again.
 *
 * Thread: any; everything is in the arguments.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/fingerprint.h"
#include "common/units.h"
#include "daemon/process.h"

struct pair {
	const struct process *process, *twin_process;
	hva at, twin_at;
	/* Results. */
	struct identity identity; /* of the page, when equal */
	bool equal;
};

/* Fills in the results; pages that cannot be read are not equal. copies is NULL or has room for n
 * pages: the first page of each pair, as it was compared. 0 or -ENOMEM. */
int pair_compare(const struct domain_key *key, struct pair *pairs, uint32_t n, void *copies);
