/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/parse.h"
#include "tests/unit/unit.h"

static void numbers(void **state _unused_)
{
	uint64_t v = 7;

	assert_int_equal(parse_u64("0", 0, 10, &v), 0);
	assert_int_equal(v, 0);
	assert_int_equal(parse_u64("18446744073709551615", 0, UINT64_MAX, &v), 0);
	assert_true(v == UINT64_MAX);
	v = 7;
	assert_int_equal(parse_u64("18446744073709551616", 0, UINT64_MAX, &v), -ERANGE);
	assert_int_equal(parse_u64("", 0, 10, &v), -EINVAL);
	assert_int_equal(parse_u64("-1", 0, 10, &v), -EINVAL);
	assert_int_equal(parse_u64(" 1", 0, 10, &v), -EINVAL);
	assert_int_equal(parse_u64("1x", 0, 10, &v), -EINVAL);
	assert_int_equal(parse_u64("11", 0, 10, &v), -ERANGE);
	assert_int_equal(v, 7);
}

static void prefixes(void **state _unused_)
{
	uint64_t v;
	size_t used;

	assert_int_equal(parse_u64_prefix("7f00-", 5, 16, &v, &used), 0);
	assert_int_equal(v, 0x7f00);
	assert_int_equal(used, 4);
	assert_int_equal(parse_u64_prefix("123", 2, 10, &v, &used), 0);
	assert_int_equal(v, 12);
	assert_int_equal(parse_u64_prefix("x", 1, 10, &v, &used), -EINVAL);
	assert_int_equal(parse_u64_prefix("", 0, 10, &v, &used), -EINVAL);
	assert_int_equal(parse_u64_prefix("fffffffffffffffff", 17, 16, &v, &used), -ERANGE);
}

static void units(void **state _unused_)
{
	uint64_t v;
	uint32_t p;
	bool b;

	assert_int_equal(parse_bytes("64K", 0, UINT64_MAX, &v), 0);
	assert_int_equal(v, 65536);
	assert_int_equal(parse_bytes("16777216T", 0, UINT64_MAX, &v), -ERANGE);
	assert_int_equal(parse_bytes("1k", 0, UINT64_MAX, &v), -EINVAL);
	assert_int_equal(parse_usec("30", 0, UINT64_MAX, &v), 0);
	assert_int_equal(v, 30 * USEC_PER_SEC);
	assert_int_equal(parse_usec("250ms", 0, UINT64_MAX, &v), 0);
	assert_int_equal(v, 250000);
	assert_int_equal(parse_usec("5m", 0, 1000, &v), -ERANGE);
	assert_int_equal(parse_permille("10%", 0, 1000, &p), 0);
	assert_int_equal(p, 100);
	assert_int_equal(parse_permille("0.5%", 0, 1000, &p), 0);
	assert_int_equal(p, 5);
	assert_int_equal(parse_permille("10", 0, 1000, &p), -EINVAL);
	assert_int_equal(parse_permille("101%", 0, 1000, &p), -ERANGE);
	assert_int_equal(parse_bool("on", &b), 0);
	assert_true(b);
	assert_int_equal(parse_bool("maybe", &b), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers),
		cmocka_unit_test(prefixes),
		cmocka_unit_test(units),
	};

	return cmocka_run_group_tests_name("parse", tests, NULL, NULL);
}
