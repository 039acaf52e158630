/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/slot-map.h"

#include "common/util.h"

#define WORD_BITS 64U

struct slot_map {
	uint64_t n; /* slots */
	uint64_t used;
	uint64_t lowest; /* no slot below is free */
	uint64_t cursor; /* where runs are looked for */
	uint64_t *bits;	 /* set = used; those behind n are set, too */
};

static uint64_t words_of(uint64_t n_slots)
{
	return DIV_ROUND_UP(n_slots, WORD_BITS);
}

int slot_map_new(uint64_t n_slots, struct slot_map **ret)
{
	struct slot_map *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return -ENOMEM;
	r = slot_map_grow(m, n_slots);
	if (r < 0)
		slot_map_free(m);
	else
		*ret = m;
	return r;
}

void slot_map_free(struct slot_map *m)
{
	if (!m)
		return;
	free(m->bits);
	free(m);
}

int slot_map_grow(struct slot_map *m, uint64_t n_slots)
{
	uint64_t old_n = m->n, old_words = words_of(old_n), words = words_of(n_slots);
	uint64_t *bits;

	if (n_slots < old_n)
		return -EINVAL;
	if (n_slots > SLOT_MAP_MAX)
		return -E2BIG;
	bits = realloc(m->bits, MAX(words, 1U) * sizeof(*bits));
	if (!bits)
		return -ENOMEM;
	m->bits = bits;
	memset(bits + old_words, 0xff, (words - old_words) * sizeof(*bits));
	m->n = n_slots;
	m->used += n_slots - old_n; /* as their bits say; now they are set free */
	slot_map_set(m, SLOT_ID(old_n), n_slots - old_n, false);
	return 0;
}

uint64_t slot_map_size(const struct slot_map *m)
{
	return m->n;
}

uint64_t slot_map_used(const struct slot_map *m)
{
	return m->used;
}

uint64_t slot_map_bytes(const struct slot_map *m)
{
	return sizeof(*m) + words_of(m->n) * sizeof(*m->bits);
}

static bool bit_get(const struct slot_map *m, uint64_t i)
{
	return m->bits[i / WORD_BITS] >> (i % WORD_BITS) & 1;
}

bool slot_map_is_used(const struct slot_map *m, slot_id s)
{
	return s.n < m->n && bit_get(m, s.n);
}

/* The first slot in [from, end) whose bit is `used`, or end. */
static uint64_t find_bit(const struct slot_map *m, uint64_t from, uint64_t end, bool used)
{
	while (from < end) {
		uint64_t word = m->bits[from / WORD_BITS];
		uint64_t wanted = (used ? word : ~word) >> (from % WORD_BITS);

		if (wanted)
			return MIN(from + (unsigned)__builtin_ctzll(wanted), end);
		from = (from / WORD_BITS + 1) * WORD_BITS;
	}
	return end;
}

void slot_map_set(struct slot_map *m, slot_id first, uint64_t n_pages, bool used)
{
	uint64_t i = first.n, end = MIN(first.n + n_pages, m->n);

	if (i < end && !used)
		m->lowest = MIN(m->lowest, i);
	while (i < end) {
		uint64_t low = i % WORD_BITS, n = MIN(WORD_BITS - low, end - i);
		uint64_t mask = (n == WORD_BITS ? UINT64_MAX : (UINT64_C(1) << n) - 1) << low;
		uint64_t *word = &m->bits[i / WORD_BITS];
		uint64_t before = (unsigned)__builtin_popcountll(*word & mask);

		*word = used ? *word | mask : *word & ~mask;
		m->used = m->used - before + (used ? n : 0);
		i += n;
	}
}

uint64_t slot_map_next_run(const struct slot_map *m, uint64_t from, uint64_t end, bool used,
			   slot_id *ret_first)
{
	uint64_t start;

	end = MIN(end, m->n);
	start = find_bit(m, from, end, used);
	if (start >= end)
		return 0;
	*ret_first = SLOT_ID(start);
	return find_bit(m, start, end, !used) - start;
}

struct extent {
	uint64_t start, n;
};

/* The first stretch of `wanted` free slots that starts in [from, to), or the longest there. */
static struct extent find_extent(const struct slot_map *m, uint64_t from, uint64_t to,
				 uint64_t limit, uint64_t wanted)
{
	struct extent best = {0};

	while (best.n < wanted) {
		uint64_t start = find_bit(m, from, to, false), n;

		if (start >= to)
			break;
		n = find_bit(m, start, MIN(start + wanted, limit), true) - start;
		if (n > best.n)
			best = (struct extent){start, n};
		from = start + n;
	}
	return best;
}

static struct extent find_behind(const struct slot_map *m, slot_id after, uint64_t limit,
				 uint64_t wanted)
{
	uint64_t start = (uint64_t)after.n + 1;

	if (slot_id_is_none(after) || start >= limit)
		return (struct extent){0};
	return (struct extent){start, find_bit(m, start, MIN(start + wanted, limit), true) - start};
}

static struct extent find_anywhere(const struct slot_map *m, uint64_t limit, uint64_t wanted)
{
	uint64_t cursor = MIN(m->cursor, limit);
	struct extent e = find_extent(m, cursor, limit, limit, wanted), below;

	if (e.n == wanted)
		return e;
	below = find_extent(m, MIN(m->lowest, cursor), cursor, limit, wanted);
	return below.n > e.n ? below : e;
}

int64_t slot_map_take(struct slot_map *m, uint32_t n_pages, slot_id after, uint64_t limit,
		      slot_id *ret_first)
{
	struct extent e;

	limit = MIN(limit, m->n);
	m->lowest = find_bit(m, m->lowest, m->n, false);
	e = find_behind(m, after, limit, n_pages);
	if (e.n < n_pages && n_pages == 1)
		e = find_extent(m, m->lowest, limit, limit, 1);
	else if (e.n < n_pages)
		e = find_anywhere(m, limit, n_pages);
	if (e.n == 0)
		return -ENOSPC;
	if (n_pages > 1)
		m->cursor = e.start + e.n;
	slot_map_set(m, SLOT_ID(e.start), e.n, true);
	*ret_first = SLOT_ID(e.start);
	return (int64_t)e.n;
}
