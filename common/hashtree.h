/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hash tree: a multimap from uniformly distributed 64-bit keys to 32-bit values, made for
 * hundreds of millions of entries at few bytes each (9 to 10 with the tree around them).
 *
 * A trie over the high bits of the key. Interior nodes are at most one cache line; leaves are
 * small unsorted buckets that grow by cache lines and split when full, so nothing is ever
 * rebalanced and a look-up costs one or two cache misses. A value can stand under one key
 * only once. The upper 32 bits of a key are not kept in the leaf: whoever owns the
 * value knows them (see hashtree_key_fn), which is what makes an entry 8 bytes.
 *
 * Entries with equal keys are bounded (HASHTREE_EQUAL_MAX): a guest that fills its memory with
 * one pattern must not make a list to be walked. So are entries whose keys are equal in the
 * upper half only (HASHTREE_HIGH_MAX), which the trie cannot tell apart; with uniform keys that
 * bound is out of reach even with every 32-bit value in the tree.
 *
 * Memory follows the number of entries both ways. Without uniform keys (a hash that somebody
 * can predict) the bounds hold, and the cost of an entry stays below 64 bytes.
 *
 * Not thread safe: one owner.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct hashtree;

#define HASHTREE_EQUAL_MAX 16U
#define HASHTREE_HIGH_MAX  32U

/*
 * Gives back the upper 32 bits of the key that this value was inserted with. Any call that
 * changes the tree may ask this for any value in it (leaves split, and objects move): so
 * the owner writes the upper half down before it inserts, and keeps it until it has removed. It
 * is asked for values in the tree only. Must not call the tree.
 */
typedef uint32_t hashtree_key_fn(uint32_t value, void *userdata);

int hashtree_new(hashtree_key_fn *key_of, void *userdata, struct hashtree **ret);
void hashtree_free(struct hashtree *t);
/* 0; -EEXIST when (key, value) is there; -EXFULL when HASHTREE_EQUAL_MAX have this key or
 * HASHTREE_HIGH_MAX its upper half; -ENOMEM; -EINVAL for UINT32_MAX, which is no value. After
 * an error the tree holds what it held. */
int hashtree_insert(struct hashtree *t, uint64_t key, uint32_t value);
/* 0, or -ENOENT when value is not there under this key. */
int hashtree_remove(struct hashtree *t, uint64_t key, uint32_t value);
/* The same, knowing only the upper half of the key; of several entries any one goes. */
int hashtree_remove_high(struct hashtree *t, uint32_t key_high, uint32_t value);
/* Writes up to max values with exactly this key; returns how many there were written. */
size_t hashtree_find(const struct hashtree *t, uint64_t key, uint32_t *ret_values, size_t max);
/* Has the processor fetch what a look-up of this key will touch: a few look-ups ahead is best. */
void hashtree_prefetch(const struct hashtree *t, uint64_t key);
uint64_t hashtree_count(const struct hashtree *t);
/* Everything that the tree holds, allocator overhead included. */
uint64_t hashtree_bytes(const struct hashtree *t);
/* Calls fn for each value in no order; the tree may not be changed meanwhile. */
void hashtree_foreach(const struct hashtree *t, void (*fn)(uint32_t value, void *userdata),
		      void *userdata);
