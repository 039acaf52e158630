/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The last steps of a pass's slice: pages whose fingerprint another page has are compared with it
 * byte by byte by a worker, and equal ones join: both become candidates of one record and, where
 * the domain has a store, get a slot that holds their content. Nothing here touches a guest.
 */
#include "common/util.h"
#include "daemon/pass-private.h"
#include "daemon/store.h"

static void drop_twin_members(struct pass *p)
{
	for (size_t i = 0; i < p->n_twin_members; i++)
		member_unref(p->twin_members[i]);
	free(p->twin_members);
	p->twin_members = NULL;
	p->n_twin_members = 0;
}

/* Whatever came of the comparison with it. */
static void release_twin(const struct pass *p, uint32_t i)
{
	page_id twin = p->pair_pages[i].twin;

	if (ledger_find(p->env->ledger, twin))
		ledger_claim(p->env->ledger, twin, false);
}

/* Pages whose comparison will not happen now wait for the next pass. */
void pass_drop_pairs(struct pass *p)
{
	for (uint32_t i = p->pair_at; i < p->n_pairs; i++) {
		release_twin(p, i);
		if (!p->m->gone)
			domain_forget_young(p->m->domain, pass_block(p), p->pair_pages[i].page, 1);
	}
	p->n_pairs = 0;
	drop_twin_members(p);
}

static void compare_run(struct work *w)
{
	struct pass *p = (struct pass *)w;

	p->error = pair_compare(&p->m->domain->key, p->pairs + p->pair_at, p->pair_batch, p->copies);
}

/* A twin's guest may have left, and the number be another domain's by now: NULL. */
static const struct ledger_block *twin_block(const struct pass *p, page_id twin)
{
	const struct ledger_block *b = ledger_find(p->env->ledger, twin);

	return b && b->member->domain == p->m->domain ? b : NULL;
}

static bool twin_is_there(const struct pass *p, const struct pair_pages *pages)
{
	const struct ledger *l = p->env->ledger;
	const struct ledger_block *b = twin_block(p, pages->twin);

	return b && !b->member->gone && ledger_state(l, pages->twin) == PAGE_STATE_UNSTABLE &&
	       ledger_word(l, pages->twin) == (uint32_t)(pages->fingerprint >> 32);
}

/* Three and more equal pages may all have been paired with one twin, which is a candidate by now. */
static bool join_known(struct pass *p, const struct pair *pair, const struct pair_pages *pages)
{
	record_id record;

	if (stable_find_identity(p->m->domain->stable, pages->fingerprint, &pair->identity, &record) < 0)
		return false;
	domain_make_candidate(p->m->domain, pass_block(p), pages->page, record);
	return true;
}

