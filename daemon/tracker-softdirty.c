/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The kernel marks a page soft-dirty when it is written, and clears the marks of a whole
 * process when "4" is written to its clear_refs. There is no get-and-clear: whatever is
 * written after a page was looked at and before its mark is cleared would be lost, however
 * the two are ordered or repeated, unless the guest were stopped meanwhile. So a look and a
 * clearing are never paired. Instead:
 *
 *   An epoch begins with a clearing, at the begin of a pass. The first collect of a range in
 *   an epoch reports every page as written: the caller reads its pages after the clearing.
 *   Later collects of the epoch report the soft-dirty pages and clear nothing: a page that
 *   is not soft-dirty has not been written since the clearing, hence not since it was read.
 *
 * Nothing is lost, but a page once written is reported again in every pass of the epoch. The
 * epoch ends when that has cost as many pages as an epoch's first pass costs: so the excess is
 * at most that of two such passes in an epoch, and with w distinct pages newly written in a
 * pass out of n, an epoch lasts about sqrt(2n/w) passes (n/w where it is the same pages that
 * are written again and again).
 *
 * Also: a page that shows the zero page may have been discarded and read again, which leaves
 * no mark; it is always reported as written. A huge page has one mark for its 512 pages.
 *
 * Clearing holds the guest's mmap_lock for writing while it walks all page tables of the
 * process, some 10 ns for each page: page faults of the guest wait for it.
 */
#include "common/io.h"
#include "common/kernel.h"
#include "common/util.h"
#include "daemon/range-set.h"
#include "daemon/tracker-kind.h"

struct tracker_softdirty {
	struct tracker base;
	struct range_set collected; /* in this epoch: its pages were read after the clearing */
	uint64_t read_pages;	    /* reported by first collects of this epoch */
	uint64_t repeated_pages;    /* reported by later ones */
	bool cleared;		    /* an epoch has begun */
};

static struct tracker_softdirty *softdirty(struct tracker *t)
{
	return (struct tracker_softdirty *)t;
}

static int softdirty_begin_pass(struct tracker *base)
{
	struct tracker_softdirty *t = softdirty(base);
	int r;

	if (t->cleared && t->repeated_pages < MAX(t->read_pages, (uint64_t)1))
		return 0;
	/* First forget: a clearing that failed half-way must not be believed. */
	range_set_clear(&t->collected);
	t->read_pages = t->repeated_pages = 0;
	t->cleared = false;
	r = io_write_file(base->process->proc_fd, "clear_refs", "4");
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	t->cleared = true;
	return 0;
}

/* A mapping was replaced there: what had been collected says nothing of it. */
static int softdirty_forget(struct tracker *base, hva start, uint64_t n_pages)
{
	struct range_set *s = &softdirty(base)->collected;
	int r = range_set_remove(s, start.addr, hva_add_pages(start, n_pages).addr);

	if (r < 0)
		range_set_clear(s);
	return 0;
}

struct collect {
	page_run_fn *fn;
	void *userdata;
	bool first;
	uint64_t reported_pages;
	struct page_run held; /* WRITTEN may make neighbours equal that were not */
};

static int flush(struct collect *c)
{
	struct page_run run = c->held;

	c->held.n_pages = 0;
	return run.n_pages > 0 ? c->fn(&run, c->userdata) : 0;
}

static int take_run(const struct page_run *run, void *userdata)
{
	struct collect *c = userdata;
	uint32_t bits = run->bits;
	int r;

	if (bits != 0 && (c->first || (bits & PAGE_ZERO)))
		bits |= PAGE_WRITTEN;
	/* Only these cost the caller a read. */
	if ((bits & (PAGE_PRESENT | PAGE_WRITTEN | PAGE_ZERO)) == (PAGE_PRESENT | PAGE_WRITTEN))
		c->reported_pages += run->n_pages;
	if (c->held.n_pages > 0 && c->held.bits == bits) {
		c->held.n_pages += run->n_pages;
		return 0;
	}
	r = flush(c);
	c->held = (struct page_run){ run->start, run->n_pages, bits };
	return r;
}

static int softdirty_collect(struct tracker *base, hva start, uint64_t n_pages, page_run_fn *fn,
			     void *userdata)
{
	struct tracker_softdirty *t = softdirty(base);
	uint64_t end = hva_add_pages(start, n_pages).addr;
	struct collect c = {
		.fn = fn,
		.userdata = userdata,
		.first = !range_set_contains(&t->collected, start.addr, end),
	};
	int r = pagemap_walk(base->process, start, n_pages, PAGEMAP_SOFT_DIRTY, take_run, &c);
	int flushed = flush(&c);

	if (r >= 0)
		r = flushed;
	if (r < 0) {
		(void)softdirty_forget(base, start, n_pages);
		return r;
	}
	/* A range that can't be remembered is reported as written the next time, too. */
	if (c.first && t->cleared)
		(void)range_set_add(&t->collected, start.addr, end);
	*(c.first ? &t->read_pages : &t->repeated_pages) += c.reported_pages;
	return 0;
}

static void softdirty_free(struct tracker *base, bool disarm _unused_)
{
	range_set_done(&softdirty(base)->collected);
	free(base);
}

static const struct tracker_ops softdirty_ops = {
	.kind = TRACKER_SOFTDIRTY,
	.free = softdirty_free,
	.arm = softdirty_forget,
	.disarm = softdirty_forget,
	.begin_pass = softdirty_begin_pass,
	.collect = softdirty_collect,
};

int tracker_softdirty_new(const struct process *p, struct tracker **ret)
{
	struct tracker_softdirty *t;

	if (!kernel_has(KERNEL_SOFT_DIRTY))
		return -EOPNOTSUPP;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->base = (struct tracker){ .ops = &softdirty_ops, .process = p };
	*ret = &t->base;
	return 0;
}
