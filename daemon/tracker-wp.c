/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The guest's memory is registered with the guest's userfaultfd in write-protect mode. In
 * async mode nobody waits on a write to a protected page: the kernel drops the protection and
 * the write goes on, which leaves the page WRITTEN in the page map. A collect is a walk that
 * gets and clears that mark in one operation of the kernel (daemon/pagemap-scan.c), so that no
 * write falls between the look and the clearing.
 *
 * A range may consist of many mappings, of which some can't be registered. The kernel refuses
 * such a range as a whole; then its spans are registered one by one, and what is refused
 * stays untracked: its pages are reported as written each time.
 *
 * The agent in the guest keeps its own descriptor of the userfaultfd, so that closing ours
 * ends nothing: the ranges are remembered and unregistered at the end. If we are killed
 * before, the protection stays and costs the guest one short fault for each page that it
 * writes, once. A new daemon lets the agent close the old userfaultfd, which ends the
 * protection, and make a new one.
 */
#include <sys/ioctl.h>

#include "common/kernel-abi.h"
#include "common/kernel.h"
#include "common/util.h"
#include "daemon/pagemap-runs.h"
#include "daemon/range-set.h"
#include "daemon/span.h"
#include "daemon/tracker-kind.h"

/* Lists of spans that are kept: a guest has a few RAM blocks. */
#define CACHE_LISTS 16U
/* After so many passes they are read again in any case: at 32, that was a fifth of what watching a
 * guest costs that writes nothing. */
#define CACHE_PASSES 128U

struct tracker_wp {
	struct tracker base;
	int uffd;
	enum tracker_thp thp;
	struct range_set armed;
	struct span_list cache[CACHE_LISTS]; /* of armed ranges */
	uint64_t vm_pages;		     /* size of the address space when they were read */
	unsigned cache_age, cache_next;
};

static struct tracker_wp *wp(struct tracker *t)
{
	return (struct tracker_wp *)t;
}

