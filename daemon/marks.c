/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/marks.h"

#include "common/util.h"

/* Gaps are counted by length up to this; longer ones count as this long. */
#define GAP_MAX 4096U

struct walk {
	uint32_t n_pages;
	bool (*wanted)(uint32_t i, void *userdata);
	void *userdata;
};

/* The next maximal run of wanted pages at or after page at; n_pages 0 when there is none. */
static struct mark next_run(const struct walk *w, uint32_t at)
{
	struct mark run;

	while (at < w->n_pages && !w->wanted(at, w->userdata))
		at++;
	run = (struct mark){ at, 0 };
	while (at < w->n_pages && w->wanted(at, w->userdata)) {
		at++;
		run.n_pages++;
	}
	return run;
}

/* The shortest gap length to close so that at most max ranges are left. */
static uint32_t choose_gap(const struct walk *w, size_t max_ranges)
{
	uint32_t gaps[GAP_MAX + 1] = { 0 };
	size_t n_ranges = 0;
	uint32_t end = 0, gap = 0;

	for (struct mark run = next_run(w, 0); run.n_pages > 0; run = next_run(w, end)) {
		if (n_ranges > 0)
			gaps[MIN(run.first - end, GAP_MAX)]++;
		end = run.first + run.n_pages;
		n_ranges++;
	}
	for (gap = 0; gap < GAP_MAX && (gap <= MARKS_GAP_PAGES || n_ranges > max_ranges); gap++)
		n_ranges -= gaps[gap];
	/* Even the longest gaps may have to be closed. */
	return n_ranges > max_ranges ? UINT32_MAX : gap - 1;
}

size_t marks_plan(uint32_t n_pages, bool (*wanted)(uint32_t i, void *userdata), void *userdata,
		  size_t max_ranges, struct mark *ret)
{
	struct walk w = { n_pages, wanted, userdata };
	uint32_t gap, end = 0;
	size_t n = 0;

	assert(max_ranges >= 1);
	gap = choose_gap(&w, max_ranges);
	for (struct mark run = next_run(&w, 0); run.n_pages > 0; run = next_run(&w, end)) {
		if (n > 0 && run.first - end <= gap)
			ret[n - 1].n_pages = run.first + run.n_pages - ret[n - 1].first;
		else
			ret[n++] = run;
		end = run.first + run.n_pages;
	}
	return n;
}
