/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The agent's transactions, one at a time, on memory of our own. */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "common/io.h"
#include "common/parse.h"
#include "tests/unit/transaction-fixture.h"

static void merges_runs(void **state _unused_)
{
	struct ring_run runs[4];

	runs[0] = remap_run(guest, 1, 0);
	runs[1] = remap_run(guest + 2 * PAGE_BYTES, 1, 2);
	runs[2] = remap_run(guest + 16 * PAGE_BYTES, 16, 16);
	runs[3] = remap_run(guest + 64 * PAGE_BYTES, 448, 64);
	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, TRACK, 0, runs, 4), 1);
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(runs[i].result, 0);
		assert_int_equal(runs[i].merged, runs[i].n_pages);
	}
	assert_int_equal(mapped_pages(), 466);
	assert_int_equal(remap_count_maps(guest, PAGES), 7);
	assert_true(host.last_wait_nsec > 0);
	check_all();
	/* A write makes a private copy. */
	guest[0] = 'w';
	assert_int_equal(host.store[0], content_of(0));
	assert_int_equal(guest[1], content_of(0));
}

static void zero_run_becomes_hole(void **state _unused_)
{
	struct rusage before, after;

	memset(guest + 8 * PAGE_BYTES, 0, 8 * PAGE_BYTES);
	merge_expect(8, 9, RING_SLOT_ZERO, -ESTALE, 8);
	assert_int_equal(mapped_pages(), 0);
	assert_int_equal(remap_count_maps(guest, PAGES), 1);
	/* They were dropped: reading them is a fault each. */
	(void)getrusage(RUSAGE_SELF, &before);
	for (uint64_t i = 0; i < 8 * PAGE_BYTES; i += PAGE_BYTES)
		assert_int_equal(guest[8 * PAGE_BYTES + i], 0);
	(void)getrusage(RUSAGE_SELF, &after);
	assert_true(after.ru_minflt - before.ru_minflt >= 8);
	check_page(16);
	check_page(7);
}

static int64_t faults_of_reading(uint64_t page, uint64_t n)
{
	struct rusage before, after;

	(void)getrusage(RUSAGE_SELF, &before);
	for (uint64_t i = page; i < page + n; i++)
		assert_int_equal(*(volatile char *)(guest + i * PAGE_BYTES), content_of(i));
	(void)getrusage(RUSAGE_SELF, &after);
	return after.ru_minflt - before.ru_minflt;
}

/* What is not there later was given up, so it must be there from the first. */
static void page_table_is_filled(void **state _unused_)
{
	struct ring_run runs[2];

	runs[0] = remap_run(guest + 3 * PAGE_BYTES, 40, 3);
	runs[1] = remap_run(guest + 64 * PAGE_BYTES, 1, 64);
	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, TRACK | RING_MERGE_POPULATE, 0, runs, 2), 1);
	assert_int_equal(mapped_pages(), 41);
	assert_int_equal(faults_of_reading(3, 40) + faults_of_reading(64, 1), 0);
	/* Not copies: the slot is shared still. */
	host.store[64 * PAGE_BYTES + 1] = '!';
	assert_int_equal(guest[64 * PAGE_BYTES + 1], '!');
	host.store[64 * PAGE_BYTES + 1] = content_of(64);
	merge_expect(128, 40, 128, 0, 40);
	assert_true(faults_of_reading(128, 40) > 0);
	check_all();
}

static void different_page_stays(void **state _unused_)
{
	guest[20 * PAGE_BYTES + 4095] ^= 1;
	merge_expect(16, 16, 16, -ESTALE, 4);
	assert_int_equal(mapped_pages(), 4);
	assert_int_equal(guest[20 * PAGE_BYTES + 4095], content_of(20) ^ 1);
	guest[20 * PAGE_BYTES + 4095] ^= 1;
	check_all();
	/* And at once when it is the first. */
	merge_expect(40, 1, 41, -ESTALE, 0);
	check_all();
}

static void absent_page_stops_run(void **state _unused_)
{
	(void)madvise(guest + 20 * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED);
	merge_expect(16, 16, 16, -ENOENT, 4);
	merge_expect(20, 1, RING_SLOT_ZERO, -ENOENT, 0);
	fill(guest + 20 * PAGE_BYTES, 20);
	check_all();
}

/* Merged already: nothing to move there, and nothing happens to it. */
static void store_mapping_is_refused(void **state _unused_)
{
	merge_expect(16, 16, 16, 0, 16);
	check_all();
	merge_expect(8, 16, 8, -EINVAL, 8);
	merge_expect(16, 1, 16, -EINVAL, 0);
	assert_int_equal(mapped_pages(), 24);
	check_all();
}

