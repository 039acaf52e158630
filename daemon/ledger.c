/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/ledger.h"

#include <sys/mman.h>

#include "common/util.h"

/* Ranges of page numbers start at multiples of this, so that both arrays' parts of a removed
 * block can be given back as whole pages of ours. */
#define ID_ALIGN 4096U
#define STATE_BITS 3

struct ledger {
	uint8_t *states;
	uint32_t *words;
	struct ledger_block **blocks; /* sorted by first */
	size_t n_blocks, blocks_size;
	uint64_t n_pages;
};

static void *reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int ledger_new(struct ledger **ret)
{
	struct ledger *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->states = reserve(LEDGER_PAGES_MAX);
	l->words = reserve(LEDGER_PAGES_MAX * sizeof(uint32_t));
	if (!l->states || !l->words) {
		ledger_free(l);
		return -ENOMEM;
	}
	*ret = l;
	return 0;
}

void ledger_free(struct ledger *l)
{
	if (!l)
		return;
	while (l->n_blocks > 0)
		ledger_remove_block(l, l->blocks[l->n_blocks - 1]);
	free(l->blocks);
	if (l->states)
		(void)munmap(l->states, LEDGER_PAGES_MAX);
	if (l->words)
		(void)munmap(l->words, LEDGER_PAGES_MAX * sizeof(uint32_t));
	free(l);
}

/* First gap between the blocks that holds n page numbers; its place in the array too. */
static int find_gap(const struct ledger *l, uint32_t n, uint32_t *ret_first, size_t *ret_index)
{
	uint64_t at = 0;

	for (size_t i = 0; i <= l->n_blocks; i++) {
		uint64_t end = i < l->n_blocks ? l->blocks[i]->first.n : LEDGER_PAGES_MAX;

		if (at + n <= end) {
			*ret_first = (uint32_t)at;
			*ret_index = i;
			return 0;
		}
		if (i < l->n_blocks)
			at = ALIGN_UP((uint64_t)l->blocks[i]->first.n + l->blocks[i]->n_pages,
				      (uint64_t)ID_ALIGN);
	}
	return -ENOSPC;
}

static size_t huge_words(hva start, uint64_t n_pages)
{
	uint64_t first = start.addr / HUGE_BYTES;
	uint64_t last = (start.addr + n_pages * PAGE_BYTES - 1) / HUGE_BYTES;

	return DIV_ROUND_UP(last - first + 1, 64);
}

static size_t left_words(uint64_t n_pages)
{
	return DIV_ROUND_UP(n_pages, 64 * LEDGER_LEFT_PAGES);
}

int ledger_add_block(struct ledger *l, struct member *m, hva start, uint64_t n_pages,
		     struct ledger_block **ret)
{
	_cleanup_free_ struct ledger_block *b = NULL;
	uint32_t first;
	size_t i;
	int r;

	if (n_pages == 0 || n_pages > LEDGER_PAGES_MAX)
		return -EINVAL;
	r = find_gap(l, (uint32_t)n_pages, &first, &i);
	if (r < 0)
		return r;
	if (l->n_blocks == l->blocks_size) {
		size_t size = l->blocks_size ? l->blocks_size * 2 : 16;
		struct ledger_block **grown = reallocarray(l->blocks, size, sizeof(struct ledger_block *));

		if (!grown)
			return -ENOMEM;
		l->blocks = grown;
		l->blocks_size = size;
	}
	b = calloc(1, sizeof(*b));
	if (!b)
		return -ENOMEM;
	/* One piece of memory for both. */
	b->huge = calloc(huge_words(start, n_pages) + left_words(n_pages), sizeof(*b->huge));
	if (!b->huge)
		return -ENOMEM;
	b->left = b->huge + huge_words(start, n_pages);
	b->parts = calloc(DIV_ROUND_UP(n_pages, LEDGER_PART_PAGES), sizeof(*b->parts));
	if (!b->parts) {
		free(b->huge);
		return -ENOMEM;
	}
	b->first = PAGE_ID(first);
	b->n_pages = (uint32_t)n_pages;
	b->start = start;
	b->member = m;
	b->counts[PAGE_STATE_ABSENT] = b->n_pages;
	memmove(&l->blocks[i + 1], &l->blocks[i], (l->n_blocks - i) * sizeof(struct ledger_block *));
	l->n_blocks++;
	l->n_pages += n_pages;
	*ret = l->blocks[i] = TAKE_PTR(b);
	return 0;
}

