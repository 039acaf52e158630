/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/libvirt-pid.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>

#include "common/io.h"
#include "tests/unit/unit.h"

#define UUID "6695eb01-f6a4-8304-79aa-97f2502e193f"
#define QEMU "/usr/bin/qemu-system-x86_64\0-name\0guest=a\0-uuid\0" UUID "\0-S"

static char root[32];
static int proc_fd = -1;

static void make_dir(const char *path)
{
	assert_int_equal(mkdirat(proc_fd, path, 0700), 0);
}

static void put(const char *path, const char *buf, size_t len)
{
	_cleanup_close_ int fd =
		openat(proc_fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(io_write_full(fd, buf, len), 0);
}

/* A /proc with 41 as the domain's QEMU, 42 something else; run/ for pid files. */
static int make_proc(void **state _unused_)
{
	strcpy(root, "/tmp/memshared-pid-XXXXXX");
	if (!mkdtemp(root))
		return -1;
	proc_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	make_dir("41");
	make_dir("42");
	make_dir("run");
	make_dir("sys");
	put("41/cmdline", QEMU, sizeof(QEMU));
	put("42/cmdline", "init", 5);
	return 0;
}

static int remove_one(const char *path, const struct stat *st _unused_, int type _unused_,
		      struct FTW *ftw _unused_)
{
	return remove(path);
}

static int remove_proc(void **state _unused_)
{
	close_fdp(&proc_fd);
	return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static int find(pid_t *ret)
{
	char run[64];

	(void)snprintf(run, sizeof(run), "%s/run", root);
	return libvirt_find_pid(proc_fd, run, "a", UUID, ret);
}

static void command_lines(void **state _unused_)
{
	static const char short_one[] = "-uuid", last[] = "-uuid\0" UUID,
			  not_ended[] = "-uuid\0" UUID, later[] = "-uuid\0x\0-uuid\0" UUID,
			  upper[] = "q\0-uuid\0"
				    "6695EB01-F6A4-8304-79AA-97F2502E193F";

	assert_true(libvirt_cmdline_matches(QEMU, sizeof(QEMU), UUID));
	assert_true(libvirt_cmdline_matches(last, sizeof(last), UUID));
	assert_true(libvirt_cmdline_matches(upper, sizeof(upper), UUID));
	assert_false(libvirt_cmdline_matches(not_ended, sizeof(not_ended) - 1, UUID));
	assert_false(libvirt_cmdline_matches(short_one, sizeof(short_one), UUID));
	assert_false(libvirt_cmdline_matches(later, sizeof(later), UUID));
	assert_false(libvirt_cmdline_matches("", 0, UUID));
}

static void pid_file_decides(void **state _unused_)
{
	pid_t pid = 0;

	put("run/a.pid", "41\n", 3);
	assert_int_equal(find(&pid), 0);
	assert_int_equal(pid, 41);
	/* Stale, or not a number: what /proc says besides does not count. */
	put("run/a.pid", "42", 2);
	assert_int_equal(find(&pid), -ESRCH);
	put("run/a.pid", "99", 2);
	assert_int_equal(find(&pid), -ESRCH);
	put("run/a.pid", "41x", 3);
	assert_int_equal(find(&pid), -ESRCH);
	put("run/a.pid", "-1", 2);
	assert_int_equal(find(&pid), -ESRCH);
	assert_int_equal(pid, 41);
}

static void without_a_pid_file_one_match_counts(void **state _unused_)
{
	pid_t pid = 0;

	assert_int_equal(find(&pid), 0);
	assert_int_equal(pid, 41);
	/* Another process that says the same. */
	put("42/cmdline", QEMU, sizeof(QEMU));
	assert_int_equal(find(&pid), -ENOTUNIQ);
	put("41/cmdline", "", 0);
	assert_int_equal(find(&pid), 0);
	assert_int_equal(pid, 42);
	put("42/cmdline", "", 0);
	assert_int_equal(find(&pid), -ESRCH);
}

static void names_do_not_leave_the_directory(void **state _unused_)
{
	pid_t pid = 0;

	put("x.pid", "41", 2);
	assert_int_equal(libvirt_find_pid(proc_fd, root, "run/../x", UUID, &pid), -EINVAL);
}

static void run_directories(void **state _unused_)
{
	char dir[64];

	assert_true(libvirt_run_dir("qemu:///system", dir, sizeof(dir)));
	assert_string_equal(dir, "/run/libvirt/qemu");
	assert_true(libvirt_run_dir("qemu+unix:///system?socket=/x", dir, sizeof(dir)));
	assert_false(libvirt_run_dir("test:///default", dir, sizeof(dir)));
	assert_false(libvirt_run_dir("qemu+ssh://host/system", dir, sizeof(dir)));
	assert_false(libvirt_run_dir("qemu", dir, sizeof(dir)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(command_lines),
		cmocka_unit_test_setup_teardown(pid_file_decides, make_proc, remove_proc),
		cmocka_unit_test_setup_teardown(without_a_pid_file_one_match_counts, make_proc,
						remove_proc),
		cmocka_unit_test_setup_teardown(names_do_not_leave_the_directory, make_proc,
						remove_proc),
		cmocka_unit_test(run_directories),
	};

	return cmocka_run_group_tests_name("libvirt-pid", tests, NULL, NULL);
}
