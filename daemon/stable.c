/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Records lie in slabs of 1024, which is three pages exactly, and never move: the ledger
 * holds their numbers. A new record goes to the lowest slab with room, so that after many were
 * freed the upper slabs run empty and go back to the kernel; one empty slab is kept, lest a single
 * record come and go with its slab each time.
 */
#include "daemon/stable.h"

#include <sys/mman.h>

#include "common/fault.h"
#include "common/hashtree.h"
#include "common/util.h"

#define SLAB_RECORDS 1024U
/* Record numbers are values of a hash tree: all but UINT32_MAX. */
#define SLABS_MAX (UINT32_MAX / SLAB_RECORDS)

/* In place of the number of sharers; there are fewer pages than this. */
#define NOT_A_RECORD UINT32_MAX
#define LIST_END     UINT16_MAX

struct record {
	slot_id slot;
	uint32_t sharers;
	uint32_t high; /* upper half of the fingerprint; of a free one: next free in the slab */
};

struct slab {
	struct record *records; /* NULL: not allocated, all free */
	uint16_t n_used;
	uint16_t free; /* first free one, LIST_END when full */
};

struct stable {
	struct hashtree *tree; /* record numbers by fingerprint */
	struct slab *slabs;
	uint64_t *roomy; /* a bit for each slab with a free record */
	uint32_t n_slabs, slabs_allocated;
	uint32_t n_mapped;   /* slabs with memory */
	uint32_t n_empty;    /* of these, without records */
	uint32_t roomy_from; /* no word of roomy before this has a bit set */
	uint64_t n_records, n_shared, n_sharers;
};

#define SLAB_BYTES (SLAB_RECORDS * sizeof(struct record))
static_assert(sizeof(struct record) == 12, "a shared page costs 12 bytes and its tree entry");
static_assert(SLAB_BYTES % PAGE_BYTES == 0, "slabs waste nothing");

/* --- records ---------------------------------------------------------------- */

static struct record *record_at(const struct stable *s, uint32_t i)
{
	return &s->slabs[i / SLAB_RECORDS].records[i % SLAB_RECORDS];
}

static struct record *record_live(const struct stable *s, record_id r)
{
	struct record *record;

	assert(r.n / SLAB_RECORDS < s->n_slabs && s->slabs[r.n / SLAB_RECORDS].records);
	record = record_at(s, r.n);
	assert(record->sharers != NOT_A_RECORD);
	return record;
}

static uint32_t record_key_of(uint32_t i, void *userdata)
{
	return record_at(userdata, i)->high;
}

static void set_roomy(struct stable *s, uint32_t i, bool roomy)
{
	uint64_t bit = UINT64_C(1) << i % 64;

	if (!roomy) {
		s->roomy[i / 64] &= ~bit;
		return;
	}
	s->roomy[i / 64] |= bit;
	s->roomy_from = MIN(s->roomy_from, i / 64);
}

/* Room for one more slab in the arrays. */
static int grow_slabs(struct stable *s)
{
	uint32_t n = MIN(MAX(64U, s->slabs_allocated / 4 * 5 / 64 * 64 + 64), SLABS_MAX);
	struct slab *slabs;
	uint64_t *roomy;

	if (s->n_slabs < s->slabs_allocated)
		return 0;
	if (s->n_slabs == SLABS_MAX)
		return -ENOMEM;
	slabs = reallocarray(s->slabs, n, sizeof(*slabs));
	if (!slabs)
		return -ENOMEM;
	s->slabs = slabs;
	roomy = reallocarray(s->roomy, DIV_ROUND_UP(n, 64), sizeof(*roomy));
	if (!roomy)
		return -ENOMEM;
	s->roomy = roomy;
	for (uint32_t i = s->slabs_allocated; i < n; i++)
		s->slabs[i] = (struct slab){ .free = 0 };
	/* What was allocated before is a multiple of 64: whole words are new. */
	for (uint32_t i = s->slabs_allocated / 64; i < DIV_ROUND_UP(n, 64); i++)
		s->roomy[i] = 0;
	s->slabs_allocated = n;
	return 0;
}

