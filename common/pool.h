/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pool: an array of equal small objects that others refer to by 32-bit index, kept dense.
 *
 * Memory is one private mapping that grows in place or moves (mremap: page tables are moved,
 * not bytes), so an index becomes an address by one multiplication, and the memory behind it
 * counts only as far as it was touched. Objects that were put back leave holes, which are used
 * first. When the holes become more than a 32nd, pool_compact() moves the last object into one,
 * and the tail goes back to the kernel: memory follows the number of objects both ways.
 *
 * pool_reserve() may move the mapping: every address from pool_at() is void after it. Nothing
 * else moves objects but pool_compact().
 *
 * The first word of an object says whether it is a hole (POOL_HOLE): a live object must never
 * hold that value there, and pool_take() gives memory whose first word still does.
 *
 * Embedded; one owner; not thread safe.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/util.h"

#define POOL_HOLE UINT32_MAX

struct pool {
	uint8_t *base;
	uint32_t object_bytes; /* a multiple of four, at least 12 */
	uint32_t max_objects;
	uint32_t n;	   /* objects and holes */
	uint32_t capacity; /* objects that fit in the mapping */
	uint32_t n_holes;
	uint32_t hole; /* head of the list of holes, POOL_HOLE at its end */
	uint64_t mapped_bytes;
	uint64_t touched_bytes; /* from the start of the mapping, whole pages */
};

/* Indices stay below max_objects. */
void pool_init(struct pool *p, uint32_t object_bytes, uint32_t max_objects);
void pool_done(struct pool *p);
/* Room for n more objects: after this, n pool_take() cannot fail. 0, -ENOMEM, or -ENOSPC. */
int pool_reserve(struct pool *p, uint32_t n);
uint32_t pool_take(struct pool *p);
void pool_put(struct pool *p, uint32_t i);
/* Memory in use, in whole pages. */
uint64_t pool_bytes(const struct pool *p);

/* Enough holes to be worth a move. */
static inline bool pool_is_sparse(const struct pool *p)
{
	return p->n_holes > p->n / 32 + 8;
}

/* Of a sparse pool: true when an object was moved from one index to another (the caller lets
 * those who refer to it know), false when cutting the tail was enough. */
bool pool_compact(struct pool *p, uint32_t *ret_from, uint32_t *ret_to);

static inline void *pool_at(const struct pool *p, uint32_t i)
{
	return p->base + (uint64_t)i * p->object_bytes;
}

static inline bool pool_is_hole(const struct pool *p, uint32_t i)
{
	return *(const uint32_t *)pool_at(p, i) == POOL_HOLE;
}
