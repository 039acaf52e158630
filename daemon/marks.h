/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which ranges of a RAM block engine ksm lets the kernel look at.
 *
 * Each range costs the guest's process up to two mappings, and each page in a gap that is
 * marked along costs ksmd a checksum in two passes and 64 bytes. So short gaps are always
 * closed, and longer ones only as far as the bound on ranges demands. A gap over a huge page that
 * is to stay whole is never closed, for ksmd may split what it looks at: where that leaves too many
 * ranges, those with the fewest wanted pages are left out. Pure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mark {
	uint32_t first;	  /* page within the block */
	uint32_t n_pages;
};

/* Gaps up to this many pages are closed anyway: a mapping (about 200 bytes of kernel memory and a
 * slower look-up for every later fault) is dearer than ksmd's look at a few pages. */
#define MARKS_GAP_PAGES 3U

struct marks_ask {
	uint32_t n_pages;
	/* Does page i hold a proven duplicate? Never true within a part that may not be closed. */
	bool (*wanted)(uint32_t i, void *userdata);
	/* May these pages, none of which is wanted, be marked along? */
	bool (*may_close)(uint32_t first, uint32_t n_pages, void *userdata);
	void *userdata;
};

/*
 * Writes at most max_ranges (at least 1) ranges in address order; each begins and ends with a wanted
 * page. *ret_left_out is the number of wanted pages that are in none of them. Returns the number of
 * ranges.
 */
size_t marks_plan(const struct marks_ask *ask, size_t max_ranges, struct mark *ret, uint64_t *ret_left_out);
