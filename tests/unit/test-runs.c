/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/runs.h"
#include "tests/unit/unit.h"

#define N 2048U

static uint32_t slots[N];

static uint32_t slot_of(uint32_t i, void *userdata _unused_)
{
	return slots[i];
}

static uint32_t next_slot(uint32_t i, void *userdata _unused_)
{
	while (i < N && slots[i] == RUN_NONE)
		i++;
	return i;
}

static void clear(void)
{
	for (uint32_t i = 0; i < N; i++)
		slots[i] = RUN_NONE;
}

static void neighbours_with_neighbouring_slots_are_one_run(void **state _unused_)
{
	struct run r[8];

	clear();
	slots[5] = 100;
	slots[6] = 101;
	slots[7] = 103; /* not the next one */
	slots[8] = RUN_ZERO;
	slots[9] = RUN_ZERO;
	assert_int_equal(runs_plan(HVA(0), N, slot_of, next_slot, NULL, UINT64_MAX, r, 8), 3);
	assert_int_equal(r[0].first, 5);
	assert_int_equal(r[0].n_pages, 2);
	assert_int_equal(r[0].slot, 100);
	assert_int_equal(r[1].first, 7);
	assert_int_equal(r[1].n_pages, 1);
	assert_int_equal(r[2].n_pages, 2);
	assert_int_equal(r[2].slot, RUN_ZERO);
}

static void no_run_crosses_a_huge_page(void **state _unused_)
{
	struct run r[8];

	for (uint32_t i = 0; i < N; i++)
		slots[i] = i;
	/* The block starts 100 pages before a multiple of 2 MiB. */
	assert_int_equal(runs_plan(HVA(HUGE_BYTES - 100 * PAGE_BYTES), N, slot_of, next_slot, NULL, UINT64_MAX, r, 8),
			 5);
	assert_int_equal(r[0].n_pages, 100);
	assert_int_equal(r[1].first, 100);
	assert_int_equal(r[1].n_pages, HUGE_PAGES);
	assert_int_equal(r[4].first, 100 + 3 * HUGE_PAGES);
}

static void long_runs_go_first(void **state _unused_)
{
	struct run r[N];
	size_t n;

	clear();
	for (uint32_t i = 0; i < 512; i += 2) /* 256 lone pages */
		slots[i] = 10000 + i;
	for (uint32_t i = 1024; i < 1040; i++) /* a run of 16 */
		slots[i] = i;
	slots[1500] = RUN_ZERO;
	n = runs_plan(HVA(0), N, slot_of, next_slot, NULL, 2 * RUN_MAPS, r, N);
	assert_int_equal(n, 2); /* the run, and the hole that costs nothing */
	assert_int_equal(r[0].n_pages, 16);
	assert_int_equal(r[1].slot, RUN_ZERO);
	assert_int_equal(runs_plan(HVA(0), N, slot_of, next_slot, NULL, 257 * RUN_MAPS, r, N), 258);
	assert_int_equal(runs_plan(HVA(0), N, slot_of, next_slot, NULL, 0, r, N), 1);
	assert_int_equal(runs_plan(HVA(0), N, slot_of, next_slot, NULL, 257 * RUN_MAPS, r, 10), 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(neighbours_with_neighbouring_slots_are_one_run),
		cmocka_unit_test(no_run_crosses_a_huge_page),
		cmocka_unit_test(long_runs_go_first),
	};

	return cmocka_run_group_tests_name("runs", tests, NULL, NULL);
}
