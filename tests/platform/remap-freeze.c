/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the transactions of engine remap do with userfaultfd, mremap and fault counters. */
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "common/kernel.h"
#include "daemon/pins.h"
#include "tests/platform/platform.h"

#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define MINOR	UFFDIO_REGISTER_MODE_MINOR
#define WP	UFFDIO_REGISTER_MODE_WP
#define N	4U

static void uffd_unregister(int uffd, void *start, uint64_t n_pages)
{
	struct uffdio_range r = {(uintptr_t)start, n_pages * PAGE_BYTES};

	(void)must(ioctl(uffd, UFFDIO_UNREGISTER, &r));
}

static void uffd_wake(int uffd, void *start, uint64_t n_pages)
{
	struct uffdio_range r = {(uintptr_t)start, n_pages * PAGE_BYTES};

	(void)must(ioctl(uffd, UFFDIO_WAKE, &r));
}

static void uffd_protect(int uffd, void *start, uint64_t n_pages)
{
	struct uffdio_writeprotect w = {
		.range = {(uintptr_t)start, n_pages * PAGE_BYTES},
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	(void)must(ioctl(uffd, UFFDIO_WRITEPROTECT, &w));
}

/* --- somebody who touches a page -----------------------------------------------------------------
 */

struct toucher {
	pthread_t thread;
	char *page;
	bool by_kernel;
	atomic_int tid;
	atomic_int value; /* -1 until it has been read */
};

static void *toucher_main(void *arg)
{
	struct toucher *t = arg;
	char c = 0;
	struct iovec to = {&c, 1}, from = {t->page, 1};

	atomic_store(&t->tid, gettid());
	if (!t->by_kernel)
		c = *(volatile char *)t->page;
	else if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != 1)
		c = -2;
	atomic_store(&t->value, c);
	return NULL;
}

/* Returns once the toucher waits in the kernel for the page. */
static void toucher_start(struct toucher *t, char *page, bool by_kernel)
{
	uint64_t deadline = now_usec() + 10 * USEC_PER_SEC;
	char path[64], wchan[64] = "";

	*t = (struct toucher){.page = page, .by_kernel = by_kernel};
	atomic_store(&t->value, -1);
	assert_int_equal(pthread_create(&t->thread, NULL, toucher_main, t), 0);
	while (!strstr(wchan, "handle_userfault")) {
		ssize_t n;
		int fd;

		if (atomic_load(&t->value) != -1)
			fail_msg("the page was there: %d", atomic_load(&t->value));
		assert_true(now_usec() < deadline);
		(void)snprintf(path, sizeof(path), "/proc/self/task/%d/wchan",
			       atomic_load(&t->tid));
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		n = read(fd, wchan, sizeof(wchan) - 1);
		wchan[MAX(n, 0)] = '\0';
		(void)close(fd);
	}
}

static int toucher_end(struct toucher *t)
{
	(void)pthread_join(t->thread, NULL);
	return atomic_load(&t->value);
}

/* One that lets the kernel's own accesses wait, too. */
static int uffd_or_skip(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED,
	};
	_cleanup_close_ int device = -1;
	int uffd;

	SKIP_WITHOUT(KERNEL_UFFD_MOVE);
	SKIP_WITHOUT(KERNEL_UFFD_WP_ASYNC);
	SKIP_WITHOUT(KERNEL_UFFD_DEVICE);
	device = must(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
	uffd = must(ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC));
	(void)must(ioctl(uffd, UFFDIO_API, &api));
	return uffd;
}

/* --- tests ----------------------------------------------------------------------------- */

/* MISSING cannot be taken back alone, and UNREGISTER takes the marks: so each piece that is merged
 * has a registration of its own. */
static void register_only_adds(void **state _unused_)
{
	int uffd = uffd_or_skip(), pagemap = pagemap_open(getpid());
	char *map = map_pages(N);
	struct toucher t;

	map[0] = 1;
	assert_int_equal(uffd_register(uffd, map, N, WP), 0);
	uffd_protect(uffd, map, 1);
	assert_int_equal(page_look(pagemap, map) & PAGE_IS_WRITTEN, 0);
	assert_int_equal(uffd_register(uffd, map, N, WP | MISSING), 0);
	assert_int_equal(page_look(pagemap, map) & PAGE_IS_WRITTEN, 0);
	assert_int_equal(uffd_register(uffd, map, N, WP), 0);
	toucher_start(&t, map + PAGE_BYTES, false);
	uffd_unregister(uffd, map, N);
	assert_int_equal(toucher_end(&t), 0);
	assert_int_equal(page_look(pagemap, map) & PAGE_IS_WRITTEN, PAGE_IS_WRITTEN);
	(void)close(uffd);
	(void)close(pagemap);
	unmap_pages(map, N);
}

