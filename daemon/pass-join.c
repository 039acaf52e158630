/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The last steps of a pass's slice: a page that has the fingerprint of another one joins it. Both
 * become candidates of one record. Where the domain has a store, the page gets a slot, and a worker
 * reads it once more and writes it there. Nothing here touches a guest.
 *
 * Bytes are not compared with the twin's: the engine does that while the pages cannot change. A twin
 * that was written meanwhile costs a slot with one sharer.
 */
#include "common/util.h"
#include "daemon/pass-private.h"
#include "daemon/store.h"

/* Whatever came of it. */
static void release_twin(const struct pass *p, page_id twin)
{
	if (ledger_find(p->env->ledger, twin))
		ledger_claim(p->env->ledger, twin, false);
}

static void release_slot(const struct pass *p, const struct pair *pair)
{
	if (!slot_id_is_none(pair->slot))
		store_release(p->m->domain->store, pair->slot, 1);
}

/* Pages that will not be joined now wait for the next pass. */
void pass_drop_pairs(struct pass *p)
{
	for (uint32_t i = p->pair_at; i < p->n_pairs; i++) {
		release_twin(p, p->pairs[i].twin);
		release_slot(p, &p->pairs[i]);
		if (!p->m->gone)
			domain_forget_young(p->m->domain, pass_block(p), p->pairs[i].page, 1);
	}
	p->n_pairs = 0;
}

/* Its guest may have left, and the number be another domain's by now. */
static bool twin_is_there(const struct pass *p, page_id twin, uint64_t fingerprint)
{
	const struct ledger *l = p->env->ledger;
	const struct ledger_block *b = ledger_find(l, twin);

	return b && b->member->domain == p->m->domain && !b->member->gone &&
	       ledger_state(l, twin) == PAGE_STATE_UNSTABLE &&
	       ledger_word(l, twin) == (uint32_t)(fingerprint >> 32);
}

/* Three and more equal pages may all have been paired with one twin, which is a candidate by now. */
static bool join_known(struct pass *p, const struct pair *pair)
{
	record_id record;

	if (!stable_find(p->m->domain->stable, pair->fingerprint, &record))
		return false;
	domain_make_candidate(p->m->domain, pass_block(p), pair->page, record);
	return true;
}

/* The page has a slot with its content. */
static void join_new(struct pass *p, const struct pair *pair)
{
	struct ledger *l = p->env->ledger;

	/* A page that two pairs of this batch hold gets one record, and one slot. */
	if (!join_known(p, pair) && twin_is_there(p, pair->twin, pair->fingerprint) &&
	    domain_join(p->m->domain, pair->fingerprint, pair->slot, pass_block(p), pair->page,
			ledger_find(l, pair->twin), pair->twin) == 0)
		return;
	release_slot(p, pair);
	/* The twin was written meanwhile, or a tree is full: look again next pass. */
	if (ledger_state(l, pair->page) == PAGE_STATE_PAIRING)
		domain_forget_young(p->m->domain, pass_block(p), pair->page, 1);
}

static void join(struct pass *p, const struct pair *pair)
{
	bool wanted;

	if (pair->stored) {
		join_new(p, pair);
		return;
	}
	release_slot(p, pair);
	if (pair->same && join_known(p, pair))
		return;
	/* The store is full, or there is no memory: it waits for better times. */
	wanted = pair->same && twin_is_there(p, pair->twin, pair->fingerprint);
	domain_forget_young(p->m->domain, pass_block(p), pair->page, wanted ? LEDGER_WAIT_MAX : 1);
}

/* The slot behind which that of pair i would best be put: the one of the page before it. */
static slot_id slot_before(const struct pass *p, uint32_t i)
{
	const struct ledger_block *b = pass_block(p);
	page_id page = p->pairs[i].page, before = PAGE_ID(page.n - 1);
	enum page_state s;

	if (page.n == b->first.n)
		return SLOT_ID_NONE;
	if (i > p->pair_at && p->pairs[i - 1].page.n == before.n)
		return p->pairs[i - 1].slot;
	s = ledger_state(p->env->ledger, before);
	if ((s != PAGE_STATE_CANDIDATE && s != PAGE_STATE_SHARED) ||
	    ledger_word(p->env->ledger, before) == UINT32_MAX)
		return SLOT_ID_NONE;
	return stable_slot(p->m->domain->stable, RECORD_ID(ledger_word(p->env->ledger, before)));
}

static bool wants_slot(const struct pass *p, const struct pair *pair)
{
	record_id record;

	return twin_is_there(p, pair->twin, pair->fingerprint) &&
	       !stable_find(p->m->domain->stable, pair->fingerprint, &record);
}

/* Gives neighbouring pages that are to have new records neighbouring slots, as far as the store has room. */
static void reserve_slots(struct pass *p)
{
	uint32_t end = p->pair_at + p->pair_batch;

	for (uint32_t i = p->pair_at, n; i < end; i += n) {
		slot_id first;
		int64_t got;

		n = 1;
		if (!wants_slot(p, &p->pairs[i]))
			continue;
		while (i + n < end && p->pairs[i + n].page.n == p->pairs[i].page.n + n &&
		       wants_slot(p, &p->pairs[i + n]))
			n++;
		got = store_reserve(p->m->domain->store, n, slot_before(p, i), &first);
		n = (uint32_t)MAX(got, INT64_C(1));
		for (uint32_t k = 0; (int64_t)k < got; k++)
			p->pairs[i + k].slot = SLOT_ID(first.n + k);
	}
}

/*
 * Without a store the kernel owns the frames: what is said here is only where ksmd is to look. These
 * pages need not be read again.
 */
void pass_join_unread(struct pass *p, page_id page, page_id twin, uint64_t fingerprint)
{
	struct domain *d = p->m->domain;
	int r = -EAGAIN;

	release_twin(p, twin);
	if (twin_is_there(p, twin, fingerprint))
		r = domain_join(d, fingerprint, SLOT_ID_NONE, pass_block(p), page,
				ledger_find(p->env->ledger, twin), twin);
	if (r < 0 && r != -EEXIST)
		domain_forget_young(d, pass_block(p), page, 1);
}

static void store_run(struct work *w)
{
	struct pass *p = (struct pass *)w;

	for (uint32_t at = 0, n; at < p->pair_batch; at += n) {
		struct pair *pairs = p->pairs + p->pair_at + at;

		n = MIN(p->pair_batch - at, PAIR_CHUNK_PAGES);
		pair_read(p->m->process, &p->m->domain->seed, pairs, n, p->copies);
		pair_store(p->m->domain->store, pairs, n, p->copies);
	}
}

static void store_done(struct work *w)
{
	struct pass *p = (struct pass *)w;
	uint64_t start = thread_cpu_nsec();

	if (p->m->gone) {
		pass_charge(p, start);
		pass_finish(p, p->error);
		return;
	}
	for (uint32_t i = p->pair_at; i < p->pair_at + p->pair_batch; i++)
		join(p, &p->pairs[i]);
	for (uint32_t i = p->pair_at; i < p->pair_at + p->pair_batch; i++)
		release_twin(p, p->pairs[i].twin);
	p->pair_at += p->pair_batch;
	pass_charge(p, start);
	if (p->pair_at < p->n_pairs) {
		pass_then(p, pass_start_join);
		return;
	}
	p->n_pairs = 0;
	pass_then(p, pass_next_slice);
}

void pass_start_join(struct pass *p)
{
	p->pair_batch = MIN(p->n_pairs - p->pair_at, PAIR_BATCH_PAGES);
	reserve_slots(p);
	pass_submit(p, store_run, store_done);
}
