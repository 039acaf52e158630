/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Four bits of the key choose among the 16 slots of a node, the next four bits among those of
 * the node below, down to a leaf; after eight levels the upper half of the key is used up. A
 * slot holds a reference (ref): three bits of kind, 29 bits of index into the pool of that kind.
 *
 *   NONE            nothing has these bits
 *   LEAF1..LEAF4    a bucket of 1 to 4 cache lines, 8 entries each
 *   NODE4..NODE16   a node with 4, 8 or 16 slots
 *
 * Inside a node we do extendible hashing, or a full leaf would become 16 nearly empty ones: a
 * leaf stands under an aligned block of 1, 2, 4, 8 or 16 neighbouring slots, and splits into two
 * with half the block each. A node starts with 4 slots, which look at the first two of its four
 * bits only, and doubles when a leaf with a block of one slot must split. Only when a leaf of a
 * NODE16 has a block of one slot does a node grow below it. So every reference to a node is
 * unique, and sits in a NODE16. The root is a NODE16 inside struct hashtree.
 *
 * Entries of a leaf are packed from its start, in no order, with EMPTY values behind them. An
 * entry is the low half of the key and the value. The upper half is asked for (key_of) where a
 * low half matched, which is nearly always right, and for all 32 entries of a leaf that splits;
 * those cache misses overlap.
 *
 * Removals undo all this: leaves give lines back, neighbours with few entries become one leaf,
 * a node whose slots all hold one leaf gives way to it, and a node whose pairs of slots are
 * equal is halved. The thresholds lie apart, so that no sequence of inserts and removals
 * makes the same thing over and over. Invariant: below each node there is at least one entry.
 *
 * Memory: seven pools (common/pool.h). Uniform keys fill all leaves at about the same time, so
 * the mix of sizes changes in waves as the tree grows; pools that merely kept free lists would hold
 * the sum of all peaks. They stay dense because the last object is moved into a hole; its
 * reference is found again by the key of any entry below it.
 *
 * Room for all that one step can need is reserved before the step changes anything, so no step
 * can fail half-way. Reserving may move a pool: addresses are void after it, and we walk again.
 */
#include "common/hashtree.h"

#include "common/fault.h"
#include "common/hashtree-trie.h"
#include "common/pool.h"
#include "common/util.h"

/* Neighbours become one leaf when both together have this many: less than a full leaf, so that
 * it doesn't split again soon; more than half of one, or leaves would be small after removals. */
#define MERGE_ENTRIES 24U
/* How often, in removals, a leaf looks at its neighbour (a cache miss). */
#define MERGE_INTERVAL 4U
/* Entries that must be missing from the line before, for the last line to be given back. */
#define SHRINK_SLACK 2U

/* Room for one step of an insert or removal: at most two leaves and a node. */
static int reserve(struct hashtree *t)
{
	int r = FAULT_ERRNO("hashtree-alloc");

	for (unsigned k = KIND_LEAF1; k < KIND_MAX && r == 0; k++)
		r = pool_reserve(&t->pools[k], 2);
	return r < 0 ? -ENOMEM : 0;
}

/* Exchanges the node of the path's last step for one with twice or half as many slots. */
static void node_resize(struct hashtree *t, struct path *p, unsigned bits)
{
	struct step *s = &p->steps[p->last], *up = s - 1;
	uint32_t ref = ref_take(t, (enum kind)(KIND_NODE_BASE + bits));
	uint32_t *slots = ref_at(t, ref);

	for (unsigned i = 0; i < 1U << bits; i++)
		slots[i] = s->slots[i << s->bits >> bits];
	s->index = s->index << bits >> s->bits;
	s->bits = bits;
	s->slots = slots;
	ref_put(t, up->slots[up->index]);
	up->slots[up->index] = ref;
}

/* --- leaves ----------------------------------------------------------------- */

static unsigned lines_for(unsigned n_entries)
{
	return DIV_ROUND_UP(n_entries, LINE_ENTRIES);
}

/* A leaf without entries: the caller adds one before anything else happens. */
static uint32_t leaf_take(struct hashtree *t, unsigned n_lines)
{
	uint32_t leaf = ref_take(t, (enum kind)n_lines);
	struct line *lines = ref_at(t, leaf);

	for (unsigned i = 0; i < n_lines; i++)
		memset(lines[i].value, 0xff, sizeof(lines[i].value));
	return leaf;
}