static char *map_store_copies(uint64_t n_pages, int *ret_store)
{
	int store = make_store(n_pages, 'a');
	char *map = mmap(NULL, n_pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, store, 0);

	assert_ptr_not_equal(map, MAP_FAILED);
	*ret_store = store;
	return map;
}

/* MREMAP_DONTUNMAP takes the pages and leaves a mapping where all wait, with and without a copy,
 * for user and kernel; mremap over it shows the new pages, and they go on when woken. */
static void dontunmap_freezes_store_mapping(void **state _unused_)
{
	int uffd = uffd_or_skip(), store;
	char *map = map_store_copies(N, &store), *aside, *fresh = map_pages(N);
	struct toucher t[N];

	*(volatile char *)map = 'x';			/* a copy */
	(void)*(volatile char *)(map + PAGE_BYTES);	/* the store's page, mapped */
	*(volatile char *)(map + 2 * PAGE_BYTES) = 'z'; /* page 3 is not mapped yet */
	assert_int_equal(uffd_register(uffd, map, N, WP | MISSING | MINOR), 0);
	/* What is there goes on. */
	map[1] = 'y';
	aside = mremap(map, N * PAGE_BYTES, N * PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_DONTUNMAP,
		       NULL);
	assert_ptr_not_equal(aside, MAP_FAILED);
	for (uint32_t i = 0; i < N; i++)
		toucher_start(&t[i], map + i * PAGE_BYTES, i % 2);
	assert_int_equal(aside[0], 'x');
	assert_int_equal(aside[1], 'y');
	assert_int_equal(aside[PAGE_BYTES], 'b');
	assert_int_equal(aside[2 * PAGE_BYTES], 'z');
	assert_int_equal(aside[3 * PAGE_BYTES], 'd');
	for (uint32_t i = 0; i < N; i++)
		fresh[i * PAGE_BYTES] = (char)('0' + i);
	assert_ptr_equal(
		mremap(fresh, N * PAGE_BYTES, N * PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, map),
		map);
	uffd_wake(uffd, map, N);
	for (uint32_t i = 0; i < N; i++)
		assert_int_equal(toucher_end(&t[i]), '0' + (int)i);
	(void)munmap(aside, N * PAGE_BYTES);
	(void)munmap(map, N * PAGE_BYTES);
	(void)close(store);
	(void)close(uffd);
}

/* And mremap back undoes it: the same pages. */
static void dontunmap_can_be_undone(void **state _unused_)
{
	int uffd = uffd_or_skip(), store, pagemap = pagemap_open(getpid());
	char *map = map_store_copies(N, &store), *aside;
	uint64_t frame;
	struct toucher t;

	map[0] = 'x';
	frame = page_frame(pagemap, map);
	assert_int_equal(uffd_register(uffd, map, N, WP | MISSING | MINOR), 0);
	aside = mremap(map, N * PAGE_BYTES, N * PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_DONTUNMAP,
		       NULL);
	assert_ptr_not_equal(aside, MAP_FAILED);
	toucher_start(&t, map, true);
	assert_ptr_equal(
		mremap(aside, N * PAGE_BYTES, N * PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, map),
		map);
	uffd_wake(uffd, map, N);
	assert_int_equal(toucher_end(&t), 'x');
	if (kernel_has(KERNEL_PAGE_FRAMES))
		assert_int_equal(page_frame(pagemap, map), frame);
	(void)munmap(map, N * PAGE_BYTES);
	(void)close(store);
	(void)close(pagemap);
	(void)close(uffd);
}

static long faults_of(char *byte)
{
	struct rusage before, after;

	(void)getrusage(RUSAGE_THREAD, &before);
	(void)getrusage(RUSAGE_THREAD, &before);
	__asm__ volatile("lock orb $0, %0" : "+m"(*byte));
	(void)getrusage(RUSAGE_THREAD, &after);
	return after.ru_minflt - before.ru_minflt;
}

/* Whether an entry was writable shows in the fault counter, also after it was put aside. */
static void faults_tell_protection(void **state _unused_)
{
	int uffd = uffd_or_skip(), store;
	char *map = map_store_copies(N, &store), *aside;

	for (uint32_t i = 0; i < N; i++)
		map[i * PAGE_BYTES] = 'x';
	assert_int_equal(faults_of(map), 0);
	assert_int_equal(uffd_register(uffd, map, N, WP), 0);
	uffd_protect(uffd, map, N);
	map[2 * PAGE_BYTES] = 'y'; /* written since: no longer protected */
	assert_int_equal(uffd_register(uffd, map, N, WP | MISSING | MINOR), 0);
	aside = mremap(map, N * PAGE_BYTES, N * PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_DONTUNMAP,
		       NULL);
	assert_ptr_not_equal(aside, MAP_FAILED);
	for (uint32_t i = 0; i < N; i++)
		assert_int_equal(faults_of(aside + i * PAGE_BYTES), i != 2);
	(void)munmap(aside, N * PAGE_BYTES);
	(void)munmap(map, N * PAGE_BYTES);
	(void)close(store);
	(void)close(uffd);
}

