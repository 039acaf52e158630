/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Page frames that were counted: never, once, or more often. Two bits for each frame up to the highest, of
 * which memory takes only what is near frames that were counted: a few MiB for a host of 100 GiB.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct frames {
	uint64_t n;
	_Atomic uint64_t *once, *again; /* a bit for each */
	_Atomic uint64_t n_shared;	/* frames that were counted more than once */
};

/* For page frame numbers below n. -ENOMEM. */
int frames_init(struct frames *f, uint64_t n);
/* Also one that is all zeros. */
void frames_done(struct frames *f);
/* Any thread, several at once. */
void frames_count(struct frames *f, uint64_t pfn);
/* Was it counted more than once? False for those from n on. */
bool frames_is_shared(const struct frames *f, uint64_t pfn);
