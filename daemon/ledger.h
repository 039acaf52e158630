/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ledger: what the daemon knows about every page of every enrolled guest, in five bytes
 * for each page: one byte of state and one 32-bit word whose meaning depends on it.
 *
 *   state        word                          left by
 *   ABSENT       -                             the page map shows it present
 *   YOUNG        upper half of fingerprint     unwritten for `wait` more passes; a write starts
 *                (inexact tracker) or tries    the wait again
 *   PAIRING      as before                     it joins its twin, or is not to
 *   UNSTABLE     upper half of fingerprint     written; absent; matched
 *   ZEROS        -                             merged; written; absent
 *   CANDIDATE    record in the stable tree     merged; refused; written; absent
 *   SHARED       record in the stable tree     written; absent
 *   HOLE         -                             present again (it held zeros; nothing is there)
 *
 * Pages get numbers (page_id) in contiguous ranges, one range for each RAM block. The arrays
 * are one big reservation of address space indexed by page_id, so that a look-up is one load
 * and memory is used only where guests are.
 *
 * Invariant: a page is in the unstable tree exactly while it is UNSTABLE (a domain of engine zero
 * has no tree: there the state says that the page was read and was not zeros), and is a sharer
 * of its record exactly while it is SHARED. Owned by the daemon's loop.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/units.h"
#include "daemon/range-set.h"

enum page_state {
	PAGE_STATE_ABSENT,
	PAGE_STATE_YOUNG,
	PAGE_STATE_PAIRING,
	PAGE_STATE_UNSTABLE,
	PAGE_STATE_ZEROS,
	PAGE_STATE_CANDIDATE,
	PAGE_STATE_SHARED,
	PAGE_STATE_HOLE,
	PAGE_STATE_MAX,
};
_Static_assert(PAGE_STATE_MAX <= 8, "three bits of the state byte");

/* The longest wait, in passes: five bits of the state byte. */
#define LEDGER_WAIT_MAX 31U

/* Most pages in all guests together: 4 TiB of guest memory. */
#define LEDGER_PAGES_MAX (UINT32_C(1) << 30)

struct ledger;
struct member;

/* 2 MiB of a RAM block, from its start on: what a pass goes by (quiet.h). */
#define LEDGER_PART_PAGES 512U
struct ledger_part {
	/* When it was last looked at; unmapped: SHARED, and not in the guest's page table. */
	uint16_t present_pages, swapped_pages, huge_pages, unmapped_pages;
	uint8_t quiet_passes, looked; /* the latter: a pass's number, as far as it fits */
	bool changed; /* a page's state did, since then */
};

/* A RAM block of an enrolled guest. Owned by the ledger; immutable but for huge, left, parts
 * and counts. */
struct ledger_block {
	page_id first;
	uint32_t n_pages;
	hva start;
	struct member *member;
	uint32_t vm_flags; /* enum vm_flag of its mappings: what replaced ones must get back */
	uint64_t policy;   /* their memory policy (numa.h), likewise */
	/* One bit for each aligned 2 MiB of address space that a huge page maps, as of the last
	 * pass; bit 0 is the one that holds start. */
	uint64_t *huge;
	/* One bit for each LEDGER_LEFT_PAGES: a page in it shared a store's page, and does no more. */
	uint64_t *left;
	struct ledger_part *parts; /* the last one may be shorter */
	uint32_t counts[PAGE_STATE_MAX]; /* pages in each state */
};

#define LEDGER_LEFT_PAGES 16U

int ledger_new(struct ledger **ret);
void ledger_free(struct ledger *l);
/* All pages start ABSENT. -ENOSPC when the ledger is full, -EINVAL for no or too many pages. */
int ledger_add_block(struct ledger *l, struct member *m, hva start, uint64_t n_pages,
		     struct ledger_block **ret);
