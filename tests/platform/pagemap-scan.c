/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * PAGEMAP_SCAN: what its bits mean, what it clears, and that daemon/pagemap.c gives the same
 * runs from it and from the pagemap file.
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "common/kernel.h"
#include "daemon/pagemap.h"
#include "tests/platform/platform.h"

#define WPALLOWED PAGE_IS_WPALLOWED
#define WRITTEN	  PAGE_IS_WRITTEN
#define PRESENT	  PAGE_IS_PRESENT

static int pagemap = -1;

static int setup(void **state _unused_)
{
	pagemap = pagemap_open(getpid());
	return 0;
}

static int teardown(void **state _unused_)
{
	close_fdp(&pagemap);
	return 0;
}

static void touch(char *map, uint64_t page)
{
	((volatile char *)map)[page * PAGE_BYTES]++;
}

static void look(const char *map, uint64_t page)
{
	(void)((const volatile char *)map)[page * PAGE_BYTES];
}

/* Memory that no userfaultfd covers counts as written, holes included. */
static void bits_untracked(void **state _unused_)
{
	char *map = map_pages(4);
	int store = make_store(1, 1);
	char *file = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, store, 0);

	SKIP_WITHOUT(KERNEL_PAGEMAP_SCAN);
	touch(map, 0);
	look(map, 1);
	look(file, 0);
	assert_int_equal(page_look(pagemap, map), PRESENT | WRITTEN);
	assert_int_equal(page_look(pagemap, map + PAGE_BYTES), PRESENT | WRITTEN | PAGE_IS_PFNZERO);
	assert_int_equal(page_look(pagemap, map + 2 * PAGE_BYTES), WRITTEN);
	assert_int_equal(page_look(pagemap, file), PRESENT | WRITTEN | PAGE_IS_FILE);
	touch(file, 0);
	assert_int_equal(page_look(pagemap, file), PRESENT | WRITTEN);
	(void)munmap(file, PAGE_BYTES);
	/* No mapping: no answer, not even "absent". */
	assert_int_equal(page_look(pagemap, file), ~UINT64_C(0));
	(void)close(store);
	unmap_pages(map, 4);
}

static void bits_huge(void **state _unused_)
{
	char *map = map_huge(2);
	uint64_t bits;

	SKIP_WITHOUT(KERNEL_PAGEMAP_SCAN);
	for (uint64_t i = 0; i < HUGE_PAGES; i++)
		touch(map, i);
	if (!collapse_huge(map, 1))
		SKIP("no huge page to be had: %s", strerror(errno));
	assert_int_equal(page_look(pagemap, map + 5 * PAGE_BYTES),
			 PRESENT | WRITTEN | PAGE_IS_HUGE);
	look(map, HUGE_PAGES);
	bits = page_look(pagemap, map + HUGE_BYTES);
	if (bits & PAGE_IS_HUGE)
		assert_int_equal(bits, PRESENT | WRITTEN | PAGE_IS_HUGE | PAGE_IS_PFNZERO);
	unmap_pages(map, 2 * HUGE_PAGES);
}

/* A write-protecting scan passes over mappings without userfaultfd in silence: their pages are
 * then not in the answer. */
static void clear_skips_unregistered(void **state _unused_)
{
	char *map = map_pages(4);
	int uffd = uffd_make(UFFD_FEATURE_WP_ASYNC);

	SKIP_WITHOUT(KERNEL_UFFD_WP_ASYNC);
	for (uint64_t i = 0; i < 4; i++)
		touch(map, i);
	assert_int_equal(pages_arm(pagemap, map, 4), 0);
	assert_int_equal(uffd_register(uffd, map + PAGE_BYTES, 2, UFFDIO_REGISTER_MODE_WP), 0);
	assert_int_equal(pages_arm(pagemap, map, 4), 2);
	assert_int_equal(pages_arm(pagemap, map, 4), 0);
	assert_int_equal(page_look(pagemap, map), PRESENT | WRITTEN);
	assert_int_equal(page_look(pagemap, map + PAGE_BYTES), PRESENT | WPALLOWED);
	touch(map, 1);
	assert_int_equal(page_look(pagemap, map + PAGE_BYTES), PRESENT | WRITTEN | WPALLOWED);
	/* With the last descriptor goes the protection. */
	(void)close(uffd);
	assert_int_equal(page_look(pagemap, map + 2 * PAGE_BYTES), PRESENT | WRITTEN);
	unmap_pages(map, 4);
}

/* Absent pages are armed only when asked for, by a marker that shows as swapped. Without a
 * marker a page that comes is WRITTEN. */
