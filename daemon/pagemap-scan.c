/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * PAGEMAP_SCAN costs 2 to 4 ns for a page that it passes over, 10 ns more for each page that it
 * reports, and 25 ns more when it is asked for PAGE_IS_FILE (it then looks into the page's
 * struct). So only what is unusual is asked for (written, absent, swapped, zero, huge), and a
 * gap in the answer means the usual bits of what is mapped there, which the list of spans
 * tells. Where nothing is mapped the kernel answers nothing, too: the list tells that as well.
 *
 * Getting and clearing WRITTEN is done in two steps, because PAGEMAP_SCAN tells the MMU
 * notifiers (KVM) that the whole range of a write-protecting call changes: the guest then
 * faults again on every page of it, written or not. So the first scan only looks; the second
 * write-protects, and covers no more than clusters of pages that the first one saw written.
 * The second answer is laid over the first: a page that it cleared is in it, with WRITTEN. A
 * page written between the two steps is either cleared and reported by the second or stays
 * WRITTEN for the next walk; nothing is cleared that is not reported.
 *
 * Private mappings of a file (our stores) are special. A page of it that the guest wrote is a
 * private copy; were the copy armed, then discarded by the guest and read again, the file's
 * page would be back and not WRITTEN (tests/platform/wp-async.c). So copies there are never
 * armed: they are reported as written every time. It follows that what is not written there
 * is a page of the file, and PAGE_IS_FILE need only be asked for by the second step, which arms nothing
 * else: what the first saw written, and the second did not clear, is a copy.
 */
#include <sys/ioctl.h>

#include "common/kernel-abi.h"
#include "common/util.h"
#include "daemon/pagemap-runs.h"
#include "daemon/span.h"

/* Regions asked for in one call: 48 KiB of answer. */
#define SCAN_REGIONS 2048U
/* Written runs with at most this many other pages in between are armed in one call: a call costs
 * us and the guest's processors (TLB flush) about what the guest pays to fault so many again. */
#define CLUSTER_GAP_PAGES 32U

#define MAPPED (PAGE_IS_PRESENT | PAGE_IS_SWAPPED)

/* What is asked about a span, and how the answer is to be read. */
struct plan {
	uint64_t inverted, anyof, returned; /* of the first step */
	uint64_t clear_mask;		    /* of the second step; 0 for none */
	bool gaps_are_usual;		    /* else they are absent pages */
};

struct scan {
	int fd;
	unsigned flags;
	uint64_t written;	/* the category that means PAGE_WRITTEN */
	uint64_t clear_inverted;
	struct plan unusual;	/* for everything at first */
	struct plan copies;	/* the second step in mappings of files */
	struct plan everything; /* in such mappings when nothing is cleared */
	const struct span *span; /* where we are: it only goes forward */
	struct run_joiner *j;
	struct page_region *vecs; /* VEC_MAX of SCAN_REGIONS */
};
enum { VEC_LOOK, VEC_CLEAR, VEC_MAX };

/* The span at addr, which is not before the last one asked for. */
static const struct span *scan_span(struct scan *s, uint64_t addr)
{
	while (s->span->end <= addr)
		s->span++;
	return s->span;
}

static struct page_region *scan_vec(const struct scan *s, unsigned which)
{
	return s->vecs + which * SCAN_REGIONS;
}

/* --- answers --------------------------------------------------------------------------------- */

static const struct {
	uint64_t category;
	uint32_t bit;
} categories[] = {
	{ PAGE_IS_PRESENT, PAGE_PRESENT }, { PAGE_IS_SWAPPED, PAGE_SWAPPED },
	{ PAGE_IS_PFNZERO, PAGE_ZERO },	   { PAGE_IS_FILE, PAGE_FILE },
	{ PAGE_IS_HUGE, PAGE_HUGE },
};

static uint32_t bits_from_categories(uint64_t c, uint64_t written)
{
	uint32_t bits = c & written ? PAGE_WRITTEN : 0;

	for (size_t i = 0; i < ARRAY_SIZE(categories); i++)
		if (c & categories[i].category)
			bits |= categories[i].bit;
	return bits_normalise(bits);
}