static void odd_memory_is_refused(void **state _unused_)
{
	/* Not mlock(): the sanitizers make that do nothing. */
	assert_int_equal(syscall(SYS_mlock, guest + 8 * PAGE_BYTES, PAGE_BYTES), 0);
	merge_expect(8, 1, 8, -EINVAL, 0);
	assert_int_equal(syscall(SYS_munlock, guest + 8 * PAGE_BYTES, PAGE_BYTES), 0);
	assert_int_equal(mprotect(guest + 9 * PAGE_BYTES, PAGE_BYTES, PROT_READ), 0);
	merge_expect(9, 1, 9, -EINVAL, 0);
	assert_int_equal(mprotect(guest + 9 * PAGE_BYTES, PAGE_BYTES, PROT_READ | PROT_WRITE), 0);
	merge_expect(8, 2, 8, 0, 2);
	check_all();
	/* A hole in the address space: nothing is done, nobody crashes. */
	(void)munmap(guest + 100 * PAGE_BYTES, PAGE_BYTES);
	merge_expect(99, 3, 99, -EINVAL, 0);
	assert_ptr_not_equal(mmap(guest + 100 * PAGE_BYTES, PAGE_BYTES, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			     MAP_FAILED);
	fill(guest + 100 * PAGE_BYTES, 100);
	check_all();
}

static void forked_page_is_busy(void **state _unused_)
{
	int to_child[2], status;
	pid_t child;
	char c;

	assert_int_equal(pipe2(to_child, O_CLOEXEC), 0);
	child = fork();
	if (child == 0) {
		(void)close(to_child[1]);
		_exit((int)read(to_child[0], &c, 1));
	}
	assert_true(child > 0);
	merge_expect(16, 16, 16, -EBUSY, 0);
	(void)close(to_child[0]);
	(void)close(to_child[1]);
	assert_int_equal(waitpid(child, &status, 0), child);
	check_all();
	/* Its own again once written. */
	for (uint64_t i = 16; i < 32; i++)
		fill(guest + i * PAGE_BYTES, i);
	merge_expect(16, 16, 16, 0, 16);
	check_all();
}

static void malformed_is_refused(void **state _unused_)
{
	struct ring_run runs[2];
	int store_fd;

	runs[0] = remap_run(guest + 16 * PAGE_BYTES, 16, SLOTS - 15);
	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, 0, 0, runs, 1), -EINVAL);
	runs[0] = remap_run(guest + 16 * PAGE_BYTES, PAGES - 15, 0);
	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, 0, 0, runs, 1), -EINVAL);
	runs[0] = remap_run(guest + 16 * PAGE_BYTES, 2, 16);
	runs[1] = remap_run(guest + 17 * PAGE_BYTES, 2, 17);
	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, 0, 0, runs, 2), -EINVAL);
	assert_int_equal(remap_block(&host, RING_MERGE, guest, 513, 0, 0, runs, 0), -EINVAL);
	assert_int_equal(remap_block(&host, RING_MERGE, guest + 1, 1, 0, 0, runs, 0), -EINVAL);
	host.agent.uffd_kind = RING_UFFD_USER;
	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, 0, 0, runs, 1), -EPERM);
	host.agent.uffd_kind = RING_UFFD_KERNEL;
	host.agent.fds[RING_FD_UFFD] = -1;
	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, 0, 0, runs, 1), -EBADF);
	assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES, 0, 0, runs, 1), -EBADF);
	host.agent.fds[RING_FD_UFFD] = host.uffd;
	/* Without a store there are only zeros to merge. */
	store_fd = host.agent.fds[RING_FD_STORE];
	host.agent.fds[RING_FD_STORE] = -1;
	runs[0] = remap_run(guest, 1, 0);
	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, 0, 0, runs, 1), -EINVAL);
	runs[0] = remap_run(guest, 1, RING_SLOT_ZERO);
	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, 0, 0, runs, 1), 1);
	assert_int_equal(runs[0].result, -ESTALE);
	host.agent.fds[RING_FD_STORE] = store_fd;
	assert_int_equal(mapped_pages(), 0);
	check_all();
}

