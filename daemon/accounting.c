/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/accounting.h"

#include "common/util.h"
#include "daemon/store.h"

/* What the kernel takes for a mapping, about. */
#define MAPPING_BYTES 192U

static uint64_t ram_pages(const struct member *m)
{
	uint64_t n = 0;

	for (size_t i = 0; i < m->n_blocks; i++)
		n += m->blocks[i]->n_pages;
	return n;
}

static uint64_t ram_pages_of_domain(const struct manager *mgr, const struct domain *d)
{
	uint64_t n = 0;

	for (const struct member *m = mgr->members; m; m = m->next)
		n += m->domain == d ? ram_pages(m) : 0;
	return n;
}

/* n of `of` equal shares. */
static uint64_t part(uint64_t whole, uint64_t n, uint64_t of)
{
	return of > 0 ? (uint64_t)((unsigned __int128)whole * n / of) : 0;
}

/* The agent's memory, and mappings that engine remap has added. */
static uint64_t own_bytes(const struct member *m)
{
	uint64_t maps = m->domain->engine == POLICY_ENGINE_REMAP ? m->n_maps : 0;

	return m->counts.agent_bytes + maps * MAPPING_BYTES;
}

static void add_member(const struct member *m, struct account *a)
{
	a->guests++;
	a->ram_bytes += ram_pages(m) * PAGE_BYTES;
	a->present_bytes += m->counts.present_pages * PAGE_BYTES;
	a->overhead_bytes += own_bytes(m);
	if (member_may_balloon(m))
		a->unmapped_pages += MIN(m->counts.unmapped_pages, member_sharers(m));
}

static void settle(struct account *a)
{
	/* A store may hold pages that nobody maps yet: then sharing has cost something so far. */
	int64_t sharing = (int64_t)a->sharers_pages - (int64_t)a->shared_pages;

	a->sharing_pages = sharing > 0 ? (uint64_t)sharing : 0;
	/* The slots of those that are swapped out take no memory: no more is lost than was gained. */
	sharing -= (int64_t)MIN(a->unmapped_pages, a->sharing_pages);
	a->saved_bytes = (sharing + (int64_t)a->zero_pages) * (int64_t)PAGE_BYTES -
			 (int64_t)a->overhead_bytes;
}

/* Frames and sharers of a domain, verified by the engine that merged them, and what they cost that no guest
 * has for itself: trees, KSM's metadata. */
static void count_domain(const struct manager *mgr, const struct domain *d, struct account *a)
{
	struct merge_ksm_stats s;

	a->overhead_bytes += domain_bytes(d);
	a->zero_pages += d->holes;
	if (d->engine == POLICY_ENGINE_ZERO)
		return;
	if (d->engine == POLICY_ENGINE_REMAP) {
		a->shared_pages += store_used_pages(d->store);
		a->sharers_pages += stable_sharers_total(d->stable);
		return;
	}
	if (!mgr->merge_ksm)
		return;
	merge_ksm_stats(mgr->merge_ksm, &s);
	a->shared_pages += s.shared_pages;
	/* Pages written since the round have left the ledger's count, not yet the round's. */
	for (const struct member *m = mgr->members; m; m = m->next)
		a->sharers_pages += m->domain == d ? member_sharers(m) : 0;
	a->shared_pages = MIN(a->shared_pages, a->sharers_pages);
	a->overhead_bytes += (s.rmap_items + s.shared_pages) * 64 + s.ranges * MAPPING_BYTES;
}

void account_of_host(const struct manager *mgr, struct account *ret)
{
	struct account a = { .overhead_bytes = ledger_bytes(mgr->ledger) };

	for (const struct member *m = mgr->members; m; m = m->next)
		add_member(m, &a);
	for (const struct domain *d = mgr->domains; d; d = d->next)
		count_domain(mgr, d, &a);
	settle(&a);
	*ret = a;
}

void account_of_domain(const struct manager *mgr, const struct domain *d, struct account *ret)
{
	struct account a = { .overhead_bytes = part(ledger_bytes(mgr->ledger), ram_pages_of_domain(mgr, d),
						    ledger_pages(mgr->ledger)) };

	for (const struct member *m = mgr->members; m; m = m->next)
		if (m->domain == d)
			add_member(m, &a);
	count_domain(mgr, d, &a);
	settle(&a);
	*ret = a;
}

void account_of_member(const struct manager *mgr, const struct member *m, struct account *ret)
{
	uint64_t pages = ram_pages(m), domain_pages = ram_pages_of_domain(mgr, m->domain);
	struct account whole = { 0 }, a = { 0 };

	count_domain(mgr, m->domain, &whole);
	add_member(m, &a);
	a.sharers_pages = member_sharers(m);
	for (size_t i = 0; i < m->n_blocks; i++)
		a.zero_pages += m->blocks[i]->counts[PAGE_STATE_HOLE];
	/* Pages that nobody maps yet cost everybody. */
	a.shared_pages = whole.sharers_pages > 0 ?
				 part(whole.shared_pages, a.sharers_pages, whole.sharers_pages) :
				 part(whole.shared_pages, pages, domain_pages);
	a.overhead_bytes += part(whole.overhead_bytes, pages, domain_pages) +
			    part(ledger_bytes(mgr->ledger), pages, ledger_pages(mgr->ledger));
	settle(&a);
	*ret = a;
}
