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
	struct span_list list;
	size_t size; /* allocated spans */
};

static int list_add(struct span_walk *w, uint64_t end, enum span_kind kind)
{
	struct span_list *l = &w->list;

	end = MIN(end, l->end);
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
	while (w->at < w->list.end) {
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
		if (q.vma_start >= w->list.end)
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
	if (m->start.addr >= w->list.end)
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
	struct span_walk w = {
		.at = start.addr,
		.list = { .start = start.addr, .end = hva_add_pages(start, n_pages).addr },
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

void span_list_done(struct span_list *l)
{
	free(l->spans);
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
