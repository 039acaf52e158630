/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Engine ksm, which ranges of a guest are to be marked MERGEABLE: those that hold candidates,
 * coalesced until they are few enough; and the advice that leads there from the marks of now.
 *
 * Each mark cuts the guest's memory into mappings, and to find who maps a page of KSM's the kernel
 * (rmap_walk_ksm(), as of Linux 6.18) walks all mappings that were cut from one, for each sharer. With
 * 8192 marks in each of four guests DAMON took 30 times as long over such pages as with 256, most of
 * a processor; reclaim and compaction walk likewise, and hold a lock that the guests' faults need. So,
 * while ksmd stands still, the marks of a block are folded: all from the first to the last is
 * marked, and is one mapping again. Before ksmd runs, what is between them is unmarked: it never
 * merged, so there is nothing to give back.
 */
#include <sys/mman.h>

#include "common/util.h"
#include "daemon/merge-ksm-private.h"

/* A block, and which of its huge pages stay whole: one for each aligned 2 MiB, from that of its
 * start on. */
struct want {
	const struct ledger_block *block;
	const uint8_t *states;
	bool *whole;
	uint64_t kept_pages; /* what that keeps from being merged */
};

static uint32_t huge_of(const struct ledger_block *b, uint32_t i)
{
	return (uint32_t)(hva_add_pages(b->start, i).addr / HUGE_BYTES - b->start.addr / HUGE_BYTES);
}

/* A huge page is split only where enough of its pages would be freed to be worth it. -ENOMEM. */
static int find_whole(struct want *w, const struct member_policy *policy)
{
	const struct ledger_block *b = w->block;

	w->whole = calloc(huge_of(b, b->n_pages - 1) + 1, sizeof(*w->whole));
	if (!w->whole)
		return -ENOMEM;
	for (uint32_t at = 0, end; at < b->n_pages; at = end) {
		hva next = { ALIGN_DOWN(hva_add_pages(b->start, at).addr, HUGE_BYTES) + HUGE_BYTES };
		unsigned n = 0;

		end = MIN((uint32_t)((next.addr - b->start.addr) >> PAGE_SHIFT), b->n_pages);
		if (!ledger_is_huge(b, PAGE_ID(b->first.n + at)))
			continue;
		for (uint32_t i = at; i < end; i++)
			n += merge_ksm_wants(LEDGER_STATE_OF(w->states[i]));
		if (policy->thp == THP_SPLIT && n >= policy->thp_split)
			continue;
		w->whole[huge_of(b, at)] = true;
		w->kept_pages += n;
	}
	return 0;
}

static bool page_wanted(uint32_t i, void *userdata)
{
	const struct want *w = userdata;

	return merge_ksm_wants(LEDGER_STATE_OF(w->states[i])) && !w->whole[huge_of(w->block, i)];
}

static bool may_close(uint32_t first, uint32_t n_pages, void *userdata)
{
	const struct want *w = userdata;

	for (uint32_t h = huge_of(w->block, first); h <= huge_of(w->block, first + n_pages - 1); h++)
		if (w->whole[h])
			return false;
	return true;
}

/* Advice to give, in order. */
struct plan {
	struct ring_advise *v;
	uint32_t n;
	uint64_t n_candidates; /* in what is marked then */
};

static void count_candidates(struct plan *p, const uint8_t *states, const struct mark *mark)
{
	for (uint32_t i = mark->first; i < mark->first + mark->n_pages; i++) {
		enum page_state s = LEDGER_STATE_OF(states[i]);

		p->n_candidates += s == PAGE_STATE_CANDIDATE || s == PAGE_STATE_ZEROS;
	}
}

static void add_advice(struct plan *p, const struct ledger_block *b, uint32_t first, uint32_t end,
		       int advice)
{
	if (first < end)
		p->v[p->n++] = (struct ring_advise){
			.addr = hva_add_pages(b->start, first).addr,
			.bytes = (end - first) * PAGE_BYTES,
			.advice = advice,
		};
}

/* Advice that turns the old marks of a block into the new ones. */
static void advise_difference(struct plan *p, const struct ledger_block *b,
			      const struct marks *old, const struct mark *new, size_t n_new)
{
	size_t k = 0;

	for (size_t i = 0; i < old->n; i++) {
		uint32_t at = old->v[i].first, end = at + old->v[i].n_pages;

		while (k < n_new && new[k].first + new[k].n_pages <= at)
			k++;
		for (size_t j = k; j < n_new && new[j].first < end; j++) {
			add_advice(p, b, at, new[j].first, MADV_UNMERGEABLE);
			at = MAX(at, new[j].first + new[j].n_pages);
		}
		add_advice(p, b, at, end, MADV_UNMERGEABLE);
	}
	for (size_t j = 0; j < n_new; j++)
		add_advice(p, b, new[j].first, new[j].first + new[j].n_pages, MADV_MERGEABLE);
}

