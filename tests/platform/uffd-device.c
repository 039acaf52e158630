/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * /dev/userfaultfd, opened by us and passed to a process without rights: that process can make a
 * userfaultfd which also handles faults from kernel mode, and it belongs to that process's memory,
 * not to ours. pidfd_getfd brings it here, and registering the other's memory works from here.
 */
#include <fcntl.h>
#include <grp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "tests/platform/platform.h"

static struct guest guest;
static int device = -1;
static char *page;

static int end(void **state _unused_)
{
	guest_stop(&guest);
	close_fdp(&device);
	return 0;
}

/* In the guest: no rights left; then a userfaultfd by call and by device. */
static int64_t drop_rights(uint64_t uid, uint64_t b _unused_, uint64_t c _unused_)
{
	uid_t id = (uid_t)uid;

	return setgroups(0, NULL) < 0 || setresgid(id, id, id) < 0 || setresuid(id, id, id) < 0 ?
		       -errno :
		       0;
}

static int64_t make_by_call(uint64_t flags, uint64_t b _unused_, uint64_t c _unused_)
{
	int fd = (int)syscall(SYS_userfaultfd, (int)flags);

	return fd < 0 ? -errno : fd;
}

static int64_t make_by_device(uint64_t fd, uint64_t b _unused_, uint64_t c _unused_)
{
	int r = ioctl((int)fd, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);

	return r < 0 ? -errno : r;
}

/* The kernel writes to the page on the guest's behalf: a fault from kernel mode. */
static int64_t read_into(uint64_t to, uint64_t b _unused_, uint64_t c _unused_)
{
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	int64_t n = read(fd, (void *)to, 1);

	(void)close(fd);
	return n;
}

static void begin_guest(void)
{
	device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device < 0)
		SKIP("no /dev/userfaultfd here: %s", strerror(errno));
	page = map_pages(1);
	guest_start(&guest);
	if (guest_call(&guest, drop_rights, 65534, 0, 0) < 0)
		SKIP("rights cannot be dropped: not root");
}

static int take(int64_t theirs)
{
	assert_true(theirs >= 0);
	return (int)must(syscall(SYS_pidfd_getfd, guest.pidfd, (int)theirs, 0));
}

/* Registers the page (in the guest's memory), answers one fault there, and closes. */
static void serve_one_fault(int uffd, bool kernel)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_zeropage zero = { .range = { (uintptr_t)page, PAGE_BYTES } };
	struct guest_request_ {
		guest_fn *fn;
		uint64_t a, b, c;
	} q = { kernel ? read_into : guest_read, (uintptr_t)page, 1, 0 };
	struct pollfd pfd = { .fd = uffd, .events = POLLIN };
	struct uffd_msg msg;
	int64_t result;

	assert_int_equal(must(ioctl(uffd, UFFDIO_API, &api)), 0);
	assert_int_equal(uffd_register(uffd, page, 1, UFFDIO_REGISTER_MODE_MISSING), 0);
	assert_int_equal(must(write(guest.socket, &q, sizeof(q))), sizeof(q));
	assert_int_equal(poll(&pfd, 1, 10000), 1);
	assert_int_equal(read(uffd, &msg, sizeof(msg)), sizeof(msg));
	assert_int_equal(msg.arg.pagefault.address, (uintptr_t)page);
	(void)must(ioctl(uffd, UFFDIO_ZEROPAGE, &zero));
	assert_int_equal(must(read(guest.socket, &result, sizeof(result))), sizeof(result));
	assert_int_equal(result, kernel ? 1 : 0);
	(void)close(uffd);
}

static void by_device(void **state _unused_)
{
	int uffd;

	begin_guest();
	if (guest_call(&guest, make_by_call, O_CLOEXEC | O_NONBLOCK, 0, 0) >= 0)
		print_message("# vm.unprivileged_userfaultfd is on here\n");
	uffd = take(guest_call(&guest, make_by_device, (uint64_t)device, 0, 0));
	serve_one_fault(uffd, true);
	unmap_pages(page, 1);
}

static void by_call_for_user_mode(void **state _unused_)
{
	int64_t theirs;

	begin_guest();
	theirs = guest_call(&guest, make_by_call, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY, 0,
			    0);
	if (theirs == -ENOSYS)
		SKIP("this kernel lacks userfaultfd");
	serve_one_fault(take(theirs), false);
	unmap_pages(page, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(by_device, end),
		cmocka_unit_test_teardown(by_call_for_user_mode, end),
	};

	return cmocka_run_group_tests_name("uffd-device", tests, NULL, NULL);
}
