/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * /proc/PID/maps and /proc/PID/smaps, read as a stream: a QEMU whose memory was merged page by
 * page has 60,000 mappings and more, and its smaps is 60 MB of text.
 *
 * Both files are in address order. But while the process changes its mappings, one that merges with
 * its neighbour after it was shown is shown again, grown (seen on 6.18, in one of ten readings of
 * a process that did little else): what was shown before is cut off, so that mappings never
 * overlap. Text that goes backwards is refused. The path of a mapping cannot break a line: the
 * kernel writes a newline in it as \012.
 *
 * maps_feed() is pure; the reader holds the mapping whose lines are not complete yet. Any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/units.h"

/* VmFlags bits that matter here (smaps two-letter names in comments). */
enum vm_flag {
	VMF_MERGEABLE = 1 << 0,	 /* mg */
	VMF_HUGEPAGE = 1 << 1,	 /* hg */
	VMF_NOHUGEPAGE = 1 << 2, /* nh */
	VMF_DONTFORK = 1 << 3,	 /* dc */
	VMF_DONTDUMP = 1 << 4,	 /* dd */
	VMF_WIPEONFORK = 1 << 5, /* wf */
	VMF_LOCKED = 1 << 6,	 /* lo */
	VMF_SHARED = 1 << 7,	 /* sh, or 's' among the permissions */
	VMF_HUGETLB = 1 << 8,	 /* ht */
	VMF_IO = 1 << 9,	 /* io, pf */
	VMF_UFFD_WP = 1 << 10,	 /* uw */
	VMF_UFFD_MISSING = 1 << 11, /* um */
	VMF_WRITE = 1 << 12,	 /* wr */
	VMF_EXEC = 1 << 13,	 /* ex */
	VMF_NORESERVE = 1 << 14, /* nr */
};

/* One mapping. maps gives of the flags only WRITE, EXEC and SHARED, and no sizes. */
struct mapping {
	hva start;
	uint64_t n_pages;
	uint32_t flags; /* enum vm_flag */
	bool anonymous; /* no file behind it */
	uint64_t offset_bytes; /* in the file behind it */
	uint64_t inode;	/* of the file behind it; with dev, tells files apart */
	uint32_t dev_major, dev_minor;
	uint64_t rss_bytes, anon_huge_bytes;
	char name[64]; /* path or [name], cut, printable bytes only */
};

static inline hva mapping_end(const struct mapping *m)
{
	return hva_add_pages(m->start, m->n_pages);
}

/* A negative return ends the reading, which returns it. */
typedef int mapping_fn(const struct mapping *m, void *userdata);

struct maps_reader {
	mapping_fn *fn;
	void *userdata;
	bool have;	    /* current is being filled */
	uint64_t last_end;  /* end of the last mapping seen */
	struct mapping current;
};

void maps_reader_init(struct maps_reader *r, mapping_fn *fn, void *userdata);
/* Takes the complete lines in buf; *ret_used is where the next call must begin. 0, -EINVAL for
 * text that is not maps or smaps, or what fn returned. */
int maps_feed(struct maps_reader *r, const char *buf, size_t len, size_t *ret_used);
/* At the end of the text: the last mapping. */
int maps_end(struct maps_reader *r);

/*
 * The mappings that lie in [start, end), or reach into it, asked one by one of a descriptor of
 * /proc/PID/maps by PROCMAP_QUERY, which costs less than half of their text and nothing for others;
 * only those of files, if so wanted. No names. 0, -errno, or what fn returned; -EOPNOTSUPP on Linux
 * before 6.11, -ESRCH.
 */
int maps_query(int maps_fd, uint64_t start, uint64_t end, bool files_only, mapping_fn *fn, void *userdata);

/* Reads proc_fd's "maps" or "smaps" (file), where proc_fd is /proc/PID. 0 or -errno; -ESRCH when
 * the process has gone. Interrupted calls are repeated. */
int maps_read(int proc_fd, const char *file, mapping_fn *fn, void *userdata);
