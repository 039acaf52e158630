/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A store's pages mapped privately in a guest: what discarding shows, what a new mapping has
 * lost, and that an unprivileged guest can't write to the store that it was given.
 */
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/io.h"
#include "common/kernel.h"
#include "tests/platform/platform.h"

/* The two-letter flags of the mapping at addr: " rd wr mr mw me ac ". */
static void vm_flags(const void *addr, char *buf, size_t size)
{
	_cleanup_free_ char *text = NULL;
	char head[32], *p, *end;
	size_t len;

	(void)snprintf(head, sizeof(head), "\n%lx-", (unsigned long)(uintptr_t)addr);
	assert_int_equal(io_read_file(AT_FDCWD, "/proc/self/smaps", MIB(64), &text, &len), 0);
	p = strstr(text, head);
	assert_non_null(p);
	p = strstr(p, "VmFlags:");
	assert_non_null(p);
	p += strlen("VmFlags:");
	end = strchr(p, '\n');
	assert_non_null(end);
	(void)snprintf(buf, size, "%.*s ", (int)(end - p), p);
}

/* The guest's copy is gone with MADV_DONTNEED, and the slot shows again: with what it holds
 * now. Hence a slot is not reused while a mapping of it exists anywhere. */
static void discard_shows_slot(void **state _unused_)
{
	_cleanup_close_ int store = make_store(1, 'a');
	char *map = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, store, 0);

	assert_ptr_not_equal(map, MAP_FAILED);
	assert_int_equal(map[0], 'a');
	map[0] = 'x';
	assert_int_equal(must(pwrite(store, "b", 1, 0)), 1);
	assert_int_equal(map[0], 'x');
	(void)must(madvise(map, PAGE_BYTES, MADV_DONTNEED));
	assert_int_equal(map[0], 'b');
	(void)munmap(map, PAGE_BYTES);
}

/* A page not yet copied follows the store: it is one frame. */
static void uncopied_follows_slot(void **state _unused_)
{
	_cleanup_close_ int store = make_store(1, 'a');
	char *map = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, store, 0);

	assert_ptr_not_equal(map, MAP_FAILED);
	assert_int_equal(map[0], 'a');
	assert_int_equal(must(pwrite(store, "b", 1, 0)), 1);
	assert_int_equal(map[0], 'b');
	(void)munmap(map, PAGE_BYTES);
}

static void fixed_mapping_loses_advice(void **state _unused_)
{
	static const struct {
		int advice;
		const char *flag;
	} all[] = {
		{ MADV_DONTFORK, " dc " },   { MADV_DONTDUMP, " dd " }, { MADV_MERGEABLE, " mg " },
		{ MADV_HUGEPAGE, " hg " },
	};
	_cleanup_close_ int store = make_store(1, 'a');
	char *map = map_pages(1), flags[256];

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (madvise(map, PAGE_BYTES, all[i].advice) == 0) {
			vm_flags(map, flags, sizeof(flags));
			assert_non_null(strstr(flags, all[i].flag));
		}
	assert_ptr_equal(mmap(map, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
			      store, 0),
			 map);
	vm_flags(map, flags, sizeof(flags));
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		assert_null(strstr(flags, all[i].flag));
	unmap_pages(map, 1);
}

/* The kernel keeps the memory policy of a file's mapping with the file, also when it is private: what
 * one guest binds is bound for all. So memory that replaces a guest's own can be bound only where it is
 * anonymous. */
