/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which ranges of a RAM block engine ksm lets the kernel look at.
 *
 * Each range costs the guest's process up to two mappings, and each page in a gap that is
 * marked along costs ksmd a checksum in two passes and 64 bytes. So short gaps are always
 * closed, and longer ones only as far as the bound on ranges demands. Pure.
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

/*
 * wanted(i, userdata) says whether page i of n_pages holds a proven duplicate. Writes at most
 * max_ranges (at least 1) ranges in address order; they contain every wanted page and begin and
 * end with one. Returns their number.
 */
size_t marks_plan(uint32_t n_pages, bool (*wanted)(uint32_t i, void *userdata), void *userdata,
		  size_t max_ranges, struct mark *ret);