/* Regions in address order, of which those behind us are no longer needed. */
struct cursor {
	const struct page_region *at, *end;
};

/* The bits at addr, and where they end, at most at limit. False in a gap between regions. */
static bool cursor_bits(struct cursor *c, uint64_t addr, uint64_t written, uint64_t *limit,
			uint32_t *ret_bits)
{
	while (c->at < c->end && c->at->end <= addr)
		c->at++;
	if (c->at == c->end)
		return false;
	if (c->at->start > addr) {
		*limit = MIN(*limit, c->at->start);
		return false;
	}
	*limit = MIN(*limit, c->at->end);
	*ret_bits = bits_from_categories(c->at->categories, written);
	return true;
}

static uint32_t usual_bits(enum span_kind kind)
{
	switch (kind) {
	case SPAN_ANONYMOUS:
		return PAGE_PRESENT;
	case SPAN_OTHER:
		return PAGE_PRESENT | PAGE_FILE;
	case SPAN_HOLE:
		break;
	}
	return 0;
}

/* Seen written in a mapping of a file, and not cleared. */
static bool is_copy(const struct scan *s, const struct plan *plan, uint32_t bits)
{
	return plan == &s->copies && bits & PAGE_PRESENT && bits & PAGE_WRITTEN && !(bits & PAGE_ZERO);
}

/* What was cleared, else what was seen (with extra bits), else the bits of a gap. */
static int emit(struct scan *s, const struct plan *plan, struct cursor *seen,
		struct cursor *cleared, uint64_t start, uint64_t end, uint32_t extra)
{
	while (start < end) {
		uint64_t limit = end;
		uint32_t bits = 0;
		int r;

		if (!cursor_bits(cleared, start, s->written, &limit, &bits)) {
			if (cursor_bits(seen, start, s->written, &limit, &bits)) {
				bits |= is_copy(s, plan, bits) ? PAGE_COPY : 0;
			} else if (plan->gaps_are_usual) {
				const struct span *span = scan_span(s, start);

				bits = usual_bits(span->kind);
				limit = MIN(limit, span->end);
			}
			if (bits)
				bits |= extra;
		}
		r = run_joiner_add(s->j, start, limit, bits);
		if (r < 0)
			return r;
		start = limit;
	}
	return 0;
}

/* --- calls ----------------------------------------------------------------------------------- */

/* Returns the number of regions and where the walk stopped, or -errno. */
static int64_t scan_call(int fd, struct pm_scan_arg *arg, struct page_region *vec,
			 uint64_t *ret_walk_end)
{
	int n;

	arg->size = sizeof(*arg);
	arg->vec = (uintptr_t)vec;
	arg->vec_len = SCAN_REGIONS;
	do
		n = ioctl(fd, PAGEMAP_SCAN, arg);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	/* The kernel (6.18) has a buffer of 512 regions, and walk_end stays where that was full for the
	 * last time even if the walk went on to the end (tests/platform/pagemap-scan.c). So our answer
	 * tells: unless it is full there is no reason to stop, and what it tells of was walked over. */
	if ((unsigned)n < SCAN_REGIONS)
		arg->walk_end = arg->end;
	else
		arg->walk_end = MAX(arg->walk_end, vec[n - 1].end);
	/* A walk that goes nowhere would never end. */
	if (arg->walk_end <= arg->start || arg->walk_end > arg->end)
		return -EIO;
	*ret_walk_end = arg->walk_end;
	return n;
}

static int64_t scan_look(const struct scan *s, const struct plan *plan, uint64_t start,
			 uint64_t end, struct page_region *vec, uint64_t *ret_walk_end)
{
	struct pm_scan_arg arg = {
		.start = start,
		.end = end,
		.category_inverted = plan->inverted,
		.category_anyof_mask = plan->anyof,
		.return_mask = plan->returned,
	};

	return scan_call(s->fd, &arg, vec, ret_walk_end);
}