/* Index of the last block that starts at or before id, or n_blocks when there is none. */
static size_t index_of(const struct ledger *l, page_id id)
{
	size_t lo = 0, hi = l->n_blocks;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (l->blocks[mid]->first.n <= id.n)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo == 0 ? l->n_blocks : lo - 1;
}

void ledger_remove_block(struct ledger *l, struct ledger_block *b)
{
	size_t i = index_of(l, b->first);
	size_t n = ALIGN_UP((size_t)b->n_pages, ID_ALIGN);

	assert(i < l->n_blocks && l->blocks[i] == b);
	/* Anonymous private memory: afterwards it reads as zeros, that is ABSENT. */
	(void)madvise(l->states + b->first.n, n, MADV_DONTNEED);
	(void)madvise(l->words + b->first.n, n * sizeof(uint32_t), MADV_DONTNEED);
	l->n_pages -= b->n_pages;
	l->n_blocks--;
	memmove(&l->blocks[i], &l->blocks[i + 1], (l->n_blocks - i) * sizeof(struct ledger_block *));
	free(b->parts);
	free(b->huge);
	free(b);
}

struct ledger_block *ledger_find(const struct ledger *l, page_id id)
{
	size_t i = index_of(l, id);

	if (i == l->n_blocks || id.n - l->blocks[i]->first.n >= l->blocks[i]->n_pages)
		return NULL;
	return l->blocks[i];
}

uint64_t ledger_pages(const struct ledger *l)
{
	return l->n_pages;
}

uint64_t ledger_bytes(const struct ledger *l)
{
	uint64_t bytes = sizeof(*l) + l->blocks_size * sizeof(struct ledger_block *);

	for (size_t i = 0; i < l->n_blocks; i++) {
		const struct ledger_block *b = l->blocks[i];

		bytes += sizeof(*b) + DIV_ROUND_UP(b->n_pages, LEDGER_PART_PAGES) * sizeof(*b->parts) +
			 (huge_words(b->start, b->n_pages) + left_words(b->n_pages)) * sizeof(uint64_t) +
			 ALIGN_UP((uint64_t)b->n_pages, (uint64_t)ID_ALIGN) *
				 (sizeof(uint8_t) + sizeof(uint32_t));
	}
	return bytes;
}

enum page_state ledger_state(const struct ledger *l, page_id id)
{
	return LEDGER_STATE_OF(l->states[id.n]);
}

unsigned ledger_wait(const struct ledger *l, page_id id)
{
	return l->states[id.n] >> STATE_BITS;
}

uint32_t ledger_word(const struct ledger *l, page_id id)
{
	return l->words[id.n];
}

void ledger_touch(struct ledger_block *b, page_id id)
{
	struct ledger_part *part = &b->parts[(id.n - b->first.n) / LEDGER_PART_PAGES];

	part->changed = true;
	part->quiet_passes = 0;
}

static void set_byte(struct ledger *l, struct ledger_block *b, page_id id, enum page_state s,
		     unsigned wait)
{
	b->counts[LEDGER_STATE_OF(l->states[id.n])]--;
	b->counts[s]++;
	l->states[id.n] = (uint8_t)(s | wait << STATE_BITS);
	ledger_touch(b, id);
}

void ledger_set(struct ledger *l, struct ledger_block *b, page_id id, enum page_state s,
		uint32_t word)
{
	set_byte(l, b, id, s, 0);
	l->words[id.n] = word;
}

void ledger_set_young(struct ledger *l, struct ledger_block *b, page_id id, unsigned wait,
		      uint32_t word)
{
	set_byte(l, b, id, PAGE_STATE_YOUNG, MIN(wait, LEDGER_WAIT_MAX));
	l->words[id.n] = word;
}

/* An UNSTABLE page has tries and claim in the bits of the wait. */
#define CLAIMED (1U << STATE_BITS)
#define TRIES_SHIFT (STATE_BITS + 1)
_Static_assert(LEDGER_TRIES_MAX << TRIES_SHIFT <= UINT8_MAX, "tries fit");

void ledger_claim(struct ledger *l, page_id id, bool claimed)
{
	if (ledger_state(l, id) == PAGE_STATE_UNSTABLE)
		l->states[id.n] = (uint8_t)((l->states[id.n] & ~CLAIMED) | (claimed ? CLAIMED : 0U));
}

