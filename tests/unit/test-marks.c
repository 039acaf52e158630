/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/marks.h"
#include "tests/unit/unit.h"

#define N 4096U

static bool wanted[N];

static bool is_wanted(uint32_t i, void *userdata _unused_)
{
	return wanted[i];
}

/* Parts of KEPT pages that are to stay unmarked. */
#define KEPT 64U
static bool kept[N / KEPT];
static uint64_t left_out;

static bool may_close(uint32_t first, uint32_t n_pages, void *userdata _unused_)
{
	for (uint32_t i = first; i < first + n_pages; i++)
		if (kept[i / KEPT])
			return false;
	return true;
}

static size_t plan(size_t max, struct mark *ret)
{
	const struct marks_ask ask = { N, is_wanted, may_close, NULL };

	return marks_plan(&ask, max, ret, &left_out);
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
		assert_int_equal(left_out, 0);
	}
}

/* The same with parts that must not be marked: none of them is, and what is left out for that are
 * the ranges with the fewest wanted pages, no more of them than the bound demands. */
static void kept_parts_stay_unmarked(void **state _unused_)
{
	static struct mark m[N];

	srand(11);
	for (unsigned round = 0; round < 200; round++) {
		size_t max = 1 + (size_t)rand() % 40, n;
		int density = 1 + rand() % 60;
		uint32_t n_wanted = 0, inside = 0, fewest = N;

		for (uint32_t i = 0; i < N / KEPT; i++)
			kept[i] = rand() % 3 == 0;
		for (uint32_t i = 0; i < N; i++) {
			wanted[i] = !kept[i / KEPT] && rand() % density == 0;
			n_wanted += wanted[i];
		}
		n = plan(max, m);
		assert_true(n <= max);
		for (size_t i = 0; i < n; i++) {
			uint32_t here = 0;

			assert_true(wanted[m[i].first] && wanted[m[i].first + m[i].n_pages - 1]);
			assert_true(may_close(m[i].first, m[i].n_pages, NULL));
			for (uint32_t k = m[i].first; k < m[i].first + m[i].n_pages; k++)
				here += wanted[k];
			inside += here;
			fewest = MIN(fewest, here);
			if (i > 0)
				assert_true(m[i].first > m[i - 1].first + m[i - 1].n_pages);
		}
		assert_int_equal(inside + left_out, n_wanted);
		if (left_out > 0)
			assert_int_equal(n, max);
		/* What lies between two kept parts and was left out is no larger than what was not. */
		for (uint32_t i = 0, here = 0; i < N && left_out > 0; i++) {
			bool marked = false;

			here = kept[i / KEPT] ? 0 : here + wanted[i];
			for (size_t k = 0; k < n; k++)
				marked |= i >= m[k].first && i < m[k].first + m[k].n_pages;
			here = marked ? 0 : here;
			assert_true(here <= fewest);
		}
	}
	memset(kept, 0, sizeof(kept));
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
		cmocka_unit_test(kept_parts_stay_unmarked),
		cmocka_unit_test(one_range_for_all),
	};

	return cmocka_run_group_tests_name("marks", tests, NULL, NULL);
}