/* Pins memory for writing until the descriptor is closed, as I/O does while it is in flight. */
static int pin_for_writing(void *start, uint64_t n_pages)
{
	struct io_uring_params params = {0};
	struct iovec iov = {start, n_pages * PAGE_BYTES};
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

	if (ring < 0)
		SKIP("io_uring: %s", strerror(errno));
	(void)must(syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1));
	return ring;
}

/* The proof of RECLAIM: a pin that comes after the protection takes it off; one from before does
 * not. And UFFDIO_MOVE, where it can be used, sees any. */
static void pin_takes_protection_off(void **state _unused_)
{
	int uffd = uffd_or_skip(), store, pagemap = pagemap_open(getpid()), early, late;
	char *map = map_store_copies(N, &store);

	for (uint32_t i = 0; i < N; i++)
		map[i * PAGE_BYTES] = 'x';
	early = pin_for_writing(map, 1);
	assert_int_equal(uffd_register(uffd, map, N, WP), 0);
	uffd_protect(uffd, map, N);
	assert_int_equal(page_look(pagemap, map) & PAGE_IS_WRITTEN, 0);
	late = pin_for_writing(map + PAGE_BYTES, 1);
	assert_int_equal(page_look(pagemap, map + PAGE_BYTES) & PAGE_IS_WRITTEN, PAGE_IS_WRITTEN);
	assert_int_equal(page_look(pagemap, map + 2 * PAGE_BYTES) & PAGE_IS_WRITTEN, 0);
	assert_int_equal(faults_of(map + PAGE_BYTES), 0);
	assert_int_equal(faults_of(map), 1);
	(void)close(early);
	(void)close(late);
	(void)munmap(map, N * PAGE_BYTES);
	(void)close(store);
	(void)close(pagemap);
	(void)close(uffd);
}

static void move_sees_pins(void **state _unused_)
{
	int uffd = uffd_or_skip(), ring;
	char *map = map_pages(2), *to = map_pages(2);
	struct uffdio_move m = {
		.dst = (uintptr_t)to,
		.src = (uintptr_t)map,
		.len = 2 * PAGE_BYTES,
	};

	map[0] = map[PAGE_BYTES] = 1;
	assert_int_equal(uffd_register(uffd, to, 2, WP), 0);
	ring = pin_for_writing(map + PAGE_BYTES, 1);
	assert_int_equal(ioctl(uffd, UFFDIO_MOVE, &m), -1);
	assert_int_equal(m.move, PAGE_BYTES); /* the first, and then EBUSY */
	m.dst += PAGE_BYTES;
	m.src += PAGE_BYTES;
	m.len = PAGE_BYTES;
	assert_int_equal(ioctl(uffd, UFFDIO_MOVE, &m), -1);
	assert_int_equal(m.move, -EBUSY);
	(void)close(ring);
	(void)close(uffd);
	unmap_pages(map, 2);
	unmap_pages(to, 2);
}

/* The host's counts of pins: never equal while there is one. */
static void counts_show_pins(void **state _unused_)
{
	uint64_t since, deadline;
	char *map = map_pages(1);
	int ring, r;

	map[0] = 1;
	ring = pin_for_writing(map, 1);
	for (int i = 0; i < 20; i++) {
		r = pins_quiet(&since);
		if (r < 0) {
			(void)close(ring);
			SKIP("no counts of pins: %s", strerror(-r));
		}
		assert_int_equal(r, 0);
	}
	(void)close(ring);
	unmap_pages(map, 1);
	deadline = now_usec() + 5 * USEC_PER_SEC;
	while (pins_quiet(&since) == 0)
		if (now_usec() > deadline)
			SKIP("something else on this host holds pins");
	assert_true(since <= now_usec());
}

/* How many of the pages belong to a huge page, mapped as one or not; -1 when nobody says. */
static int count_huge(const char *map, uint64_t n_pages)
{
	_cleanup_close_ int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int flags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	int n = 0;

	for (uint64_t i = 0; i < n_pages; i++) {
		uint64_t entry, bits, page = (uintptr_t)map / PAGE_BYTES + i;

		if (pread(pagemap, &entry, 8, (off_t)(page * 8)) != 8 || !(entry & PAGEMAP_ENTRY_PFN) ||
		    pread(flags, &bits, 8, (off_t)((entry & PAGEMAP_ENTRY_PFN) * 8)) != 8)
			return -1;
		n += bits >> 22 & 1; /* KPF_THP */
	}
	return n;
}

