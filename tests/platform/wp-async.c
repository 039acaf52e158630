/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * userfaultfd's asynchronous write protection, as the daemon uses it on a guest: the
 * userfaultfd is made by the guest, taken over with pidfd_getfd, and used from here.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "common/io.h"
#include "common/kernel.h"
#include "tests/platform/platform.h"

#define N 16U

struct world {
	struct guest guest;
	int uffd;
	char *map;
	int file;
	char path[64];
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	char page[PAGE_BYTES];

	w->uffd = w->file = -1;
	w->map = map_pages(N);
	strcpy(w->path, "/var/tmp/memshared-wp-XXXXXX");
	w->file = mkostemp(w->path, O_CLOEXEC);
	if (w->file < 0)
		return -1;
	memset(page, 'f', sizeof(page));
	for (unsigned i = 0; i < N; i++)
		if (io_write_full(w->file, page, sizeof(page)) < 0)
			return -1;
	guest_start(&w->guest);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	guest_stop(&w->guest);
	close_fdp(&w->uffd);
	close_fdp(&w->file);
	(void)unlink(w->path);
	unmap_pages(w->map, N);
	free(w);
	return 0;
}

/* Every page of the guest written once and armed. */
static void arm(struct world *w)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC };

	SKIP_WITHOUT(KERNEL_UFFD_WP_ASYNC);
	SKIP_WITHOUT(KERNEL_PIDFD_GETFD);
	(void)guest_call(&w->guest, guest_write, (uintptr_t)w->map, N, 1);
	w->uffd = guest_uffd(&w->guest);
	(void)must(ioctl(w->uffd, UFFDIO_API, &api));
	assert_int_equal(uffd_register(w->uffd, w->map, N, UFFDIO_REGISTER_MODE_WP), 0);
	assert_int_equal(pages_arm(w->guest.pagemap, w->map, N), N);
}

/* Exactly these pages (bit i: page i) are WRITTEN. */
static void assert_written(struct world *w, uint32_t pages)
{
	for (unsigned i = 0; i < N; i++) {
		uint64_t bits = page_look(w->guest.pagemap, w->map + i * PAGE_BYTES);

		if (!(bits & PAGE_IS_WRITTEN) != !(pages & (1U << i)))
			fail_msg("page %u has bits %#llx", i, (unsigned long long)bits);
	}
}

static void own_stores(void **state)
{
	struct world *w = *state;

	arm(w);
	assert_written(w, 0);
	(void)guest_call(&w->guest, guest_read, (uintptr_t)w->map, N, 0);
	assert_written(w, 0);
	(void)guest_call(&w->guest, guest_write, (uintptr_t)w->map + 3 * PAGE_BYTES, 2, 9);
	assert_written(w, 3U << 3);
}

static void remote_writes(void **state)
{
	struct world *w = *state;
	char text[] = "other process";
	struct iovec local = { text, sizeof(text) };
	struct iovec remote = { w->map + 5 * PAGE_BYTES, sizeof(text) };

	arm(w);
	assert_int_equal(must(process_vm_writev(w->guest.pid, &local, 1, &remote, 1, 0)),
			 sizeof(text));
	assert_written(w, 1U << 5);
	/* Reading from outside leaves no mark. */
	remote.iov_base = w->map + 6 * PAGE_BYTES;
	(void)must(process_vm_readv(w->guest.pid, &local, 1, &remote, 1, 0));
	assert_written(w, 1U << 5);
}

static int64_t read_file(uint64_t fd, uint64_t page, uint64_t path)
{
	int direct = path ? open((const char *)path, O_RDONLY | O_DIRECT | O_CLOEXEC) : (int)fd;
	ssize_t n = direct < 0 ? -1 : pread(direct, (void *)page, PAGE_BYTES, 0);
	int64_t result = n < 0 ? -errno : n;

	if (path && direct >= 0)
		(void)close(direct);
	return result;
}

/* The kernel writes for the guest: buffered and by DMA (as far as the device does). */
static void kernel_writes(void **state)
{
	struct world *w = *state;
	int64_t r;

	arm(w);
	assert_int_equal(guest_call(&w->guest, read_file, (uint64_t)w->file,
				    (uintptr_t)w->map + PAGE_BYTES, 0),
			 PAGE_BYTES);
	assert_written(w, 1U << 1);
	(void)must(fsync(w->file));
	r = guest_call(&w->guest, read_file, 0, (uintptr_t)w->map + 8 * PAGE_BYTES,
		       (uintptr_t)w->path);
	if (r == -EINVAL)
		SKIP("the file system of /var/tmp has no O_DIRECT");
	assert_int_equal(r, PAGE_BYTES);
	assert_written(w, 1U << 1 | 1U << 8);
}

/* One context for one mapping: a second one is refused, as ours would be by QEMU's. */
static int64_t second_uffd(uint64_t page, uint64_t b _unused_, uint64_t c _unused_)
{
	int fd = uffd_make(UFFD_FEATURE_WP_ASYNC);
	int r = fd < 0 ? fd : uffd_register(fd, (void *)page, 1, UFFDIO_REGISTER_MODE_WP);

	close_fdp(&fd);
	return r;
}

