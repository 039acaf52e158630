/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/member.h"
#include "tests/unit/unit.h"

#define HOUR (3600 * USEC_PER_SEC)

/* Passes from the one that found a page written to the one that finds it ripe, as pass.c counts. */
static uint64_t passes_until_ripe(uint64_t written, unsigned wait, unsigned step)
{
	unsigned fine = MIN(wait, MEMBER_WAIT_FINE);

	/* Of the long steps passes with a number that step divides count. */
	return (wait > fine ? (written / step + wait - fine) * step - written : 0) + fine;
}

static void a_page_waits_as_long_as_the_policy_says(void **state _unused_)
{
	static const uint64_t times[] = {
		1, USEC_PER_SEC, 30 * USEC_PER_SEC, 300 * USEC_PER_SEC, 310 * USEC_PER_SEC,
		311 * USEC_PER_SEC, HOUR, 168 * HOUR,
	};
	static const uint64_t intervals[] = {100 * USEC_PER_MSEC, USEC_PER_SEC, 10 * USEC_PER_SEC, HOUR};

	for (size_t i = 0; i < ARRAY_SIZE(intervals); i++)
		for (size_t a = 0; a < ARRAY_SIZE(times); a++)
			for (size_t b = 0; b < ARRAY_SIZE(times); b++) {
				const struct member_policy p = {.min_age_usec = times[a],
								.cow_backoff_usec = times[b]};
				unsigned step = member_step_passes(&p, intervals[i]);
				unsigned wait = member_wait_steps(times[a], intervals[i], step);
				uint64_t longest = DIV_ROUND_UP(MAX(times[a], times[b]), intervals[i]);

				assert_in_range(wait, 1, LEDGER_WAIT_MAX);
				/* Fine enough: a fifteenth of the longer one. */
				assert_true(step == 1 ||
					    step <= longest / (LEDGER_WAIT_MAX - MEMBER_WAIT_FINE - 1) + 1);
				for (uint64_t phase = 0; phase < MIN(step, 50U); phase++) {
					uint64_t n = passes_until_ripe(phase, wait, step);

					assert_true(n * intervals[i] >= times[a]);
					assert_true(n <= DIV_ROUND_UP(times[a], intervals[i]) + 2 * step);
					if (times[a] <= MEMBER_WAIT_FINE * intervals[i])
						assert_int_equal(n, DIV_ROUND_UP(times[a], intervals[i]));
				}
			}
}

static void defaults_count_each_pass(void **state _unused_)
{
	const struct member_policy p = {.min_age_usec = 30 * USEC_PER_SEC,
					.cow_backoff_usec = 300 * USEC_PER_SEC};

	assert_int_equal(member_step_passes(&p, 10 * USEC_PER_SEC), 1);
	assert_int_equal(member_wait_steps(p.min_age_usec, 10 * USEC_PER_SEC, 1), 3);
	assert_int_equal(member_wait_steps(p.cow_backoff_usec, 10 * USEC_PER_SEC, 1), 30);
	assert_int_equal(member_wait_steps(0, 10 * USEC_PER_SEC, 1), 0);
	assert_int_equal(member_wait_steps(0, 10 * USEC_PER_SEC, 12), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_page_waits_as_long_as_the_policy_says),
		cmocka_unit_test(defaults_count_each_pass),
	};

	return cmocka_run_group_tests_name("member", tests, NULL, NULL);
}
