/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/range-set.h"

#include "common/util.h"

void range_set_done(struct range_set *s)
{
	free(s->ranges);
	*s = (struct range_set){ 0 };
}

void range_set_clear(struct range_set *s)
{
	s->n = 0;
}

int range_set_copy(struct range_set *to, const struct range_set *from)
{
	struct range *ranges = calloc(MAX(from->n, (size_t)1), sizeof(*ranges));

	if (!ranges)
		return -ENOMEM;
	if (from->n)
		memcpy(ranges, from->ranges, from->n * sizeof(*ranges));
	free(to->ranges);
	*to = (struct range_set){ ranges, from->n };
	return 0;
}

/* The first range that ends at addr or behind it. */
static size_t first_ending_from(const struct range_set *s, uint64_t addr)
{
	size_t low = 0, high = s->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (s->ranges[mid].end < addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

bool range_set_contains(const struct range_set *s, uint64_t start, uint64_t end)
{
	size_t i;

	if (start >= end)
		return true;
	i = first_ending_from(s, end);
	return i < s->n && s->ranges[i].start <= start;
}

/* Puts n_new ranges in place of [first, last). */
static int replace(struct range_set *s, size_t first, size_t last, const struct range *new,
		   size_t n_new)
{
	size_t n = s->n - (last - first) + n_new;

	if (n > RANGE_SET_MAX)
		return -ENOSPC;
	if (n > s->n) {
		struct range *grown = reallocarray(s->ranges, n, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		s->ranges = grown;
	}
	if (s->n > last)
		memmove(&s->ranges[first + n_new], &s->ranges[last],
			(s->n - last) * sizeof(*s->ranges));
	for (size_t i = 0; i < n_new; i++)
		s->ranges[first + i] = new[i];
	s->n = n;
	return 0;
}

int range_set_add(struct range_set *s, uint64_t start, uint64_t end)
{
	struct range joined = { start, end };
	size_t first = first_ending_from(s, start), last = first;

	if (start >= end)
		return 0;
	/* Touching neighbours are joined, too. */
	for (; last < s->n && s->ranges[last].start <= end; last++) {
		joined.start = MIN(joined.start, s->ranges[last].start);
		joined.end = MAX(joined.end, s->ranges[last].end);
	}
	return replace(s, first, last, &joined, 1);
}

int range_set_remove(struct range_set *s, uint64_t start, uint64_t end)
{
	size_t first = first_ending_from(s, start), last, n = 0;
	struct range left[2];

	if (start >= end)
		return 0;
	/* One that only touches start is not concerned. */
	if (first < s->n && s->ranges[first].end == start)
		first++;
	for (last = first; last < s->n && s->ranges[last].start < end; last++)
		;
	if (first == last)
		return 0;
	if (s->ranges[first].start < start)
		left[n++] = (struct range){ s->ranges[first].start, start };
	if (s->ranges[last - 1].end > end)
		left[n++] = (struct range){ end, s->ranges[last - 1].end };
	return replace(s, first, last, left, n);
}
