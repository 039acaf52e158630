/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/remap-plan.h"

#include <fcntl.h>
#include <stdlib.h>

#include "common/io.h"
#include "common/parse.h"
#include "common/util.h"

/* Runs of one plan: bounds its memory (24 bytes a run); the rest is for the next. */
#define PLAN_RUNS_MAX 131072U

struct want {
	const struct ledger *ledger;
	struct ledger_block *block;
	struct member *m;
	uint64_t huge; /* the huge page that the answer below is for */
	bool huge_wanted;
	/* Candidates in those that stay whole, up to this one: a plan asks twice. */
	uint64_t kept_pages, counted_to;
};

static uint32_t slot_of_page(const struct want *w, uint32_t i)
{
	page_id page = PAGE_ID(w->block->first.n + i);
	slot_id slot;

	switch (ledger_state(w->ledger, page)) {
	case PAGE_STATE_ZEROS:
		return RUN_ZERO;
	case PAGE_STATE_CANDIDATE:
		slot = stable_slot(w->m->domain->stable, RECORD_ID(ledger_word(w->ledger, page)));
		return slot_id_is_none(slot) ? RUN_NONE : slot.n;
	default:
		return RUN_NONE;
	}
}

/* A huge page is split only where the policy finds it worth it. */
static bool huge_worth_it(struct want *w, uint32_t i)
{
	uint64_t huge = hva_add_pages(w->block->start, i).addr / HUGE_BYTES;
	uint64_t start = w->block->start.addr >> PAGE_SHIFT, from = huge * HUGE_PAGES, to = from + HUGE_PAGES;
	unsigned n = 0;

	if (huge == w->huge)
		return w->huge_wanted;
	from = from > start ? from - start : 0;
	to = MIN(to - start, (uint64_t)w->block->n_pages);
	for (uint64_t k = from; k < to; k++)
		n += slot_of_page(w, (uint32_t)k) != RUN_NONE;
	w->huge = huge;
	w->huge_wanted = w->m->policy.thp == THP_SPLIT && n >= w->m->policy.thp_split;
	if (!w->huge_wanted && huge > w->counted_to)
		w->kept_pages += n;
	w->counted_to = MAX(w->counted_to, huge);
	return w->huge_wanted;
}

static uint32_t wanted_slot(uint32_t i, void *userdata)
{
	struct want *w = userdata;
	uint32_t slot = slot_of_page(w, i);

	if (slot == RUN_NONE || !ledger_is_huge(w->block, PAGE_ID(w->block->first.n + i)))
		return slot;
	return huge_worth_it(w, i) ? slot : RUN_NONE;
}

static uint32_t next_offered(uint32_t i, void *userdata)
{
	const struct want *w = userdata;

	return ledger_skip_unoffered(ledger_states(w->ledger, w->block), i, w->block->n_pages);
}

/* How many mappings may be added: by policy, and by the kernel's limit, of which a quarter is left
 * to QEMU, and to reclaiming. */
static uint64_t maps_left(const struct member *m)
{
	uint64_t max = m->policy.max_maps, limit;
	size_t used;
	char line[32];

	if (io_read_line(AT_FDCWD, "/proc/sys/vm/max_map_count", line, sizeof(line)) >= 0 &&
	    parse_u64_prefix(line, strlen(line), 10, &limit, &used) >= 0)
		max = MIN(max, limit / 4 * 3);
	return max > m->n_maps ? max - m->n_maps : 0;
}

int remap_plan_make(const struct ledger *ledger, struct member *m, struct remap_plan *ret)
{
	_cleanup_free_ struct run *runs = malloc(PLAN_RUNS_MAX * sizeof(*runs));
	_cleanup_free_ struct remap_planned *planned = malloc(PLAN_RUNS_MAX * sizeof(*planned));
	uint64_t maps = maps_left(m);
	size_t n_planned = 0;

	if (!runs || !planned)
		return -ENOMEM;
	m->counts.kept_huge_pages = 0;
	for (size_t i = 0; i < m->n_blocks; i++) {
		struct want w = { .ledger = ledger, .block = m->blocks[i], .m = m, .huge = UINT64_MAX };
		size_t n = runs_plan(m->blocks[i]->start, m->blocks[i]->n_pages, wanted_slot, next_offered, &w,
				     maps, runs, PLAN_RUNS_MAX - n_planned);

		m->counts.kept_huge_pages += w.kept_pages;
		for (size_t k = 0; k < n; k++) {
			planned[n_planned++] = (struct remap_planned){ m->blocks[i], runs[k] };
			if (runs[k].slot != RUN_ZERO)
				maps -= MIN(maps, (uint64_t)RUN_MAPS);
		}
	}
	if (n_planned == 0)
		return -EALREADY;
	*ret = (struct remap_plan){ TAKE_PTR(planned), n_planned };
	return 0;
}
