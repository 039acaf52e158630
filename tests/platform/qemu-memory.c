/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a real QEMU shows its guest's memory, and that discover-proc, memory and qmp see it right:
 * each way to give a guest memory, hot-plug and unplug, a sandboxed QEMU of another user, one that
 * dies. The guests are small and never run (-S): only the process matters.
 */
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "common/io.h"
#include "daemon/discover-proc.h"
#include "daemon/memory.h"
#include "daemon/qmp.h"
#include "tests/unit/unit.h"

#define QEMU	      "qemu-system-x86_64"
#define ARGS_MAX      64U
#define START_USEC    (60 * USEC_PER_SEC)
#define CALL_USEC     (30 * USEC_PER_SEC)
#define NOBODY	      65534U
#define GUEST_UUID    "c7a5fdbd-edaf-9455-926a-d65c16db1809"
#define SANDBOX                                                                       \
	"-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

struct vm {
	pid_t pid;
	struct process p;
	struct qmp *q;
	struct guest_memory mem;
	struct qmp_memdev devs[QMP_MEMDEVS_MAX];
	size_t n_devs;
	char reason[QMP_REASON_MAX];
};

static char dir[32], monitor[64];
static struct vm *vm;

/* --- a QEMU ------------------------------------------------------------------------------- */

/* Words separated by blanks; %D is the test's directory. uid 0: as we are. */
static _noreturn_ void exec_qemu(const char *options, uid_t uid)
{
	char text[4096], *args[ARGS_MAX], *save = NULL;
	size_t n = 0, at = 0;

	for (; *options && at + sizeof(dir) < sizeof(text); options++) {
		if (options[0] == '%' && options[1] == 'D') {
			at += (size_t)snprintf(text + at, sizeof(text) - at, "%s", dir);
			options++;
		} else {
			text[at++] = *options;
		}
	}
	text[at] = '\0';
	for (char *w = strtok_r(text, " ", &save); w && n < ARGS_MAX - 1;
	     w = strtok_r(NULL, " ", &save))
		args[n++] = w;
	args[n] = NULL;
	if (uid != 0 && (chown(dir, uid, uid) < 0 || setgroups(0, NULL) < 0 ||
			 setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0))
		_exit(126);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)execvp(QEMU, args);
	_exit(127);
}

static bool have_qemu(void)
{
	const char *path = getenv("PATH");
	_cleanup_free_ char *dirs = strdup(path ? path : "/usr/bin");
	char *save = NULL, file[512];

	for (char *d = strtok_r(dirs, ":", &save); d; d = strtok_r(NULL, ":", &save)) {
		(void)snprintf(file, sizeof(file), "%s/" QEMU, d);
		if (access(file, X_OK) == 0)
			return true;
	}
	return false;
}

/* Its monitor comes up some time after its start. */
static int connect_monitor(void)
{
	uint64_t deadline = now_usec() + START_USEC;
	struct pollfd exited = { .fd = vm->p.pidfd, .events = POLLIN };
	int r;

	do {
		r = qmp_open(&vm->p, monitor, CALL_USEC, vm->reason, &vm->q);
		if (r != -ENOENT && r != -ECONNREFUSED)
			return r;
	} while (poll(&exited, 1, 20) == 0 && now_usec() < deadline);
	return r;
}

static void vm_start_as(uid_t uid, const char *options)
{
	char all[4096];
	int r;

	if (!have_qemu()) {
		print_message("no " QEMU "\n");
		skip();
	}
	(void)snprintf(all, sizeof(all),
		       QEMU " -S -accel tcg -display none -no-user-config -name guest=blocks -uuid "
		       GUEST_UUID " -qmp unix:%s,server=on,wait=off %s", monitor, options);
	vm = calloc(1, sizeof(*vm));
	assert_non_null(vm);
	vm->pid = fork();
	assert_true(vm->pid >= 0);
	if (vm->pid == 0)
		exec_qemu(all, uid);
	/* What is opened before the exec is this process all the same. */
	assert_int_equal(process_open(&vm->p, vm->pid), 0);
	r = connect_monitor();
	if (r < 0)
		print_message("%s\n", vm->reason);
	assert_int_equal(r, 0);
	process_close(&vm->p);
	assert_int_equal(process_open(&vm->p, vm->pid), 0);
}

