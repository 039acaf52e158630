/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "daemon/refusal.h"
#include "tests/unit/unit.h"

static void descriptors(void **state _unused_)
{
	assert_non_null(refusal_of_descriptor("/dev/vfio/12"));
	assert_non_null(refusal_of_descriptor("anon_inode:[vfio-device]"));
	assert_non_null(refusal_of_descriptor("/dev/vhost-vdpa-0"));
	assert_non_null(refusal_of_descriptor("/dev/infiniband/uverbs0"));
	assert_non_null(refusal_of_descriptor("/dev/vhost-scsi"));
	assert_non_null(refusal_of_descriptor("/dev/vhost-of-tomorrow"));
	assert_null(refusal_of_descriptor("/dev/vhost-net"));
	assert_null(refusal_of_descriptor("/dev/vhost-vsock"));
	assert_null(refusal_of_descriptor("/dev/kvm"));
	assert_null(refusal_of_descriptor("anon_inode:kvm-vm"));
	assert_null(refusal_of_descriptor("socket:[1]"));
	assert_null(refusal_of_descriptor(""));
}

static void arguments(void **state _unused_)
{
	assert_non_null(refusal_of_argument("virtio-balloon-pci,id=b,free-page-reporting=on", POLICY_ENGINE_REMAP));
	assert_non_null(refusal_of_argument("{\"driver\":\"virtio-balloon-pci\",\"free-page-reporting\":true}",
					    POLICY_ENGINE_REMAP));
	assert_non_null(refusal_of_argument("virtio-mem-pci,id=m,memdev=x", POLICY_ENGINE_REMAP));
	assert_non_null(refusal_of_argument("sev-guest,id=s", POLICY_ENGINE_REMAP));
	assert_non_null(refusal_of_argument("sev-snp-guest,id=s", POLICY_ENGINE_REMAP));
	assert_non_null(refusal_of_argument("tdx-guest,id=s", POLICY_ENGINE_REMAP));
	assert_non_null(refusal_of_argument("hv-balloon,id=b", POLICY_ENGINE_REMAP));
	assert_null(refusal_of_argument("virtio-balloon-pci,id=b,free-page-reporting=off", POLICY_ENGINE_REMAP));
	/* A hole that is discarded is a hole. */
	assert_null(refusal_of_argument("virtio-balloon-pci,id=b,free-page-reporting=on", POLICY_ENGINE_ZERO));
	assert_null(refusal_of_argument("virtio-mem-pci,id=m,memdev=x", POLICY_ENGINE_ZERO));
	assert_non_null(refusal_of_argument("vfio-pci,host=01:00.0", POLICY_ENGINE_ZERO));
	assert_null(refusal_of_argument("-m", POLICY_ENGINE_REMAP));
	assert_null(refusal_of_argument("", POLICY_ENGINE_REMAP));
}

static void each_says_what_would_change_it(void **state _unused_)
{
	static const char *const words[] = {
		"/dev/vfio/12", "/dev/iommu", "/dev/vhost-vdpa-0", "/dev/infiniband/uverbs0", "/dev/sev",
		"/dev/sgx_vepc", "/dev/vhost-scsi", "free-page-reporting=on", "virtio-mem-pci", "hv-balloon", "vfio-pci",
		"sev-guest", "sev-snp-guest", "tdx-guest",
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		const char *reason = *words[i] == '/' ? refusal_of_descriptor(words[i])
						      : refusal_of_argument(words[i], POLICY_ENGINE_REMAP);

		assert_non_null(reason);
		/* "why: remedy" */
		if (!strstr(reason, ": "))
			fail_msg("%s: %s", words[i], reason);
		assert_true(strlen(reason) < REFUSAL_BYTES);
	}
}

static void direct(void **state _unused_)
{
	static const char yes[] = "pos:\t0\nflags:\t02140002\nmnt_id:\t1\n";
	static const char no[] = "pos:\t0\nflags:\t02100002\nmnt_id:\t1\n";

	assert_int_equal(O_DIRECT, 040000);
	assert_true(refusal_is_direct(yes, strlen(yes)));
	assert_false(refusal_is_direct(no, strlen(no)));
	/* What cannot be told. */
	assert_true(refusal_is_direct("", 0));
	assert_true(refusal_is_direct("flags:\t", 7));
	assert_true(refusal_of_file_system(NFS_SUPER_MAGIC));
	assert_false(refusal_of_file_system(EXT4_SUPER_MAGIC));
}

static int direct_io_of_this_process(void)
{
	struct process p;
	int r;

	assert_int_equal(process_open(&p, getpid()), 0);
	r = refusal_direct_io(&p);
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
	char path[] = "test-refusal.XXXXXX";
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

static void this_process_is_no_guest_and_not_refused(void **state _unused_)
{
	char reason[REFUSAL_BYTES] = "";
	struct process p;
	int r;

	assert_int_equal(process_open(&p, getpid()), 0);
	r = refusal_of_remap(&p, POLICY_ENGINE_REMAP, reason);
	process_close(&p);
	if (r < 0)
		print_message("# %s\n", reason);
	assert_int_equal(r, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(descriptors),
		cmocka_unit_test(arguments),
		cmocka_unit_test(each_says_what_would_change_it),
		cmocka_unit_test(direct),
		cmocka_unit_test(disks_that_take_commands_count_as_direct),
		cmocka_unit_test(this_process_is_no_guest_and_not_refused),
	};

	return cmocka_run_group_tests_name("refusal", tests, NULL, NULL);
}