/* Holes are left alone: to arm one would cost a page table, and its pages show as swapped. */
static int64_t scan_clear(const struct scan *s, const struct plan *plan, uint64_t start,
			  uint64_t end, uint64_t *ret_walk_end)
{
	struct pm_scan_arg arg = {
		.flags = PM_SCAN_WP_MATCHING,
		.start = start,
		.end = end,
		.category_inverted = s->clear_inverted,
		.category_mask = plan->clear_mask,
		.category_anyof_mask = MAPPED,
		.return_mask = plan->returned,
	};

	return scan_call(s->fd, &arg, scan_vec(s, VEC_CLEAR), ret_walk_end);
}

/* --- clusters -------------------------------------------------------------------------------- */

/* Second step for one cluster. When the kernel fails in the middle it doesn't say what it has
 * cleared: then every page of the rest is said to be written. */
static int clear_cluster(struct scan *s, const struct plan *plan, struct cursor *seen,
			 uint64_t start, uint64_t end)
{
	while (start < end) {
		const struct page_region *vec = scan_vec(s, VEC_CLEAR);
		uint64_t walk_end = end;
		int64_t n = scan_clear(s, plan, start, end, &walk_end);
		struct cursor cleared = { vec, vec + MAX(n, 0) };
		int r = emit(s, plan, seen, &cleared, start, walk_end, n < 0 ? PAGE_WRITTEN : 0);

		if (n < 0 || r < 0)
			return n < 0 ? (int)n : r;
		start = walk_end;
	}
	return 0;
}

static bool region_is_kept(const struct scan *s, const struct page_region *r)
{
	return (s->flags & PAGEMAP_KEEP_HUGE) && (r->categories & PAGE_IS_HUGE);
}

static bool region_is_written(const struct scan *s, const struct page_region *r)
{
	return r->categories & s->written && r->categories & MAPPED;
}

/* The first cluster in *c: returns its end and moves *c behind it; 0 when there is none. */
static uint64_t cluster_next(const struct scan *s, struct cursor *c, uint64_t *ret_start)
{
	uint64_t end = 0;

	for (; c->at < c->end; c->at++) {
		const struct page_region *r = c->at;

		if (end != 0 &&
		    (region_is_kept(s, r) || r->start - end > CLUSTER_GAP_PAGES * PAGE_BYTES))
			break;
		if (!region_is_written(s, r) || region_is_kept(s, r))
			continue;
		if (end == 0)
			*ret_start = r->start;
		end = r->end;
	}
	return end;
}

static bool is_written(const struct scan *s, const struct cursor *seen, uint64_t start, uint64_t end)
{
	for (const struct page_region *r = seen->at; r < seen->end && r->start < end; r++)
		if (r->end > start && region_is_written(s, r))
			return true;
	return false;
}

/* A cluster may reach over several spans. */
static int take_cluster(struct scan *s, const struct plan *plan, struct cursor *seen,
			uint64_t start, uint64_t end)
{
	while (start < end) {
		const struct span *span = scan_span(s, start);
		const struct plan *clear = span->kind == SPAN_OTHER ? &s->copies : plan;
		uint64_t part_end = MIN(end, span->end);
		struct cursor none = { NULL, NULL };
		int r = is_written(s, seen, start, part_end) ?
				clear_cluster(s, clear, seen, start, part_end) :
				emit(s, plan, seen, &none, start, part_end, 0);

		if (r < 0)
			return r;
		start = part_end;
	}
	return 0;
}

/* [start, end) is what the first step covered, with n regions of answer. */
static int take_answer(struct scan *s, const struct plan *plan, const struct page_region *vec,
		       int64_t n, uint64_t start, uint64_t end)
{
	struct cursor seen = { vec, vec + n }, ahead = seen, none = { NULL, NULL };
	uint64_t cluster_start = 0, cluster_end;
	int r;

	while (plan->clear_mask && (cluster_end = cluster_next(s, &ahead, &cluster_start)) != 0) {
		r = emit(s, plan, &seen, &none, start, cluster_start, 0);
		if (r >= 0)
			r = take_cluster(s, plan, &seen, cluster_start, cluster_end);
		if (r < 0)
			return r;
		start = cluster_end;
	}
	return emit(s, plan, &seen, &none, start, end, 0);
}

