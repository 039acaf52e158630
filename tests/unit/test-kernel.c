/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/kernel.h"
#include "tests/unit/fake-root.h"

static void settings_absent(void **state _unused_)
{
	struct kernel_settings s;

	kernel_settings_read(root_fd, &s);
	assert_string_equal(s.release, "unknown");
	assert_int_equal(s.max_map_count, 0);
	assert_int_equal(s.thp, KERNEL_THP_ABSENT);
	assert_int_equal(s.swap_bytes, 0);
	assert_int_equal(s.numa_nodes, 1);
	assert_int_equal(s.memcg_version, 0);
	assert_false(s.ksm_advisor);
}

static void settings_present(void **state _unused_)
{
	struct kernel_settings s;

	put("proc/sys/kernel/osrelease", "6.12.1-test\n");
	put("proc/sys/vm/max_map_count", "65530\n");
	put("proc/meminfo", "MemTotal: 1 kB\nSwapTotal:      2048 kB\nSwapFree: 1 kB\n");
	put("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
	put("sys/kernel/mm/ksm/advisor_mode", "none [scan-time]\n");
	put("sys/devices/system/node/online", "0-3,8\n");
	put("sys/fs/cgroup/cgroup.controllers", "cpu io memory pids\n");
	kernel_settings_read(root_fd, &s);
	assert_string_equal(s.release, "6.12.1-test");
	assert_int_equal(s.max_map_count, 65530);
	assert_int_equal(s.thp, KERNEL_THP_MADVISE);
	assert_int_equal(s.swap_bytes, 2048 * 1024);
	assert_int_equal(s.numa_nodes, 5);
	assert_int_equal(s.memcg_version, 2);
	assert_true(s.ksm_advisor);
}

static void settings_hostile(void **state _unused_)
{
	static const char *const nodes[] = { "", "x", "3-1", "0-99999999999",
					     "0-18446744073709551615",
					     "0,", "0-", "0;1" };
	struct kernel_settings s;

	put("proc/sys/vm/max_map_count", "-1\n");
	put("proc/meminfo", "SwapTotal: 18446744073709551615 kB\n");
	put("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise\n");
	put("sys/kernel/mm/ksm/advisor_mode", "[none] scan-time\n");
	put("sys/fs/cgroup/cgroup.controllers", "notmemory memoryless\n");
	put("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n");
	for (size_t i = 0; i < ARRAY_SIZE(nodes); i++) {
		put("sys/devices/system/node/online", nodes[i]);
		kernel_settings_read(root_fd, &s);
		assert_int_equal(s.numa_nodes, 1);
	}
	assert_int_equal(s.max_map_count, 0);
	assert_int_equal(s.thp, KERNEL_THP_ABSENT);
	assert_int_equal(s.swap_bytes, 0);
	assert_int_equal(s.memcg_version, 1);
	assert_false(s.ksm_advisor);
}

/* main() denied two features and one that isn't. */
static void deny(void **state _unused_)
{
	assert_int_equal(kernel_probe_all(), -EINVAL);
	assert_false(kernel_has(KERNEL_PAGEMAP_SCAN));
	assert_false(kernel_has(KERNEL_KSM));
	assert_int_equal(kernel_feature_error(KERNEL_KSM), -ECANCELED);
	assert_false(kernel_allows_engine_ksm());
	assert_false(kernel_allows_tracker_wp());
}

static void answers_agree(void **state _unused_)
{
	for (unsigned f = 0; f < KERNEL_FEATURE_MAX; f++) {
		assert_true(*kernel_feature_to_string(f) != '\0');
		assert_int_equal(kernel_has(f), kernel_feature_error(f) == 0);
		assert_true(kernel_feature_error(f) <= 0);
	}
	/* These need no privilege and no new kernel. */
	assert_true(kernel_has(KERNEL_PTRACE) || kernel_feature_error(KERNEL_PTRACE) == -EPERM);
}

static void table(void **state _unused_)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	assert_non_null(f);
	kernel_print(f);
	assert_int_equal(fclose(f), 0);
	for (unsigned i = 0; i < KERNEL_FEATURE_MAX; i++)
		assert_non_null(strstr(text, kernel_feature_to_string(i)));
	assert_non_null(strstr(text, "denied"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(settings_absent, make_root, remove_root),
		cmocka_unit_test_setup_teardown(settings_present, make_root, remove_root),
		cmocka_unit_test_setup_teardown(settings_hostile, make_root, remove_root),
		cmocka_unit_test(deny),
		cmocka_unit_test(answers_agree),
		cmocka_unit_test(table),
	};

	(void)setenv("MEMSHARED_KERNEL_DENY", "pagemap-scan,no-such-thing,ksm", 1);
	return cmocka_run_group_tests_name("kernel", tests, NULL, NULL);
}
