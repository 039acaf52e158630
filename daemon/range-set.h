/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A set of addresses as disjoint ranges in order. Neighbours are joined; the number of ranges
 * is bounded. Embedded; one thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RANGE_SET_MAX 4096U

struct range {
	uint64_t start, end;
};

struct range_set {
	struct range *ranges;
	size_t n;
};

/* All zeros is an empty set. */
void range_set_done(struct range_set *s);
void range_set_clear(struct range_set *s);
/* Makes *to equal; -ENOMEM: it is as it was. */
int range_set_copy(struct range_set *to, const struct range_set *from);
/* Whether all of [start, end) is in the set; true for an empty range. */
bool range_set_contains(const struct range_set *s, uint64_t start, uint64_t end);
/* -ENOMEM, or -ENOSPC when there are too many ranges: the set is as it was. */
int range_set_add(struct range_set *s, uint64_t start, uint64_t end);
/* The same errors: taking out the middle of a range leaves two. */
int range_set_remove(struct range_set *s, uint64_t start, uint64_t end);