static void advice_is_restored(void **state _unused_)
{
	const uint32_t advice = RING_ADVICE_DONTFORK | RING_ADVICE_DONTDUMP |
				RING_ADVICE_MERGEABLE | RING_ADVICE_HUGEPAGE;
	char before[128], after[128];
	struct ring_run run;

	(void)madvise(guest, PAGES * PAGE_BYTES, MADV_DONTFORK);
	(void)madvise(guest, PAGES * PAGE_BYTES, MADV_DONTDUMP);
	(void)madvise(guest, PAGES * PAGE_BYTES, MADV_MERGEABLE);
	(void)madvise(guest, PAGES * PAGE_BYTES, MADV_HUGEPAGE);
	remap_vm_flags(guest + 32 * PAGE_BYTES, before, sizeof(before));
	run = remap_run(guest + 32 * PAGE_BYTES, 8, 32);
	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, TRACK, advice, &run, 1), 1);
	assert_int_equal(run.result, 0);
	assert_int_equal(host.last_advice_failed, 0);
	for (uint64_t i = 31; i < 41; i++) {
		remap_vm_flags(guest + i * PAGE_BYTES, after, sizeof(after));
		assert_string_equal(before, after);
	}
	assert_int_equal(mapped_pages(), 8);
	protect(&run, 1);
	assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES, TRACK, advice, &run, 1), 1);
	assert_int_equal(run.result, 0);
	remap_vm_flags(guest + 33 * PAGE_BYTES, after, sizeof(after));
	assert_string_equal(before, after);
	assert_int_equal(mapped_pages(), 0);
	check_all();
}

/* Memory that is not accounted for (memory-backend with reserve=off) stays so. */
static void reserve_is_restored(void **state _unused_)
{
	const uint32_t flags = TRACK | RING_MERGE_NORESERVE;
	char before[128], after[128];
	struct ring_run run;

	assert_ptr_equal(mmap(guest, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0),
			 guest);
	for (uint64_t i = 0; i < PAGES; i++)
		fill(guest + i * PAGE_BYTES, i);
	assert_int_equal(remap_track(&host, guest, PAGES), 0);
	remap_vm_flags(guest, before, sizeof(before));
	if (!strstr(before, "nr")) /* vm.overcommit_memory=2 */
		skip();
	run = remap_run(guest + 32 * PAGE_BYTES, 8, 32);
	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, flags, 0, &run, 1), 1);
	assert_int_equal(run.result, 0);
	remap_vm_flags(guest + 33 * PAGE_BYTES, after, sizeof(after));
	assert_string_equal(before, after);
	assert_int_equal(mapped_pages(), 8);
	assert_int_equal(remap_block(&host, RING_UNMERGE, guest, PAGES, flags, 0, &run, 1), 1);
	protect(&run, 1);
	assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES, flags, 0, &run, 1), 1);
	assert_int_equal(run.result, 0);
	remap_vm_flags(guest + 33 * PAGE_BYTES, after, sizeof(after));
	assert_string_equal(before, after);
	check_all();
}

static void policy_is_given_to_new_memory(void **state _unused_)
{
	const unsigned long nodes = 1;
	struct ring_run run = remap_run(guest + 32 * PAGE_BYTES, 8, 32);
	int mode = -1;

	if (syscall(SYS_mbind, guest, PAGES * PAGE_BYTES, MPOL_BIND, &nodes, 64, 0) < 0)
		skip(); /* a kernel without NUMA */
	host.policy = RING_POLICY(MPOL_BIND, nodes);
	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, TRACK, 0, &run, 1), 1);
	assert_int_equal(remap_block(&host, RING_UNMERGE, guest, PAGES, TRACK, 0, &run, 1), 1);
	protect(&run, 1);
	assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES, TRACK, 0, &run, 1), 1);
	assert_int_equal(run.result, 0);
	assert_int_equal(host.last_advice_failed, 0);
	assert_int_equal(syscall(SYS_get_mempolicy, &mode, NULL, 0, guest + 33 * PAGE_BYTES, MPOL_F_ADDR), 0);
	assert_int_equal(mode, MPOL_BIND);
	/* A policy that cannot be: said, and the pages are there all the same. */
	host.policy = RING_POLICY(MPOL_BIND, UINT64_C(1) << 55);
	run = remap_run(guest + 48 * PAGE_BYTES, 8, 48);
	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, TRACK, 0, &run, 1), 1);
	assert_int_equal(remap_block(&host, RING_UNMERGE, guest, PAGES, TRACK, 0, &run, 1), 1);
	protect(&run, 1);
	assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES, TRACK, 0, &run, 1), 1);
	assert_int_equal(run.result, 0);
	assert_int_equal(host.last_advice_failed, RING_ADVICE_POLICY);
	check_all();
}

