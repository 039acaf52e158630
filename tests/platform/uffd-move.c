/* SPDX-License-Identifier: GPL-2.0-or-later */
/* UFFDIO_MOVE: whose memory it moves, what it refuses, and what it does to marks. */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "common/kernel.h"
#include "tests/platform/platform.h"

static int64_t move(int uffd, char *dst, char *src, uint64_t n_pages, uint64_t mode)
{
	struct uffdio_move m = {
		.dst = (uintptr_t)dst,
		.src = (uintptr_t)src,
		.len = n_pages * PAGE_BYTES,
		.mode = mode,
	};

	return ioctl(uffd, UFFDIO_MOVE, &m) < 0 ? -errno : m.move;
}

/* From another process: refused, though the descriptor is the guest's. */
static void needs_own_memory(void **state _unused_)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MOVE };
	char *map = map_pages(2);
	struct guest g;
	int uffd;

	SKIP_WITHOUT(KERNEL_UFFD_MOVE);
	SKIP_WITHOUT(KERNEL_PIDFD_GETFD);
	guest_start(&g);
	(void)guest_call(&g, guest_write, (uintptr_t)map, 1, 5);
	*map = 1;
	uffd = guest_uffd(&g);
	(void)must(ioctl(uffd, UFFDIO_API, &api));
	assert_int_equal(
		uffd_register(uffd, map + PAGE_BYTES, 1, UFFDIO_REGISTER_MODE_MISSING), 0);
	assert_int_equal(move(uffd, map + PAGE_BYTES, map, 1, 0), -EINVAL);
	(void)close(uffd);
	guest_stop(&g);
	unmap_pages(map, 2);
}

static void moves_and_refuses(void **state _unused_)
{
	char *map = map_pages(8);
	int pagemap = pagemap_open(getpid()), uffd = uffd_make(UFFD_FEATURE_MOVE);
	uint64_t frame;

	SKIP_WITHOUT(KERNEL_UFFD_MOVE);
	assert_int_equal(
		uffd_register(uffd, map + 4 * PAGE_BYTES, 4, UFFDIO_REGISTER_MODE_MISSING), 0);
	map[0] = 42;
	map[PAGE_BYTES] = 43;
	frame = page_frame(pagemap, map);
	assert_int_equal(move(uffd, map + 4 * PAGE_BYTES, map, 1, 0), PAGE_BYTES);
	assert_int_equal(map[4 * PAGE_BYTES], 42);
	if (kernel_has(KERNEL_PAGE_FRAMES)) {
		/* The frame itself moved, nothing was copied. */
		assert_int_equal(page_frame(pagemap, map + 4 * PAGE_BYTES), frame);
		assert_int_equal(page_frame(pagemap, map), 0);
	}
	assert_int_equal(move(uffd, map + 4 * PAGE_BYTES, map + PAGE_BYTES, 1, 0), -EEXIST);
	assert_int_equal(move(uffd, map + 5 * PAGE_BYTES, map + 2 * PAGE_BYTES, 1, 0), -ENOENT);
	assert_int_equal(move(uffd, map + 5 * PAGE_BYTES, map + 2 * PAGE_BYTES, 1,
			      UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES),
			 PAGE_BYTES);
	/* Different protection: refused. */
	(void)must(mprotect(map + PAGE_BYTES, PAGE_BYTES, PROT_READ));
	assert_int_equal(move(uffd, map + 6 * PAGE_BYTES, map + PAGE_BYTES, 1, 0), -EINVAL);
	(void)close(uffd);
	(void)close(pagemap);
	unmap_pages(map, 8);
}

/* A page that a child has, too, is not exclusive. */
static void forked_page_is_busy(void **state _unused_)
{
	char *map = map_pages(2);
	int uffd = uffd_make(UFFD_FEATURE_MOVE);
	struct guest g;

	SKIP_WITHOUT(KERNEL_UFFD_MOVE);
	*map = 1;
	guest_start(&g);
	assert_int_equal(
		uffd_register(uffd, map + PAGE_BYTES, 1, UFFDIO_REGISTER_MODE_MISSING), 0);
	assert_int_equal(move(uffd, map + PAGE_BYTES, map, 1, 0), -EBUSY);
	guest_stop(&g);
	(void)close(uffd);
	unmap_pages(map, 2);
}

/* One context can serve both: write protection where the guest is tracked, MISSING where it
 * is merged. A moved page has lost its mark: it counts as written. */
static void moved_page_is_written(void **state _unused_)
{
	char *map = map_pages(4);
	int pagemap = pagemap_open(getpid());
	int uffd = uffd_make(UFFD_FEATURE_MOVE | UFFD_FEATURE_WP_ASYNC);

	SKIP_WITHOUT(KERNEL_UFFD_MOVE);
	SKIP_WITHOUT(KERNEL_UFFD_WP_ASYNC);
	assert_true(uffd >= 0);
	assert_int_equal(uffd_register(uffd, map, 4,
				       UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING),
			 0);
	struct uffdio_copy copy = { .dst = (uintptr_t)map, .src = (uintptr_t)"x", .len = 0 };
	static char page[PAGE_BYTES];

	copy.src = (uintptr_t)page;
	copy.len = PAGE_BYTES;
	(void)must(ioctl(uffd, UFFDIO_COPY, &copy));
	assert_int_equal(pages_arm(pagemap, map, 4), 1);
	assert_int_equal(page_look(pagemap, map), PAGE_IS_PRESENT | PAGE_IS_WPALLOWED);
	assert_int_equal(move(uffd, map + PAGE_BYTES, map, 1, 0), PAGE_BYTES);
	assert_int_equal(page_look(pagemap, map + PAGE_BYTES),
			 PAGE_IS_PRESENT | PAGE_IS_WRITTEN | PAGE_IS_WPALLOWED);
	(void)close(uffd);
	(void)close(pagemap);
	unmap_pages(map, 4);
}