/* Exchanges the leaf of the path's last step, or nothing, for a leaf of other size. */
static void leaf_resize(struct hashtree *t, const struct path *p, unsigned n_lines)
{
	const struct step *s = &p->steps[p->last];
	uint32_t old = s->slots[s->index], new = leaf_take(t, n_lines);
	struct line *lines = ref_at(t, new);

	for (unsigned i = 0; i < MIN(n_lines, leaf_lines(old)); i++)
		lines[i] = *leaf_line(t, old, i);
	block_fill(s, block_of(s), new);
	ref_put(t, old);
}

/* Copies the entries of a full leaf with this bit of their key to a leaf of their own: the old
 * one where that is all of them, none where there are none. */
static uint32_t leaf_half(struct hashtree *t, uint32_t old, const uint32_t *highs, unsigned bit,
			  unsigned value)
{
	struct line *lines;
	unsigned n = 0;
	uint32_t half;

	for (unsigned i = 0; i < LEAF_ENTRIES; i++)
		n += (highs[i] >> bit & 1) == value;
	if (n == 0 || n == LEAF_ENTRIES)
		return n == 0 ? KIND_NONE : old;

	half = leaf_take(t, lines_for(n));
	lines = ref_at(t, half);
	n = 0;
	for (unsigned i = 0; i < LEAF_ENTRIES; i++)
		if ((highs[i] >> bit & 1) == value)
			entry_copy(lines, n++, ref_at(t, old), i);
	return half;
}

/* Halves the block of a full leaf. -EXFULL when no split could make room for the new key. */
static int leaf_split(struct hashtree *t, struct path *p, uint32_t high)
{
	struct step *s = &p->steps[p->last];
	uint32_t old = s->slots[s->index], highs[LEAF_ENTRIES], differ = 0, halves[2], child;
	struct line *lines = ref_at(t, old);
	struct block b = block_of(s);
	unsigned bit;

	for (unsigned i = 0; i < LEAF_ENTRIES; i++) {
		highs[i] = t->key_of(*entry_value(lines, i), t->userdata);
		differ |= highs[i] ^ high;
	}
	if (differ == 0)
		return -EXFULL;

	/* The first bit that this block doesn't tell apart; there is one, as keys differ. */
	assert(p->last < LEVELS - 1 || s->bits < LEVEL_BITS || b.n > 1);
	bit = 31 - (p->last * LEVEL_BITS + s->bits) + (unsigned)__builtin_ctz(b.n);
	halves[0] = leaf_half(t, old, highs, bit, 0);
	halves[1] = leaf_half(t, old, highs, bit, 1);
	if (halves[0] != old && halves[1] != old)
		ref_put(t, old);

	if (b.n == 1 && s->bits < LEVEL_BITS) {
		node_resize(t, p, s->bits + 1);
		b = (struct block){ s->index, 2 };
	} else if (b.n == 1) {
		child = ref_take(t, KIND_NODE4);
		s->slots[s->index] = child;
		p->last++;
		*++s = (struct step){ ref_at(t, child), 2, 0 };
		b = (struct block){ 0, 4 };
	}
	block_fill(s, (struct block){ b.first, b.n / 2 }, halves[0]);
	block_fill(s, (struct block){ b.first + b.n / 2, b.n / 2 }, halves[1]);
	return 0;
}

/* --- keeping memory dense ----------------------------------------------------- */

/* An object moved in its pool: whatever is below it knows the way to its reference. */
static void object_moved(struct hashtree *t, uint32_t from, uint32_t to)
{
	uint32_t below = to, high, found;
	const struct step *s;
	struct path p;

	while (is_node(below)) {
		const uint32_t *slots = ref_at(t, below);

		/* Not all slots are NONE: there is an entry below each node. */
		while (*slots == KIND_NONE)
			slots++;
		below = *slots;
	}
	high = t->key_of(*entry_value(ref_at(t, below), 0), t->userdata);
	found = walk_to(t, high, from, &p);
	assert(found == from);
	(void)found;
	s = &p.steps[p.last];
	block_fill(s, block_of(s), to);
}

static void tidy(struct hashtree *t)
{
	uint32_t from, to;

	if (!t->untidy)
		return;
	for (unsigned k = KIND_LEAF1; k < KIND_MAX; k++)
		while (pool_is_sparse(&t->pools[k]) && pool_compact(&t->pools[k], &from, &to))
			object_moved(t, ref_make(k, from), ref_make(k, to));
	t->untidy = false;
}

/* --- insert ----------------------------------------------------------------- */

/* Makes room for one more entry under this key, in as many calls as that takes. */
static int make_room(struct hashtree *t, uint32_t high)
{
	struct path p;
	uint32_t leaf;
	int r = reserve(t);

	if (r < 0)
		return r;
	leaf = walk(t, high, &p);
	if (leaf_lines(leaf) == LEAF_ENTRIES / LINE_ENTRIES)
		return leaf_split(t, &p, high);
	leaf_resize(t, &p, leaf_lines(leaf) + 1);
	return 0;
}

