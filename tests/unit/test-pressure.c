/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>

#include "daemon/pressure.h"
#include "tests/unit/unit.h"

static const struct pressure_thresholds thresholds = { 200, 300 };

static void hysteresis(void **state _unused_)
{
	struct pressure p = { 0 };
	struct pressure_sample s = { .total_bytes = GIB(100) };

	s.available_bytes = GIB(50);
	assert_false(pressure_update(&p, &thresholds, &s));
	assert_false(p.working);
	s.available_bytes = GIB(25); /* between the thresholds: as it was */
	assert_false(pressure_update(&p, &thresholds, &s));
	assert_false(p.working);
	s.available_bytes = GIB(15);
	assert_true(pressure_update(&p, &thresholds, &s));
	assert_true(p.working);
	s.available_bytes = GIB(25);
	assert_false(pressure_update(&p, &thresholds, &s));
	assert_true(p.working);
	s.available_bytes = GIB(31);
	assert_true(pressure_update(&p, &thresholds, &s));
	assert_false(p.working);
	/* Other thresholds are in force at once. */
	assert_true(pressure_update(&p, &(struct pressure_thresholds){ 320, 500 }, &s));
	assert_true(p.working);
	assert_non_null(strstr(p.reason, "31.0 % of memory available (works below 32.0 %, rests above 50.0 %)"));
}

static void stalls_count_too(void **state _unused_)
{
	struct pressure p = { 0 };
	struct pressure_sample s = { GIB(90), GIB(100), PRESSURE_WORK_STALL };

	assert_true(pressure_update(&p, &thresholds, &s));
	assert_non_null(strstr(p.reason, "1.00 %"));
	s.stall = PRESSURE_REST_STALL;
	assert_false(pressure_update(&p, &thresholds, &s));
	s.stall = PRESSURE_REST_STALL - 1;
	assert_true(pressure_update(&p, &thresholds, &s));
	assert_false(p.working);
}

static void parsers(void **state _unused_)
{
	static const char mem[] = "MemTotal:       24576 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\n";
	static const char psi[] = "some avg10=12.34 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00\n";
	struct pressure_sample s;
	uint32_t stall;

	assert_int_equal(pressure_parse_meminfo(mem, strlen(mem), &s), 0);
	assert_int_equal(s.total_bytes, 24576 << 10);
	assert_int_equal(s.available_bytes, 1024 << 10);
	assert_int_equal(pressure_parse_meminfo(mem, 20, &s), -EINVAL);
	assert_int_equal(pressure_parse_meminfo("", 0, &s), -EINVAL);
	assert_int_equal(pressure_parse_psi(psi, strlen(psi), &stall), 0);
	assert_int_equal(stall, 1234);
	for (size_t n = 0; n < 16; n++)
		assert_int_equal(pressure_parse_psi(psi, n, &stall), -EINVAL);
	assert_int_equal(pressure_parse_psi("some avg10=101.00 ", 18, &stall), -EINVAL);
}

static void this_host(void **state _unused_)
{
	int fd = open("/proc", O_PATH | O_DIRECTORY);
	struct pressure_sample s;

	assert_int_equal(pressure_read(fd, &s), 0);
	assert_true(s.total_bytes > 0 && s.available_bytes <= s.total_bytes);
	(void)close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hysteresis),
		cmocka_unit_test(stalls_count_too),
		cmocka_unit_test(parsers),
		cmocka_unit_test(this_host),
	};

	return cmocka_run_group_tests_name("pressure", tests, NULL, NULL);
}