/* Marks: pages that were not merged keep theirs, merged ones report a write. */
static void tracking_goes_on(void **state _unused_)
{
	assert_true(remap_collect(&host, guest, PAGES) >= PAGES);
	assert_int_equal(remap_collect(&host, guest, PAGES), 0);
	merge_expect(16, 16, 16, 0, 16);
	merge_expect(64, 1, 65, -ESTALE, 0);
	assert_true(remap_collect(&host, guest, PAGES) <= 17);
	assert_int_equal(remap_collect(&host, guest, PAGES), 0);
	guest[17 * PAGE_BYTES] = content_of(17);
	guest[64 * PAGE_BYTES] = content_of(64);
	guest[65 * PAGE_BYTES] = content_of(65);
	assert_int_equal(remap_collect(&host, guest, PAGES), 3);
	check_all();
}

/* As I/O in flight does. Until the descriptor is closed. */
static int pin_for_writing(void *start, uint64_t n_pages)
{
	struct io_uring_params params = {0};
	struct iovec iov = {start, n_pages * PAGE_BYTES};
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

	if (ring < 0 ||
	    syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1) < 0) {
		print_message("io_uring: %s\n", strerror(errno));
		skip();
	}
	return ring;
}

/* A caller who forgot that the block is tracked: writes are reported all the same, also to a page
 * that was not moved and so has kept its mark until the end. */
static void pinned_page_is_busy_and_tracked(void **state _unused_)
{
	struct ring_run run = remap_run(guest + 64 * PAGE_BYTES, 2, 64);
	int ring = pin_for_writing(guest + 65 * PAGE_BYTES, 1);
	uint64_t deadline = now_usec() + 20 * USEC_PER_SEC;

	(void)remap_collect(&host, guest, PAGES);
	assert_int_equal(remap_collect(&host, guest, PAGES), 0);
	assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, 0, 0, &run, 1), 1);
	assert_int_equal(run.result, -EBUSY);
	assert_int_equal(run.merged, 1);
	guest[65 * PAGE_BYTES] = content_of(65);
	assert_int_equal(remap_track(&host, guest, PAGES), 0);
	assert_int_equal(remap_collect(&host, guest + 65 * PAGE_BYTES, 1), 1);
	check_all();
	/* The kernel unpins after the descriptor is closed. */
	(void)close(ring);
	run = remap_run(guest + 65 * PAGE_BYTES, 1, 65);
	do
		assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, TRACK, 0, &run, 1),
				 1);
	while (run.result == -EBUSY && now_usec() < deadline);
	assert_int_equal(run.result, 0);
	check_all();
}

static void unmerge_copies(void **state _unused_)
{
	struct ring_run run = remap_run(guest + 16 * PAGE_BYTES, 16, 16);

	merge_expect(16, 16, 16, 0, 16);
	assert_int_equal(remap_block(&host, RING_UNMERGE, guest, PAGES, TRACK, 0, &run, 1), 1);
	assert_int_equal(run.result, 0);
	assert_int_equal(run.merged, 16);
	memset(host.store + 16 * PAGE_BYTES, 0xee, 16 * PAGE_BYTES);
	check_all();
}

/* --- out of mappings, out of address space ----------------------------------------------- */

