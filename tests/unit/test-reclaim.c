/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The agent's RECLAIM, one at a time, on memory of our own. */
#include "tests/unit/transaction-fixture.h"

#include <sys/mman.h>

static void reclaim_makes_anonymous(void **state _unused_)
{
	struct ring_run runs[3];

	merge_expect(16, 32, 16, 0, 32);
	for (uint64_t i = 20; i < 24; i++)
		guest[i * PAGE_BYTES] = content_of(i);
	/* Written and not protected since: could be pinned. */
	runs[0] = remap_run(guest + 16 * PAGE_BYTES, 16, 0);
	assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES, TRACK, 0, runs, 1), 1);
	assert_int_equal(runs[0].result, -EBUSY);
	assert_int_equal(mapped_pages(), 32);
	check_all();
	protect(runs, 1);
	assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES, TRACK, 0, runs, 1), 1);
	assert_int_equal(runs[0].result, 0);
	assert_int_equal(runs[0].merged, 16);
	assert_int_equal(mapped_pages(), 16);
	memset(host.store + 16 * PAGE_BYTES, 0xee, 16 * PAGE_BYTES);
	check_all();
	for (uint64_t i = 16; i < 32; i++)
		fill(host.store + i * PAGE_BYTES, i);
	/* And merges again. */
	merge_expect(16, 16, 16, 0, 16);
	/* UNPINNED needs no marks. */
	guest[17 * PAGE_BYTES] = content_of(17);
	runs[0] = remap_run(guest + 16 * PAGE_BYTES, 8, 0);
	runs[1] = remap_run(guest + 24 * PAGE_BYTES, 8, 0);
	runs[2] = remap_run(guest + 32 * PAGE_BYTES, 16, 0);
	assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES,
				     TRACK | RING_RECLAIM_UNPINNED, 0, runs, 3),
			 1);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(runs[i].result, 0);
	assert_int_equal(mapped_pages(), 0);
	check_all();
}

static void reclaim_whole_block(void **state _unused_)
{
	struct ring_run runs[PAGES / 4];
	uint32_t n = 0;

	for (uint64_t i = 0; i < PAGES; i += 4)
		runs[n++] = remap_run(guest + i * PAGE_BYTES, 1, (uint32_t)i);
	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, TRACK, 0, runs, n), 1);
	assert_int_equal(mapped_pages(), n);
	(void)madvise(guest + 5 * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED);
	protect(runs, n);
	assert_true(remap_count_maps(guest, PAGES) >= 2 * n);
	assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES, TRACK | RING_RECLAIM_WHOLE,
				     0, runs, n),
			 1);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(runs[i].result, 0);
	assert_int_equal(mapped_pages(), 0);
	assert_int_equal(remap_count_maps(guest, PAGES), n / 32);
	/* Anonymous pieces only: moved, not copied. */
	assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES, TRACK | RING_RECLAIM_WHOLE,
				     0, runs, 0),
			 1);
	assert_int_equal(remap_count_maps(guest, PAGES), 1);
	assert_int_equal(guest[5 * PAGE_BYTES], 0);
	fill(guest + 5 * PAGE_BYTES, 5);
	check_all();
}

/* A proof that is given up leaves no marks: what is not reclaimed is as before. */
static void protection_is_taken_off(void **state _unused_)
{
	struct ring_run run = remap_run(guest + 16 * PAGE_BYTES, 16, 0);

	merge_expect(16, 16, 16, 0, 16);
	for (uint64_t i = 16; i < 32; i++)
		guest[i * PAGE_BYTES] = content_of(i);
	protect(&run, 1);
	assert_int_equal(remap_block(&host, RING_PROTECT, guest, PAGES, TRACK | RING_PROTECT_OFF, 0, &run, 1),
			 1);
	assert_int_equal(run.result, 0);
	/* As if never protected: all are writable. */
	assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES, TRACK, 0, &run, 1), 1);
	assert_int_equal(run.result, -EBUSY);
	assert_int_equal(mapped_pages(), 16);
	check_all();
}

/* One page of a wrong kind: everything is put back. */
static void reclaim_undoes(void **state _unused_)
{
	struct ring_run runs[3];

	merge_expect(16, 8, 16, 0, 8);
	merge_expect(32, 8, 32, 0, 8);
	runs[0] = remap_run(guest + 16 * PAGE_BYTES, 8, 0);
	runs[1] = remap_run(guest + 32 * PAGE_BYTES, 8, 0);
	protect(runs, 2);
	guest[32 * PAGE_BYTES] = content_of(32);
	guest[33 * PAGE_BYTES] = content_of(33);
	/* The second run was written: not provably unpinned, after the first was put aside. */
	assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES, TRACK | RING_RECLAIM_WHOLE,
				     0, runs, 2),
			 1);
	assert_int_equal(runs[0].result, -EBUSY);
	assert_int_equal(runs[1].result, -EBUSY);
	assert_int_equal(mapped_pages(), 16);
	check_all();
	/* Not a mapping of the store. */
	runs[0] = remap_run(guest + 15 * PAGE_BYTES, 2, 0);
	assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES, TRACK, 0, runs, 1), 1);
	assert_true(runs[0].result < 0);
	assert_int_equal(mapped_pages(), 16);
	check_all();
	/* Nobody waits for anything. */
	for (uint64_t i = 0; i < PAGES; i++)
		guest[i * PAGE_BYTES] = content_of(i);
	check_all();
}

/* The memory that takes the mappings' place is tracked, also where one lies beside the other. */
static void tracking_goes_on(void **state _unused_)
{
	struct ring_run runs[4];

	merge_expect(16, 64, 16, 0, 64);
	for (uint32_t i = 0; i < 4; i++)
		runs[i] = remap_run(guest + (16 + 16 * i) * PAGE_BYTES, 16, 0);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES,
					     TRACK | RING_RECLAIM_UNPINNED, 0, &runs[i], 1),
				 1);
	assert_int_equal(mapped_pages(), 0);
	assert_true(remap_collect(&host, guest, PAGES) >= 64);
	assert_int_equal(remap_collect(&host, guest, PAGES), 0);
	for (uint64_t i = 16; i < 80; i++)
		guest[i * PAGE_BYTES] = content_of(i);
	assert_int_equal(remap_collect(&host, guest, PAGES), 64);
	check_all();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(reclaim_makes_anonymous, transaction_setup,
						transaction_teardown),
		cmocka_unit_test_setup_teardown(reclaim_whole_block, transaction_setup,
						transaction_teardown),
		cmocka_unit_test_setup_teardown(protection_is_taken_off, transaction_setup,
						transaction_teardown),
		cmocka_unit_test_setup_teardown(reclaim_undoes, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(tracking_goes_on, transaction_setup, transaction_teardown),
	};

	return transaction_skips_all() ? 0 : cmocka_run_group_tests(tests, NULL, NULL);
}
