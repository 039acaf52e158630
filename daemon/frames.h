/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Page frames and the pages that have them. Pure.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/units.h"

struct frame_page {
	uint64_t pfn;
	page_id page;
};

/* By frame, those of one frame in the order that they had. scratch has room for n, too. Takes time for n,
 * not for n log n: a million pages are sorted on the loop. */
void frames_sort(struct frame_page *v, struct frame_page *scratch, size_t n);