/* A userfaultfd from the device takes the memory of whoever asks for it, also without
 * capabilities: the daemon opens the device, the guest makes the context. */
static int64_t uffd_from_device(uint64_t dev, uint64_t page, uint64_t unused _unused_)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd;

	if (setresuid(65534, 65534, 65534) < 0)
		return -errno;
	/* What userfaultfd(2) itself refuses to the unprivileged (unless the sysctl allows). */
	fd = ioctl((int)dev, USERFAULTFD_IOC_NEW, O_CLOEXEC);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
		return -errno;
	return uffd_register(fd, (void *)page, 1, UFFDIO_REGISTER_MODE_MISSING);
}

static void device_for_unprivileged(void **state _unused_)
{
	char *map = map_pages(1);
	_cleanup_close_ int dev = -1;
	struct guest g;

	SKIP_WITHOUT(KERNEL_UFFD_DEVICE);
	dev = must(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
	guest_start(&g);
	assert_int_equal(guest_call(&g, uffd_from_device, (uint64_t)dev, (uintptr_t)map, 0), 0);
	guest_stop(&g);
	unmap_pages(map, 1);
}

/*
 * Pages that are being migrated: UFFDIO_MOVE tries again by itself, and since it moves batches (6.17)
 * what it then moves it does not count. Such a move ends with -EEXIST at a page that is already
 * there; whoever takes it for not moved loses it. Nothing is lost, nor is any other refusal seen.
 */
#define MIGRATED_PAGES 512U
#define MIGRATED_USEC  (4 * USEC_PER_SEC)

/* Moves all pages; returns how many the kernel moved and did not count. */
static unsigned move_all(int uffd, char *to, char *from)
{
	unsigned done = 0, uncounted = 0;

	while (done < MIGRATED_PAGES) {
		char *dst = to + done * PAGE_BYTES, *src = from + done * PAGE_BYTES;
		int64_t r = move(uffd, dst, src, MIGRATED_PAGES - done, UFFDIO_MOVE_MODE_DONTWAKE);
		unsigned char here = 1;

		if (r == -EAGAIN)
			continue;
		if (r > 0) {
			done += (unsigned)(r / (int64_t)PAGE_BYTES);
			continue;
		}
		assert_int_equal(r, -EEXIST);
		(void)must(mincore(src, PAGE_BYTES, &here));
		assert_int_equal(here & 1, 0);
		uncounted++;
		done++;
	}
	return uncounted;
}

static pid_t compactor;

/* Another process, made before there is memory that it could share with us. */
static int compact_start(void **state _unused_)
{
	const pid_t parent = getpid();

	compactor = fork();
	if (compactor == 0) {
		int fd = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);

		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == parent && write(fd, "1", 1) == 1)
			(void)usleep(10000);
		_exit(EXIT_FAILURE);
	}
	return compactor < 0 ? -1 : 0;
}

static int compact_stop(void **state _unused_)
{
	(void)kill(compactor, SIGKILL);
	(void)waitpid(compactor, NULL, 0);
	return 0;
}

static void migrated_batch_is_not_counted(void **state _unused_)
{
	char *map = map_pages(2 * MIGRATED_PAGES), *other = map + MIGRATED_PAGES * PAGE_BYTES;
	int uffd = uffd_make(UFFD_FEATURE_MOVE);
	uint64_t end = now_usec() + MIGRATED_USEC;
	unsigned uncounted = 0, rounds = 0;

	SKIP_WITHOUT(KERNEL_UFFD_MOVE);
	if (access("/proc/sys/vm/compact_memory", W_OK) < 0)
		SKIP("compact_memory: %s", strerror(errno));
	for (uint64_t i = 0; i < MIGRATED_PAGES; i++)
		memcpy(map + i * PAGE_BYTES, &i, sizeof(i));
	assert_int_equal(uffd_register(uffd, map, 2 * MIGRATED_PAGES, UFFDIO_REGISTER_MODE_MISSING), 0);
	for (; now_usec() < end; rounds++) {
		uncounted += move_all(uffd, other, map);
		uncounted += move_all(uffd, map, other);
	}
	for (uint64_t i = 0; i < MIGRATED_PAGES; i++)
		assert_memory_equal(map + i * PAGE_BYTES, &i, sizeof(i));
	print_message("%u rounds, %u pages moved and not counted\n", rounds, uncounted);
	assert_int_equal(waitpid(compactor, NULL, WNOHANG), 0);
	(void)close(uffd);
	unmap_pages(map, 2 * MIGRATED_PAGES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(needs_own_memory),	 cmocka_unit_test(moves_and_refuses),
		cmocka_unit_test(forked_page_is_busy),	 cmocka_unit_test(moved_page_is_written),
		cmocka_unit_test(device_for_unprivileged),
		cmocka_unit_test_setup_teardown(migrated_batch_is_not_counted, compact_start, compact_stop),
	};

	return cmocka_run_group_tests_name("uffd-move", tests, NULL, NULL);
}