static void one_context(void **state)
{
	struct world *w = *state;

	arm(w);
	assert_int_equal(guest_call(&w->guest, second_uffd, (uintptr_t)w->map, 0, 0), -EBUSY);
	close_fdp(&w->uffd);
	assert_int_equal(guest_call(&w->guest, second_uffd, (uintptr_t)w->map, 0, 0), 0);
}

/* A range to register may have holes; each mapping in it is registered. */
static void register_with_holes(void **state)
{
	struct world *w = *state;
	struct uffdio_range range = { (uintptr_t)w->map, N * PAGE_BYTES };

	arm(w);
	(void)must(ioctl(w->uffd, UFFDIO_UNREGISTER, &range));
	(void)guest_call(&w->guest, guest_madvise, (uintptr_t)w->map + 12 * PAGE_BYTES, 2,
			 MADV_DONTFORK);
	assert_written(w, (1U << N) - 1);
	assert_int_equal(uffd_register(w->uffd, w->map, N, UFFDIO_REGISTER_MODE_WP), 0);
	assert_int_equal(pages_arm(w->guest.pagemap, w->map, N), N);
	assert_written(w, 0);
}

static int64_t unmap_there(uint64_t page, uint64_t n_pages, uint64_t c _unused_)
{
	return munmap((void *)page, n_pages * PAGE_BYTES) < 0 ? -errno : 0;
}

static void register_over_unmapped(void **state)
{
	struct world *w = *state;

	arm(w);
	(void)guest_call(&w->guest, unmap_there, (uintptr_t)w->map + 4 * PAGE_BYTES, 2, 0);
	assert_int_equal(uffd_register(w->uffd, w->map, N, UFFDIO_REGISTER_MODE_WP), 0);
	/* Nothing that was armed has been disarmed by registering again. */
	assert_int_equal(pages_arm(w->guest.pagemap, w->map, N), 0);
	assert_int_equal(
		uffd_register(w->uffd, w->map + 4 * PAGE_BYTES, 4, UFFDIO_REGISTER_MODE_WP), 0);
	/* But a range without any mapping is refused. */
	assert_true(uffd_register(w->uffd, w->map + 4 * PAGE_BYTES, 2, UFFDIO_REGISTER_MODE_WP) <
		    0);
}

static int64_t map_store(uint64_t page, uint64_t n_pages, uint64_t fd)
{
	void *map = mmap((void *)page, n_pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_FIXED, (int)fd, 0);

	return map == MAP_FAILED ? -errno : 0;
}

/*
 * Private mappings of a store page can be tracked: the copy made by the first write is
 * WRITTEN. But a copy that was armed and then discarded comes back as the store's page and NOT
 * written, because the discarded page leaves a marker: the tracker must not arm copies there.
 */
static void store_pages(void **state)
{
	struct world *w = *state;
	_cleanup_close_ int store = make_store(N, 'a');
	uint64_t page = (uintptr_t)w->map;
	int pagemap = w->guest.pagemap;

	guest_stop(&w->guest);
	guest_start(&w->guest);
	pagemap = w->guest.pagemap;
	arm(w);
	assert_int_equal(guest_call(&w->guest, map_store, page, 4, (uint64_t)store), 0);
	/* The new mapping is not registered, so its pages count as written. */
	(void)guest_call(&w->guest, guest_read, page, 4, 0);
	assert_int_equal(page_look(pagemap, w->map),
			 PAGE_IS_PRESENT | PAGE_IS_FILE | PAGE_IS_WRITTEN);
	assert_int_equal(uffd_register(w->uffd, w->map, N, UFFDIO_REGISTER_MODE_WP), 0);
	assert_int_equal(pages_arm(pagemap, w->map, N), 4);
	assert_written(w, 0);
	(void)guest_call(&w->guest, guest_write, page, 1, 7);
	assert_int_equal(page_look(pagemap, w->map),
			 PAGE_IS_PRESENT | PAGE_IS_WRITTEN | PAGE_IS_WPALLOWED);

	assert_int_equal(pages_arm(pagemap, w->map, N), 1);
	(void)guest_call(&w->guest, guest_madvise, page, 1, MADV_DONTNEED);
	assert_int_equal(page_look(pagemap, w->map), PAGE_IS_SWAPPED | PAGE_IS_WPALLOWED);
	(void)guest_call(&w->guest, guest_read, page, 1, 0);
	assert_int_equal(page_look(pagemap, w->map),
			 PAGE_IS_PRESENT | PAGE_IS_FILE | PAGE_IS_WPALLOWED);

	/* Not armed, it is told. */
	(void)guest_call(&w->guest, guest_write, page + PAGE_BYTES, 1, 7);
	(void)guest_call(&w->guest, guest_madvise, page + PAGE_BYTES, 1, MADV_DONTNEED);
	(void)guest_call(&w->guest, guest_read, page + PAGE_BYTES, 1, 0);
	assert_int_equal(page_look(pagemap, w->map + PAGE_BYTES),
			 PAGE_IS_PRESENT | PAGE_IS_FILE | PAGE_IS_WRITTEN | PAGE_IS_WPALLOWED);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(own_stores),
		TEST(remote_writes),
		TEST(kernel_writes),
		TEST(one_context),
		TEST(register_with_holes),
		TEST(register_over_unmapped),
		TEST(store_pages),
	};

	return cmocka_run_group_tests_name("wp-async", tests, NULL, NULL);
}