/* All from the first mark of a block to the last. */
static struct mark hull(const struct marks *marks)
{
	const struct mark *last = &marks->v[marks->n - 1];

	return (struct mark){ marks->v[0].first, last->first + last->n_pages - marks->v[0].first };
}

int merge_ksm_fold(struct member *m)
{
	struct ring_advise v[RAM_BLOCKS_MAX];
	struct plan p = { .v = v };
	int64_t r;

	for (size_t i = 0; i < m->n_blocks; i++)
		if (m->marks[i].n > 1) {
			struct mark all = hull(&m->marks[i]);

			add_advice(&p, m->blocks[i], all.first, all.first + all.n_pages, MADV_MERGEABLE);
		}
	if (p.n == 0)
		return 0;
	m->folded = true;
	r = agent_advise(m->agent, p.v, p.n);
	return r < 0 ? (int)r : 0;
}

int merge_ksm_unfold(struct member *m)
{
	struct plan p = { 0 };
	size_t n = 0;
	int64_t r;

	if (!m->folded)
		return 0;
	for (size_t i = 0; i < m->n_blocks; i++)
		n += m->marks[i].n;
	p.v = calloc(MAX(n, (size_t)1), sizeof(*p.v));
	if (!p.v)
		return -ENOMEM;
	for (size_t i = 0; i < m->n_blocks; i++)
		for (size_t k = 1; k < m->marks[i].n; k++)
			add_advice(&p, m->blocks[i], m->marks[i].v[k - 1].first + m->marks[i].v[k - 1].n_pages,
				   m->marks[i].v[k].first, MADV_UNMERGEABLE);
	r = agent_advise(m->agent, p.v, p.n);
	free(p.v);
	if (r < 0)
		return (int)r;
	m->folded = false;
	return 0;
}

int merge_ksm_plan(const struct ledger *l, struct member *m, struct ksm_plan *ret)
{
	struct plan p = { 0 };
	size_t max_ranges = MAX(m->policy.max_maps / MAX(m->n_blocks, (size_t)1), (size_t)1);
	_cleanup_free_ struct mark *new = calloc(max_ranges, sizeof(*new));
	size_t n_old = 0;

	for (size_t i = 0; i < m->n_blocks; i++)
		n_old += m->marks[i].n;
	/* Each range of either plan gives at most two pieces of advice, one in between; folded ones are
	 * fewer. */
	p.v = calloc(2 * (n_old + max_ranges * m->n_blocks) + 1, sizeof(*p.v));
	if (!new || !p.v)
		goto no_memory;
	m->counts.kept_huge_pages = m->counts.unmarked_pages = 0;
	for (size_t i = 0; i < m->n_blocks; i++) {
		struct want w = { m->blocks[i], ledger_states(l, m->blocks[i]), NULL, 0 };
		const struct marks_ask ask = { w.block->n_pages, page_wanted, may_close, &w };
		uint64_t left_out;
		size_t n;
		struct mark *kept;
		struct marks old = m->marks[i];
		struct mark all;

		if (find_whole(&w, &m->policy) < 0)
			goto no_memory;
		n = marks_plan(&ask, max_ranges, new, &left_out);
		free(w.whole);
		kept = n ? malloc(n * sizeof(*kept)) : NULL;
		if (n && !kept)
			goto no_memory;
		if (n)
			memcpy(kept, new, n * sizeof(*kept));
		for (size_t k = 0; k < n; k++)
			count_candidates(&p, w.states, &new[k]);
		if (m->folded && old.n > 0) {
			all = hull(&old);
			old = (struct marks){ &all, 1 };
		}
		advise_difference(&p, m->blocks[i], &old, new, n);
		free(m->marks[i].v);
		m->marks[i] = (struct marks){ kept, n };
		m->counts.kept_huge_pages += w.kept_pages;
		m->counts.unmarked_pages += left_out;
	}
	*ret = (struct ksm_plan){ p.v, p.n, p.n_candidates };
	return 0;
no_memory:
	free(p.v);
	return -ENOMEM;
}
