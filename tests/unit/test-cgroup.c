/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/cgroup.h"
#include "tests/unit/fake-root.h"

static void paths(void **state _unused_)
{
	static const struct {
		const char *text;
		unsigned version;
		int verdict;
		const char *path;
	} cases[] = {
		{ "0::/machine.slice/a\n", 2, 0, "/machine.slice/a" },
		{ "0::/", 2, 0, "/" },
		{ "3:cpu,cpuacct:/x\n4:memory:/m/n\n0::/u\n", 1, 0, "/m/n" },
		{ "3:cpu,memory,io:/both\n", 1, 0, "/both" },
		{ "3:cpu,memory,io:/both\n0::/u", 2, 0, "/u" },
		{ "4:memory:/a:b..c/...\n", 1, 0, "/a:b..c/..." },
		{ "4:memorycache,mymemory:/x\n", 1, -ENOENT, "" },
		{ "4:name=memory:/x\n", 1, -ENOENT, "" },
		{ "4:cpu:/memory\n", 1, -ENOENT, "" },
		{ "", 2, -ENOENT, "" },
		{ "0:\n::\n0", 2, -ENOENT, "" },
		{ "0::", 2, -EINVAL, "" },
		{ "0::relative", 2, -EINVAL, "" },
		{ "0::/../outside", 2, -EINVAL, "" },
		{ "0::/a/..", 2, -EINVAL, "" },
		{ "0::/0123456789012345678901234567890123456789012345678901234567890123", 2, -ENAMETOOLONG, "" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char path[64] = "";
		int r = cgroup_parse_path(cases[i].text, cases[i].version, path, sizeof(path));

		if (r != cases[i].verdict || (r == 0 && !streq(path, cases[i].path)))
			fail_msg("%s: %d, %s", cases[i].text, r, path);
	}
}

static void stats(void **state _unused_)
{
	static const char v1[] = "inactive_file 1\ntotal_inactive_file 4096\ntotal_active_file 2\n";

	assert_int_equal(cgroup_parse_inactive(v1, 1), 4096);
	assert_int_equal(cgroup_parse_inactive(v1, 2), 1);
	assert_int_equal(cgroup_parse_inactive("", 2), 0);
	assert_int_equal(cgroup_parse_inactive("inactive_file", 2), 0);
	assert_int_equal(cgroup_parse_inactive("inactive_file x\n", 2), 0);
	assert_int_equal(cgroup_parse_inactive("inactive_file 18446744073709551616\n", 2), 0);
}

static struct cgroup_room room(void)
{
	_cleanup_close_ int fd = openat(root_fd, "proc/7", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct cgroup_room got;

	assert_int_equal(cgroup_room_read_at(root_fd, fd, &got), 0);
	return got;
}

static void unified(void **state _unused_)
{
	put("proc/7/cgroup", "0::/machine/a\n");
	assert_int_equal(room().bytes, UINT64_MAX); /* no controller at all */
	put("sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
	assert_int_equal(room().bytes, UINT64_MAX); /* no such group that we can see */
	put("sys/fs/cgroup/machine/a/memory.max", "max\n");
	put("sys/fs/cgroup/machine/a/memory.high", "max\n");
	put("sys/fs/cgroup/machine/a/memory.current", "900000\n");
	put("sys/fs/cgroup/machine/memory.max", "1000000\n");
	assert_int_equal(room().bytes, UINT64_MAX); /* it does not say how much is used */
	put("sys/fs/cgroup/machine/memory.current", "950000\n");
	assert_int_equal(room().bytes, 50000);
	assert_string_equal(room().path, "/machine");
	put("sys/fs/cgroup/machine/memory.stat", "anon 1\ninactive_file 7000\n");
	assert_int_equal(room().bytes, 57000);
	put("sys/fs/cgroup/machine/a/memory.high", "910000\n");
	assert_int_equal(room().bytes, 10000);
	assert_string_equal(room().path, "/machine/a");
	put("sys/fs/cgroup/machine/a/memory.max", "800000\n"); /* just lowered */
	assert_int_equal(room().bytes, 0);
	put("proc/7/cgroup", "0::/../machine/a\n");
	assert_int_equal(room().bytes, UINT64_MAX);
}

static void controllers_apart(void **state _unused_)
{
	put("proc/7/cgroup", "4:memory:/g\n0::/\n");
	put("sys/fs/cgroup/memory/memory.usage_in_bytes", "5000000\n");
	put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	put("sys/fs/cgroup/memory/g/memory.usage_in_bytes", "3000000\n");
	put("sys/fs/cgroup/memory/g/memory.limit_in_bytes", "9223372036854771712\n");
	assert_int_equal(room().bytes, UINT64_MAX);
	put("sys/fs/cgroup/memory/g/memory.limit_in_bytes", "4000000\n");
	put("sys/fs/cgroup/memory/g/memory.stat", "inactive_file 9\ntotal_inactive_file 500000\n");
	assert_int_equal(room().bytes, 1500000);
	put("sys/fs/cgroup/memory/memory.limit_in_bytes", "5000001\n");
	assert_int_equal(room().bytes, 1);
	assert_string_equal(room().path, "/");
}

static void this_process(void **state _unused_)
{
	_cleanup_close_ int fd = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct cgroup_room got;

	assert_int_equal(cgroup_room_read(fd, &got), 0);
	assert_true(got.bytes > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paths),
		cmocka_unit_test(stats),
		cmocka_unit_test_setup_teardown(unified, make_root, remove_root),
		cmocka_unit_test_setup_teardown(controllers_apart, make_root, remove_root),
		cmocka_unit_test(this_process),
	};

	return cmocka_run_group_tests_name("cgroup", tests, NULL, NULL);
}
