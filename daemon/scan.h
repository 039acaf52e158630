/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading pages of a guest and taking their fingerprints: the only place where guest memory is
 * read in bulk.
 *
 * Pages are copied by process_vm_readv, many ranges in one call, into a buffer that stays in
 * the second-level cache, and hashed there. The caller passes only pages that the page map
 * shows present, so a scan brings nothing into memory. A guest that writes meanwhile gives a
 * torn copy: its fingerprint is worthless but harmless, since the tracker reports the write.
 *
 * Thread: any; everything is in the arguments.
 */
#pragma once

#include <stdint.h>

#include "common/fingerprint.h"
#include "common/units.h"
#include "daemon/process.h"

/* A range of pages to read. */
struct scan_range {
	hva start;
	uint32_t n_pages;
};

enum scan_kind {
	SCAN_DATA,
	SCAN_ZEROS, /* every byte is zero */
	SCAN_GONE,  /* could not be read: unmapped since */
};

/* What was seen of one page, in the order of the ranges. */
struct scan_result {
	uint64_t fingerprint;
	uint8_t kind; /* enum scan_kind */
};

/* Bytes of the copy buffer: with more, pages fall out of the cache before they are hashed. */
#define SCAN_BUFFER_BYTES (256U << 10)
#define SCAN_BUFFER_PAGES (SCAN_BUFFER_BYTES / PAGE_BYTES)

/* Scans all ranges. ret has room for the sum of their pages. Returns the pages read, or
 * -ESRCH when the guest is gone, -EPERM when we may not read it, -ENOMEM. */
int64_t scan_pages(const struct process *p, const struct fingerprint_seed *seed,
		   const struct scan_range *ranges, uint32_t n_ranges, struct scan_result *ret);
