/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A limit of tracker wp: memory that was pinned for a device before it was write-protected is
 * written without a mark. An io_uring with a registered buffer stands for the device. Moving
 * such a page is refused, so that no engine can be deceived by it.
 */
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "common/kernel.h"
#include "tests/platform/platform.h"

struct ring {
	int fd;
	char *sq, *cq;
	struct io_uring_sqe *sqes;
	struct io_uring_params params;
};

static void ring_open(struct ring *r)
{
	*r = (struct ring){ .fd = -1 };
	r->fd = (int)syscall(__NR_io_uring_setup, 1, &r->params);
	if (r->fd < 0)
		SKIP("no io_uring: %s", strerror(errno));
	r->sq = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
		     IORING_OFF_SQ_RING);
	r->cq = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
		     IORING_OFF_CQ_RING);
	r->sqes = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
		       IORING_OFF_SQES);
	assert_true(r->sq != MAP_FAILED && r->cq != MAP_FAILED && (void *)r->sqes != MAP_FAILED);
}

static void ring_close(struct ring *r)
{
	(void)munmap(r->sq, PAGE_BYTES);
	(void)munmap(r->cq, PAGE_BYTES);
	(void)munmap(r->sqes, PAGE_BYTES);
	close_fdp(&r->fd);
}

/* Reads a page of fd into the registered buffer; its result. */
static int ring_read(struct ring *r, int fd, char *page)
{
	uint32_t *tail = (uint32_t *)(r->sq + r->params.sq_off.tail);
	const uint32_t *mask = (const uint32_t *)(r->sq + r->params.sq_off.ring_mask);
	uint32_t *array = (uint32_t *)(r->sq + r->params.sq_off.array);
	uint32_t *cq_head = (uint32_t *)(r->cq + r->params.cq_off.head);
	const uint32_t *cq_mask = (const uint32_t *)(r->cq + r->params.cq_off.ring_mask);
	const struct io_uring_cqe *cqes =
		(const struct io_uring_cqe *)(r->cq + r->params.cq_off.cqes);
	int result;

	r->sqes[0] = (struct io_uring_sqe){
		.opcode = IORING_OP_READ_FIXED,
		.fd = fd,
		.addr = (uintptr_t)page,
		.len = PAGE_BYTES,
	};
	array[*tail & *mask] = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	assert_int_equal(must(syscall(__NR_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS,
				      NULL, 0)),
			 1);
	result = cqes[*cq_head & *cq_mask].res;
	__atomic_store_n(cq_head, *cq_head + 1, __ATOMIC_RELEASE);
	return result;
}

static void leaves_no_mark(void **state _unused_)
{
	_cleanup_close_ int pagemap = pagemap_open(getpid()), uffd = -1;
	_cleanup_close_ int file = make_store(1, 'd');
	char *map = map_pages(2);
	struct iovec buffer = { map, PAGE_BYTES };
	struct ring ring;

	SKIP_WITHOUT(KERNEL_PAGEMAP_SCAN);
	SKIP_WITHOUT(KERNEL_UFFD_WP_ASYNC);
	ring_open(&ring);
	map[0] = map[PAGE_BYTES] = 'o';
	uffd = uffd_make(UFFD_FEATURE_WP_ASYNC);
	assert_int_equal(uffd_register(uffd, map, 2, UFFDIO_REGISTER_MODE_WP), 0);
	(void)must(syscall(__NR_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &buffer, 1));
	assert_int_equal(pages_arm(pagemap, map, 2), 2);
	assert_int_equal(ring_read(&ring, file, map), PAGE_BYTES);
	assert_int_equal(map[0], 'd');
	assert_false(page_look(pagemap, map) & PAGE_IS_WRITTEN);
	ring_close(&ring);
	unmap_pages(map, 2);
}

static void cannot_be_moved(void **state _unused_)
{
	_cleanup_close_ int uffd = -1;
	char *map = map_pages(2);
	struct iovec buffer = { map, PAGE_BYTES };
	struct uffdio_move m = {
		.dst = (uintptr_t)map + PAGE_BYTES,
		.src = (uintptr_t)map,
		.len = PAGE_BYTES,
	};
	struct ring ring;

	SKIP_WITHOUT(KERNEL_UFFD_MOVE);
	ring_open(&ring);
	map[0] = 'o';
	(void)must(syscall(__NR_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &buffer, 1));
	uffd = uffd_make(UFFD_FEATURE_MOVE);
	assert_int_equal(
		uffd_register(uffd, map + PAGE_BYTES, 1, UFFDIO_REGISTER_MODE_MISSING), 0);
	assert_int_equal(ioctl(uffd, UFFDIO_MOVE, &m), -1);
	assert_int_equal(errno, EBUSY);
	ring_close(&ring);
	unmap_pages(map, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(leaves_no_mark),
		cmocka_unit_test(cannot_be_moved),
	};

	return cmocka_run_group_tests_name("pinned-write", tests, NULL, NULL);
}