static int wp_register(const struct tracker_wp *t, uint64_t start, uint64_t end)
{
	struct uffdio_register reg = {
		.range = { .start = start, .len = end - start },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	return ioctl(t->uffd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

static int wp_unregister(const struct tracker_wp *t, uint64_t start, uint64_t end)
{
	struct uffdio_range range = { .start = start, .len = end - start };

	return ioctl(t->uffd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

/* --- what is mapped where -------------------------------------------------------------------- */

/*
 * A merged guest has tens of thousands of mappings, and asking the kernel for each costs
 * ten times as much as the scan itself. So the lists of spans are kept from pass to pass.
 * What changes them: an engine of ours (which says where: that part is read anew), or QEMU
 * (hot-plug: the size of the address space changes). What slips through is harmless: pages
 * mapped since are not registered, hence written; pages unmapped since look unwritten, and
 * reading or merging them fails.
 */
static void cache_drop(struct tracker_wp *t, uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < CACHE_LISTS; i++)
		if (t->cache[i].start < end && start < t->cache[i].end)
			span_list_done(&t->cache[i]);
}

static void wp_remapped(struct tracker *base, hva start, uint64_t n_pages)
{
	struct tracker_wp *t = wp(base);

	for (size_t i = 0; i < CACHE_LISTS; i++)
		if (span_list_note_change(&t->cache[i], start.addr, hva_add_pages(start, n_pages).addr) < 0)
			span_list_done(&t->cache[i]);
}

/* The armed range around [start, end), or what was asked if it isn't armed as a whole. */
static struct range cache_range(const struct tracker_wp *t, uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < t->armed.n; i++)
		if (t->armed.ranges[i].start <= start && end <= t->armed.ranges[i].end)
			return t->armed.ranges[i];
	return (struct range){ start, end };
}

/* NULL when it can't be read: the walk will say why. */
static const struct span_list *cache_get(struct tracker_wp *t, uint64_t start, uint64_t end)
{
	struct span_list *l;
	struct range r;

	for (size_t i = 0; i < CACHE_LISTS; i++)
		if (t->cache[i].start <= start && end <= t->cache[i].end) {
			if (span_list_refresh(t->base.process, &t->cache[i]) < 0)
				return NULL;
			return &t->cache[i];
		}
	r = cache_range(t, start, end);
	l = &t->cache[t->cache_next++ % CACHE_LISTS];
	span_list_done(l);
	if (span_list_read(t->base.process, HVA(r.start), (r.end - r.start) >> PAGE_SHIFT, l) < 0)
		return NULL;
	return l;
}

/* --- registering ----------------------------------------------------------------------------- */

/* What is no reason to stop: a mapping that can't be registered (EINVAL, EPERM for one without
 * write permission to its file), or that went away meanwhile. */
static bool is_untrackable(int r)
{
	return r == -EINVAL || r == -EPERM || r == -ENOENT;
}

static int unregister_by_span(struct tracker_wp *t, hva start, uint64_t n_pages)
{
	_cleanup_(span_list_done) struct span_list spans = SPAN_LIST_EMPTY;
	int r = span_list_read(t->base.process, start, n_pages, &spans);

	for (size_t i = 0; r >= 0 && i < spans.n; i++) {
		if (spans.spans[i].kind != SPAN_HOLE)
			r = wp_unregister(t, spans.spans[i].start, spans.spans[i].end);
		if (is_untrackable(r))
			r = 0;
	}
	return r;
}

/* Only for what we registered: where QEMU has a userfaultfd of its own, kernels before 6.15 would
 * let us take that away. */
static int disarm_range(struct tracker_wp *t, uint64_t start, uint64_t end)
{
	int r = wp_unregister(t, start, end);

	cache_drop(t, start, end);
	if (is_untrackable(r))
		r = unregister_by_span(t, HVA(start), (end - start) >> PAGE_SHIFT);
	/* Where it can't be forgotten it is unregistered once more at the end. */
	if (r >= 0 || r == -ESRCH)
		(void)range_set_remove(&t->armed, start, end);
	return r;
}

static int wp_disarm(struct tracker *base, hva start, uint64_t n_pages)
{
	struct tracker_wp *t = wp(base);
	uint64_t end = hva_add_pages(start, n_pages).addr;
	int error = 0;

	for (size_t n = t->armed.n; n > 0; n--) {
		struct range armed = t->armed.ranges[n - 1];
		uint64_t from = MAX(armed.start, start.addr), to = MIN(armed.end, end);
		int r = from < to ? disarm_range(t, from, to) : 0;

		if (r < 0 && error == 0)
			error = r;
	}
	return error;
}

static int register_by_span(struct tracker_wp *t, hva start, uint64_t n_pages)
{
	_cleanup_(span_list_done) struct span_list spans = SPAN_LIST_EMPTY;
	int r = span_list_read(t->base.process, start, n_pages, &spans);

	for (size_t i = 0; r >= 0 && i < spans.n; i++) {
		const struct span *s = &spans.spans[i];

		if (s->kind != SPAN_HOLE)
			r = wp_register(t, s->start, s->end);
		if (is_untrackable(r))
			r = 0;
		if (r < 0)
			(void)disarm_range(t, start.addr, s->start);
	}
	return r;
}

static int wp_arm(struct tracker *base, hva start, uint64_t n_pages)
{
	struct tracker_wp *t = wp(base);
	uint64_t end = hva_add_pages(start, n_pages).addr;
	/* All or nothing: the kernel checks every mapping before it changes the first. */
	int r = wp_register(t, start.addr, end);

	cache_drop(t, start.addr, end);
	if (is_untrackable(r))
		r = register_by_span(t, start, n_pages);
	if (r < 0)
		return r;
	r = range_set_add(&t->armed, start.addr, end);
	if (r < 0)
		(void)disarm_range(t, start.addr, end);
	return r;
}

/* A pass looks at the size of the address space once: when that has changed, something was
 * mapped or unmapped, and the lists are read again. They are also from time to time. */
static int wp_begin_pass(struct tracker *base)
{
	struct tracker_wp *t = wp(base);
	uint64_t vm_pages;
	int r = process_vm_pages(base->process, &vm_pages, NULL);

	if (r < 0)
		return r;
	if (vm_pages != t->vm_pages)
		cache_drop(t, 0, UINT64_MAX);
	if (++t->cache_age >= CACHE_PASSES) {
		cache_drop(t, 0, UINT64_MAX);
		/* Where the agent could not register a new mapping, all of it counts as written until
		 * this succeeds. */
		for (size_t i = 0; i < t->armed.n; i++)
			(void)wp_register(t, t->armed.ranges[i].start, t->armed.ranges[i].end);
		t->cache_age = 0;
	}
	t->vm_pages = vm_pages;
	return 0;
}

static int wp_collect(struct tracker *base, hva start, uint64_t n_pages, page_run_fn *fn,
		      void *userdata)
{
	struct tracker_wp *t = wp(base);
	struct run_joiner j = { .fn = fn, .userdata = userdata };
	unsigned flags = PAGEMAP_CLEAR_WRITTEN;
	int r, flushed;

	if (t->thp == TRACKER_THP_KEEP)
		flags |= PAGEMAP_KEEP_HUGE;
	r = pagemap_walk_scan(base->process, start, n_pages, flags,
			      cache_get(t, start.addr, hva_add_pages(start, n_pages).addr), &j);
	/* Also after an error: what was cleared must be reported. */
	flushed = run_joiner_flush(&j);
	return r < 0 ? r : flushed;
}

static void wp_free(struct tracker *base, bool disarm)
{
	struct tracker_wp *t = wp(base);

	for (size_t n = t->armed.n; n > 0 && disarm; n--) {
		struct range r = t->armed.ranges[n - 1];

		(void)disarm_range(t, r.start, r.end);
	}
	close_fdp(&t->uffd);
	cache_drop(t, 0, UINT64_MAX);
	range_set_done(&t->armed);
	free(t);
}

static const struct tracker_ops wp_ops = {
	.kind = TRACKER_WP,
	.free = wp_free,
	.arm = wp_arm,
	.remapped = wp_remapped,
	.disarm = wp_disarm,
	.begin_pass = wp_begin_pass,
	.collect = wp_collect,
};

/* The engine remap moves pages with the same userfaultfd: that feature is asked for, too. */
static int wp_handshake(int uffd)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC };

	if (kernel_has(KERNEL_UFFD_MOVE))
		api.features |= UFFD_FEATURE_MOVE;
	if (ioctl(uffd, UFFDIO_API, &api) == 0)
		return 0;
	/* The kernel has these features, we tried them: the handshake was done before. */
	return errno == EINVAL ? -EALREADY : -errno;
}

int tracker_wp_new(const struct process *p, int uffd, enum tracker_thp thp, struct tracker **ret)
{
	struct tracker_wp *t;
	int r;

	if (!kernel_has(KERNEL_PAGEMAP_SCAN) || !kernel_has(KERNEL_UFFD_WP_ASYNC) || uffd < 0)
		return -EOPNOTSUPP;
	r = wp_handshake(uffd);
	if (r < 0)
		return r;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	*t = (struct tracker_wp){
		.base = { .ops = &wp_ops, .process = p },
		.uffd = uffd,
		.thp = thp,
	};
	*ret = &t->base;
	return 0;
}