/* 0, or why the entry may not be in this leaf of n. */
static int leaf_check(const struct hashtree *t, uint32_t leaf, unsigned n, uint64_t key,
		      uint32_t value)
{
	unsigned n_equal = 0;

	for (uint32_t m = leaf_match_low(t, leaf, (uint32_t)key); m != 0; m &= m - 1) {
		unsigned i = (unsigned)__builtin_ctz(m);
		uint32_t other;

		if (i >= n)
			break;
		other = *entry_value(ref_at(t, leaf), i);
		if (other == value)
			return -EEXIST;
		n_equal += t->key_of(other, t->userdata) == (uint32_t)(key >> 32);
	}
	return n_equal < HASHTREE_EQUAL_MAX ? 0 : -EXFULL;
}

int hashtree_insert(struct hashtree *t, uint64_t key, uint32_t value)
{
	uint32_t high = (uint32_t)(key >> 32);

	if (value == EMPTY)
		return -EINVAL;
	tidy(t);
	for (;;) {
		struct path p;
		uint32_t leaf = walk(t, high, &p);
		unsigned n = leaf_count(t, leaf);
		int r = leaf_check(t, leaf, n, key, value);

		if (r < 0)
			return r;
		if (n < leaf_capacity(leaf)) {
			entry_set(ref_at(t, leaf), n, (uint32_t)key, value);
			t->count++;
			return 0;
		}
		r = make_room(t, high);
		if (r < 0)
			return r;
	}
}

/* --- remove ----------------------------------------------------------------- */

/* A node with one leaf in all its slots gives way to it. */
static bool node_collapse(struct hashtree *t, struct path *p)
{
	struct step *s = &p->steps[p->last], *up = s - 1;
	uint32_t leaf = s->slots[s->index], node;

	if (p->last == 0 || block_of(s).n != 1U << s->bits)
		return false;
	node = up->slots[up->index];
	up->slots[up->index] = leaf;
	ref_put(t, node);
	p->last--;
	return true;
}

static bool node_halve(struct hashtree *t, struct path *p)
{
	const struct step *s = &p->steps[p->last];

	if (p->last == 0 || s->bits == 2)
		return false;
	for (unsigned i = 0; i < 1U << s->bits; i += 2)
		if (s->slots[i] != s->slots[i + 1])
			return false;
	node_resize(t, p, s->bits - 1);
	return true;
}

/* Two leaves that came from a split become one. */
static bool leaf_merge(struct hashtree *t, const struct path *p, bool have_room)
{
	const struct step *s = &p->steps[p->last];
	struct block b = block_of(s), buddy = { b.first ^ b.n, b.n };
	uint32_t leaf = s->slots[s->index], other, both;
	unsigned n, m;

	if (b.n == 1U << s->bits)
		return false;
	other = s->slots[buddy.first];
	if (is_node(other) || !all_equal(s->slots + buddy.first, buddy.n, other))
		return false;
	n = leaf_count(t, leaf);
	m = leaf_count(t, other);
	if (n + m > MERGE_ENTRIES || (!have_room && n > 0 && m > 0))
		return false;

	if (n == 0 || m == 0) {
		both = n == 0 ? other : leaf;
	} else {
		both = leaf_take(t, lines_for(n + m));
		for (unsigned i = 0; i < n; i++)
			entry_copy(ref_at(t, both), i, ref_at(t, leaf), i);
		for (unsigned i = 0; i < m; i++)
			entry_copy(ref_at(t, both), n + i, ref_at(t, other), i);
		ref_put(t, leaf);
		ref_put(t, other);
	}
	block_fill(s, (struct block){ MIN(b.first, buddy.first), 2 * b.n }, both);
	return true;
}

/* Gives back what the leaf and its neighbourhood no longer need. Without memory only the steps
 * that need none are taken; those suffice to keep the invariant of nodes. */
static void settle(struct hashtree *t, uint32_t high)
{
	struct path p;
	bool again;

	do {
		bool have_room = reserve(t) == 0;
		uint32_t leaf = walk(t, high, &p);
		unsigned n = leaf_count(t, leaf), lines = leaf_lines(leaf);

		if (lines > 0 && n == 0) {
			const struct step *s = &p.steps[p.last];

			block_fill(s, block_of(s), KIND_NONE);
			ref_put(t, leaf);
		} else if (have_room && lines > 1 &&
			   n + SHRINK_SLACK <= (lines - 1) * LINE_ENTRIES) {
			leaf_resize(t, &p, MAX(lines_for(n), 1U));
		}
		again = node_collapse(t, &p) || leaf_merge(t, &p, have_room) ||
			(have_room && node_halve(t, &p));
	} while (again);
}

