/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/marks.h"

#include "common/util.h"

/* Gaps, and wanted pages of a range, are counted by number up to this; more count as so many. */
#define COUNT_MAX 4096U

/* The next maximal run of wanted pages at or after page at; n_pages 0 when there is none. */
static struct mark next_run(const struct marks_ask *ask, uint32_t at)
{
	struct mark run;

	while (at < ask->n_pages && !ask->wanted(at, ask->userdata))
		at++;
	run = (struct mark){ at, 0 };
	while (at < ask->n_pages && ask->wanted(at, ask->userdata)) {
		at++;
		run.n_pages++;
	}
	return run;
}

/* The shortest gap length to close so that at most max ranges are left, if that can be. */
static uint32_t choose_gap(const struct marks_ask *ask, size_t max_ranges)
{
	uint32_t gaps[COUNT_MAX + 1] = { 0 };
	size_t n_ranges = 0;
	uint32_t end = 0, gap = 0;

	for (struct mark run = next_run(ask, 0); run.n_pages > 0; run = next_run(ask, end)) {
		if (n_ranges > 0 && ask->may_close(end, run.first - end, ask->userdata))
			gaps[MIN(run.first - end, COUNT_MAX)]++;
		end = run.first + run.n_pages;
		n_ranges++;
	}
	for (gap = 0; gap < COUNT_MAX && (gap <= MARKS_GAP_PAGES || n_ranges > max_ranges); gap++)
		n_ranges -= gaps[gap];
	/* Even the longest gaps may have to be closed. */
	return n_ranges > max_ranges ? UINT32_MAX : gap - 1;
}

/* What is left once gaps are closed. */
struct ranges {
	uint32_t sizes[COUNT_MAX + 1]; /* how many have so many wanted pages */
	size_t n;
	/* Of those with least wanted pages so many are taken; of smaller ones none. */
	uint32_t least;
	size_t n_least;
	struct mark *ret; /* NULL: they are counted */
	size_t n_ret;
	uint64_t left_out;
};

static void take_range(struct ranges *r, struct mark range, uint32_t n_wanted)
{
	uint32_t size = MIN(n_wanted, COUNT_MAX);

	if (!r->ret) {
		r->sizes[size]++;
		r->n++;
	} else if (size < r->least || (size == r->least && r->n_least == 0)) {
		r->left_out += n_wanted;
	} else {
		r->n_least -= size == r->least;
		r->ret[r->n_ret++] = range;
	}
}

static void walk_ranges(const struct marks_ask *ask, uint32_t gap, struct ranges *r)
{
	struct mark range = next_run(ask, 0);
	uint32_t n_wanted = range.n_pages;

	while (range.n_pages > 0) {
		uint32_t end = range.first + range.n_pages;
		struct mark run = next_run(ask, end);

		if (run.n_pages > 0 && run.first - end <= gap &&
		    ask->may_close(end, run.first - end, ask->userdata)) {
			range.n_pages = run.first + run.n_pages - range.first;
			n_wanted += run.n_pages;
			continue;
		}
		take_range(r, range, n_wanted);
		range = run;
		n_wanted = run.n_pages;
	}
}

static void choose_least(struct ranges *r, size_t max_ranges)
{
	size_t n = 0;

	for (r->least = COUNT_MAX; n + r->sizes[r->least] < max_ranges && r->least > 1; r->least--)
		n += r->sizes[r->least];
	r->n_least = max_ranges - n;
}

size_t marks_plan(const struct marks_ask *ask, size_t max_ranges, struct mark *ret, uint64_t *ret_left_out)
{
	struct ranges r = { 0 };
	uint32_t gap;

	assert(max_ranges >= 1);
	gap = choose_gap(ask, max_ranges);
	r.n_least = SIZE_MAX;
	if (gap == UINT32_MAX) {
		walk_ranges(ask, gap, &r);
		choose_least(&r, max_ranges);
	}
	r.ret = ret;
	walk_ranges(ask, gap, &r);
	*ret_left_out = r.left_out;
	return r.n_ret;
}