/* Uses up the process's mappings: advice on every other page cuts a reservation into pieces. */
static char *exhaust_maps(uint64_t *ret_bytes)
{
	uint64_t max = 0;
	char *map;

	if (io_read_u64(AT_FDCWD, "/proc/sys/vm/max_map_count", &max) < 0 || max > 200000) {
		print_message("max_map_count is too high to be used up quickly\n");
		skip();
	}
	*ret_bytes = (max + 2) * PAGE_BYTES;
	map = mmap(NULL, *ret_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	for (uint64_t i = 1; i < max; i += 2)
		if (madvise(map + i * PAGE_BYTES, PAGE_BYTES, MADV_DONTFORK) < 0)
			return map;
	fail_msg("mappings are not bounded");
	return NULL;
}

/* Makes room for n mappings or so. */
static void relent(char *map, uint64_t n)
{
	(void)madvise(map, (n + 1) * PAGE_BYTES, MADV_DONTFORK);
}

static void survives_lack_of_mappings(void **state _unused_)
{
	struct ring_run runs[PAGES / 2];
	uint64_t bytes;
	uint32_t n = 0;
	char *hog;

	/* The scratch area is there; a merged run for RECLAIM, too. */
	merge_expect(64, 16, 64, 0, 16);
	runs[0] = remap_run(guest + 64 * PAGE_BYTES, 16, 0);
	protect(runs, 1);
	hog = exhaust_maps(&bytes);
	merge_expect(16, 8, 16, -ENOMEM, 0);
	merge_expect(200, 1, RING_SLOT_ZERO, -ENOMEM, 0);
	check_all();
	assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES, TRACK, 0, runs, 1), 1);
	assert_int_equal(runs[0].result, -ENOMEM);
	assert_int_equal(mapped_pages(), 16);
	check_all();
	/* Step by step a few more, so that each call of a transaction fails once. */
	for (uint64_t more = 1; more < 60; more++) {
		relent(hog, more);
		runs[0] = remap_run(guest + (128 + 4 * more) * PAGE_BYTES, 2,
				    128 + 4 * (uint32_t)more);
		assert_int_equal(remap_block(&host, RING_MERGE, guest, PAGES, TRACK, 0, runs, 1),
				 1);
		assert_true(runs[0].result == 0 || runs[0].result == -ENOMEM);
		n += runs[0].merged;
		runs[0] = remap_run(guest + 64 * PAGE_BYTES, 16, 0);
		protect(runs, 1);
		assert_int_equal(remap_block(&host, RING_RECLAIM, guest, PAGES, TRACK, 0, runs, 1),
				 1);
		if (runs[0].result == 0)
			merge_expect(64, 16, 64, 0, 16);
		else
			assert_int_equal(runs[0].result, -ENOMEM);
		check_all();
	}
	assert_int_equal(munmap(hog, bytes), 0);
	assert_true(n > 0);
	assert_int_equal(mapped_pages(), 16 + n);
	/* Nobody waits for anything, absent pages included. */
	(void)madvise(guest + 450 * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED);
	assert_int_equal(guest[450 * PAGE_BYTES], 0);
	for (uint64_t i = 0; i < PAGES; i++)
		fill(guest + i * PAGE_BYTES, i);
	check_all();
}

static void survives_lack_of_address_space(void **state _unused_)
{
	struct rlimit old, tight = {0};
	char statm[64];
	uint64_t size;
	size_t used;
	struct ring_run run;
	int64_t r;

	assert_int_equal(getrlimit(RLIMIT_AS, &old), 0);
	tight.rlim_max = old.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_AS, &tight), 0);
	run = remap_run(guest + 16 * PAGE_BYTES, 8, 16);
	r = remap_block(&host, RING_MERGE, guest, PAGES, TRACK, 0, &run, 1);
	(void)setrlimit(RLIMIT_AS, &old);
	assert_int_equal(r, -ENOMEM); /* no scratch area */
	merge_expect(16, 8, 16, 0, 8);
	protect(&run, 1);
	assert_int_equal(setrlimit(RLIMIT_AS, &tight), 0);
	r = remap_block(&host, RING_RECLAIM, guest, PAGES, TRACK, 0, &run, 1);
	(void)setrlimit(RLIMIT_AS, &old);
	assert_int_equal(r, 1);
	assert_int_equal(run.result, -ENOMEM);
	assert_int_equal(mapped_pages(), 8);
	check_all();
	/* One mapping for another of the same size needs none. */
	assert_int_equal(io_read_line(AT_FDCWD, "/proc/self/statm", statm, sizeof(statm)), 0);
	assert_int_equal(parse_u64_prefix(statm, strlen(statm), 10, &size, &used), 0);
	tight.rlim_cur = size * PAGE_BYTES;
	assert_int_equal(setrlimit(RLIMIT_AS, &tight), 0);
	run = remap_run(guest + 64 * PAGE_BYTES, 8, 64);
	r = remap_block(&host, RING_MERGE, guest, PAGES, TRACK, 0, &run, 1);
	(void)setrlimit(RLIMIT_AS, &old);
	assert_int_equal(r, 1);
	assert_int_equal(run.result, 0);
	check_all();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(merges_runs, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(zero_run_becomes_hole, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(page_table_is_filled, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(different_page_stays, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(absent_page_stops_run, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(store_mapping_is_refused, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(odd_memory_is_refused, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(forked_page_is_busy, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(malformed_is_refused, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(advice_is_restored, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(reserve_is_restored, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(policy_is_given_to_new_memory, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(tracking_goes_on, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(pinned_page_is_busy_and_tracked, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(unmerge_copies, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(survives_lack_of_mappings, transaction_setup, transaction_teardown),
		cmocka_unit_test_setup_teardown(survives_lack_of_address_space, transaction_setup, transaction_teardown),
	};

	return transaction_skips_all() ? 0 : cmocka_run_group_tests(tests, NULL, NULL);
}
