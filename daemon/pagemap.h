/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel says about the pages of a range, without touching them: the PAGEMAP_SCAN
 * ioctl (Linux 6.7), or /proc/PID/pagemap read as a file where the kernel lacks it.
 * tests/platform/pagemap-scan.c proves the bits relied on, and that both ways give the same
 * runs, with these limits of the file:
 *  - PAGE_HUGE is never set: no bit of the file tells a huge mapping;
 *  - PAGE_ZERO needs CAP_SYS_ADMIN: the zero pages are known by their frame numbers.
 *
 * Pages in transit (migration, compaction) show as swapped for a moment. So does a discarded
 * page of a private file mapping that had been write-protected, until it is touched again.
 *
 * Any thread; needs of struct process only proc_fd and pagemap_fd. The latter belongs to the
 * memory that the process had when it was opened: after an exec it is -ESRCH too. Mappings
 * that are replaced (remap) while a walk passes over them may be reported with mixed bits.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/units.h"
#include "daemon/process.h"

enum page_bits {
	PAGE_PRESENT = 1 << 0,
	PAGE_SWAPPED = 1 << 1,
	PAGE_ZERO = 1 << 2,    /* the kernel's zero page (also the huge one) */
	PAGE_FILE = 1 << 3,    /* of a file or shmem: in private memory, a store page not yet copied */
	PAGE_HUGE = 1 << 4,    /* mapped by a huge page */
	PAGE_WRITTEN = 1 << 5, /* since the tracker last armed it; always set when untracked */
	/* With PAGEMAP_CLEAR_WRITTEN: the process's own copy in a mapping of a file, WRITTEN each time. */
	PAGE_COPY = 1 << 6,
};

/* A run of pages of equal bits. Pages that are neither present nor swapped have bits 0. */
struct page_run {
	hva start;
	uint64_t n_pages;
	uint32_t bits;
};

/* Called in address order; the runs cover the whole range without a gap, and two neighbours
 * never have the same bits. A negative return ends the walk, which returns it. */
typedef int page_run_fn(const struct page_run *run, void *userdata);

enum pagemap_flags {
	/* Get and clear: write-protects (async) what it reports as written, in mappings that a
	 * userfaultfd in async mode covers; others go on being reported, and so do private
	 * copies in a mapping of a file. No one else may arm such copies. After an error, pages
	 * that were not reported must be taken as written. -EOPNOTSUPP without PAGEMAP_SCAN. */
	PAGEMAP_CLEAR_WRITTEN = 1 << 0,
	PAGEMAP_FORCE_FILE = 1 << 1, /* use the pagemap file even where the ioctl works (tests) */
	PAGEMAP_KEEP_HUGE = 1 << 2,  /* does not clear (arm) pages mapped by huge pages */
	/* PAGE_WRITTEN tells the soft-dirty mark instead of the userfaultfd's. */
	PAGEMAP_SOFT_DIRTY = 1 << 3,
};

/* Walks [start, start + n_pages). 0, or -errno: -ESRCH when the process is gone. */
int pagemap_walk(const struct process *p, hva start, uint64_t n_pages, unsigned flags,
		 page_run_fn *fn, void *userdata);
/* Page frame numbers (0 for a page that is not present); needs CAP_SYS_ADMIN, else -EPERM. */
int pagemap_read_pfns(const struct process *p, hva start, uint64_t n_pages, uint64_t *ret_pfns);

/* Frame numbers of the zero page and of the first page of the huge one; 0 where not known. */
struct pagemap_zero {
	uint64_t pfn;
	uint64_t huge_pfn;
};
/* Learnt by mapping them, once in the life of the process. */
void pagemap_zero_probe(struct pagemap_zero *ret);

/* Pure: decodes n 64-bit pagemap entries, which start at page start, into runs. zero may be
 * NULL; soft_dirty says which mark is PAGE_WRITTEN. */
int pagemap_decode(const uint64_t *entries, uint64_t n, hva start, const struct pagemap_zero *zero,
		   bool soft_dirty, page_run_fn *fn, void *userdata);