bool ledger_is_claimed(const struct ledger *l, page_id id)
{
	return ledger_state(l, id) == PAGE_STATE_UNSTABLE && l->states[id.n] & CLAIMED;
}

void ledger_set_tries(struct ledger *l, page_id id, unsigned tries)
{
	if (ledger_state(l, id) == PAGE_STATE_UNSTABLE)
		l->states[id.n] = (uint8_t)((l->states[id.n] & (CLAIMED | (CLAIMED - 1))) |
					    MIN(tries, LEDGER_TRIES_MAX) << TRIES_SHIFT);
}

unsigned ledger_tries(const struct ledger *l, page_id id)
{
	return ledger_state(l, id) == PAGE_STATE_UNSTABLE ? l->states[id.n] >> TRIES_SHIFT : 0;
}

const uint8_t *ledger_states(const struct ledger *l, const struct ledger_block *b)
{
	return l->states + b->first.n;
}

static uint64_t load_eight(const uint8_t *states)
{
	uint64_t v;

	memcpy(&v, states, sizeof(v));
	return v;
}

uint32_t ledger_skip_absent(const uint8_t *states, uint32_t i, uint32_t end)
{
	while (i + 8 <= end && load_eight(states + i) == 0)
		i += 8;
	while (i < end && LEDGER_STATE_OF(states[i]) == PAGE_STATE_ABSENT)
		i++;
	return i;
}

/* To a page whose state is first, an even number, or the next one: bits 1 and 2 tell. Eight bytes at a
 * time: one that is zero under the mask shows by the classic borrow trick. */
static uint32_t skip_to_pair(const uint8_t *states, uint32_t i, uint32_t end, enum page_state first)
{
	const uint64_t ones = UINT64_C(0x0101010101010101), mask = 6 * ones, wanted = first * ones;

	while (i + 8 <= end) {
		uint64_t v = (load_eight(states + i) & mask) ^ wanted;

		if ((v - ones) & ~v & (ones << 7))
			break;
		i += 8;
	}
	while (i < end && (states[i] & 6) != first)
		i++;
	return i;
}

uint32_t ledger_skip_settled(const uint8_t *states, uint32_t i, uint32_t end)
{
	/* The two states without bit 1 or 2. */
	_Static_assert(PAGE_STATE_ABSENT == 0 && PAGE_STATE_YOUNG == 1, "the pair below");
	return skip_to_pair(states, i, end, PAGE_STATE_ABSENT);
}

uint32_t ledger_skip_unoffered(const uint8_t *states, uint32_t i, uint32_t end)
{
	_Static_assert(PAGE_STATE_ZEROS == 4 && PAGE_STATE_CANDIDATE == 5, "the pair below");
	return skip_to_pair(states, i, end, PAGE_STATE_ZEROS);
}

void ledger_note_huge(struct ledger_block *b, page_id first, uint64_t n_pages, bool huge)
{
	uint64_t base = b->start.addr / HUGE_BYTES;
	uint64_t from = ledger_hva(b, first).addr / HUGE_BYTES - base;
	uint64_t to = DIV_ROUND_UP(hva_add_pages(ledger_hva(b, first), n_pages).addr, HUGE_BYTES) - base;

	for (uint64_t i = from; i < to; i++) {
		if (huge)
			b->huge[i / 64] |= UINT64_C(1) << (i % 64);
		else
			b->huge[i / 64] &= ~(UINT64_C(1) << (i % 64));
	}
}

void ledger_note_left(struct ledger_block *b, page_id id)
{
	uint32_t place = (id.n - b->first.n) / LEDGER_LEFT_PAGES;

	b->left[place / 64] |= UINT64_C(1) << (place % 64);
}

int ledger_take_left(struct ledger_block *b, struct range_set *ret)
{
	for (size_t i = 0; i < left_words(b->n_pages); i++)
		while (b->left[i]) {
			uint64_t place = i * 64 + (unsigned)__builtin_ctzll(b->left[i]);
			uint64_t end = MIN((place + 1) * LEDGER_LEFT_PAGES, (uint64_t)b->n_pages);
			int r = range_set_add(ret, hva_add_pages(b->start, place * LEDGER_LEFT_PAGES).addr,
					      hva_add_pages(b->start, end).addr);

			if (r < 0)
				return r;
			b->left[i] &= b->left[i] - 1;
		}
	return 0;
}

uint32_t ledger_key_of(uint32_t page, void *ledger)
{
	return ledger_word(ledger, PAGE_ID(page));
}
