/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/budget.h"
#include "tests/unit/unit.h"

static void a_budget_holds(void **state _unused_)
{
	struct budget b;
	uint64_t now = 1000, used = 0;

	/* A tenth of a CPU, in jobs of 7 ms. */
	budget_init(&b, NSEC_PER_SEC / 10, 20000000, now);
	for (unsigned i = 0; i < 10000; i++) {
		uint64_t wait = budget_wait_usec(&b, now);

		now += wait;
		assert_int_equal(budget_wait_usec(&b, now), 0);
		budget_charge(&b, 7000000, now);
		used += 7000000;
	}
	/* One burst and one job over the rate at most; and not much less than the rate. */
	assert_true(used <= (now - 1000) * 100 + 20000000 + 7000000);
	assert_true(used >= (now - 1000) * 99);
	assert_int_equal(b.used, used);
}

static void no_limit(void **state _unused_)
{
	struct budget b;

	budget_init(&b, UINT64_MAX, 1, 0);
	budget_charge(&b, UINT64_MAX / 2, 0);
	assert_int_equal(budget_wait_usec(&b, 0), 0);
}

static void no_rate_waits_for_ever(void **state _unused_)
{
	struct budget b;

	budget_init(&b, 0, 10, 0);
	assert_int_equal(budget_wait_usec(&b, 0), 0);
	budget_charge(&b, 10, 0);
	assert_true(budget_wait_usec(&b, 5) == UINT64_MAX);
}

static void a_clock_that_jumps(void **state _unused_)
{
	struct budget b;

	budget_init(&b, 1000, 100, 1000000);
	budget_charge(&b, 200, 1000000);
	assert_true(budget_wait_usec(&b, 500000) > 0); /* back */
	assert_int_equal(budget_wait_usec(&b, UINT64_MAX), 0); /* far ahead: a burst, no more */
	budget_charge(&b, 100, UINT64_MAX);
	assert_true(budget_wait_usec(&b, UINT64_MAX) > 0);
}

static void a_raised_rate_counts_at_once(void **state _unused_)
{
	struct budget b;
	uint64_t before;

	budget_init(&b, 1000, 10, 0);
	budget_charge(&b, 1010, 0);
	before = budget_wait_usec(&b, 0);
	budget_set_rate(&b, 100000, 10, 0);
	assert_true(budget_wait_usec(&b, 0) < before / 50);
}

static void no_charge_stops_work_for_long(void **state _unused_)
{
	const uint64_t wrong[] = { UINT64_MAX, UINT64_MAX - 5, INT64_MAX, INT64_MAX / 4 };
	struct budget b;

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		budget_init(&b, NSEC_PER_SEC / 10, 1000, 0);
		budget_charge(&b, wrong[i], 0);
		budget_charge(&b, wrong[i], 0);
		assert_true(budget_wait_usec(&b, 0) <= BUDGET_DEBT_SEC * USEC_PER_SEC + 1);
		/* Nor does a lowered rate turn what was owed into more. */
		budget_set_rate(&b, 1000, 1000, 0);
		assert_true(budget_wait_usec(&b, 0) <= BUDGET_DEBT_SEC * USEC_PER_SEC + 2000);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_budget_holds),
		cmocka_unit_test(no_limit),
		cmocka_unit_test(no_rate_waits_for_ever),
		cmocka_unit_test(a_clock_that_jumps),
		cmocka_unit_test(a_raised_rate_counts_at_once),
		cmocka_unit_test(no_charge_stops_work_for_long),
	};

	return cmocka_run_group_tests_name("budget", tests, NULL, NULL);
}