static void vm_start(const char *options)
{
	vm_start_as(0, options);
}

static int refresh(void)
{
	uint64_t ram_bytes, sum = 0;

	assert_int_equal(qmp_query_memdevs(vm->q, vm->reason, vm->devs, &vm->n_devs), 0);
	assert_int_equal(qmp_query_ram(vm->q, vm->reason, &ram_bytes), 0);
	for (size_t i = 0; i < vm->n_devs; i++)
		sum += vm->devs[i].size_bytes;
	assert_true(sum >= ram_bytes);
	return memory_refresh_blocks(&vm->p, vm->devs, vm->n_devs, &vm->mem);
}

static int vm_end(void **state _unused_)
{
	if (vm) {
		qmp_close(vm->q);
		process_close(&vm->p);
		(void)kill(vm->pid, SIGKILL);
		(void)waitpid(vm->pid, NULL, 0);
	}
	free(vm);
	vm = NULL;
	(void)unlink(monitor);
	return 0;
}

static void check_block(size_t i, uint64_t mib, enum block_backing backing, const char *name)
{
	const struct ram_block *b = &vm->mem.blocks[i];

	assert_true(i < vm->mem.n_blocks);
	assert_int_equal(b->n_pages, MIB(mib) >> PAGE_SHIFT);
	assert_int_equal(b->backing, backing);
	assert_string_equal(b->name, name);
	assert_true(b->confirmed);
	assert_int_equal(b->refusal[0] != '\0', backing != BLOCK_ANONYMOUS);
	assert_true(b->flags & VMF_DONTFORK);
}

/* One block, and it is found without the monitor, too. */
static void check_only_block(uint64_t mib, enum block_backing backing, const char *name)
{
	struct ram_block blocks[RAM_BLOCKS_MAX];
	size_t n;

	assert_int_equal(refresh(), 1);
	assert_int_equal(vm->mem.n_blocks, 1);
	check_block(0, mib, backing, name);
	assert_int_equal(refresh(), 0);
	assert_int_equal(memory_find_blocks(&vm->p, blocks, &n), 0);
	assert_int_equal(n, 1);
	assert_true(blocks[0].start.addr == vm->mem.blocks[0].start.addr);
	assert_int_equal(blocks[0].backing, backing);
}

/* --- ways to give a guest memory ---------------------------------------------------------- */

static void default_machine(void **state _unused_)
{
	/* With its video memory, ROMs and network card. */
	vm_start("-m 64");
	check_only_block(64, BLOCK_ANONYMOUS, "pc.ram");
	assert_true(vm->mem.blocks[0].flags & VMF_MERGEABLE);
}

static void q35(void **state _unused_)
{
	vm_start("-M q35 -m 64 -vga std");
	check_only_block(64, BLOCK_ANONYMOUS, "pc.ram");
}

static void merge_off(void **state _unused_)
{
	vm_start("-M q35,mem-merge=off,dump-guest-core=off -m 64");
	check_only_block(64, BLOCK_ANONYMOUS, "pc.ram");
	assert_false(vm->mem.blocks[0].flags & VMF_MERGEABLE);
	assert_true(vm->mem.blocks[0].flags & VMF_DONTDUMP);
}

static void backend_ram(void **state _unused_)
{
	vm_start("-m 64 -M pc,memory-backend=m0 "
		 "-object memory-backend-ram,id=m0,size=64M,prealloc=on");
	check_only_block(64, BLOCK_ANONYMOUS, "m0");
	assert_int_equal(vm->mem.blocks[0].rss_bytes, MIB(64));
}

static void backend_ram_shared(void **state _unused_)
{
	vm_start("-m 64 -M pc,memory-backend=m0 "
		 "-object memory-backend-ram,id=m0,size=64M,share=on");
	check_only_block(64, BLOCK_SHARED, "m0");
}

static void backend_memfd_shared(void **state _unused_)
{
	vm_start("-m 64 -M pc,memory-backend=m0 "
		 "-object memory-backend-memfd,id=m0,size=64M,share=on");
	check_only_block(64, BLOCK_SHARED, "m0");
}

