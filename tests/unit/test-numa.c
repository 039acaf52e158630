/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "common/util.h"
#include "daemon/agent/ring.h"
#include "daemon/numa.h"
#include "tests/unit/unit.h"

static void lines_are_read(void **state _unused_)
{
	static const struct {
		const char *line;
		int verdict;
		uint64_t policy;
	} cases[] = {
		{ "7f0000000000 default", 0, 0 },
		{ "7f0000000000 default anon=2 dirty=2 N0=2 kernelpagesize_kB=4", 0, 0 },
		{ "7f0000000000 local", 0, RING_POLICY(MPOL_LOCAL, 0) },
		{ "7f0000000000 bind:0 anon=1 N0=1", 0, RING_POLICY(MPOL_BIND, 1) },
		{ "7f0000000000 bind:0-1,4", 0, RING_POLICY(MPOL_BIND, 0x13) },
		{ "7f0000000000 prefer:55", 0, RING_POLICY(MPOL_PREFERRED, UINT64_C(1) << 55) },
		{ "7f0000000000 prefer (many):2-3 N0=1", 0, RING_POLICY(5, 0xc) },
		{ "7f0000000000 interleave:0-55", 0, RING_POLICY(MPOL_INTERLEAVE, (UINT64_C(1) << 56) - 1) },
		{ "7f0000000000 weighted interleave:1", 0, RING_POLICY(6, 2) },
		{ "7f0000000000 bind:0 file=/dev/shm/x", 0, RING_POLICY(MPOL_BIND, 1) },
		{ "7f0000000000 bind:0 file=/memfd:memshared-store-0123456789abcdef\\040(deleted)", 1, 0 },
		{ "7f0000000000 bind:56", -EOPNOTSUPP, 0 },
		{ "7f0000000000 bind:0-18446744073709551615", -EOPNOTSUPP, 0 },
		{ "7f0000000000 bind=static:0", -EOPNOTSUPP, 0 },
		{ "7f0000000000 defaults", -EOPNOTSUPP, 0 },
		{ "7f0000000000 later:0", -EOPNOTSUPP, 0 },
		{ "7f0000000000 bind:", -EINVAL, 0 },
		{ "7f0000000000 bind:1-0", -EINVAL, 0 },
		{ "7f0000000000 bind:1-", -EINVAL, 0 },
		{ "7f0000000000 bind:1,", -EINVAL, 0 },
		{ "7f0000000000 bind:1;", -EINVAL, 0 },
		{ "7f0000000000", -EINVAL, 0 },
		{ "7f00000000000000000000 default", -EINVAL, 0 },
		{ "x default", -EINVAL, 0 },
		{ "", -EINVAL, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t start = 0, policy = 0;
		int r = numa_parse_line(cases[i].line, &start, &policy);

		if (r != cases[i].verdict || policy != cases[i].policy)
			fail_msg("%s: %d, policy %lx", cases[i].line, r, (unsigned long)policy);
		if (r >= 0)
			assert_true(start == 0x7f0000000000);
	}
}

static void bind_to_first(char *at, uint64_t n_pages)
{
	const unsigned long nodes = 1;

	if (syscall(SYS_mbind, at, n_pages * PAGE_BYTES, MPOL_BIND, &nodes, 64, 0) < 0)
		skip(); /* no NUMA in this kernel, or not allowed here */
}

static int read_one(int proc_fd, const char *at, uint64_t n_pages, uint64_t *ret)
{
	struct numa_range range = { HVA((uintptr_t)at), n_pages, 99 };
	int r = numa_read(proc_fd, &range, 1);

	*ret = range.policy;
	return r;
}

static void ranges_have_one_policy(void **state _unused_)
{
	_cleanup_close_ int proc_fd = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int store = memfd_create("memshared-store-0123456789abcdef", MFD_CLOEXEC);
	char *map = mmap(NULL, 16 * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t policy;

	assert_true(proc_fd >= 0 && store >= 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	bind_to_first(map, 8);
	assert_int_equal(read_one(proc_fd, map, 8, &policy), 0);
	assert_true(policy == RING_POLICY(MPOL_BIND, 1));
	assert_int_equal(read_one(proc_fd, map + 2 * PAGE_BYTES, 4, &policy), 0);
	assert_true(policy == RING_POLICY(MPOL_BIND, 1));
	assert_int_equal(read_one(proc_fd, map + 4 * PAGE_BYTES, 8, &policy), -EOPNOTSUPP);
	assert_true(policy == 0);
	/* What is merged, at the beginning and in the middle, does not count. */
	assert_ptr_equal(mmap(map, PAGE_BYTES, PROT_READ, MAP_PRIVATE | MAP_FIXED, store, 0), map);
	assert_ptr_equal(mmap(map + 4 * PAGE_BYTES, PAGE_BYTES, PROT_READ, MAP_PRIVATE | MAP_FIXED, store, 0),
			 map + 4 * PAGE_BYTES);
	assert_int_equal(read_one(proc_fd, map, 8, &policy), 0);
	assert_true(policy == RING_POLICY(MPOL_BIND, 1));
	(void)munmap(map, 16 * PAGE_BYTES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_are_read),
		cmocka_unit_test(ranges_have_one_policy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
