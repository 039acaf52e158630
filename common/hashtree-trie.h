/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The parts of a hash tree: references, nodes, lines, and the way down. For hashtree.c, which
 * says how they work together.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/hashtree-sse2.h"
#include "common/hashtree.h"
#include "common/pool.h"

#define LINE_ENTRIES 8U
#define LEAF_ENTRIES 32U
#define EMPTY	     POOL_HOLE

#define LEVEL_BITS 4U
#define LEVELS	   (32 / LEVEL_BITS)
#define ROOT_SLOTS (1U << LEVEL_BITS)

enum kind {
	KIND_NONE,
	KIND_LEAF1, /* leaves: the number of lines */
	KIND_LEAF4 = KIND_LEAF1 + 3,
	KIND_NODE4, /* nodes: KIND_NODE_BASE and the number of bits */
	KIND_NODE16 = KIND_NODE4 + 2,
	KIND_MAX,
};
#define KIND_BITS      3U
#define KIND_NODE_BASE (KIND_NODE4 - 2U)

/* No reference may look like a hole of a pool, which UINT32_MAX would. */
#define INDEX_MAX ((UINT32_C(1) << (32 - KIND_BITS)) - 2)

/* Values first: the first word of a live leaf is never EMPTY. */
struct line {
	uint32_t value[LINE_ENTRIES];
	uint32_t low[LINE_ENTRIES];
};

struct hashtree {
	uint32_t root[ROOT_SLOTS];
	struct pool pools[KIND_MAX]; /* KIND_NONE is not used */
	uint64_t count;
	bool untidy; /* some pool became sparse */
	hashtree_key_fn *key_of;
	void *userdata;
};

/* A slot on the way down. */
struct step {
	uint32_t *slots;
	unsigned bits; /* 1 << bits slots */
	unsigned index;
};

/* The way from the root to the slot of a leaf. Void after reserve(). */
struct path {
	struct step steps[LEVELS];
	unsigned last;
};

/* Neighbouring slots with the same reference: first is a multiple of n, a power of two. */
struct block {
	unsigned first, n;
};

/* --- references ------------------------------------------------------------- */

static inline enum kind ref_kind(uint32_t ref)
{
	return (enum kind)(ref & ((1U << KIND_BITS) - 1));
}

static inline void *ref_at(const struct hashtree *t, uint32_t ref)
{
	return pool_at(&t->pools[ref_kind(ref)], ref >> KIND_BITS);
}

static inline uint32_t ref_make(enum kind k, uint32_t index)
{
	return index << KIND_BITS | k;
}

static inline uint32_t ref_take(struct hashtree *t, enum kind k)
{
	return ref_make(k, pool_take(&t->pools[k]));
}

static inline void ref_put(struct hashtree *t, uint32_t ref)
{
	struct pool *p = &t->pools[ref_kind(ref)];

	if (ref_kind(ref) == KIND_NONE)
		return;
	pool_put(p, ref >> KIND_BITS);
	if (pool_is_sparse(p))
		t->untidy = true;
}

/* --- nodes ------------------------------------------------------------------ */

static inline bool is_node(uint32_t ref)
{
	return ref_kind(ref) >= KIND_NODE4;
}

/* Goes down to the reference that is no node, or to stop_at if that is on the way. */
static inline uint32_t walk_to(const struct hashtree *t, uint32_t high, uint32_t stop_at,
			       struct path *p)
{
	uint32_t *slots = (uint32_t *)t->root;
	unsigned bits = LEVEL_BITS;

	for (p->last = 0;; p->last++) {
		unsigned index = high >> (32 - bits);
		uint32_t ref = slots[index];

		p->steps[p->last] = (struct step){ slots, bits, index };
		if (!is_node(ref) || ref == stop_at)
			return ref;
		slots = ref_at(t, ref);
		bits = ref_kind(ref) - KIND_NODE_BASE;
		high <<= LEVEL_BITS;
	}
}

/* Goes down to a leaf, or nothing. */
static inline uint32_t walk(const struct hashtree *t, uint32_t high, struct path *p)
{
	return walk_to(t, high, KIND_NONE, p);
}

static inline bool all_equal(const uint32_t *slots, unsigned n, uint32_t ref)
{
	for (unsigned i = 0; i < n; i++)
		if (slots[i] != ref)
			return false;
	return true;
}

static inline struct block block_of(const struct step *s)
{
	struct block b = { s->index, 1 };

	while (b.n < 1U << s->bits &&
	       all_equal(s->slots + (b.first ^ b.n), b.n, s->slots[s->index])) {
		b.first &= ~b.n;
		b.n *= 2;
	}
	return b;
}

static inline void block_fill(const struct step *s, struct block b, uint32_t ref)
{
	for (unsigned i = 0; i < b.n; i++)
		s->slots[b.first + i] = ref;
}

/* --- leaves ----------------------------------------------------------------- */

static inline unsigned leaf_lines(uint32_t leaf)
{
	return ref_kind(leaf);
}

static inline unsigned leaf_capacity(uint32_t leaf)
{
	return leaf_lines(leaf) * LINE_ENTRIES;
}

static inline const struct line *leaf_line(const struct hashtree *t, uint32_t leaf, unsigned i)
{
	return (const struct line *)ref_at(t, leaf) + i;
}

/* Bit i is set where entry i has this low half; also behind the last entry. */
static inline uint32_t leaf_match_low(const struct hashtree *t, uint32_t leaf, uint32_t low)
{
	uint32_t mask = 0;

	for (unsigned i = 0; i < leaf_lines(leaf); i++)
		mask |= words_match(leaf_line(t, leaf, i)->low, low) << i * LINE_ENTRIES;
	return mask;
}

static inline uint32_t leaf_match_value(const struct hashtree *t, uint32_t leaf, uint32_t value)
{
	uint32_t mask = 0;

	for (unsigned i = 0; i < leaf_lines(leaf); i++)
		mask |= words_match(leaf_line(t, leaf, i)->value, value) << i * LINE_ENTRIES;
	return mask;
}

static inline unsigned leaf_count(const struct hashtree *t, uint32_t leaf)
{
	uint64_t empty = leaf_match_value(t, leaf, EMPTY);

	return (unsigned)__builtin_ctzll(empty | UINT64_C(1) << leaf_capacity(leaf));
}

static inline uint32_t *entry_low(struct line *lines, unsigned i)
{
	return &lines[i / LINE_ENTRIES].low[i % LINE_ENTRIES];
}

static inline uint32_t *entry_value(struct line *lines, unsigned i)
{
	return &lines[i / LINE_ENTRIES].value[i % LINE_ENTRIES];
}

static inline void entry_set(struct line *lines, unsigned i, uint32_t low, uint32_t value)
{
	*entry_low(lines, i) = low;
	*entry_value(lines, i) = value;
}

static inline void entry_copy(struct line *to, unsigned i, struct line *from, unsigned j)
{
	entry_set(to, i, *entry_low(from, j), *entry_value(from, j));
}