static void backend_memfd_private(void **state _unused_)
{
	vm_start("-m 64 -M pc,memory-backend=m0 "
		 "-object memory-backend-memfd,id=m0,size=64M,share=off");
	check_only_block(64, BLOCK_FILE, "m0");
}

static void backend_file(void **state _unused_)
{
	vm_start("-m 64 -M pc,memory-backend=m0 "
		 "-object memory-backend-file,id=m0,size=64M,mem-path=%D/ram,discard-data=on");
	check_only_block(64, BLOCK_FILE, "m0");
}

static void numa_backends(void **state _unused_)
{
	vm_start("-m 160 -object memory-backend-ram,id=n0,size=64M "
		 "-object memory-backend-ram,id=n1,size=96M "
		 "-numa node,memdev=n0 -numa node,memdev=n1 -smp 2");
	assert_int_equal(refresh(), 1);
	assert_int_equal(vm->mem.n_blocks, 2);
	for (size_t i = 0; i < 2; i++) {
		bool first = vm->mem.blocks[i].n_pages == MIB(64) >> PAGE_SHIFT;

		check_block(i, first ? 64 : 96, BLOCK_ANONYMOUS, first ? "n0" : "n1");
	}
	assert_int_equal(memory_total_pages(&vm->mem), MIB(160) >> PAGE_SHIFT);
}

/* Of equal size: each is confirmed, but which is which nobody can say. */
static void numa_twins(void **state _unused_)
{
	vm_start("-m 128 -object memory-backend-ram,id=n0,size=64M "
		 "-object memory-backend-ram,id=n1,size=64M "
		 "-numa node,memdev=n0 -numa node,memdev=n1 -smp 2");
	assert_int_equal(refresh(), 1);
	assert_int_equal(vm->mem.n_blocks, 2);
	check_block(0, 64, BLOCK_ANONYMOUS, "");
	check_block(1, 64, BLOCK_ANONYMOUS, "");
}

static void hugetlb(void **state _unused_)
{
	uint64_t n_free;

	if (io_read_u64(AT_FDCWD, "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
			&n_free) < 0 ||
	    n_free < 32) {
		print_message("needs 32 free huge pages of 2 MiB on the host\n");
		skip();
	}
	vm_start("-m 64 -M pc,memory-backend=m0 "
		 "-object memory-backend-memfd,id=m0,size=64M,hugetlb=on,hugetlbsize=2M");
	check_only_block(64, BLOCK_HUGETLB, "m0");
}

/* Smaller than the video memory: only the monitor tells it. */
static void tiny_guest(void **state _unused_)
{
	vm_start("-m 8 -vga std");
	assert_int_equal(refresh(), 1);
	assert_int_equal(vm->mem.n_blocks, 1);
	check_block(0, 8, BLOCK_ANONYMOUS, "pc.ram");
}

/* qxl has two blocks of 64 MiB, marked like RAM. */
static void large_video_memory(void **state _unused_)
{
	struct ram_block blocks[RAM_BLOCKS_MAX];
	size_t n, n_ram = 0;

	vm_start("-m 96 -vga qxl");
	assert_int_equal(refresh(), 1);
	assert_true(vm->mem.n_blocks >= 3);
	for (size_t i = 0; i < vm->mem.n_blocks; i++) {
		if (!vm->mem.blocks[i].confirmed) {
			assert_int_equal(vm->mem.blocks[i].n_pages, MIB(64) >> PAGE_SHIFT);
			assert_non_null(strstr(vm->mem.blocks[i].refusal, "not the guest's RAM"));
			continue;
		}
		check_block(i, 96, BLOCK_ANONYMOUS, "pc.ram");
		n_ram++;
	}
	assert_int_equal(n_ram, 1);
	/* Once said, that is known while nobody can ask. */
	vm->mem.layout = 0;
	assert_int_equal(memory_refresh_blocks(&vm->p, NULL, 0, &vm->mem), 0);
	for (size_t i = 0; i < vm->mem.n_blocks; i++)
		assert_int_equal(vm->mem.blocks[i].refusal[0] == '\0', vm->mem.blocks[i].confirmed);
	assert_int_equal(memory_find_blocks(&vm->p, blocks, &n), 0);
	assert_true(n >= 3);
}