static void policy_is_the_files(void **state _unused_)
{
	_cleanup_close_ int store = make_store(2, 'a');
	char *one = mmap(NULL, 2 * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, store, 0);
	char *two = mmap(NULL, 2 * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, store, 0);
	const unsigned long nodes = 1;
	int mode = -1;

	assert_ptr_not_equal(one, MAP_FAILED);
	assert_ptr_not_equal(two, MAP_FAILED);
	if (syscall(SYS_mbind, one, PAGE_BYTES, MPOL_BIND, &nodes, 64, 0) < 0)
		SKIP("no memory policies in this kernel");
	assert_int_equal(syscall(SYS_get_mempolicy, &mode, NULL, 0, two, MPOL_F_ADDR), 0);
	assert_int_equal(mode, MPOL_BIND);
	assert_int_equal(syscall(SYS_get_mempolicy, &mode, NULL, 0, two + PAGE_BYTES, MPOL_F_ADDR), 0);
	assert_int_equal(mode, MPOL_DEFAULT);
	(void)munmap(one, 2 * PAGE_BYTES);
	(void)munmap(two, 2 * PAGE_BYTES);
}

/* --- the hand-over --------------------------------------------------------------------------- */

enum { READS, COPIES, SHARES, GROWS, REOPENS, REOPENS_PATH, CHMODS, PUNCHES, SEALS };

static int64_t try_all(uint64_t fd, uint64_t unused_a _unused_, uint64_t unused_b _unused_)
{
	uint32_t could = 0;
	char path[64], byte = 'x';
	char *map;
	int r;

	if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
		return -errno;
	map = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, (int)fd, 0);
	if (map != MAP_FAILED) {
		could |= (map[0] == 'a') << READS;
		map[0] = 'y';
		could |= (map[0] == 'y') << COPIES;
	}
	if (mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd, 0) != MAP_FAILED)
		could |= 1U << SHARES;
	/* Writable later: refused as well. */
	map = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, (int)fd, 0);
	if (map != MAP_FAILED && mprotect(map, PAGE_BYTES, PROT_READ | PROT_WRITE) == 0)
		could |= 1U << SHARES;
	if (pwrite((int)fd, &byte, 1, 0) >= 0 || ftruncate((int)fd, 0) == 0)
		could |= 1U << GROWS;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", (int)fd);
	r = open(path, O_RDWR | O_CLOEXEC);
	if (r >= 0)
		could |= 1U << REOPENS;
	(void)snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx",
		       (unsigned long)(uintptr_t)map, (unsigned long)(uintptr_t)map + PAGE_BYTES);
	r = open(path, O_RDWR | O_CLOEXEC);
	if (r >= 0)
		could |= 1U << REOPENS_PATH;
	if (fchmod((int)fd, 0666) == 0)
		could |= 1U << CHMODS;
	if (fallocate((int)fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_BYTES) == 0)
		could |= 1U << PUNCHES;
	if (fcntl((int)fd, F_ADD_SEALS, F_SEAL_WRITE) == 0)
		could |= 1U << SEALS;
	return could;
}

static void read_only_hand_over(void **state _unused_)
{
	_cleanup_close_ int store = make_store(1, 'a'), read_only = -1;
	char path[64], byte = 0;
	struct guest g;
	int64_t could;

	if (geteuid() != 0)
		SKIP("needs root, to be somebody else than the guest");
	(void)must(fchmod(store, 0400));
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", store);
	read_only = must(open(path, O_RDONLY | O_CLOEXEC));
	guest_start(&g);
	/* The guest inherits both: the writable one is closed there, as SCM_RIGHTS hands over
	 * only the other. */
	(void)guest_call(&g, guest_close, (uint64_t)store, 0, 0);
	could = guest_call(&g, try_all, (uint64_t)read_only, 0, 0);
	guest_stop(&g);
	assert_int_equal(could, 1 << READS | 1 << COPIES);
	assert_int_equal(must(pread(store, &byte, 1, 0)), 1);
	assert_int_equal(byte, 'a');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(discard_shows_slot),
		cmocka_unit_test(uncopied_follows_slot),
		cmocka_unit_test(fixed_mapping_loses_advice),
		cmocka_unit_test(policy_is_the_files),
		cmocka_unit_test(read_only_hand_over),
	};

	return cmocka_run_group_tests_name("store-mapping", tests, NULL, NULL);
}