/* The caller has taken the pages out of the trees. */
void ledger_remove_block(struct ledger *l, struct ledger_block *b);
/* The block that a page belongs to; NULL when its number is not in use. */
struct ledger_block *ledger_find(const struct ledger *l, page_id id);
uint64_t ledger_pages(const struct ledger *l);
/* Memory that the arrays take now. */
uint64_t ledger_bytes(const struct ledger *l);

enum page_state ledger_state(const struct ledger *l, page_id id);
unsigned ledger_wait(const struct ledger *l, page_id id);
uint32_t ledger_word(const struct ledger *l, page_id id);
/* b is the block of the page: every change of state goes through here to keep the counts. */
void ledger_set(struct ledger *l, struct ledger_block *b, page_id id, enum page_state s,
		uint32_t word);
/* A page of the part waits, or its content is not what it was: the next pass looks there. */
void ledger_touch(struct ledger_block *b, page_id id);
/* YOUNG for wait more passes (at most LEDGER_WAIT_MAX). */
void ledger_set_young(struct ledger *l, struct ledger_block *b, page_id id, unsigned wait,
		      uint32_t word);
/* How often an UNSTABLE page was read, and written before it had merged: at most LEDGER_TRIES_MAX. In
 * the bits of the wait, which no UNSTABLE page has; a change of state forgets it. */
#define LEDGER_TRIES_MAX 3U
unsigned ledger_tries(const struct ledger *l, page_id id);
void ledger_set_tries(struct ledger *l, page_id id, unsigned tries);
/* An UNSTABLE page is claimed while another one joins it, so that further pages equal to it can
 * wait for what comes of that. Of no effect on others; a change of state ends it. */
void ledger_claim(struct ledger *l, page_id id, bool claimed);
bool ledger_is_claimed(const struct ledger *l, page_id id);
/* The state bytes of a block: state in the low three bits (for scans of whole ranges). */
const uint8_t *ledger_states(const struct ledger *l, const struct ledger_block *b);
#define LEDGER_STATE_OF(byte) ((enum page_state)((byte)&7))

/*
 * Fast forward over the state bytes from page i of a block: the first page at or after i that
 * is not ABSENT, that is ABSENT or YOUNG (not settled), or that is ZEROS or CANDIDATE (offered to
 * an engine); end when there is none. An unchanged guest costs a fraction of a nanosecond a page
 * here.
 */
uint32_t ledger_skip_absent(const uint8_t *states, uint32_t i, uint32_t end);
uint32_t ledger_skip_settled(const uint8_t *states, uint32_t i, uint32_t end);
uint32_t ledger_skip_unoffered(const uint8_t *states, uint32_t i, uint32_t end);

static inline hva ledger_hva(const struct ledger_block *b, page_id id)
{
	return hva_add_pages(b->start, id.n - b->first.n);
}

static inline page_id ledger_id(const struct ledger_block *b, hva addr)
{
	return PAGE_ID(b->first.n + ((addr.addr - b->start.addr) >> PAGE_SHIFT));
}

static inline bool ledger_is_huge(const struct ledger_block *b, page_id id)
{
	uint64_t n = ledger_hva(b, id).addr / HUGE_BYTES - b->start.addr / HUGE_BYTES;

	return b->huge[n / 64] >> (n % 64) & 1;
}
/* Notes whether the pages [first, first + n) are mapped by huge pages. */
void ledger_note_huge(struct ledger_block *b, page_id first, uint64_t n_pages, bool huge);

/* A page shared a page of the store, and does no more: its mapping may be all copies now. */
void ledger_note_left(struct ledger_block *b, page_id id);
/* Where that was noted (by parts) since the last call is added to *ret. -ENOMEM, -ENOSPC: too many
 * places, and some are still noted. */
int ledger_take_left(struct ledger_block *b, struct range_set *ret);

/* key_of for hash trees whose values are page numbers; userdata is the ledger. */
uint32_t ledger_key_of(uint32_t page, void *ledger);