static void clear_and_holes(void **state _unused_)
{
	char *map = map_pages(4);
	int uffd = uffd_make(UFFD_FEATURE_WP_ASYNC);
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING,
		.start = (uintptr_t)map + 2 * PAGE_BYTES,
		.end = (uintptr_t)map + 4 * PAGE_BYTES,
		.category_mask = PAGE_IS_WRITTEN,
	};

	SKIP_WITHOUT(KERNEL_UFFD_WP_ASYNC);
	assert_int_equal(uffd_register(uffd, map, 4, UFFDIO_REGISTER_MODE_WP), 0);
	touch(map, 0);
	assert_int_equal(pages_arm(pagemap, map, 2), 1);
	assert_int_equal(page_look(pagemap, map + PAGE_BYTES), WRITTEN | WPALLOWED);
	(void)must(ioctl(pagemap, PAGEMAP_SCAN, &arg));
	assert_int_equal(page_look(pagemap, map + 2 * PAGE_BYTES), PAGE_IS_SWAPPED | WPALLOWED);
	look(map, 1);
	assert_int_equal(page_look(pagemap, map + PAGE_BYTES),
			 PRESENT | WRITTEN | WPALLOWED | PAGE_IS_PFNZERO);
	/* A discarded anonymous page comes back written. */
	(void)must(madvise(map, PAGE_BYTES, MADV_DONTNEED));
	assert_int_equal(page_look(pagemap, map), WRITTEN | WPALLOWED);
	touch(map, 0);
	assert_int_equal(page_look(pagemap, map), PRESENT | WRITTEN | WPALLOWED);
	(void)close(uffd);
	unmap_pages(map, 4);
}

/* Write protection keeps a huge mapping; the first write to it splits the mapping, and then
 * only the page written is WRITTEN. */
static void huge_split_by_write(void **state _unused_)
{
	char *map = map_huge(1);
	int uffd = uffd_make(UFFD_FEATURE_WP_ASYNC);

	SKIP_WITHOUT(KERNEL_UFFD_WP_ASYNC);
	for (uint64_t i = 0; i < HUGE_PAGES; i++)
		touch(map, i);
	if (!collapse_huge(map, 1))
		SKIP("no huge page to be had: %s", strerror(errno));
	assert_int_equal(uffd_register(uffd, map, HUGE_PAGES, UFFDIO_REGISTER_MODE_WP), 0);
	assert_int_equal(pages_arm(pagemap, map, HUGE_PAGES), HUGE_PAGES);
	assert_int_equal(page_look(pagemap, map), PRESENT | WPALLOWED | PAGE_IS_HUGE);
	look(map, 7);
	assert_int_equal(page_look(pagemap, map), PRESENT | WPALLOWED | PAGE_IS_HUGE);
	touch(map, 7);
	assert_int_equal(page_look(pagemap, map), PRESENT | WPALLOWED);
	assert_int_equal(page_look(pagemap, map + 7 * PAGE_BYTES), PRESENT | WPALLOWED | WRITTEN);
	(void)close(uffd);
	unmap_pages(map, HUGE_PAGES);
}

/* Write-protecting a part of a huge page splits it at once: armed ranges end at 2 MiB. */
static void huge_split_by_part(void **state _unused_)
{
	char *map = map_huge(1);
	int uffd = uffd_make(UFFD_FEATURE_WP_ASYNC);

	SKIP_WITHOUT(KERNEL_UFFD_WP_ASYNC);
	for (uint64_t i = 0; i < HUGE_PAGES; i++)
		touch(map, i);
	if (!collapse_huge(map, 1))
		SKIP("no huge page to be had: %s", strerror(errno));
	assert_int_equal(uffd_register(uffd, map, HUGE_PAGES, UFFDIO_REGISTER_MODE_WP), 0);
	assert_int_equal(pages_arm(pagemap, map, 8), 8);
	assert_int_equal(page_look(pagemap, map), PRESENT | WPALLOWED);
	assert_int_equal(page_look(pagemap, map + 8 * PAGE_BYTES), PRESENT | WPALLOWED | WRITTEN);
	(void)close(uffd);
	unmap_pages(map, HUGE_PAGES);
}

static bool swap_ready;

static int swap_setup(void **state)
{
	swap_ready = true;
	return setup(state);
}

static int swap_teardown(void **state)
{
	if (swap_ready)
		swap_return();
	swap_ready = false;
	return teardown(state);
}