static int scan_range(struct scan *s, const struct plan *plan, uint64_t start, uint64_t end)
{
	while (start < end) {
		struct page_region *vec = scan_vec(s, VEC_LOOK);
		uint64_t walk_end;
		int64_t n = scan_look(s, plan, start, end, vec, &walk_end);
		int r = n < 0 ? (int)n : take_answer(s, plan, vec, n, start, walk_end);

		if (r < 0)
			return r;
		start = walk_end;
	}
	return 0;
}

/* --- the walk -------------------------------------------------------------------------------- */

/* Where nothing is armed by us, file pages are told page by page. */
static int scan_exactly(struct scan *s, uint64_t start, uint64_t end)
{
	while (start < end) {
		const struct span *span = scan_span(s, start);
		bool other = span->kind == SPAN_OTHER;
		uint64_t part_end = span->end;
		int r;

		while (part_end < end && (scan_span(s, part_end)->kind == SPAN_OTHER) == other)
			part_end = scan_span(s, part_end)->end;
		part_end = MIN(part_end, end);
		s->span = span; /* back to where the part begins */
		r = scan_range(s, other ? &s->everything : &s->unusual, start, part_end);
		if (r < 0)
			return r;
		start = part_end;
	}
	return 0;
}

static void scan_init(struct scan *s)
{
	uint64_t clear = s->flags & PAGEMAP_CLEAR_WRITTEN ? PAGE_IS_WRITTEN : 0;
	uint64_t told = MAPPED | PAGE_IS_PFNZERO | PAGE_IS_HUGE;

	s->written = s->flags & PAGEMAP_SOFT_DIRTY ? PAGE_IS_SOFT_DIRTY : PAGE_IS_WRITTEN;
	if (s->flags & PAGEMAP_KEEP_HUGE) {
		s->clear_inverted = PAGE_IS_HUGE;
		clear |= clear ? PAGE_IS_HUGE : 0;
	}
	s->unusual = (struct plan){
		.inverted = PAGE_IS_PRESENT,
		.anyof = told | s->written,
		.returned = told | s->written,
		.clear_mask = clear,
		.gaps_are_usual = true,
	};
	s->copies = s->unusual;
	s->copies.returned |= PAGE_IS_FILE;
	s->copies.clear_mask |= PAGE_IS_FILE;
	s->everything = (struct plan){
		.anyof = MAPPED,
		.returned = told | s->written | PAGE_IS_FILE,
	};
}

int pagemap_walk_scan(const struct process *p, hva start, uint64_t n_pages, unsigned flags,
		      const struct span_list *spans, struct run_joiner *j)
{
	_cleanup_(span_list_done) struct span_list own = SPAN_LIST_EMPTY;
	_cleanup_free_ struct page_region *vecs =
		malloc(VEC_MAX * SCAN_REGIONS * sizeof(struct page_region));
	struct scan s = { .fd = p->pagemap_fd, .flags = flags, .j = j, .vecs = vecs };
	uint64_t end = hva_add_pages(start, n_pages).addr;
	int r;

	if (!vecs)
		return -ENOMEM;
	if (!spans) {
		r = span_list_read(p, start, n_pages, &own);
		if (r < 0)
			return r;
		spans = &own;
	}
	s.span = &spans->spans[span_list_find(spans, start.addr)];
	scan_init(&s);
	r = flags & PAGEMAP_CLEAR_WRITTEN ?
		    scan_range(&s, &s.unusual, start.addr, end) :
		    scan_exactly(&s, start.addr, end);
	/* The ioctl finds nothing, and no fault with that, in the memory of a dead process. */
	return r < 0 ? r : pagemap_check_memory(p->pagemap_fd);
}
