/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/devices.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "daemon/libvirt-xml.h"
#include "tests/unit/unit.h"

static void devices_are_told_by_their_links(void **state _unused_)
{
	assert_int_equal(devices_of_link("/dev/vhost-vdpa-0"), LIBVIRT_VDPA);
	assert_int_equal(devices_of_link("/dev/vhost-net"), 0);
	assert_int_equal(devices_of_link("/dev/vhost-vsock"), 0);
	assert_int_equal(devices_of_link("/dev/vhost-scsi"), LIBVIRT_VHOST_SCSI);
	assert_int_equal(devices_of_link("/dev/vhost-of-tomorrow"), LIBVIRT_VHOST_SCSI);
	assert_int_equal(devices_of_link("/dev/infiniband/uverbs0"), LIBVIRT_VFIO);
	assert_int_equal(devices_of_link("/dev/iommu"), LIBVIRT_VFIO);
	assert_int_equal(devices_of_link("/dev/kvm"), 0);
	assert_int_equal(devices_of_link("anon_inode:[vfio-device]"), LIBVIRT_VFIO);
	assert_int_equal(devices_of_link("/dev/sev"), LIBVIRT_SECURE);
	assert_int_equal(devices_of_link("anon_inode:kvm-vcpu:0"), 0);
	assert_int_equal(devices_of_link(""), 0);
}

static void direct(void **state _unused_)
{
	static const char yes[] = "pos:\t0\nflags:\t02140002\nmnt_id:\t1\n";
	static const char no[] = "pos:\t0\nflags:\t02100002\nmnt_id:\t1\n";

	assert_int_equal(O_DIRECT, 040000);
	assert_true(devices_is_direct(yes, strlen(yes)));
	assert_false(devices_is_direct(no, strlen(no)));
	/* What cannot be told. */
	assert_true(devices_is_direct("", 0));
	assert_true(devices_is_direct("flags:\t", 7));
	assert_true(devices_hide_io(NFS_SUPER_MAGIC));
	assert_false(devices_hide_io(EXT4_SUPER_MAGIC));
}

static int direct_io_of_this_process(void)
{
	struct process p;
	int r;

	assert_int_equal(process_open(&p, getpid()), 0);
	r = devices_direct_io(&p);
	process_close(&p);
	return r;
}

/* Does it count while this is open? -1 when it cannot be had. */
static int direct_with(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC), r;

	if (fd < 0)
		return -1;
	r = direct_io_of_this_process();
	close(fd);
	return r;
}

static void disks_that_take_commands_count_as_direct(void **state _unused_)
{
	char path[] = "test-devices.XXXXXX";
	const struct {
		mode_t type;
		dev_t dev;
		int expected;
	} nodes[] = {
		{ S_IFBLK, makedev(8, 0), 1 },
		{ S_IFCHR, makedev(21, 0), 1 }, /* /dev/sg0 */
		{ S_IFCHR, makedev(1, 3), 0 },  /* /dev/null */
	};
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(direct_io_of_this_process(), 0);
	assert_int_equal(direct_with(path, O_RDWR), 0);
	assert_int_not_equal(direct_with(path, O_RDWR | O_DIRECT), 0);
	for (size_t i = 0; i < ARRAY_SIZE(nodes); i++) {
		assert_int_equal(unlink(path), 0);
		/* Whether there is such a device does not matter (O_PATH). */
		if (mknod(path, nodes[i].type | 0600, nodes[i].dev) < 0) {
			print_message("# no device nodes can be made here: %s\n", strerror(errno));
			return;
		}
		assert_int_equal(direct_with(path, O_PATH), nodes[i].expected);
	}
	assert_int_equal(unlink(path), 0);
}

static void this_process_shows_nothing(void **state _unused_)
{
	uint32_t flags = UINT32_MAX;
	struct process p;

	assert_int_equal(process_open(&p, getpid()), 0);
	assert_int_equal(devices_read(&p, &flags), 0);
	process_close(&p);
	assert_int_equal(flags, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(devices_are_told_by_their_links),
		cmocka_unit_test(direct),
		cmocka_unit_test(disks_that_take_commands_count_as_direct),
		cmocka_unit_test(this_process_shows_nothing),
	};

	return cmocka_run_group_tests_name("devices", tests, NULL, NULL);
}