/* So that the move need not, while the guest waits. */
static void cold_splits_a_huge_page(void **state _unused_)
{
	char *raw = mmap(NULL, 2 * HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *map = (char *)ALIGN_UP((uintptr_t)raw, HUGE_BYTES);

	assert_ptr_not_equal(raw, MAP_FAILED);
	(void)madvise(map, HUGE_BYTES, MADV_HUGEPAGE);
	memset(map, 7, HUGE_BYTES);
	if (count_huge(map, HUGE_PAGES) != (int)HUGE_PAGES) {
		(void)munmap(raw, 2 * HUGE_BYTES);
		SKIP("no huge page, or no right to see it");
	}
	assert_int_equal(madvise(map + 3 * PAGE_BYTES, PAGE_BYTES, MADV_COLD), 0);
	assert_int_equal(count_huge(map, HUGE_PAGES), 0);
	for (uint64_t i = 0; i < HUGE_BYTES; i++)
		if (map[i] != 7)
			fail_msg("byte %u: %d", (unsigned)i, map[i]);
	(void)munmap(raw, 2 * HUGE_BYTES);
}

/* With one for user mode only, the kernel's accesses fail instead of waiting: not for RECLAIM or
 * MERGE. */
static void user_mode_fails_the_kernel(void **state _unused_)
{
	char *map = map_pages(1), c;
	struct iovec to = {&c, 1}, from = {map, 1};
	int uffd;

	SKIP_WITHOUT(KERNEL_UFFD);
	uffd = (int)must(syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY));
	(void)must(ioctl(uffd, UFFDIO_API, &(struct uffdio_api){.api = UFFD_API}));
	assert_int_equal(uffd_register(uffd, map, 1, MISSING), 0);
	assert_int_equal(process_vm_readv(getpid(), &to, 1, &from, 1, 0), -1);
	assert_int_equal(errno, EFAULT);
	(void)close(uffd);
	unmap_pages(map, 1);
}

/* A mapping that is moved beside one that it can be joined with: its registration ends, and so does the
 * neighbour's, whose marks stay: writes to it would not be noticed. Unless its own ended before. */
static void moved_neighbour_keeps_registration(void **state _unused_)
{
	int uffd = uffd_make(UFFD_FEATURE_WP_ASYNC), pagemap = pagemap_open(getpid());
	char *area = map_pages(4 * N), *to = area + 2 * N * PAGE_BYTES;

	SKIP_WITHOUT(KERNEL_UFFD_WP_ASYNC);
	for (int ends_first = 1; ends_first >= 0; ends_first--) {
		char *from = mmap(area, 4 * N * PAGE_BYTES, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

		assert_ptr_equal(from, area);
		memset(from, 1, 2 * N * PAGE_BYTES);
		(void)must(munmap(to, 2 * N * PAGE_BYTES));
		assert_int_equal(uffd_register(uffd, from, 2 * N, WP), 0);
		assert_ptr_equal(mremap(from, N * PAGE_BYTES, N * PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED,
					to), to);
		assert_int_equal(uffd_register(uffd, to, N, WP), 0);
		assert_int_equal(pages_arm(pagemap, to, N), N);
		from += N * PAGE_BYTES;
		if (ends_first)
			uffd_unregister(uffd, from, N);
		assert_ptr_equal(mremap(from, N * PAGE_BYTES, N * PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED,
					to + N * PAGE_BYTES), to + N * PAGE_BYTES);
		if (ends_first) {
			assert_int_equal(page_look(pagemap, to), PAGE_IS_PRESENT | PAGE_IS_WPALLOWED);
			memset(to, 2, PAGE_BYTES);
			assert_int_equal(page_look(pagemap, to),
					 PAGE_IS_PRESENT | PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN);
		} else {
			print_message("unless it ended first, the neighbour's registration %s\n",
				      page_look(pagemap, to) & PAGE_IS_WPALLOWED ? "stays" : "ends");
		}
	}
	(void)close(uffd);
	(void)close(pagemap);
	unmap_pages(area, 4 * N);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(register_only_adds),
		cmocka_unit_test(dontunmap_freezes_store_mapping),
		cmocka_unit_test(dontunmap_can_be_undone),
		cmocka_unit_test(moved_neighbour_keeps_registration),
		cmocka_unit_test(faults_tell_protection),
		cmocka_unit_test(pin_takes_protection_off),
		cmocka_unit_test(move_sees_pins),
		cmocka_unit_test(counts_show_pins),
		cmocka_unit_test(cold_splits_a_huge_page),
		cmocka_unit_test(user_mode_fails_the_kernel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
