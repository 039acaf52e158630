/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A radix sort, least significant digits first (Knuth, The Art of Computer Programming, 5.2.5). */
#include "daemon/frames.h"

#include <string.h>

#include "common/util.h"

#define DIGIT_BITS 11U
#define DIGITS	   (1U << DIGIT_BITS)

static void sort_by_digit(const struct frame_page *from, struct frame_page *to, size_t n, unsigned shift)
{
	size_t at[DIGITS] = { 0 }, sum = 0;

	for (size_t i = 0; i < n; i++)
		at[from[i].pfn >> shift & (DIGITS - 1)]++;
	for (unsigned d = 0; d < DIGITS; d++) {
		size_t count = at[d];

		at[d] = sum;
		sum += count;
	}
	for (size_t i = 0; i < n; i++)
		to[at[from[i].pfn >> shift & (DIGITS - 1)]++] = from[i];
}

void frames_sort(struct frame_page *v, struct frame_page *scratch, size_t n)
{
	struct frame_page *from = v, *to = scratch;
	uint64_t used = 0;

	for (size_t i = 0; i < n; i++)
		used |= v[i].pfn;
	for (unsigned shift = 0; shift < 64 && used >> shift; shift += DIGIT_BITS) {
		struct frame_page *sorted = to;

		sort_by_digit(from, to, n, shift);
		to = from;
		from = sorted;
	}
	if (from != v)
		memcpy(v, from, n * sizeof(*v));
}
