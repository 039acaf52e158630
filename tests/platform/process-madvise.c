/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What advice one process may give for another's memory, and for its own. */
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "common/kernel.h"
#include "tests/platform/platform.h"

static int64_t advise(int pidfd, const struct iovec *v, size_t n, int advice)
{
	int64_t r = syscall(__NR_process_madvise, pidfd, v, n, advice, 0);

	return r < 0 ? -errno : r;
}

/* MERGEABLE, DONTNEED and the like must be given inside the guest: that takes the agent. */
static void others(void **state _unused_)
{
	static const int refused[] = { MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_DONTNEED,
				       MADV_HUGEPAGE, MADV_DONTFORK };
	static const int allowed[] = { MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED };
	char *map = map_pages(1);
	struct iovec v = { map, PAGE_BYTES };
	struct guest g;

	guest_start(&g);
	(void)guest_call(&g, guest_write, (uintptr_t)map, 1, 1);
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		assert_int_equal(advise(g.pidfd, &v, 1, refused[i]), -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(allowed); i++)
		assert_int_equal(advise(g.pidfd, &v, 1, allowed[i]), PAGE_BYTES);
	guest_stop(&g);
	unmap_pages(map, 1);
}

static void own(void **state _unused_)
{
	static struct iovec v[1025];
	_cleanup_close_ int pidfd = must((int)syscall(__NR_pidfd_open, getpid(), 0));
	char *map = map_pages(2 * ARRAY_SIZE(v));

	SKIP_WITHOUT(KERNEL_SELF_MADVISE);
	for (size_t i = 0; i < ARRAY_SIZE(v); i++)
		v[i] = (struct iovec){ map + 2 * i * PAGE_BYTES, PAGE_BYTES };
	assert_int_equal(advise(pidfd, v, 1024, MADV_DONTFORK), 1024 * PAGE_BYTES);
	assert_int_equal(advise(pidfd, v, 1025, MADV_DONTFORK), -EINVAL);
	unmap_pages(map, 2 * ARRAY_SIZE(v));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(others),
		cmocka_unit_test(own),
	};

	return cmocka_run_group_tests_name("process-madvise", tests, NULL, NULL);
}
