/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/domain.h"

#include "common/util.h"
#include "daemon/store.h"

/* How long a page is left alone that a tree had no room for: it may fit later. */
#define LEFT_OUT_WAIT LEDGER_WAIT_MAX

int domain_new(struct ledger *l, const char *name, enum policy_engine engine, struct domain **ret)
{
	struct domain *d = calloc(1, sizeof(*d));
	int r = -ENOMEM;

	if (!d)
		return r;
	d->ledger = l;
	fingerprint_seed_init(&d->seed);
	d->engine = engine;
	d->name = strdup(name);
	if (d->name)
		r = 0;
	/* Pages of zeros need no finding: the others are only known to have been read. */
	if (r >= 0 && engine != POLICY_ENGINE_ZERO)
		r = unstable_new(ledger_key_of, l, &d->unstable);
	if (r >= 0 && engine != POLICY_ENGINE_ZERO)
		r = stable_new(&d->stable);
	if (r < 0) {
		domain_free(d);
		return r;
	}
	*ret = d;
	return 0;
}

void domain_free(struct domain *d)
{
	if (!d)
		return;
	unstable_free(d->unstable);
	stable_free(d->stable);
	store_free(d->store);
	free(d->name);
	free(d->store_name);
	free(d);
}

/* Leaves the tree or the count that belongs to the page's state; the state is set by the caller. */
static void detach_page(struct domain *d, page_id page)
{
	uint32_t word = ledger_word(d->ledger, page);
	int r;

	switch (ledger_state(d->ledger, page)) {
	case PAGE_STATE_UNSTABLE:
		if (!d->unstable)
			break;
		r = unstable_remove(d->unstable, word, page);
		assert(r == 0);
		(void)r;
		break;
	case PAGE_STATE_SHARED:
		if (word != UINT32_MAX)
			(void)stable_drop_sharer(d->stable, RECORD_ID(word));
		break;
	case PAGE_STATE_ZEROS:
		d->zeros--;
		break;
	case PAGE_STATE_CANDIDATE:
		d->candidates--;
		break;
	case PAGE_STATE_HOLE:
		d->holes--;
		break;
	case PAGE_STATE_ABSENT:
	case PAGE_STATE_YOUNG:
	case PAGE_STATE_PAIRING:
	case PAGE_STATE_MAX:
		break;
	}
}

void domain_make_candidate(struct domain *d, struct ledger_block *b, page_id page, record_id r)
{
	detach_page(d, page);
	ledger_set(d->ledger, b, page, PAGE_STATE_CANDIDATE, r.n);
	d->candidates++;
	d->offered++;
}

void domain_prefetch(const struct domain *d, uint64_t fingerprint)
{
	if (d->engine == POLICY_ENGINE_ZERO)
		return;
	stable_prefetch(d->stable, fingerprint);
	unstable_prefetch(d->unstable, fingerprint);
}

enum domain_verdict domain_offer(struct domain *d, struct ledger_block *b, page_id page,
				 uint64_t fingerprint, page_id *ret_twin)
{
	record_id record;
	page_id twin;

	assert(ledger_state(d->ledger, page) == PAGE_STATE_YOUNG);

	if (d->engine == POLICY_ENGINE_ZERO) {
		ledger_set(d->ledger, b, page, PAGE_STATE_UNSTABLE, (uint32_t)(fingerprint >> 32));
		return DOMAIN_UNIQUE;
	}
	/* The engine compares bytes, and refuses the page if they are others. */
	if (stable_find(d->stable, fingerprint, &record)) {
		domain_make_candidate(d, b, page, record);
		return DOMAIN_CANDIDATE;
	}
	if (unstable_find(d->unstable, fingerprint, &twin, 1) > 0) {
		*ret_twin = twin;
		if (ledger_is_claimed(d->ledger, twin))
			return DOMAIN_LATER;
		ledger_claim(d->ledger, twin, true);
		ledger_set(d->ledger, b, page, PAGE_STATE_PAIRING, (uint32_t)(fingerprint >> 32));
		return DOMAIN_PAIR;
	}
	/* The word comes first: the tree asks for it. */
	ledger_set(d->ledger, b, page, PAGE_STATE_PAIRING, (uint32_t)(fingerprint >> 32));
	if (unstable_insert(d->unstable, fingerprint, page) < 0) {
		ledger_set_young(d->ledger, b, page, LEFT_OUT_WAIT, 0);
		return DOMAIN_LEFT_OUT;
	}
	ledger_set(d->ledger, b, page, PAGE_STATE_UNSTABLE, (uint32_t)(fingerprint >> 32));
	return DOMAIN_UNIQUE;
}

void domain_offer_zeros(struct domain *d, struct ledger_block *b, page_id page)
{
	detach_page(d, page);
	ledger_set(d->ledger, b, page, PAGE_STATE_ZEROS, 0);
	d->zeros++;
	d->offered++;
}

int domain_join(struct domain *d, uint64_t fingerprint, slot_id slot, struct ledger_block *b1, page_id p1,
		struct ledger_block *b2, page_id p2)
{
	record_id record;
	int r = stable_insert(d->stable, fingerprint, slot, &record);

	if (r < 0 && r != -EEXIST)
		return r;
	domain_make_candidate(d, b1, p1, record);
	domain_make_candidate(d, b2, p2, record);
	return r;
}

/* What it shared, or was to share, may be nobody's now. */
static void note_moved(struct domain *d, struct ledger_block *b, page_id page)
{
	enum page_state s = ledger_state(d->ledger, page);

	d->moved += s == PAGE_STATE_SHARED || s == PAGE_STATE_CANDIDATE;
	if (s == PAGE_STATE_SHARED && d->store)
		ledger_note_left(b, page);
}

void domain_forget_young(struct domain *d, struct ledger_block *b, page_id page, unsigned wait)
{
	note_moved(d, b, page);
	detach_page(d, page);
	ledger_set_young(d->ledger, b, page, wait, 0);
}

void domain_forget_absent(struct domain *d, struct ledger_block *b, page_id page)
{
	note_moved(d, b, page);
	detach_page(d, page);
	ledger_set(d->ledger, b, page, PAGE_STATE_ABSENT, 0);
}

void domain_merged(struct domain *d, struct ledger_block *b, page_id page, record_id record)
{
	note_moved(d, b, page);
	detach_page(d, page);
	ledger_set(d->ledger, b, page, PAGE_STATE_SHARED, record.n);
	if (record.n != UINT32_MAX)
		(void)stable_add_sharer(d->stable, record);
}

void domain_made_hole(struct domain *d, struct ledger_block *b, page_id page)
{
	detach_page(d, page);
	ledger_set(d->ledger, b, page, PAGE_STATE_HOLE, 0);
	d->holes++;
}

uint64_t domain_bytes(const struct domain *d)
{
	return d->engine == POLICY_ENGINE_ZERO ? 0
					       : unstable_bytes(d->unstable) + stable_bytes(d->stable);
}