static void tiny_guest_alone(void **state _unused_)
{
	vm_start("-nodefaults -m 8");
	check_only_block(8, BLOCK_ANONYMOUS, "pc.ram");
}

/* --- what happens to guests --------------------------------------------------------------- */

static void add_backend(const char *id, uint64_t mib)
{
	assert_int_equal(qmp_call(vm->q, "object-add",
				  json_pack("{s:s, s:s, s:I}", "qom-type", "memory-backend-ram", "id",
					    id, "size", (json_int_t)MIB(mib)),
				  vm->reason, NULL),
			 0);
}

/* QEMU frees a block when no thread can be using it any more: some time after its answer. */
static void refresh_until(size_t n_blocks)
{
	struct pollfd exited = { .fd = vm->p.pidfd, .events = POLLIN };
	uint64_t deadline = now_usec() + CALL_USEC;

	do
		assert_true(refresh() >= 0);
	while (vm->mem.n_blocks != n_blocks && poll(&exited, 1, 10) == 0 && now_usec() < deadline);
	assert_int_equal(vm->mem.n_blocks, n_blocks);
}

static void hot_plug(void **state _unused_)
{
	vm_start("-m 64,slots=2,maxmem=1G");
	assert_int_equal(refresh(), 1);
	assert_int_equal(vm->mem.n_blocks, 1);
	assert_int_equal(refresh(), 0);
	add_backend("d0", 128);
	assert_int_equal(qmp_call(vm->q, "device_add",
				  json_pack("{s:s, s:s, s:s}", "driver", "pc-dimm", "id", "dimm0",
					    "memdev", "d0"),
				  vm->reason, NULL),
			 0);
	assert_int_equal(refresh(), 1);
	assert_int_equal(vm->mem.n_blocks, 2);
	assert_int_equal(memory_total_pages(&vm->mem), MIB(192) >> PAGE_SHIFT);
	assert_int_equal(refresh(), 0);
	/* One that no device uses yet can go again. */
	add_backend("d1", 256);
	assert_int_equal(refresh(), 1);
	assert_int_equal(vm->mem.n_blocks, 3);
	assert_int_equal(qmp_call(vm->q, "object-del", json_pack("{s:s}", "id", "d1"), vm->reason,
				  NULL),
			 0);
	refresh_until(2);
	assert_int_equal(memory_total_pages(&vm->mem), MIB(192) >> PAGE_SHIFT);
}

/* Merging switched off and on through the monitor shows in the marks, and moves no block. */
static void merge_switch(void **state _unused_)
{
	bool merge = false;

	vm_start("-m 64");
	assert_int_equal(refresh(), 1);
	assert_int_equal(qmp_get_merge(vm->q, "pc.ram", vm->reason, &merge), 0);
	assert_true(merge);
	assert_int_equal(qmp_set_merge(vm->q, "pc.ram", false, vm->reason), 0);
	vm->mem.layout = 0;
	assert_int_equal(refresh(), 0);
	assert_false(vm->mem.blocks[0].flags & VMF_MERGEABLE);
	assert_int_equal(qmp_set_merge(vm->q, "nonesuch", false, vm->reason), -EREMOTEIO);
	assert_true(strlen(vm->reason) > 0);
}

static void identified(void **state _unused_)
{
	static char backends[QMP_MEMDEVS_MAX][QMP_ID_BYTES];
	_cleanup_close_ int proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char reason[DISCOVER_REASON_BYTES];
	struct qmp_migration migration;
	struct qmp_identity id;
	struct qmp_status status;
	struct proc_guest g;
	size_t n;

	vm_start("-m 64 -nodefaults");
	assert_int_equal(discover_proc_pid(proc_fd, vm->pid, &g, reason), 0);
	assert_true(g.start_ticks == vm->p.start_ticks);
	assert_string_equal(g.exe, QEMU);
	assert_string_equal(g.cmdline.name, "blocks");
	assert_string_equal(g.cmdline.uuid, GUEST_UUID);
	assert_int_equal(g.cmdline.n_monitors, 1);
	assert_string_equal(g.cmdline.monitors[0], monitor);
	assert_int_equal(qmp_query_identity(vm->q, vm->reason, &id), 0);
	assert_string_equal(id.name, "blocks");
	assert_string_equal(id.uuid, GUEST_UUID);
	assert_int_equal(qmp_query_status(vm->q, vm->reason, &status), 0);
	assert_false(status.running);
	assert_int_equal(qmp_query_migration(vm->q, vm->reason, &migration), 0);
	assert_false(migration.active || migration.postcopy_ram || migration.background_snapshot);
	assert_int_equal(qmp_list_backends(vm->q, vm->reason, backends, &n), 0);
	assert_int_equal(n, 1);
	assert_string_equal(backends[0], "pc.ram");
	assert_true(qmp_version(vm->q).major >= 6);
}