/* Swapping out and in keeps the mark: nothing is WRITTEN that was not. */
static void swap_keeps_mark(void **state _unused_)
{
	char *map = map_pages(4);
	int uffd;
	struct guest g;

	SKIP_WITHOUT(KERNEL_UFFD_WP_ASYNC);
	swap_borrow();
	guest_start(&g);
	(void)guest_call(&g, guest_write, (uintptr_t)map, 4, 3);
	uffd = guest_uffd(&g);

	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC };

	(void)must(ioctl(uffd, UFFDIO_API, &api));
	assert_int_equal(uffd_register(uffd, map, 4, UFFDIO_REGISTER_MODE_WP), 0);
	assert_int_equal(pages_arm(g.pagemap, map, 4), 4);
	if (!swap_out(&g, map, 4)) {
		guest_stop(&g);
		SKIP("the kernel would not swap our pages out");
	}
	assert_int_equal(page_look(g.pagemap, map), PAGE_IS_SWAPPED | WPALLOWED);
	(void)guest_call(&g, guest_read, (uintptr_t)map, 1, 0);
	assert_int_equal(page_look(g.pagemap, map), PRESENT | WPALLOWED);
	(void)guest_call(&g, guest_write, (uintptr_t)map + PAGE_BYTES, 1, 4);
	assert_int_equal(page_look(g.pagemap, map + PAGE_BYTES), PRESENT | WPALLOWED | WRITTEN);
	(void)close(uffd);
	guest_stop(&g);
	unmap_pages(map, 4);
}

/* --- both ways of daemon/pagemap.c ----------------------------------------------------------- */

struct runs {
	struct page_run v[64];
	size_t n;
};

static int note_run(const struct page_run *run, void *userdata)
{
	struct runs *runs = userdata;

	assert_true(runs->n < ARRAY_SIZE(runs->v));
	runs->v[runs->n++] = *run;
	return 0;
}

static void walk(const char *map, uint64_t n_pages, unsigned flags, struct runs *ret)
{
	struct process p = {
		.proc_fd = must(open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC)),
		.pagemap_fd = pagemap,
	};

	ret->n = 0;
	assert_int_equal(pagemap_walk(&p, HVA(map), n_pages, flags, note_run, ret), 0);
	(void)close(p.proc_fd);
}

static void assert_same_runs(const char *map, uint64_t n_pages)
{
	struct runs scan, file;

	walk(map, n_pages, 0, &scan);
	walk(map, n_pages, PAGEMAP_FORCE_FILE, &file);
	assert_int_equal(scan.n, file.n);
	for (size_t i = 0; i < scan.n; i++) {
		assert_int_equal(scan.v[i].start.addr, file.v[i].start.addr);
		assert_int_equal(scan.v[i].n_pages, file.v[i].n_pages);
		assert_int_equal(scan.v[i].bits, file.v[i].bits);
	}
}

static void both_ways_agree(void **state _unused_)
{
	char *map = map_pages(64);
	int store = make_store(4, 1), uffd = uffd_make(UFFD_FEATURE_WP_ASYNC);

	SKIP_WITHOUT(KERNEL_PAGEMAP_SCAN);
	SKIP_WITHOUT(KERNEL_UFFD_WP_ASYNC);
	if (!kernel_has(KERNEL_PAGE_FRAMES))
		SKIP("zero pages can't be told in the file without CAP_SYS_ADMIN");
	for (uint64_t i = 0; i < 64; i += 3)
		touch(map, i);
	for (uint64_t i = 20; i < 40; i++)
		look(map, i);
	(void)munmap(map + 50 * PAGE_BYTES, 5 * PAGE_BYTES);
	assert_ptr_not_equal(mmap(map + 30 * PAGE_BYTES, 4 * PAGE_BYTES, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_FIXED, store, 0),
			     MAP_FAILED);
	touch(map, 30);
	look(map, 31);
	look(map, 32);
	assert_same_runs(map, 64);
	assert_int_equal(uffd_register(uffd, map, 40, UFFDIO_REGISTER_MODE_WP), 0);
	assert_same_runs(map, 64);
	(void)pages_arm(pagemap, map, 64);
	assert_same_runs(map, 64);
	touch(map, 3);
	touch(map, 31);
	assert_same_runs(map, 64);
	(void)close(uffd);
	(void)close(store);
	unmap_pages(map, 64);
}

