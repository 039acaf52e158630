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

/* Asked page by page in order: huge pages are counted when their first page comes. */
struct want {
	const struct ledger *ledger;
	struct ledger_block *block;
	const uint8_t *states;
	struct member *m;
	uint64_t huge;	/* the huge page that the answer below is for */
	bool huge_wanted;
	uint64_t kept_pages;
};

/* Would enough pages of this huge page be freed to be worth splitting it? */
static bool huge_worth_it(struct want *w, page_id page)
{
	uint64_t huge = ledger_hva(w->block, page).addr / HUGE_BYTES;
	uint64_t start = w->block->start.addr >> PAGE_SHIFT;
	uint64_t from = huge * HUGE_PAGES, to = from + HUGE_PAGES;
	unsigned n = 0;

	if (huge == w->huge)
		return w->huge_wanted;
	from = from > start ? from - start : 0;
	to = MIN(to - start, (uint64_t)w->block->n_pages);
	for (uint64_t i = from; i < to; i++)
		n += merge_ksm_wants(LEDGER_STATE_OF(w->states[i]));
	w->huge = huge;
	w->huge_wanted = w->m->policy.thp == THP_SPLIT && n >= w->m->policy.thp_split;
	if (!w->huge_wanted)
		w->kept_pages += n;
	return w->huge_wanted;
}

static bool page_wanted(uint32_t i, void *userdata)
{
	struct want *w = userdata;
	page_id page = PAGE_ID(w->block->first.n + i);

	if (!merge_ksm_wants(LEDGER_STATE_OF(w->states[i])))
		return false;
	return !ledger_is_huge(w->block, page) || huge_worth_it(w, page);
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
	m->counts.kept_huge_pages = 0;
	for (size_t i = 0; i < m->n_blocks; i++) {
		struct want w = {
			.ledger = l,
			.block = m->blocks[i],
			.states = ledger_states(l, m->blocks[i]),
			.m = m,
			.huge = UINT64_MAX,
		};
		size_t n = marks_plan(w.block->n_pages, page_wanted, &w, max_ranges, new);
		struct mark *kept = n ? malloc(n * sizeof(*kept)) : NULL;
		struct marks old = m->marks[i];
		struct mark all;

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
		/* Counted once in each of the plan's two walks. */
		m->counts.kept_huge_pages += w.kept_pages / 2;
	}
	*ret = (struct ksm_plan){ p.v, p.n, p.n_candidates };
	return 0;
no_memory:
	free(p.v);
	return -ENOMEM;
}