static void join_new(struct pass *p, const struct pair *pair, const struct pair_pages *pages, slot_id slot)
{
	struct domain *d = p->m->domain;
	struct ledger *l = p->env->ledger;
	record_id record;
	int r = -EAGAIN;

	/* A page that two pairs of this batch hold gets one record, and one slot. */
	if (!join_known(p, pair, pages) && twin_is_there(p, pages))
		r = domain_join(d, pages->fingerprint, &pair->identity, slot, pass_block(p), pages->page,
				ledger_find(l, pages->twin), pages->twin, &record);
	if (r == 0)
		return;
	if (!slot_id_is_none(slot))
		(void)store_drop(d->store, slot, 1); /* no guest has seen it yet */
	/* The twin was written meanwhile, or a tree is full: look again next pass. */
	if (ledger_state(l, pages->page) == PAGE_STATE_PAIRING)
		domain_forget_young(d, pass_block(p), pages->page, 1);
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

static bool joins_new(const struct pass *p, uint32_t i)
{
	record_id record;

	return p->pairs[i].equal && twin_is_there(p, &p->pair_pages[i]) &&
	       stable_find_identity(p->m->domain->stable, p->pair_pages[i].fingerprint,
				    &p->pairs[i].identity, &record) < 0;
}

/* Puts neighbouring pages that get new records into neighbouring slots; returns the pair after
 * them. */
static uint32_t join_run(struct pass *p, uint32_t i)
{
	struct domain *d = p->m->domain;
	const uint8_t *copies = p->copies + (size_t)(i - p->pair_at) * PAGE_BYTES;
	uint32_t n = 1, end = p->pair_at + p->pair_batch;
	slot_id first = SLOT_ID_NONE;
	int64_t got;

	while (i + n < end && p->pair_pages[i + n].page.n == p->pair_pages[i].page.n + n && joins_new(p, i + n))
		n++;
	got = store_put(d->store, copies, n, slot_before(p, p->pair_pages[i].page), &first);
	if (got < 0) {
		/* The store is full, or there is no memory: these pages wait for better times. */
		domain_forget_young(d, pass_block(p), p->pair_pages[i].page, LEDGER_WAIT_MAX);
		return i + 1;
	}
	for (uint32_t k = 0; k < (uint32_t)got; k++)
		join_new(p, &p->pairs[i + k], &p->pair_pages[i + k], SLOT_ID(first.n + k));
	return i + (uint32_t)got;
}

/*
 * Without a store the kernel owns the frames, and ksmd compares bytes before it merges: what is
 * said here is only where it is to look. To read both pages again, and hash one of them, would
 * cost a quarter of what the daemon takes until all is merged (make bench).
 */
void pass_join_unread(struct pass *p, page_id page, page_id twin, uint64_t fingerprint)
{
	static const struct identity none;
	const struct pair_pages pages = { page, twin, fingerprint };
	struct domain *d = p->m->domain;
	record_id record;
	int r = -EAGAIN;

	ledger_claim(p->env->ledger, twin, false);
	if (twin_is_there(p, &pages))
		r = domain_join(d, fingerprint, &none, SLOT_ID_NONE, pass_block(p), page,
				ledger_find(p->env->ledger, twin), twin, &record);
	if (r < 0 && r != -EEXIST)
		domain_forget_young(d, pass_block(p), page, 1);
}

/* It is not what it was: the next pass over its guest is to find out. */
static void look_at_twin(const struct pass *p, page_id twin)
{
	struct ledger_block *b = ledger_find(p->env->ledger, twin);

	if (b)
		ledger_touch(b, twin);
}

static void join_batch(struct pass *p)
{
	uint32_t end = p->pair_at + p->pair_batch;

	for (uint32_t i = p->pair_at; i < end;) {
		const struct pair_pages *pages = &p->pair_pages[i];

		if (joins_new(p, i)) {
			i = join_run(p, i);
			continue;
		}
		if (!p->pairs[i].equal)
			look_at_twin(p, pages->twin);
		if (!p->pairs[i].equal || !join_known(p, &p->pairs[i], pages))
			domain_forget_young(p->m->domain, pass_block(p), pages->page, 1);
		i++;
	}
}

static void compare_done(struct work *w)
{
	struct pass *p = (struct pass *)w;
	uint64_t start = thread_cpu_nsec();

	if (p->error < 0 || p->m->gone) {
		pass_charge(p, start);
		pass_finish(p, p->error);
		return;
	}
	join_batch(p);
	for (uint32_t i = p->pair_at; i < p->pair_at + p->pair_batch; i++)
		release_twin(p, i);
	drop_twin_members(p);
	p->pair_at += p->pair_batch;
	pass_charge(p, start);
	if (p->pair_at < p->n_pairs) {
		pass_then(p, pass_start_compare);
		return;
	}
	p->n_pairs = 0;
	pass_then(p, pass_next_slice);
}

/* Twins' guests must stay open while their memory is read. */
static int hold_twin_members(struct pass *p)
{
	struct member *last = NULL;

	p->twin_members = calloc(p->pair_batch, sizeof(struct member *));
	if (!p->twin_members)
		return -ENOMEM;
	for (uint32_t i = 0; i < p->pair_batch; i++) {
		struct member *m = ledger_find(p->env->ledger, p->pair_pages[p->pair_at + i].twin)->member;

		if (m != last)
			p->twin_members[p->n_twin_members++] = member_ref(m);
		last = m;
	}
	return 0;
}

void pass_start_compare(struct pass *p)
{
	int r;

	/* While the budget made us wait, a twin's guest may have left. Order is kept: it is the
	 * order of the slots. */
	for (uint32_t i = p->pair_at, to = i, n = p->n_pairs; i < n; i++) {
		const struct ledger_block *b = twin_block(p, p->pair_pages[i].twin);

		if (!b) {
			domain_forget_young(p->m->domain, pass_block(p), p->pair_pages[i].page, 1);
			p->n_pairs--;
			continue;
		}
		p->pairs[to] = p->pairs[i];
		p->pairs[to].twin_process = b->member->process;
		p->pairs[to].twin_at = ledger_hva(b, p->pair_pages[i].twin);
		p->pair_pages[to++] = p->pair_pages[i];
	}
	p->pair_batch = MIN(p->n_pairs - p->pair_at, PAIR_BATCH_PAGES);
	if (p->pair_batch == 0) {
		p->n_pairs = 0;
		pass_next_slice(p);
		return;
	}
	r = hold_twin_members(p);
	if (r < 0)
		pass_finish(p, r);
	else
		pass_submit(p, compare_run, compare_done);
}