/* pagemap_walk that clears: reports what it clears, once, and touches nothing else. */
static void walk_clears(void **state _unused_)
{
	char *map = map_pages(512);
	int uffd = uffd_make(UFFD_FEATURE_WP_ASYNC);
	uint64_t written = 0;
	struct runs runs;

	SKIP_WITHOUT(KERNEL_PAGEMAP_SCAN);
	SKIP_WITHOUT(KERNEL_UFFD_WP_ASYNC);
	for (uint64_t i = 0; i < 512; i++)
		touch(map, i);
	assert_int_equal(uffd_register(uffd, map, 500, UFFDIO_REGISTER_MODE_WP), 0);
	walk(map, 512, PAGEMAP_CLEAR_WRITTEN, &runs);
	assert_int_equal(runs.n, 1);
	assert_int_equal(runs.v[0].bits, PAGE_PRESENT | PAGE_WRITTEN);
	for (uint64_t i = 0; i < 500; i += 50)
		touch(map, i);
	walk(map, 512, PAGEMAP_CLEAR_WRITTEN, &runs);
	for (size_t i = 0; i < runs.n; i++)
		if (runs.v[i].bits & PAGE_WRITTEN)
			written += runs.v[i].n_pages;
	/* Ten that were touched, twelve that are not tracked. */
	assert_int_equal(written, 10 + 12);
	walk(map, 512, PAGEMAP_CLEAR_WRITTEN, &runs);
	assert_int_equal(runs.n, 2);
	assert_int_equal(runs.v[0].n_pages, 500);
	assert_int_equal(runs.v[0].bits, PAGE_PRESENT);
	(void)close(uffd);
	unmap_pages(map, 512);
}

struct coverage {
	uint64_t at, n_written;
	bool contiguous;
};

static int cover(const struct page_run *run, void *userdata)
{
	struct coverage *c = userdata;

	c->contiguous = c->contiguous && run->start.addr == c->at;
	c->at = hva_add_pages(run->start, run->n_pages).addr;
	c->n_written += run->bits & PAGE_WRITTEN ? run->n_pages : 0;
	return 0;
}

/* The kernel answers through a buffer of 512 regions, and where it was full for the last time is told as
 * the end of a walk that went on: whatever the number of regions, each page comes once. */
static void many_regions(void **state _unused_)
{
	static const uint64_t counts[] = { 511, 512, 513, 700, 1024, 1500, 2047, 2048, 2049, 2600, 5000 };
	const uint64_t n_pages = 2 * 5000;
	struct process p = { .proc_fd = open("/proc/self", O_PATH | O_DIRECTORY), .pagemap_fd = pagemap };
	int uffd = uffd_make(UFFD_FEATURE_WP_ASYNC);
	char *map = map_pages(n_pages);
	struct coverage c = { 0 };

	SKIP_WITHOUT(KERNEL_PAGEMAP_SCAN);
	SKIP_WITHOUT(KERNEL_UFFD_WP_ASYNC);
	for (uint64_t i = 0; i < n_pages; i++)
		touch(map, i);
	assert_int_equal(uffd_register(uffd, map, n_pages, UFFDIO_REGISTER_MODE_WP), 0);
	assert_int_equal(pagemap_walk(&p, HVA(map), n_pages, PAGEMAP_CLEAR_WRITTEN, cover, &c), 0);
	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		c = (struct coverage){ .at = (uintptr_t)map, .contiguous = true };
		for (uint64_t k = 0; k < counts[i]; k++)
			touch(map, 2 * k);
		assert_int_equal(pagemap_walk(&p, HVA(map), n_pages, PAGEMAP_CLEAR_WRITTEN, cover, &c), 0);
		assert_true(c.contiguous);
		assert_int_equal(c.at, (uintptr_t)map + n_pages * PAGE_BYTES);
		assert_int_equal(c.n_written, counts[i]);
	}
	(void)close(uffd);
	(void)close(p.proc_fd);
	unmap_pages(map, n_pages);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(bits_untracked, setup, teardown),
		cmocka_unit_test_setup_teardown(bits_huge, setup, teardown),
		cmocka_unit_test_setup_teardown(clear_skips_unregistered, setup, teardown),
		cmocka_unit_test_setup_teardown(clear_and_holes, setup, teardown),
		cmocka_unit_test_setup_teardown(huge_split_by_write, setup, teardown),
		cmocka_unit_test_setup_teardown(huge_split_by_part, setup, teardown),
		cmocka_unit_test_setup_teardown(swap_keeps_mark, swap_setup, swap_teardown),
		cmocka_unit_test_setup_teardown(both_ways_agree, setup, teardown),
		cmocka_unit_test_setup_teardown(walk_clears, setup, teardown),
		cmocka_unit_test_setup_teardown(many_regions, setup, teardown),
	};

	return cmocka_run_group_tests_name("pagemap-scan", tests, NULL, NULL);
}