static int slab_map(struct stable *s, struct slab *b)
{
	struct record *records =
		mmap(NULL, SLAB_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (records == MAP_FAILED)
		return -ENOMEM;
	/* Neighbouring slabs are one mapping to the kernel, which may not fill it up. */
	(void)madvise(records, SLAB_BYTES, MADV_NOHUGEPAGE);
	for (uint32_t i = 0; i < SLAB_RECORDS; i++)
		records[i] = (struct record){
			.sharers = NOT_A_RECORD,
			.high = i + 1 < SLAB_RECORDS ? i + 1 : LIST_END,
		};
	*b = (struct slab){ .records = records };
	s->n_mapped++;
	s->n_empty++;
	return 0;
}

static void slab_unmap(struct stable *s, struct slab *b)
{
	(void)munmap(b->records, SLAB_BYTES);
	b->records = NULL;
	s->n_mapped--;
	s->n_empty--;
}

/* The lowest slab with a free record, with its memory. */
static int slab_find(struct stable *s, uint32_t *ret)
{
	uint32_t i;
	int r = FAULT_ERRNO("stable-alloc");

	if (r < 0)
		return r;
	while (s->roomy_from < DIV_ROUND_UP(s->n_slabs, 64) && s->roomy[s->roomy_from] == 0)
		s->roomy_from++;
	if (s->roomy_from < DIV_ROUND_UP(s->n_slabs, 64)) {
		i = s->roomy_from * 64 + (uint32_t)__builtin_ctzll(s->roomy[s->roomy_from]);
	} else {
		r = grow_slabs(s);
		if (r < 0)
			return r;
		i = s->n_slabs++;
		set_roomy(s, i, true);
	}
	if (!s->slabs[i].records) {
		r = slab_map(s, &s->slabs[i]);
		if (r < 0)
			return r;
	}
	*ret = i;
	return 0;
}

static int record_take(struct stable *s, uint32_t *ret)
{
	struct slab *b;
	uint32_t i;
	int r = slab_find(s, &i);

	if (r < 0)
		return r;
	b = &s->slabs[i];
	*ret = i * SLAB_RECORDS + b->free;
	b->free = (uint16_t)b->records[b->free].high;
	s->n_empty -= b->n_used++ == 0;
	if (b->free == LIST_END)
		set_roomy(s, i, false);
	s->n_records++;
	return 0;
}

static void record_put(struct stable *s, uint32_t i)
{
	struct slab *b = &s->slabs[i / SLAB_RECORDS];

	*record_at(s, i) = (struct record){ .sharers = NOT_A_RECORD, .high = b->free };
	b->free = (uint16_t)(i % SLAB_RECORDS);
	set_roomy(s, i / SLAB_RECORDS, true);
	s->n_records--;
	if (--b->n_used > 0)
		return;
	if (++s->n_empty > 1)
		slab_unmap(s, b);
}

/* --- the tree --------------------------------------------------------------- */

int stable_new(struct stable **ret)
{
	struct stable *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	r = hashtree_new(record_key_of, s, &s->tree);
	if (r < 0) {
		free(s);
		return r;
	}
	*ret = s;
	return 0;
}

void stable_free(struct stable *s)
{
	if (!s)
		return;
	for (uint32_t i = 0; i < s->n_slabs; i++)
		if (s->slabs[i].records)
			slab_unmap(s, &s->slabs[i]);
	hashtree_free(s->tree);
	free(s->slabs);
	free(s->roomy);
	free(s);
}

bool stable_find(const struct stable *s, uint64_t fingerprint, record_id *ret)
{
	return hashtree_find(s->tree, fingerprint, &ret->n, 1) > 0;
}

void stable_prefetch(const struct stable *s, uint64_t fingerprint)
{
	hashtree_prefetch(s->tree, fingerprint);
}

int stable_insert(struct stable *s, uint64_t fingerprint, slot_id slot, record_id *ret)
{
	uint32_t i;
	int r;

	if (stable_find(s, fingerprint, ret))
		return -EEXIST;
	r = record_take(s, &i);
	if (r < 0)
		return r;
	*record_at(s, i) = (struct record){
		.slot = slot,
		.high = (uint32_t)(fingerprint >> 32),
	};
	r = hashtree_insert(s->tree, fingerprint, i);
	if (r < 0) {
		record_put(s, i);
		return r;
	}
	*ret = RECORD_ID(i);
	return 0;
}

void stable_free_record(struct stable *s, record_id r)
{
	struct record *record = record_live(s, r);
	int e;

	assert(record->sharers == 0);
	e = hashtree_remove_high(s->tree, record->high, r.n);
	assert(e == 0);
	(void)e;
	record_put(s, r.n);
}

slot_id stable_slot(const struct stable *s, record_id r)
{
	return record_live(s, r)->slot;
}

uint32_t stable_sharers(const struct stable *s, record_id r)
{
	return record_live(s, r)->sharers;
}

uint32_t stable_add_sharer(struct stable *s, record_id r)
{
	struct record *record = record_live(s, r);

	assert(record->sharers < NOT_A_RECORD - 1);
	s->n_shared += record->sharers == 0;
	s->n_sharers++;
	return ++record->sharers;
}

uint32_t stable_drop_sharer(struct stable *s, record_id r)
{
	struct record *record = record_live(s, r);

	assert(record->sharers > 0);
	s->n_shared -= record->sharers == 1;
	s->n_sharers--;
	return --record->sharers;
}

uint64_t stable_records(const struct stable *s)
{
	return s->n_records;
}

uint64_t stable_shared(const struct stable *s)
{
	return s->n_shared;
}

uint64_t stable_sharers_total(const struct stable *s)
{
	return s->n_sharers;
}

uint64_t stable_bytes(const struct stable *s)
{
	uint64_t bytes = sizeof(*s) + 3 * 16; /* with malloc's own */

	bytes += s->slabs_allocated * sizeof(*s->slabs);
	bytes += DIV_ROUND_UP(s->slabs_allocated, 64) * sizeof(*s->roomy);
	bytes += s->n_mapped * SLAB_BYTES;
	return bytes + hashtree_bytes(s->tree);
}

void stable_foreach(struct stable *s, void (*fn)(struct stable *s, record_id r, void *userdata),
		    void *userdata)
{
	for (uint32_t i = 0; i < s->n_slabs; i++)
		/* Looked at afresh after each call: the slab goes with its last record. */
		for (uint32_t j = 0; s->slabs[i].records && j < SLAB_RECORDS; j++)
			if (s->slabs[i].records[j].sharers != NOT_A_RECORD)
				fn(s, RECORD_ID(i * SLAB_RECORDS + j), userdata);
}