/* Takes entry i out of a leaf of n; the last one takes its place. */
static void entry_remove(struct hashtree *t, uint32_t high, uint32_t leaf, unsigned i, unsigned n)
{
	struct line *lines = ref_at(t, leaf);

	entry_copy(lines, i, lines, n - 1);
	entry_set(lines, n - 1, 0, EMPTY);
	t->count--;
	n--;
	if ((n <= MERGE_ENTRIES && n % MERGE_INTERVAL == 0) ||
	    n + SHRINK_SLACK == (leaf_lines(leaf) - 1) * LINE_ENTRIES)
		settle(t, high);
}

static int remove_from(struct hashtree *t, uint32_t high, const uint32_t *low, uint32_t value)
{
	struct path p;
	uint32_t leaf, mask;

	if (value == EMPTY)
		return -ENOENT;
	tidy(t);
	leaf = walk(t, high, &p);
	mask = leaf_match_value(t, leaf, value);
	if (low)
		mask &= leaf_match_low(t, leaf, *low);
	/* A leaf holds values of other upper halves as well. */
	if (mask == 0 || t->key_of(value, t->userdata) != high)
		return -ENOENT;
	entry_remove(t, high, leaf, (unsigned)__builtin_ctz(mask), leaf_count(t, leaf));
	return 0;
}

int hashtree_remove(struct hashtree *t, uint64_t key, uint32_t value)
{
	uint32_t low = (uint32_t)key;

	return remove_from(t, (uint32_t)(key >> 32), &low, value);
}

int hashtree_remove_high(struct hashtree *t, uint32_t key_high, uint32_t value)
{
	return remove_from(t, key_high, NULL, value);
}

/* --- the rest --------------------------------------------------------------- */

size_t hashtree_find(const struct hashtree *t, uint64_t key, uint32_t *ret_values, size_t max)
{
	uint32_t high = (uint32_t)(key >> 32), leaf;
	struct path p;
	size_t n = 0;

	leaf = walk(t, high, &p);
	for (uint32_t m = leaf_match_low(t, leaf, (uint32_t)key); m != 0 && n < max; m &= m - 1) {
		uint32_t value = *entry_value(ref_at(t, leaf), (unsigned)__builtin_ctz(m));

		if (value != EMPTY && t->key_of(value, t->userdata) == high)
			ret_values[n++] = value;
	}
	return n;
}

void hashtree_prefetch(const struct hashtree *t, uint64_t key)
{
	struct path p;
	uint32_t leaf = walk(t, (uint32_t)(key >> 32), &p);

	for (unsigned i = 0; i < leaf_lines(leaf); i++)
		__builtin_prefetch(leaf_line(t, leaf, i));
}

int hashtree_new(hashtree_key_fn *key_of, void *userdata, struct hashtree **ret)
{
	struct hashtree *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->key_of = key_of;
	t->userdata = userdata;
	for (unsigned k = KIND_LEAF1; k <= KIND_LEAF4; k++)
		pool_init(&t->pools[k], k * (uint32_t)sizeof(struct line), INDEX_MAX);
	for (unsigned k = KIND_NODE4; k <= KIND_NODE16; k++)
		pool_init(&t->pools[k], (uint32_t)sizeof(uint32_t) << (k - KIND_NODE_BASE),
			  INDEX_MAX);
	*ret = t;
	return 0;
}

void hashtree_free(struct hashtree *t)
{
	if (!t)
		return;
	for (unsigned k = KIND_LEAF1; k < KIND_MAX; k++)
		pool_done(&t->pools[k]);
	free(t);
}

uint64_t hashtree_count(const struct hashtree *t)
{
	return t->count;
}

uint64_t hashtree_bytes(const struct hashtree *t)
{
	uint64_t bytes = sizeof(*t) + 16; /* with malloc's own */

	for (unsigned k = KIND_LEAF1; k < KIND_MAX; k++)
		bytes += pool_bytes(&t->pools[k]);
	return bytes;
}

void hashtree_foreach(const struct hashtree *t, void (*fn)(uint32_t value, void *userdata),
		      void *userdata)
{
	for (unsigned k = KIND_LEAF1; k <= KIND_LEAF4; k++)
		for (uint32_t i = 0; i < t->pools[k].n; i++) {
			uint32_t leaf = ref_make(k, i);

			if (pool_is_hole(&t->pools[k], i))
				continue;
			for (unsigned j = 0, n = leaf_count(t, leaf); j < n; j++)
				fn(*entry_value(ref_at(t, leaf), j), userdata);
		}
}
