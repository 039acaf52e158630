/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/marks.h"
#include "tests/unit/unit.h"

#define N 4096U

static bool wanted[N];

static bool is_wanted(uint32_t i, void *userdata _unused_)
{
	return wanted[i];
}

static size_t plan(size_t max, struct mark *ret)
{
	return marks_plan(N, is_wanted, NULL, max, ret);
}

static void nothing(void **state _unused_)
{
	struct mark m[4];

	memset(wanted, 0, sizeof(wanted));
	assert_int_equal(plan(4, m), 0);
}

static void short_gaps_are_closed(void **state _unused_)
{
	struct mark m[8];

	memset(wanted, 0, sizeof(wanted));
	wanted[10] = wanted[11] = true;
	wanted[11 + MARKS_GAP_PAGES + 1] = true;  /* a gap of just MARKS_GAP_PAGES */
	wanted[100] = true;
	assert_int_equal(plan(8, m), 2);
	assert_int_equal(m[0].first, 10);
	assert_int_equal(m[0].n_pages, 3 + MARKS_GAP_PAGES);
	assert_int_equal(m[1].first, 100);
	assert_int_equal(m[1].n_pages, 1);
}

/* Whatever the pattern: all wanted pages inside, ordered, apart, within the bound. */
static void bounded_and_complete(void **state _unused_)
{
	static struct mark m[N];

	srand(7);
	for (unsigned round = 0; round < 200; round++) {
		size_t max = 1 + (size_t)rand() % 300, n, k = 0;
		int density = 1 + rand() % 60;

		for (uint32_t i = 0; i < N; i++)
			wanted[i] = rand() % density == 0;
		n = plan(max, m);
		assert_true(n <= max);
		for (size_t i = 0; i < n; i++) {
			assert_true(wanted[m[i].first]);
			assert_true(wanted[m[i].first + m[i].n_pages - 1]);
			if (i > 0)
				assert_true(m[i].first > m[i - 1].first + m[i - 1].n_pages);
		}
		for (uint32_t i = 0; i < N; i++) {
			while (k < n && m[k].first + m[k].n_pages <= i)
				k++;
			if (wanted[i])
				assert_true(k < n && m[k].first <= i);
		}
	}
}

static void one_range_for_all(void **state _unused_)
{
	struct mark m[1];

	memset(wanted, 0, sizeof(wanted));
	wanted[0] = wanted[N - 1] = wanted[N / 2] = true;
	assert_int_equal(plan(1, m), 1);
	assert_int_equal(m[0].first, 0);
	assert_int_equal(m[0].n_pages, N);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing),
		cmocka_unit_test(short_gaps_are_closed),
		cmocka_unit_test(bounded_and_complete),
		cmocka_unit_test(one_range_for_all),
	};

	return cmocka_run_group_tests_name("marks", tests, NULL, NULL);
}
