/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/transaction-fixture.h"

#include <sys/mman.h>

struct remap host;
char *guest;

char content_of(uint64_t page)
{
	return (char)(page % 251 + 1);
}

void fill(char *to, uint64_t page)
{
	memset(to, content_of(page), PAGE_BYTES);
}

void check_page(uint64_t page)
{
	const char *at = guest + page * PAGE_BYTES;

	for (uint64_t i = 0; i < PAGE_BYTES; i++)
		if (at[i] != content_of(page))
			fail_msg("page %u, byte %u: %d", (unsigned)page, (unsigned)i, at[i]);
}

void check_all(void)
{
	for (uint64_t i = 0; i < PAGES; i++)
		check_page(i);
}

int transaction_setup(void **state _unused_)
{
	char *raw;

	assert_int_equal(remap_open(&host, SLOTS), 0);
	raw = mmap(NULL, 2 * HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		   0);
	assert_ptr_not_equal(raw, MAP_FAILED);
	guest = (char *)ALIGN_UP((uintptr_t)raw, HUGE_BYTES);
	for (uint64_t i = 0; i < PAGES; i++) {
		fill(guest + i * PAGE_BYTES, i);
		fill(host.store + i * PAGE_BYTES, i);
	}
	assert_int_equal(remap_track(&host, guest, PAGES), 0);
	return 0;
}

int transaction_teardown(void **state _unused_)
{
	if (guest)
		(void)munmap(guest, PAGES * PAGE_BYTES);
	guest = NULL;
	remap_close(&host);
	return 0;
}

void merge_expect(uint64_t page, uint64_t n, uint32_t slot, int result, uint32_t merged)
{
	struct ring_run run = remap_run(guest + page * PAGE_BYTES, n, slot);

	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, TRACK, 0, &run, 1), 1);
	assert_int_equal(run.result, result);
	assert_int_equal(run.merged, merged);
}

uint32_t mapped_pages(void)
{
	struct ring_run runs[PAGES];
	uint32_t n = remap_find_mapped(&host, guest, PAGES, runs, PAGES), pages = 0;

	for (uint32_t i = 0; i < n; i++)
		pages += runs[i].n_pages;
	return pages;
}

void protect(struct ring_run *runs, uint32_t n)
{
	assert_int_equal(remap_block(&host, RING_PROTECT, guest, PAGES, TRACK, 0, runs, n), 1);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(runs[i].result, 0);
}

bool transaction_skips_all(void)
{
	int r = remap_open(&host, SLOTS);

	remap_close(&host);
	if (r < 0)
		printf("1..0 # SKIP no userfaultfd with UFFDIO_MOVE and faults from kernel mode: %s\n",
		       strerror(-r));
	return r < 0;
}
