/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/pool.h"

#include <sys/mman.h>

#include "common/units.h"

/* The first mapping, and the step that a mapping grows by besides an eighth of itself. Address
 * space only: memory is taken when an object is first used. */
#define STEP_BYTES KIB(64)
/* The tail that may lie idle, besides a 32nd of what is used, before it is given back. */
#define IDLE_BYTES KIB(16)

/* A hole is a node of a doubly linked list, so that one at the end of the array can be dropped. */
struct hole {
	uint32_t mark;	     /* POOL_HOLE */
	uint32_t prev, next; /* indices, POOL_HOLE at the ends */
};

void pool_init(struct pool *p, uint32_t object_bytes, uint32_t max_objects)
{
	assert(object_bytes % sizeof(uint32_t) == 0 && object_bytes >= sizeof(struct hole));
	assert(max_objects < POOL_HOLE);
	*p = (struct pool){
		.object_bytes = object_bytes,
		.max_objects = max_objects,
		.hole = POOL_HOLE,
	};
}

void pool_done(struct pool *p)
{
	if (p->base)
		(void)munmap(p->base, p->mapped_bytes);
	pool_init(p, p->object_bytes, p->max_objects);
}

int pool_reserve(struct pool *p, uint32_t n)
{
	uint64_t want, bytes;
	void *base;

	if (n <= p->n_holes || n - p->n_holes <= p->capacity - p->n)
		return 0;
	want = (uint64_t)p->n + n - p->n_holes;
	if (want > p->max_objects)
		return -ENOSPC;

	bytes = MAX(want * p->object_bytes, p->mapped_bytes + p->mapped_bytes / 8) + STEP_BYTES;
	bytes = ALIGN_UP(bytes, PAGE_BYTES);
	if (p->base)
		base = mremap(p->base, p->mapped_bytes, bytes, MREMAP_MAYMOVE);
	else
		base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			    0);
	if (base == MAP_FAILED)
		return -ENOMEM;
	/* Huge pages would take memory that nothing uses yet, and gained nothing measurable. The
	 * advice moves with the mapping; a kernel without huge pages refuses it, which is as good. */
	if (!p->base)
		(void)madvise(base, bytes, MADV_NOHUGEPAGE);
	p->base = base;
	p->mapped_bytes = bytes;
	p->capacity = (uint32_t)MIN(bytes / p->object_bytes, p->max_objects);
	return 0;
}

static struct hole *hole_at(const struct pool *p, uint32_t i)
{
	return pool_at(p, i);
}

static void hole_unlink(struct pool *p, uint32_t i)
{
	struct hole *h = hole_at(p, i);

	if (h->prev == POOL_HOLE)
		p->hole = h->next;
	else
		hole_at(p, h->prev)->next = h->next;
	if (h->next != POOL_HOLE)
		hole_at(p, h->next)->prev = h->prev;
	p->n_holes--;
}

uint32_t pool_take(struct pool *p)
{
	uint32_t i = p->hole;

	if (i != POOL_HOLE) {
		hole_unlink(p, i);
		return i;
	}
	assert(p->n < p->capacity);
	i = p->n++;
	hole_at(p, i)->mark = POOL_HOLE;
	p->touched_bytes =
		MAX(p->touched_bytes, ALIGN_UP((uint64_t)p->n * p->object_bytes, PAGE_BYTES));
	return i;
}

void pool_put(struct pool *p, uint32_t i)
{
	*hole_at(p, i) = (struct hole){ .mark = POOL_HOLE, .prev = POOL_HOLE, .next = p->hole };
	if (p->hole != POOL_HOLE)
		hole_at(p, p->hole)->prev = i;
	p->hole = i;
	p->n_holes++;
}

/* Gives the tail back when it is worth a system call. */
static void release_tail(struct pool *p)
{
	uint64_t used = ALIGN_UP((uint64_t)p->n * p->object_bytes, PAGE_BYTES);

	if (p->touched_bytes - used <= used / 32 + IDLE_BYTES)
		return;
	/* Should the kernel refuse, the memory stays ours and stays counted. */
	if (madvise(p->base + used, p->touched_bytes - used, MADV_DONTNEED) == 0)
		p->touched_bytes = used;
}

bool pool_compact(struct pool *p, uint32_t *ret_from, uint32_t *ret_to)
{
	uint32_t to;

	while (p->n > 0 && pool_is_hole(p, p->n - 1)) {
		hole_unlink(p, p->n - 1);
		p->n--;
	}
	release_tail(p);
	if (!pool_is_sparse(p))
		return false;
	/* Every hole left is below the last object, which is live. */
	to = p->hole;
	hole_unlink(p, to);
	p->n--;
	memcpy(pool_at(p, to), pool_at(p, p->n), p->object_bytes);
	*ret_from = p->n;
	*ret_to = to;
	return true;
}

uint64_t pool_bytes(const struct pool *p)
{
	return p->touched_bytes;
}
