/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/quiet.h"
#include "tests/unit/unit.h"

#define N_PAGES (64 * LEDGER_PART_PAGES + 100) /* the last part is short */

static struct ledger *l;
static struct ledger_block *b;

static int setup(void **state _unused_)
{
	assert_int_equal(ledger_new(&l), 0);
	assert_int_equal(ledger_add_block(l, NULL, HVA(0x7f0000123000), N_PAGES, &b), 0);
	return 0;
}

static int teardown(void **state _unused_)
{
	ledger_free(l);
	return 0;
}

/* A pass in which the tracker says that every page is present; marks the parts looked at. */
static uint32_t pass(uint64_t number, bool all, bool *looked)
{
	struct quiet_range ranges[N_PAGES / LEDGER_PART_PAGES + 1];
	uint32_t n = quiet_plan(b, 0, N_PAGES, number, all, ranges), n_pages = 0;

	for (uint32_t i = 0; i < n; i++) {
		assert_true(i == 0 || ranges[i].first > ranges[i - 1].first + ranges[i - 1].n_pages);
		quiet_note_run(b, ranges[i].first, ranges[i].n_pages, PAGE_PRESENT);
		quiet_end(b, &ranges[i], number);
		n_pages += ranges[i].n_pages;
		for (uint32_t p = ranges[i].first; p < ranges[i].first + ranges[i].n_pages; p++)
			looked[p / LEDGER_PART_PAGES] = true;
	}
	return n_pages;
}

static void everything_at_first_and_when_asked(void **state _unused_)
{
	bool looked[N_PAGES / LEDGER_PART_PAGES + 1] = { false };
	uint32_t present = 0;

	for (uint64_t i = 0; i < 8; i++)
		assert_int_equal(pass(i, false, looked), N_PAGES);
	for (uint64_t i = 8; i < 300; i++)
		(void)pass(i, false, looked);
	assert_int_equal(pass(300, true, looked), N_PAGES);
	for (size_t i = 0; i < ARRAY_SIZE(looked); i++)
		present += b->parts[i].present_pages;
	assert_int_equal(present, N_PAGES);
}

/* What the header promises about delays, and that it is worth it. */
static void quiet_parts_wait_but_not_long(void **state _unused_)
{
	uint64_t last[N_PAGES / LEDGER_PART_PAGES + 1] = { 0 }, changed[ARRAY_SIZE(last)] = { 0 }, pages = 0;

	srand(3);
	for (uint64_t n = 1; n < 3000; n++) {
		bool looked[ARRAY_SIZE(last)] = { false };

		if (rand() % 16 == 0) {
			uint32_t p = (uint32_t)rand() % N_PAGES;

			ledger_set_young(l, b, PAGE_ID(b->first.n + p), 0, 0);
			changed[p / LEDGER_PART_PAGES] = n;
		}
		pages += pass(n, false, looked);
		for (size_t i = 0; i < ARRAY_SIZE(last); i++) {
			uint64_t waited = n - last[i], quiet = last[i] - MIN(changed[i], last[i]);

			/* The change itself may have been long ago; it was told of now. */
			if (changed[i] == n) {
				assert_true(looked[i]);
				last[i] = n;
			}
			if (!looked[i] || changed[i] == n)
				continue;
			assert_true(waited <= QUIET_PASSES_MAX);
			assert_true(waited <= 1 + quiet / 4);
			last[i] = n;
		}
	}
	assert_true(pages < UINT64_C(3000) * N_PAGES / 2);
}

static void counts_are_by_part(void **state _unused_)
{
	struct quiet_range ranges[N_PAGES / LEDGER_PART_PAGES + 1];

	assert_int_equal(quiet_plan(b, 0, N_PAGES, 0, true, ranges), 1);
	quiet_note_run(b, 0, 500, PAGE_PRESENT);
	quiet_note_run(b, 500, 600, PAGE_PRESENT | PAGE_HUGE);
	quiet_note_run(b, 1100, 10, PAGE_PRESENT | PAGE_ZERO);
	quiet_note_run(b, 1110, 20, PAGE_SWAPPED);
	assert_int_equal(b->parts[0].present_pages, 512);
	assert_int_equal(b->parts[0].huge_pages, 12);
	assert_int_equal(b->parts[1].present_pages, 512);
	assert_int_equal(b->parts[1].huge_pages, 512);
	assert_int_equal(b->parts[2].present_pages, 76);
	assert_int_equal(b->parts[2].swapped_pages, 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(everything_at_first_and_when_asked, setup, teardown),
		cmocka_unit_test_setup_teardown(quiet_parts_wait_but_not_long, setup, teardown),
		cmocka_unit_test_setup_teardown(counts_are_by_part, setup, teardown),
	};

	return cmocka_run_group_tests_name("quiet", tests, NULL, NULL);
}
