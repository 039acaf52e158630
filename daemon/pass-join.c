/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The last steps of a pass's slice: a page that has the fingerprint of another one joins it. Both
 * become candidates of one record. Where the domain has a store, a worker reads the page once more, and it
 * gets a slot that holds its content. Nothing here touches a guest.
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

/* Pages that will not be joined now wait for the next pass. */
void pass_drop_pairs(struct pass *p)
{
	for (uint32_t i = p->pair_at; i < p->n_pairs; i++) {
		release_twin(p, p->pairs[i].twin);
		if (!p->m->gone)
			domain_forget_young(p->m->domain, pass_block(p), p->pairs[i].page, 1);
	}
	p->n_pairs = 0;
}

static void read_run(struct work *w)
{
	struct pass *p = (struct pass *)w;

	pair_read(p->m->process, &p->m->domain->seed, p->pairs + p->pair_at, p->pair_batch, p->copies);
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

static void join_new(struct pass *p, const struct pair *pair, slot_id slot)
{
	struct domain *d = p->m->domain;
	struct ledger *l = p->env->ledger;
	record_id record;
	int r = -EAGAIN;

	/* A page that two pairs of this batch hold gets one record, and one slot. */
	if (!join_known(p, pair) && twin_is_there(p, pair->twin, pair->fingerprint))
		r = domain_join(d, pair->fingerprint, slot, pass_block(p), pair->page, ledger_find(l, pair->twin),
				pair->twin, &record);
	if (r == 0)
		return;
	if (!slot_id_is_none(slot))
		(void)store_drop(d->store, slot, 1); /* no guest has seen it yet */
	/* The twin was written meanwhile, or a tree is full: look again next pass. */
	if (ledger_state(l, pair->page) == PAGE_STATE_PAIRING)
		domain_forget_young(d, pass_block(p), pair->page, 1);
}

/* The slot behind which the first page of a run would best be put. */
static slot_id slot_before(const struct pass *p, page_id page)
{
	const struct ledger_block *b = pass_block(p);
	page_id before = PAGE_ID(page.n - 1);
	enum page_state s;

	if (page.n == b->first.n)
		return SLOT_ID_NONE;
	s = ledger_state(p->env->ledger, before);
	if ((s != PAGE_STATE_CANDIDATE && s != PAGE_STATE_SHARED) ||
	    ledger_word(p->env->ledger, before) == UINT32_MAX)
		return SLOT_ID_NONE;
	return stable_slot(p->m->domain->stable, RECORD_ID(ledger_word(p->env->ledger, before)));
}

static bool joins_new(const struct pass *p, const struct pair *pair)
{
	record_id record;

	return pair->same && twin_is_there(p, pair->twin, pair->fingerprint) &&
	       !stable_find(p->m->domain->stable, pair->fingerprint, &record);
}

/* Puts neighbouring pages that get new records into neighbouring slots; returns the pair after them. */
static uint32_t join_run(struct pass *p, uint32_t i)
{
	struct domain *d = p->m->domain;
	const uint8_t *copies = p->copies + (size_t)(i - p->pair_at) * PAGE_BYTES;
	uint32_t n = 1, end = p->pair_at + p->pair_batch;
	slot_id first = SLOT_ID_NONE;
	int64_t got;

	while (i + n < end && p->pairs[i + n].page.n == p->pairs[i].page.n + n && joins_new(p, &p->pairs[i + n]))
		n++;
	got = store_put(d->store, copies, n, slot_before(p, p->pairs[i].page), &first);
	if (got < 0) {
		/* The store is full, or there is no memory: these pages wait for better times. */
		domain_forget_young(d, pass_block(p), p->pairs[i].page, LEDGER_WAIT_MAX);
		return i + 1;
	}
	for (uint32_t k = 0; k < (uint32_t)got; k++)
		join_new(p, &p->pairs[i + k], SLOT_ID(first.n + k));
	return i + (uint32_t)got;
}

/*
 * Without a store the kernel owns the frames: what is said here is only where ksmd is to look. These
 * pages need not be read again.
 */
void pass_join_unread(struct pass *p, page_id page, page_id twin, uint64_t fingerprint)
{
	struct domain *d = p->m->domain;
	record_id record;
	int r = -EAGAIN;

	release_twin(p, twin);
	if (twin_is_there(p, twin, fingerprint))
		r = domain_join(d, fingerprint, SLOT_ID_NONE, pass_block(p), page,
				ledger_find(p->env->ledger, twin), twin, &record);
	if (r < 0 && r != -EEXIST)
		domain_forget_young(d, pass_block(p), page, 1);
}

static void join_batch(struct pass *p)
{
	uint32_t end = p->pair_at + p->pair_batch;

	for (uint32_t i = p->pair_at; i < end;) {
		const struct pair *pair = &p->pairs[i];

		if (joins_new(p, pair)) {
			i = join_run(p, i);
			continue;
		}
		if (!pair->same || !join_known(p, pair))
			domain_forget_young(p->m->domain, pass_block(p), pair->page, 1);
		i++;
	}
}

static void read_done(struct work *w)
{
	struct pass *p = (struct pass *)w;
	uint64_t start = thread_cpu_nsec();

	if (p->m->gone) {
		pass_charge(p, start);
		pass_finish(p, p->error);
		return;
	}
	join_batch(p);
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
	pass_submit(p, read_run, read_done);
}
