/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * KSM as the engine `ksm` uses it: run=0 keeps what is merged, the advisor owns pages_to_scan,
 * a merged page has lost its write-protect mark and can't be moved, and what page flags say.
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "common/io.h"
#include "common/kernel.h"
#include "tests/platform/platform.h"

#define KSM "/sys/kernel/mm/ksm/"

static int teardown(void **state _unused_)
{
	ksm_return();
	return 0;
}

/* Two equal pages of ours, merged; ksmd is stopped again. */
static char *merged_pair(int pagemap)
{
	char *map = map_pages(2);

	if (!kernel_has(KERNEL_PAGE_FRAMES))
		SKIP("frame numbers need CAP_SYS_ADMIN");
	/* Contents that nobody else has: only these two can merge with each other. */
	for (unsigned i = 0; i < PAGE_BYTES; i += 8)
		*(uint64_t *)(map + i) = now_usec() * 2654435761U + i;
	memcpy(map + PAGE_BYTES, map, PAGE_BYTES);
	if (madvise(map, 2 * PAGE_BYTES, MADV_MERGEABLE) < 0)
		SKIP("no KSM in this kernel");
	ksm_set("advisor_mode", "none");
	ksm_set("pages_to_scan", "20000");
	ksm_set("sleep_millisecs", "1");
	ksm_set("run", "1");
	ksm_wait_equal_frames(pagemap, map, map + PAGE_BYTES);
	ksm_set("run", "0");
	return map;
}

static void stopping_keeps_merged(void **state _unused_)
{
	_cleanup_close_ int pagemap = pagemap_open(getpid());
	char *map;
	uint64_t frame;

	ksm_borrow();
	map = merged_pair(pagemap);
	frame = page_frame(pagemap, map);
	assert_int_equal(ksm_get("run"), 0);
	assert_int_equal(page_frame(pagemap, map + PAGE_BYTES), frame);
	/* The first write gives a private copy. */
	map[0]++;
	assert_int_not_equal(page_frame(pagemap, map), frame);
	assert_int_equal(page_frame(pagemap, map + PAGE_BYTES), frame);
	/* So does taking the mark away. */
	(void)must(madvise(map, 2 * PAGE_BYTES, MADV_UNMERGEABLE));
	assert_int_not_equal(page_frame(pagemap, map + PAGE_BYTES), frame);
	unmap_pages(map, 2);
}

static void process_counts(void **state _unused_)
{
	_cleanup_close_ int pagemap = pagemap_open(getpid());
	_cleanup_free_ char *text = NULL;
	size_t len;
	char *map;

	SKIP_WITHOUT(KERNEL_KSM_STAT);
	ksm_borrow();
	map = merged_pair(pagemap);
	assert_int_equal(io_read_file(AT_FDCWD, "/proc/self/ksm_stat", 4096, &text, &len), 0);
	assert_non_null(strstr(text, "ksm_merging_pages 2\n"));
	unmap_pages(map, 2);
}

/* A page that was replaced by another's frame is WRITTEN for the tracker, although nobody
 * wrote; the page whose frame became the shared one keeps its mark. */
static void merged_loses_mark(void **state _unused_)
{
	_cleanup_close_ int pagemap = pagemap_open(getpid()), uffd = -1;
	char *map = map_pages(2);

	SKIP_WITHOUT(KERNEL_UFFD_WP_ASYNC);
	ksm_borrow();
	uffd = uffd_make(UFFD_FEATURE_WP_ASYNC);
	assert_int_equal(uffd_register(uffd, map, 2, UFFDIO_REGISTER_MODE_WP), 0);
	memset(map, 7, 2 * PAGE_BYTES);
	*(uint64_t *)map = *(uint64_t *)(map + PAGE_BYTES) = now_usec() * 2654435761U;
	assert_int_equal(pages_arm(pagemap, map, 2), 2);
	assert_false(page_look(pagemap, map) & PAGE_IS_WRITTEN);
	(void)must(madvise(map, 2 * PAGE_BYTES, MADV_MERGEABLE));
	ksm_set("advisor_mode", "none");
	ksm_set("pages_to_scan", "20000");
	ksm_set("sleep_millisecs", "1");
	ksm_set("run", "1");
	ksm_wait_equal_frames(pagemap, map, map + PAGE_BYTES);
	ksm_set("run", "0");
	assert_int_equal(!(page_look(pagemap, map) & PAGE_IS_WRITTEN) +
				 !(page_look(pagemap, map + PAGE_BYTES) & PAGE_IS_WRITTEN),
			 1);
	unmap_pages(map, 2);
}

static void merged_cannot_move(void **state _unused_)
{
	_cleanup_close_ int pagemap = pagemap_open(getpid()), uffd = -1;
	char *map, *target = map_pages(1);

	SKIP_WITHOUT(KERNEL_UFFD_MOVE);
	ksm_borrow();
	map = merged_pair(pagemap);
	/* Both sides must have the same kind of mapping. */
	(void)must(madvise(target, PAGE_BYTES, MADV_MERGEABLE));
	uffd = uffd_make(UFFD_FEATURE_MOVE);
	assert_int_equal(uffd_register(uffd, target, 1, UFFDIO_REGISTER_MODE_MISSING), 0);

	struct uffdio_move m = {
		.dst = (uintptr_t)target,
		.src = (uintptr_t)map,
		.len = PAGE_BYTES,
	};

	assert_int_equal(ioctl(uffd, UFFDIO_MOVE, &m), -1);
	assert_int_equal(errno, EBUSY);
	unmap_pages(map, 2);
	unmap_pages(target, 1);
}

static void advisor_owns_pages_to_scan(void **state _unused_)
{
	ksm_borrow();
	if (access(KSM "advisor_mode", W_OK) < 0)
		SKIP("this kernel has no KSM advisor");
	assert_int_equal(io_write_file(AT_FDCWD, KSM "advisor_mode", "scan-time"), 0);
	assert_int_equal(io_write_file(AT_FDCWD, KSM "pages_to_scan", "100"), -EINVAL);
	assert_int_equal(io_write_file(AT_FDCWD, KSM "advisor_mode", "none"), 0);
	assert_int_equal(io_write_file(AT_FDCWD, KSM "pages_to_scan", "100"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(stopping_keeps_merged, teardown),
		cmocka_unit_test_teardown(process_counts, teardown),
		cmocka_unit_test_teardown(merged_loses_mark, teardown),
		cmocka_unit_test_teardown(merged_cannot_move, teardown),
		cmocka_unit_test_teardown(advisor_owns_pages_to_scan, teardown),
	};

	return cmocka_run_group_tests_name("ksm-merge", tests, NULL, NULL);
}
