/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/fault.h"
#include "common/util.h"
#include "daemon/pass-private.h"

static void scan_run(struct work *w)
{
	struct pass *p = (struct pass *)w;
	int64_t n;

	FAULT_POINT("pass-scan");
	n = scan_pages(p->m->process, &p->m->domain->seed, p->ranges, p->n_ranges, p->results);

	p->error = n < 0 ? (int)n : 0;
}

/* A tracker that is not exact: is the page as it was when it was last read? Brings its state up to
 * date; true when it is a YOUNG page whose wait is over. */
static bool compared_ripe(struct pass *p, struct ledger_block *b, page_id page, uint32_t word)
{
	struct ledger *l = p->env->ledger;
	enum page_state s = ledger_state(l, page);
	bool same = ledger_word(l, page) == word;
	unsigned wait = ledger_wait(l, page);

	if (s == PAGE_STATE_YOUNG && same) {
		ledger_touch(b, page);
		if (wait > MEMBER_WAIT_FINE && !p->steps)
			return false;
		if (wait <= 1)
			return true;
		ledger_set_young(l, b, page, wait - 1, word);
	} else if (s == PAGE_STATE_YOUNG || (s == PAGE_STATE_UNSTABLE && !same)) {
		wait = MAX(member_wait_steps(p->m->policy.min_age_usec, p->env->interval_usec,
					     p->step_passes), 1U);
		domain_forget_young(p->m->domain, b, page, wait);
		ledger_set_young(l, b, page, wait, word);
	}
	return false;
}

static void offer_content(struct pass *p, struct ledger_block *b, page_id page, uint64_t fingerprint)
{
	unsigned tries = tracker_is_exact(p->m->tracker) ? ledger_word(p->env->ledger, page) : 0;
	page_id twin;

	switch (domain_offer(p->m->domain, b, page, fingerprint, &twin)) {
	case DOMAIN_PAIR:
		if (p->m->domain->store)
			p->pairs[p->n_pairs++] = (struct pair){ page, twin, fingerprint, ledger_hva(b, page),
								.slot = SLOT_ID_NONE };
		else
			pass_join_unread(p, page, twin, fingerprint);
		break;
	case DOMAIN_LATER:
		if (p->n_later < PASS_SLICE_PAGES)
			p->later[p->n_later++] = (struct later){ page, twin, fingerprint };
		break;
	default:
		ledger_set_tries(p->env->ledger, page, tries);
		break;
	}
}

static void offer(struct pass *p, struct ledger_block *b, page_id page, const struct scan_result *res)
{
	struct domain *d = p->m->domain;

	if (res->kind == SCAN_GONE) {
		domain_forget_absent(d, b, page);
		return;
	}
	if (!tracker_is_exact(p->m->tracker) &&
	    !compared_ripe(p, b, page, (uint32_t)(res->fingerprint >> 32)))
		return;
	if (ledger_state(p->env->ledger, page) != PAGE_STATE_YOUNG)
		return;
	if (res->kind == SCAN_ZEROS)
		domain_offer_zeros(d, b, page);
	else
		offer_content(p, b, page, res->fingerprint);
}

/* The record that the twin has got. Should the twin have become another page's equal by now, the engine,
 * which compares bytes, refuses this one. */
static bool join_twin(struct pass *p, const struct later *later)
{
	const struct ledger *l = p->env->ledger;
	const struct ledger_block *b = ledger_find(l, later->twin);

	/* Its guest may have left, and another domain's have got the number. */
	if (!b || b->member->domain != p->m->domain ||
	    ledger_state(l, later->twin) != PAGE_STATE_CANDIDATE)
		return false;
	domain_make_candidate(p->m->domain, pass_block(p), later->page,
			      RECORD_ID(ledger_word(l, later->twin)));
	return true;
}

void pass_offer_later(struct pass *p)
{
	uint32_t n = p->n_later;

	p->n_later = 0;
	p->n_pairs = 0;
	p->pair_at = 0;
	for (uint32_t i = 0; i < n; i++) {
		struct later l = p->later[i];

		if (ledger_state(p->env->ledger, l.page) == PAGE_STATE_YOUNG && !join_twin(p, &l))
			offer_content(p, pass_block(p), l.page, l.fingerprint);
	}
}

/* Look-ups in the trees that are under way together: each misses the cache a few times. */
#define OFFERS_AHEAD 8

static void scan_done(struct work *w)
{
	struct pass *p = (struct pass *)w;
	uint64_t start = thread_cpu_nsec();
	const struct scan_result *res = p->results, *end = res + p->n_read;

	if (p->error < 0 || p->m->gone) {
		pass_charge(p, start);
		pass_finish(p, p->error);
		return;
	}
	budget_charge(p->env->reads, p->n_read, now_usec());
	p->counts.read_pages += p->n_read;
	p->n_pairs = 0;
	p->pair_at = 0;
	for (uint32_t i = 0; i < p->n_ranges; i++) {
		struct ledger_block *b = pass_block(p);
		page_id first = ledger_id(b, p->ranges[i].start);

		for (uint32_t k = 0; k < p->ranges[i].n_pages; k++, res++) {
			if (end - res > OFFERS_AHEAD)
				domain_prefetch(p->m->domain, res[OFFERS_AHEAD].fingerprint);
			offer(p, b, PAGE_ID(first.n + k), res);
		}
	}
	pass_charge(p, start);
	pass_then(p, p->n_pairs > 0 ? pass_start_join : pass_next_slice);
}

void pass_start_scan(struct pass *p)
{
	pass_submit(p, scan_run, scan_done);
}
