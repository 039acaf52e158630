/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A guest in memory of our own, for the agent's transactions: its page i holds what slot i holds. */
#pragma once

#include "tests/integration/remap-fixture.h"
#include "tests/unit/unit.h"

#define SLOTS 512U
#define PAGES 512U
#define TRACK RING_MERGE_TRACK

extern struct remap host;
extern char *guest; /* PAGES pages, in one block */

int transaction_setup(void **state);
int transaction_teardown(void **state);
/* Whether the kernel lacks what the tests need: then it has been said. (To skip in a setup would be a
 * failure to cmocka.) */
bool transaction_skips_all(void);

char content_of(uint64_t page);
void fill(char *to, uint64_t page);
/* That every byte of a page, or of the guest, is what it should be. */
void check_page(uint64_t page);
void check_all(void);
/* Merges n pages into slots from `slot` on, with this result and so many merged. */
void merge_expect(uint64_t page, uint64_t n, uint32_t slot, int result, uint32_t merged);
uint32_t mapped_pages(void);
void protect(struct ring_run *runs, uint32_t n);
