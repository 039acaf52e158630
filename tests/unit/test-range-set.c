/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/range-set.h"
#include "tests/unit/unit.h"

#define UNIVERSE 200U

/* The set is what a plain array of flags says, its ranges are in order and do not touch. */
static void assert_equals_model(const struct range_set *s, const bool *model)
{
	size_t i = 0;

	for (uint64_t a = 0; a < UNIVERSE; a++) {
		while (i < s->n && s->ranges[i].end <= a)
			i++;
		assert_int_equal(model[a], i < s->n && s->ranges[i].start <= a);
		assert_int_equal(model[a], range_set_contains(s, a, a + 1));
	}
	for (i = 0; i < s->n; i++) {
		assert_true(s->ranges[i].start < s->ranges[i].end);
		assert_true(i == 0 || s->ranges[i - 1].end < s->ranges[i].start);
	}
}

static void agrees_with_model(void **state _unused_)
{
	struct range_set s = { 0 };
	bool model[UNIVERSE] = { false };

	srandom(1);
	for (unsigned round = 0; round < 5000; round++) {
		uint64_t start = (uint64_t)random() % UNIVERSE;
		uint64_t end = start + (uint64_t)random() % 20;
		bool add = random() % 2;

		end = MIN(end, (uint64_t)UNIVERSE);
		assert_int_equal(add ? range_set_add(&s, start, end) :
				       range_set_remove(&s, start, end),
				 0);
		for (uint64_t a = start; a < end; a++)
			model[a] = add;
		assert_equals_model(&s, model);
	}
	range_set_clear(&s);
	assert_false(range_set_contains(&s, 0, 1));
	assert_true(range_set_contains(&s, 1, 1));
	range_set_done(&s);
}

static void bounded(void **state _unused_)
{
	struct range_set s = { 0 };

	for (uint64_t i = 0; i < RANGE_SET_MAX; i++)
		assert_int_equal(range_set_add(&s, i * 10, i * 10 + 5), 0);
	assert_int_equal(range_set_add(&s, RANGE_SET_MAX * 10, RANGE_SET_MAX * 10 + 5), -ENOSPC);
	assert_int_equal(range_set_remove(&s, 1, 2), -ENOSPC);
	assert_true(range_set_contains(&s, 0, 5));
	assert_int_equal(range_set_add(&s, 5, 10), 0);
	assert_int_equal(s.n, RANGE_SET_MAX - 1);
	range_set_done(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(agrees_with_model),
		cmocka_unit_test(bounded),
	};

	return cmocka_run_group_tests_name("range-set", tests, NULL, NULL);
}
