/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/span.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include "common/kernel-abi.h"
#include "common/kernel.h"
#include "common/util.h"
#include "daemon/maps.h"

/* maps_read() is told to stop by this; no other function returns it. */
#define PAST_THE_RANGE (-ECANCELED)

/* A list being filled. */
struct span_walk {
	uint64_t at; /* up to here it is said */
	uint64_t limit; /* to here the process is asked */
	struct span_list list;
	size_t size; /* allocated spans */
};

static int list_add(struct span_walk *w, uint64_t end, enum span_kind kind)
{
	struct span_list *l = &w->list;

	end = MIN(end, w->limit);
	if (end <= w->at)
		return 0;
	if (l->n > 0 && l->spans[l->n - 1].kind == kind) {
		l->spans[l->n - 1].end = end;
		w->at = end;
		return 0;
	}
	if (l->n == w->size) {
		size_t size = MAX(w->size * 2, (size_t)16);
		struct span *grown = reallocarray(l->spans, size, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		l->spans = grown;
		w->size = size;
	}
	l->spans[l->n++] = (struct span){ w->at, end, kind };
	w->at = end;
	return 0;
}

static int add_mapping(struct span_walk *w, uint64_t start, uint64_t end, enum span_kind kind)
{
	int r = list_add(w, start, SPAN_HOLE);

	return r < 0 ? r : list_add(w, end, kind);
}

/* --- PROCMAP_QUERY --------------------------------------------------------------------------- */

static enum span_kind kind_from_query(uint64_t flags)
{
	return (flags & PROCMAP_QUERY_VMA_WRITABLE) && !(flags & PROCMAP_QUERY_VMA_SHARED) ?
		       SPAN_ANONYMOUS :
		       SPAN_OTHER;
}

static int query_all(int fd, struct span_walk *w)
{
	while (w->at < w->limit) {
		struct procmap_query q = {
			.size = sizeof(q),
			.query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA,
			.query_addr = w->at,
		};
		bool file;
		int r;

		if (ioctl(fd, PROCMAP_QUERY, &q) < 0) {
			if (errno == EINTR)
				continue;
			return errno == ENOENT ? 0 : -errno;
		}
		if (q.vma_start >= w->limit)
			return 0;
		/* An answer that does not lead on would never end. */
		if (q.vma_end <= w->at || q.vma_start >= q.vma_end)
			return -EIO;
		file = q.inode != 0 || q.dev_major != 0 || q.dev_minor != 0;
		r = add_mapping(w, q.vma_start, q.vma_end,
				file ? SPAN_OTHER : kind_from_query(q.vma_flags));
		if (r < 0)
			return r;
	}
	return 0;
}

static int walk_query(const struct process *p, struct span_walk *w)
{
	_cleanup_close_ int fd = openat(p->proc_fd, "maps", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	return query_all(fd, w);
}

/* --- /proc/PID/maps -------------------------------------------------------------------------- */

static int take_mapping(const struct mapping *m, void *userdata)
{
	struct span_walk *w = userdata;
	bool writable = (m->flags & VMF_WRITE) && !(m->flags & VMF_SHARED);

	if (mapping_end(m).addr <= w->at)
		return 0;
	if (m->start.addr >= w->limit)
		return PAST_THE_RANGE;
	return add_mapping(w, m->start.addr, mapping_end(m).addr,
			   m->anonymous && writable ? SPAN_ANONYMOUS : SPAN_OTHER);
}

static int walk_maps(const struct process *p, struct span_walk *w)
{
	int r = maps_read(p->proc_fd, "maps", take_mapping, w);

	return r == PAST_THE_RANGE ? 0 : r;
}

int span_list_read(const struct process *p, hva start, uint64_t n_pages, struct span_list *ret)
{
	uint64_t end = hva_add_pages(start, n_pages).addr;
	struct span_walk w = {
		.at = start.addr,
		.limit = end,
		.list = { .start = start.addr, .end = end },
	};
	int r = kernel_has(KERNEL_PROCMAP_QUERY) ? walk_query(p, &w) : walk_maps(p, &w);

	if (r >= 0)
		r = list_add(&w, w.list.end, SPAN_HOLE);
	if (r < 0) {
		span_list_done(&w.list);
		return r;
	}
	*ret = w.list;
	return 0;
}

/* --- a part of a list ------------------------------------------------------------------------ */

static uint64_t parts_of(const struct span_list *l)
{
	return DIV_ROUND_UP(l->end - l->start, SPAN_PART_BYTES);
}

int span_list_note_change(struct span_list *l, uint64_t start, uint64_t end)
{
	start = MAX(start, l->start);
	end = MIN(end, l->end);
	if (start >= end)
		return 0;
	if (!l->stale)
		l->stale = calloc(DIV_ROUND_UP(parts_of(l), 64), sizeof(*l->stale));
	if (!l->stale)
		return -ENOMEM;
	for (uint64_t i = (start - l->start) / SPAN_PART_BYTES; i <= (end - 1 - l->start) / SPAN_PART_BYTES; i++)
		l->stale[i / 64] |= UINT64_C(1) << i % 64;
	return 0;
}

static bool part_is_stale(const struct span_list *l, uint64_t i)
{
	return l->stale[i / 64] >> i % 64 & 1;
}

/* The parts from i on that are all stale, or all not: where they end. */
static uint64_t parts_end(const struct span_list *l, uint64_t i, uint64_t n)
{
	bool stale = part_is_stale(l, i);

	while (i < n && part_is_stale(l, i) == stale)
		i++;
	return i;
}

/* Up to the limit; *i is where to begin in the old list, and where the next call does. */
static int copy_spans(struct span_walk *w, const struct span_list *old, size_t *i)
{
	int r = 0;

	while (*i < old->n && old->spans[*i].end <= w->at)
		(*i)++;
	for (; r >= 0 && w->at < w->limit; *i += w->at < w->limit)
		r = list_add(w, old->spans[*i].end, old->spans[*i].kind);
	return r;
}

static int refresh_parts(int fd, const struct span_list *old, struct span_walk *w)
{
	uint64_t n = parts_of(old);
	size_t from = 0;
	int r = 0;

	for (uint64_t i = 0, end; i < n && r >= 0; i = end) {
		end = parts_end(old, i, n);
		w->limit = MIN(old->start + end * SPAN_PART_BYTES, old->end);
		if (!part_is_stale(old, i)) {
			r = copy_spans(w, old, &from);
			continue;
		}
		r = query_all(fd, w);
		if (r >= 0)
			r = list_add(w, w->limit, SPAN_HOLE);
	}
	return r;
}

int span_list_refresh(const struct process *p, struct span_list *l)
{
	struct span_walk w = { .at = l->start, .list = { .start = l->start, .end = l->end } };
	_cleanup_close_ int fd = -1;
	int r;

	if (!l->stale)
		return 0;
	if (!kernel_has(KERNEL_PROCMAP_QUERY)) {
		r = span_list_read(p, HVA(l->start), (l->end - l->start) >> PAGE_SHIFT, &w.list);
	} else {
		fd = openat(p->proc_fd, "maps", O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return errno == ENOENT ? -ESRCH : -errno;
		r = refresh_parts(fd, l, &w);
	}
	if (r < 0) {
		span_list_done(&w.list);
		return r;
	}
	span_list_done(l);
	*l = w.list;
	return 0;
}

void span_list_done(struct span_list *l)
{
	free(l->spans);
	free(l->stale);
	*l = (struct span_list)SPAN_LIST_EMPTY;
}

size_t span_list_find(const struct span_list *l, uint64_t addr)
{
	size_t low = 0, high = l->n;

	assert(addr >= l->start && addr < l->end);
	while (high - low > 1) {
		size_t mid = low + (high - low) / 2;

		if (l->spans[mid].start <= addr)
			low = mid;
		else
			high = mid;
	}
	return low;
}
