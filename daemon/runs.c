/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/runs.h"

#include "common/util.h"

struct walk {
	hva start;
	uint32_t n_pages;
	run_slot_fn *slot_of;
	run_skip_fn *skip;
	void *userdata;
};

/* The next run at or after page at; n_pages 0 when there is none. */
static struct run next_run(const struct walk *w, uint32_t at)
{
	struct run run = { .slot = RUN_NONE };

	while ((at = w->skip(at, w->userdata)) < w->n_pages &&
	       (run.slot = w->slot_of(at, w->userdata)) == RUN_NONE)
		at++;
	run.first = at;
	while (at < w->n_pages) {
		uint32_t want = run.slot == RUN_ZERO ? RUN_ZERO : run.slot + run.n_pages;

		if (w->slot_of(at, w->userdata) != want ||
		    (run.n_pages > 0 && hva_add_pages(w->start, at).addr % HUGE_BYTES == 0))
			break;
		run.n_pages++;
		at++;
	}
	return run;
}

/* The shortest run that still fits when all longer ones are taken first. */
static uint32_t choose_length(const struct walk *w, uint64_t max_maps)
{
	uint64_t counts[HUGE_PAGES + 1] = { 0 };
	uint64_t maps = 0;
	uint32_t length;

	for (struct run r = next_run(w, 0); r.n_pages > 0; r = next_run(w, r.first + r.n_pages))
		if (r.slot != RUN_ZERO)
			counts[r.n_pages]++;
	for (length = HUGE_PAGES; length > 0; length--) {
		maps += counts[length] * RUN_MAPS;
		if (maps > max_maps)
			break;
	}
	return length + 1;
}

size_t runs_plan(hva start, uint32_t n_pages, run_slot_fn *slot_of, run_skip_fn *skip, void *userdata,
		 uint64_t max_maps, struct run *ret, size_t max_runs)
{
	struct walk w = { start, n_pages, slot_of, skip, userdata };
	uint32_t shortest = choose_length(&w, max_maps);
	size_t n = 0;

	for (struct run r = next_run(&w, 0); r.n_pages > 0 && n < max_runs;
	     r = next_run(&w, r.first + r.n_pages))
		if (r.slot == RUN_ZERO || r.n_pages >= shortest)
			ret[n++] = r;
	return n;
}
