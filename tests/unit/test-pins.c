/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/unit.h"

#include "daemon/pins.h"

static int parse(const char *text, uint64_t *a, uint64_t *r)
{
	return pins_parse_vmstat(text, strlen(text), a, r);
}

static void parses_vmstat(void **state _unused_)
{
	uint64_t a = 0, r = 0;

	assert_int_equal(
		parse("nr_free 1\nnr_foll_pin_acquired 17\nnr_foll_pin_released 16\nx 2\n", &a, &r),
		0);
	assert_int_equal(a, 17);
	assert_int_equal(r, 16);
	assert_int_equal(parse("nr_foll_pin_released 3\nnr_foll_pin_acquired 4", &a, &r), 0);
	assert_int_equal(a, 4);
	assert_int_equal(r, 3);
}

static void refuses_other_text(void **state _unused_)
{
	uint64_t a = 1, r = 2;

	assert_int_equal(parse("", &a, &r), -ENODATA);
	assert_int_equal(parse("nr_foll_pin_acquired 17\n", &a, &r), -ENODATA);
	assert_int_equal(parse("nr_foll_pin_acquired2 17\nnr_foll_pin_released 16\n", &a, &r),
			 -ENODATA);
	assert_true(parse("nr_foll_pin_acquired x\nnr_foll_pin_released 16\n", &a, &r) < 0);
	assert_true(parse("nr_foll_pin_acquired \nnr_foll_pin_released 16\n", &a, &r) < 0);
	assert_int_equal(a, 1);
	assert_int_equal(r, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parses_vmstat),
		cmocka_unit_test(refuses_other_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