/* While we hold the monitor, nobody else gets it: that is how libvirt's guests look to us. */
static void monitor_taken(void **state _unused_)
{
	struct qmp *second = NULL;

	vm_start("-m 64 -nodefaults");
	assert_int_equal(qmp_open(&vm->p, monitor, 100 * USEC_PER_MSEC, vm->reason, &second),
			 -EBUSY);
	assert_null(second);
	/* It is free for the next one afterwards. */
	qmp_close(vm->q);
	vm->q = NULL;
	assert_int_equal(connect_monitor(), 0);
}

static void check_unprivileged(void)
{
	_cleanup_close_ int proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char reason[DISCOVER_REASON_BYTES];
	struct proc_guest g;

	assert_int_equal(vm->p.uid, NOBODY);
	check_only_block(64, BLOCK_ANONYMOUS, "pc.ram");
	assert_int_equal(discover_proc_pid(proc_fd, vm->pid, &g, reason), 0);
	assert_int_equal(g.uid, NOBODY);
	assert_false(g.is_root || g.own_program);
}

static void skip_unless_root(void)
{
	if (geteuid() == 0)
		return;
	print_message("needs root to start QEMU as another user\n");
	skip();
}

/* As libvirt runs it. */
static void sandboxed(void **state _unused_)
{
	skip_unless_root();
	vm_start_as(NOBODY, "-m 64 -nodefaults " SANDBOX);
	check_unprivileged();
}

/* Not dumpable: its files in /proc belong to root. */
static void changed_user(void **state _unused_)
{
	skip_unless_root();
	vm_start("-m 64 -nodefaults -runas nobody");
	check_unprivileged();
}

static void dies(void **state _unused_)
{
	struct qmp_status status;
	struct pollfd exited;

	vm_start("-m 64 -nodefaults");
	assert_int_equal(refresh(), 1);
	assert_int_equal(kill(vm->pid, SIGKILL), 0);
	exited = (struct pollfd){ .fd = vm->p.pidfd, .events = POLLIN };
	assert_int_equal(poll(&exited, 1, 10000), 1);
	assert_int_equal(qmp_query_status(vm->q, vm->reason, &status), -ESRCH);
	assert_int_equal(memory_refresh_blocks(&vm->p, NULL, 0, &vm->mem), -ESRCH);
	assert_int_equal(process_check(&vm->p), -ESRCH);
	assert_int_equal(vm->mem.n_blocks, 1);
}

static int make_dir(void **state _unused_)
{
	(void)snprintf(dir, sizeof(dir), "/tmp/test-qemu.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	(void)snprintf(monitor, sizeof(monitor), "%s/qmp", dir);
	return 0;
}

static int remove_dir(void **state _unused_)
{
	char ram[64];

	(void)snprintf(ram, sizeof(ram), "%s/ram", dir);
	(void)unlink(ram);
	return rmdir(dir);
}

#define TEST(f) cmocka_unit_test_teardown(f, vm_end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(default_machine),	    TEST(q35),
		TEST(merge_off),	    TEST(backend_ram),
		TEST(backend_ram_shared),   TEST(backend_memfd_shared),
		TEST(backend_memfd_private), TEST(backend_file),
		TEST(numa_backends),	    TEST(numa_twins),
		TEST(hugetlb),		    TEST(tiny_guest),
		TEST(tiny_guest_alone),	    TEST(large_video_memory),
		TEST(hot_plug),
		TEST(merge_switch),	    TEST(identified),
		TEST(monitor_taken),	    TEST(sandboxed),
		TEST(changed_user),	    TEST(dies),
	};

	return cmocka_run_group_tests_name("qemu-memory", tests, make_dir, remove_dir);
}
