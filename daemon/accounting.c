/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/accounting.h"

#include "common/util.h"
#include "daemon/store.h"

/* Bookkeeping of ours for one page of guest memory: the ledger's five bytes. */
static uint64_t ledger_share(const struct member *m)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < m->n_blocks; i++)
		bytes += (uint64_t)m->blocks[i]->n_pages * 5;
	return bytes;
}

static void add_member(const struct member *m, struct account *a)
{
	a->guests++;
	for (size_t i = 0; i < m->n_blocks; i++)
		a->ram_bytes += (uint64_t)m->blocks[i]->n_pages * PAGE_BYTES;
	a->present_bytes += m->counts.present_pages * PAGE_BYTES;
}

static void settle(struct account *a)
{
	/* A store may hold pages that nobody maps yet: then sharing has cost something so far. */
	int64_t sharing = (int64_t)a->sharers_pages - (int64_t)a->shared_pages;

	a->sharing_pages = sharing > 0 ? (uint64_t)sharing : 0;
	a->saved_bytes = (sharing + (int64_t)a->zero_pages) * (int64_t)PAGE_BYTES -
			 (int64_t)a->overhead_bytes;
}

/* Frames and sharers of a domain: verified by the engine that merged them. */
static void count_domain(const struct manager *mgr, const struct domain *d, struct account *a)
{
	struct merge_ksm_stats s;

	a->zero_pages += d->holes;
	if (d->engine == POLICY_ENGINE_ZERO)
		return;
	if (d->engine == POLICY_ENGINE_REMAP) {
		a->shared_pages += store_used_pages(d->store);
		a->sharers_pages += stable_sharers_total(d->stable);
		for (const struct member *m = mgr->members; m; m = m->next)
			if (m->domain == d)
				a->overhead_bytes += m->n_maps * 192;
		return;
	}
	if (!mgr->merge_ksm)
		return;
	merge_ksm_stats(mgr->merge_ksm, &s);
	a->shared_pages += s.shared_pages;
	/* Pages written since the round have left the ledger's count, not yet the round's. */
	for (const struct member *m = mgr->members; m; m = m->next)
		for (size_t i = 0; m->domain == d && i < m->n_blocks; i++)
			a->sharers_pages += m->blocks[i]->counts[PAGE_STATE_SHARED];
	a->shared_pages = MIN(a->shared_pages, a->sharers_pages);
	a->overhead_bytes += (s.rmap_items + s.shared_pages) * 64 + s.ranges * 192;
}

void account_of_host(const struct manager *mgr, struct account *ret)
{
	struct account a = { .overhead_bytes = ledger_bytes(mgr->ledger) };

	for (const struct member *m = mgr->members; m; m = m->next)
		add_member(m, &a);
	for (const struct domain *d = mgr->domains; d; d = d->next) {
		count_domain(mgr, d, &a);
		a.overhead_bytes += domain_bytes(d);
	}
	settle(&a);
	*ret = a;
}

void account_of_domain(const struct manager *mgr, const struct domain *d, struct account *ret)
{
	struct account a = { .overhead_bytes = domain_bytes(d) };

	for (const struct member *m = mgr->members; m; m = m->next)
		if (m->domain == d) {
			add_member(m, &a);
			a.overhead_bytes += ledger_share(m);
		}
	count_domain(mgr, d, &a);
	settle(&a);
	*ret = a;
}

void account_of_member(const struct manager *mgr, const struct member *m, struct account *ret)
{
	struct account whole = { 0 }, a = { .overhead_bytes = ledger_share(m) };

	count_domain(mgr, m->domain, &whole);
	add_member(m, &a);
	for (size_t i = 0; i < m->n_blocks; i++)
		a.sharers_pages += m->blocks[i]->counts[PAGE_STATE_SHARED];
	for (size_t i = 0; i < m->n_blocks; i++)
		a.zero_pages += m->blocks[i]->counts[PAGE_STATE_HOLE];
	if (whole.sharers_pages > 0)
		a.shared_pages = (uint64_t)((unsigned __int128)a.sharers_pages * whole.shared_pages /
					    whole.sharers_pages);
	settle(&a);
	*ret = a;
}
