/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The tracker that knows nothing: every page that is there may have been written. */
#include "common/util.h"
#include "daemon/tracker-kind.h"

static void rehash_free(struct tracker *t, bool disarm _unused_)
{
	free(t);
}

struct all_written {
	page_run_fn *fn;
	void *userdata;
	struct page_run held; /* WRITTEN makes neighbours equal that were not */
};

static int flush(struct all_written *w)
{
	struct page_run run = w->held;

	w->held.n_pages = 0;
	return run.n_pages > 0 ? w->fn(&run, w->userdata) : 0;
}

static int take_run(const struct page_run *run, void *userdata)
{
	struct all_written *w = userdata;
	uint32_t bits = run->bits ? run->bits | PAGE_WRITTEN : 0;
	int r;

	if (w->held.n_pages > 0 && w->held.bits == bits) {
		w->held.n_pages += run->n_pages;
		return 0;
	}
	r = flush(w);
	w->held = *run;
	w->held.bits = bits;
	return r;
}

static int rehash_collect(struct tracker *t, hva start, uint64_t n_pages, page_run_fn *fn,
			  void *userdata)
{
	struct all_written w = { .fn = fn, .userdata = userdata };
	int r = pagemap_walk(t->process, start, n_pages, 0, take_run, &w), flushed = flush(&w);

	return r < 0 ? r : flushed;
}

static const struct tracker_ops rehash_ops = {
	.kind = TRACKER_REHASH,
	.free = rehash_free,
	.collect = rehash_collect,
};

int tracker_rehash_new(const struct process *p, struct tracker **ret)
{
	struct tracker *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	*t = (struct tracker){ .ops = &rehash_ops, .process = p };
	*ret = t;
	return 0;
}
