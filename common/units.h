/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Numbers that must not be mixed up get a type of their own.
 *
 *   hva      host virtual address: an address in the QEMU process, page aligned unless said
 *   page_id  the number that the daemon gave to one guest page; the ledger hands out a
 *            contiguous range for each RAM block, the trees store nothing else of a page
 *   slot_id  index of a page in a trust domain's store
 *
 * Counts of pages are plain uint64_t/uint32_t named *_pages; bytes are *_bytes.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* memshared supports the base page of x86-64 only; main() asserts it against sysconf. */
#define PAGE_SHIFT 12
#define PAGE_BYTES (1UL << PAGE_SHIFT)
/* A transparent huge page: 512 base pages. */
#define HUGE_PAGES 512U
#define HUGE_BYTES (PAGE_BYTES * HUGE_PAGES)

typedef struct hva {
	uint64_t addr;
} hva;

typedef struct page_id {
	uint32_t n;
} page_id;

typedef struct slot_id {
	uint32_t n;
} slot_id;

#define HVA(a)	     ((hva){ (uint64_t)(a) })
#define PAGE_ID(i)   ((page_id){ (uint32_t)(i) })
#define SLOT_ID(i)   ((slot_id){ (uint32_t)(i) })
#define PAGE_ID_NONE PAGE_ID(UINT32_MAX)
#define SLOT_ID_NONE SLOT_ID(UINT32_MAX)

static inline hva hva_add_pages(hva a, uint64_t n_pages)
{
	return HVA(a.addr + (n_pages << PAGE_SHIFT));
}

static inline bool page_id_is_none(page_id id)
{
	return id.n == UINT32_MAX;
}

static inline bool slot_id_is_none(slot_id id)
{
	return id.n == UINT32_MAX;
}
