/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What both ways of reading a page map share; for daemon/pagemap*.c only. */
#pragma once

#include <stdint.h>

#include "daemon/pagemap.h"
#include "daemon/span.h"

/* Joins neighbours of equal bits and hands on what can't grow any more. */
struct run_joiner {
	page_run_fn *fn;
	void *userdata;
	struct page_run run; /* n_pages 0: nothing held */
};

/* Pages [start, end); callers add in address order, without gaps. */
int run_joiner_add(struct run_joiner *j, uint64_t start, uint64_t end, uint32_t bits);
int run_joiner_flush(struct run_joiner *j);

/* Pages that are neither present nor swapped have no other bits; the huge zero page counts as
 * a file page in the pagemap file and not in the ioctl. */
static inline uint32_t bits_normalise(uint32_t bits)
{
	if (!(bits & (PAGE_PRESENT | PAGE_SWAPPED)))
		return 0;
	return bits & PAGE_ZERO ? bits & ~(uint32_t)PAGE_FILE : bits;
}

/* -ESRCH when the memory of this pagemap descriptor is gone. */
int pagemap_check_memory(int fd);
/* By PAGEMAP_SCAN; flags as pagemap_walk()'s. spans covers the range, or is NULL: then it is
 * read. A list that is out of date makes unmapped pages look present. */
int pagemap_walk_scan(const struct process *p, hva start, uint64_t n_pages, unsigned flags,
		      const struct span_list *spans, struct run_joiner *j);
