/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The host's KSM, with a directory of plain files in the place of /sys/kernel/mm/ksm. */
#include <fcntl.h>
#include <sys/stat.h>

#include "common/io.h"
#include "daemon/ksm.h"
#include "tests/unit/unit.h"

static char dir[] = "/tmp/memshared-test-ksm-XXXXXX";
static char state_path[sizeof(dir) + 16];

static void put(const char *name, const char *text)
{
	char path[128];
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	(void)fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static void expect(const char *name, const char *text)
{
	char path[128], line[64];

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(io_read_line(AT_FDCWD, path, line, sizeof(line)), 0);
	assert_string_equal(line, text);
}

static int set_up(void **state _unused_)
{
	return mkdtemp(dir) ? 0 : -1;
}

static void reset(void)
{
	put("run", "0");
	put("pages_to_scan", "123");
	put("sleep_millisecs", "45");
	put("smart_scan", "1");
	put("advisor_mode", "[none] scan-time");
	(void)snprintf(state_path, sizeof(state_path), "%s/state", dir);
	(void)unlink(state_path);
}

static void settings_are_saved_and_put_back(void **state _unused_)
{
	struct ksm k;

	reset();
	assert_int_equal(ksm_open(&k, dir, state_path), 0);
	assert_int_equal(ksm_start(&k, 5000, 0), 0);
	expect("run", "1");
	expect("pages_to_scan", "5000");
	expect("smart_scan", "0");
	assert_int_equal(ksm_stop(&k), 0);
	assert_int_equal(ksm_start(&k, 6000, 1), 0);
	assert_int_equal(ksm_restore(&k), 0);
	expect("run", "0");
	expect("pages_to_scan", "123");
	expect("sleep_millisecs", "45");
	expect("smart_scan", "1");
	assert_int_equal(access(state_path, F_OK), -1);
	ksm_close(&k);
}

static void a_killed_daemon_loses_nothing(void **state _unused_)
{
	struct ksm k;

	reset();
	assert_int_equal(ksm_open(&k, dir, state_path), 0);
	assert_int_equal(ksm_start(&k, 5000, 0), 0);
	ksm_close(&k); /* as if killed: nothing was put back */
	assert_int_equal(ksm_open(&k, dir, state_path), 0);
	assert_true(k.saved);
	assert_int_equal(ksm_restore(&k), 0);
	expect("run", "0");
	expect("pages_to_scan", "123");
	ksm_close(&k);
}

static void what_cannot_be_put_back_stays_saved(void **state _unused_)
{
	char path[128];
	struct ksm k;

	reset();
	(void)snprintf(path, sizeof(path), "%s/sleep_millisecs", dir);
	assert_int_equal(ksm_open(&k, dir, state_path), 0);
	assert_int_equal(ksm_start(&k, 5000, 0), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(ksm_restore(&k), -ENOENT);
	expect("run", "0");
	expect("pages_to_scan", "123");
	put("sleep_millisecs", "0");
	ksm_close(&k);
	assert_int_equal(ksm_open(&k, dir, state_path), 0);
	assert_int_equal(ksm_restore(&k), 0);
	expect("sleep_millisecs", "45");
	ksm_close(&k);
}

/* What a daemon makes of such a state file. */
static struct ksm open_with(const char *header, const char *boot, const char *settings)
{
	char text[512];
	struct ksm k;

	reset();
	(void)snprintf(text, sizeof(text), "%s\nboot %s\n%s", header, boot, settings);
	put("state", text);
	assert_int_equal(ksm_open(&k, dir, state_path), 0);
	ksm_close(&k);
	return k;
}

#define HEADER "memshared-ksm 1"

static void a_bad_state_file_is_ignored(void **state _unused_)
{
	static const char *const bad[][2] = {
		{ "", "run=1\n" },
		{ "run=1\npages_to_scan=100", "" },
		{ "memshared-ksm 2", "run=1\n" },
		{ HEADER, "" },
		{ HEADER, "pages_to_scan=100\n" }, /* its end is missing */
		{ HEADER, "run=2x\n" },
		{ HEADER, "other=1\nrun=1\n" },
		{ HEADER, "pages_to_scan\nrun=1\n" },
		{ HEADER, "run=1\nrun=1\n" },
		{ HEADER, "=\nrun=1\n" },
	};
	char boot[64];

	assert_int_equal(io_read_line(AT_FDCWD, "/proc/sys/kernel/random/boot_id", boot, sizeof(boot)), 0);
	assert_true(open_with(HEADER, boot, "run=1\n").saved);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct ksm k = open_with(bad[i][0], boot, bad[i][1]);

		if (k.saved || k.state_error != -EINVAL)
			fail_msg("file %zu: saved %d, error %d", i, k.saved, k.state_error);
		assert_int_equal(access(state_path, F_OK), 0);
	}
}

static void settings_of_another_boot_are_forgotten(void **state _unused_)
{
	struct ksm k = open_with(HEADER, "00000000-0000-0000-0000-000000000000",
				 "pages_to_scan=100\nrun=1\n");

	assert_false(k.saved);
	assert_int_equal(k.state_error, 0);
	assert_int_equal(access(state_path, F_OK), -1);
}

static void an_advisor_refuses(void **state _unused_)
{
	char reason[192];
	struct ksm k;

	reset();
	assert_int_equal(ksm_open(&k, dir, NULL), 0);
	put("advisor_mode", "none [scan-time]");
	assert_int_equal(ksm_check_free(&k, reason, sizeof(reason)), -EBUSY);
	assert_non_null(strstr(reason, "advisor_mode"));
	ksm_close(&k);
}

static void no_ksm(void **state _unused_)
{
	struct ksm k;

	assert_int_equal(ksm_open(&k, "/nonexistent/ksm", NULL), -EOPNOTSUPP);
}

static void ksm_stat_is_parsed(void **state _unused_)
{
	static const char text[] = "ksm_rmap_items 12\nksm_zero_pages 3\nksm_merging_pages 7\n"
				   "ksm_process_profit -99\nksm_merge_any: no\nksm_mergeable: yes\n";
	static const char old[] = "ksm_rmap_items 1\nksm_merging_pages 2\n";
	struct ksm_stat s;

	assert_int_equal(ksm_parse_stat(text, strlen(text), &s), 0);
	assert_int_equal(s.rmap_items, 12);
	assert_int_equal(s.zero_pages, 3);
	assert_int_equal(s.merging_pages, 7);
	assert_int_equal(s.mergeable, 1);
	assert_int_equal(ksm_parse_stat(old, strlen(old), &s), 0);
	assert_int_equal(s.mergeable, -1);
	assert_true(s.zero_pages == UINT64_MAX);
	assert_int_equal(ksm_parse_stat("", 0, &s), -EINVAL);
	assert_int_equal(ksm_parse_stat("nonsense\n", 9, &s), -EINVAL);
}

static int tear_down(void **state _unused_)
{
	static const char *const names[] = { "run",	   "pages_to_scan", "sleep_millisecs",
					     "smart_scan", "advisor_mode",  "state" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char path[128];

		(void)snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		(void)unlink(path);
	}
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(settings_are_saved_and_put_back),
		cmocka_unit_test(a_killed_daemon_loses_nothing),
		cmocka_unit_test(what_cannot_be_put_back_stays_saved),
		cmocka_unit_test(a_bad_state_file_is_ignored),
		cmocka_unit_test(settings_of_another_boot_are_forgotten),
		cmocka_unit_test(an_advisor_refuses),
		cmocka_unit_test(no_ksm),
		cmocka_unit_test(ksm_stat_is_parsed),
	};

	return cmocka_run_group_tests_name("ksm", tests, set_up, tear_down);
}
