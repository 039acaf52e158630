/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A model guest under merge, unmerge and reclaim: whatever happens to its mappings, its memory
 * holds what was last written there.
 *
 * Groups of pages belong to guest threads. Each has a shadow copy of its own groups and compares
 * before and after it writes: by loads, and through the kernel (process_vm_readv). Two of them
 * are disks that read from a file into guest memory with O_DIRECT, several requests in flight;
 * one is a balloon that discards pages and fills them again; one forks now and then. The
 * threads work in a quarter of the memory at a time, so that the rest is quiet enough to be
 * reclaimed.
 *
 * The agent is the test's main thread, and plays the daemon too: reads a block, finds what
 * equals a slot, and merges it; or takes merged mappings and unmerges or reclaims them. For a
 * reclaim it does what the daemon must do: protect, wait until all I/O from before is over.
 *
 * $MEMSHARED_MODEL_SECONDS: how long (default 20).
 */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "common/parse.h"
#include "tests/integration/remap-fixture.h"

#define BLOCKS	    8U
#define PAGES	    (BLOCKS * HUGE_PAGES)
#define SLOTS	    1024U
#define GROUP	    4U /* pages */
#define GROUPS	    (PAGES / GROUP)
#define WINDOWS	    4U
#define WINDOW_USEC 60000U
#define IO_DEPTH    4U

enum role { ROLE_WRITER, ROLE_DISK, ROLE_BALLOON, ROLE_MAX };
static const enum role roles[] = {ROLE_WRITER, ROLE_WRITER, ROLE_WRITER,
				  ROLE_DISK,   ROLE_DISK,   ROLE_BALLOON};
#define THREADS ARRAY_SIZE(roles)

struct guest_thread {
	pthread_t thread;
	size_t number;
	uint64_t random;
	uint64_t rounds;
	/* Disks: odd while I/O is in flight. */
	atomic_uint io;
	bool direct; /* O_DIRECT works here */
};

static struct remap host;
static char *guest, *shadow;
static struct guest_thread threads[THREADS];
static atomic_bool stop, failed;
static char failure[160];
static int disk_fd = -1;

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Slot contents: the slot's number can be read off the first word. */
static void fill_slot(uint64_t *to, uint64_t slot)
{
	for (uint64_t i = 0; i < PAGE_BYTES / 8; i++)
		to[i] = (slot + 1) << 32 | i * 0x9e3779b9U;
}

static void fail_page(const struct guest_thread *t, uint64_t page, const char *where)
{
	if (!atomic_exchange(&failed, true))
		(void)snprintf(failure, sizeof(failure), "thread %zu (role %d): page %u differs %s",
			       t->number, roles[t->number], (unsigned)page, where);
	atomic_store(&stop, true);
}

static void check_pages(struct guest_thread *t, uint64_t page, uint64_t n, const char *where)
{
	for (uint64_t i = page; i < page + n; i++)
		if (memcmp(guest + i * PAGE_BYTES, shadow + i * PAGE_BYTES, PAGE_BYTES) != 0)
			fail_page(t, i, where);
}

static void check_by_kernel(struct guest_thread *t, uint64_t page, uint64_t n)
{
	static _Thread_local char buf[GROUP * PAGE_BYTES];
	struct iovec to = {buf, n * PAGE_BYTES}, from = {guest + page * PAGE_BYTES, to.iov_len};

	if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != (ssize_t)to.iov_len ||
	    memcmp(buf, shadow + page * PAGE_BYTES, to.iov_len) != 0)
		fail_page(t, page, "as the kernel reads it");
}

/* A group of the thread's own, in the present window; first page. */
static uint64_t pick_group(struct guest_thread *t)
{
	uint64_t window = now_usec() / WINDOW_USEC % WINDOWS, n = GROUPS / WINDOWS / THREADS;
	uint64_t group = random_next(&t->random) % n * THREADS + t->number;

	return (window * (GROUPS / WINDOWS) + group) * GROUP;
}

/* Whole pages, in guest and shadow alike: mostly what the page holds canonically (so that runs
 * come about), else some slot's content or zeros. */
static void write_page(struct guest_thread *t, uint64_t page)
{
	uint64_t *s = (uint64_t *)(shadow + page * PAGE_BYTES),
		 dice = random_next(&t->random) % 100;

	if (dice < 15)
		memset(s, 0, PAGE_BYTES);
	else
		fill_slot(s, dice < 30 ? random_next(&t->random) % SLOTS : page % SLOTS);
	memcpy(guest + page * PAGE_BYTES, s, PAGE_BYTES);
}

static void writer_round(struct guest_thread *t)
{
	uint64_t page = pick_group(t);

	if (random_next(&t->random) % 4 == 0)
		check_by_kernel(t, page, GROUP);
	check_pages(t, page, GROUP, "before a write");
	for (uint64_t i = page; i < page + GROUP; i++) {
		uint64_t word = random_next(&t->random) % (PAGE_BYTES / 8), dice = word % 8;

		if (dice < 2)
			write_page(t, i);
		if (dice == 2) {
			uint64_t v = random_next(&t->random);

			((volatile uint64_t *)(guest + i * PAGE_BYTES))[word] = v;
			((uint64_t *)(shadow + i * PAGE_BYTES))[word] = v;
		}
	}
	check_pages(t, page, GROUP, "after a write");
}

static void balloon_round(struct guest_thread *t)
{
	uint64_t page = pick_group(t);

	check_pages(t, page, GROUP, "before it was discarded");
	(void)madvise(guest + page * PAGE_BYTES, GROUP * PAGE_BYTES, MADV_DONTNEED);
	if (random_next(&t->random) % 2)
		(void)madvise(guest + page * PAGE_BYTES, GROUP * PAGE_BYTES, MADV_POPULATE_READ);
	for (uint64_t i = page; i < page + GROUP; i++)
		write_page(t, i);
	check_pages(t, page, GROUP, "after it was filled again");
}

/* Several reads from the disk at once; their pages are not looked at meanwhile. */
static void disk_round(struct guest_thread *t, aio_context_t aio)
{
	struct iocb cb[IO_DEPTH] = {0}, *cbs[IO_DEPTH];
	struct io_event events[IO_DEPTH];
	uint64_t page[IO_DEPTH], slot[IO_DEPTH];
	long n = 0;

	for (size_t i = 0; i < IO_DEPTH; i++) {
		page[i] = pick_group(t);
		for (size_t k = 0; k < i; k++)
			if (page[k] == page[i])
				return; /* two reads into one page: no telling which is last */
		check_pages(t, page[i], GROUP, "before a read from disk");
		slot[i] = random_next(&t->random) % 4 ? page[i] % SLOTS
						      : random_next(&t->random) % (SLOTS - GROUP);
		cb[i].aio_fildes = (uint32_t)disk_fd;
		cb[i].aio_lio_opcode = IOCB_CMD_PREAD;
		cb[i].aio_buf = (uintptr_t)guest + page[i] * PAGE_BYTES;
		cb[i].aio_nbytes = GROUP * PAGE_BYTES;
		cb[i].aio_offset = (int64_t)(slot[i] * PAGE_BYTES);
		cbs[i] = &cb[i];
	}
	atomic_fetch_add(&t->io, 1);
	n = syscall(SYS_io_submit, aio, IO_DEPTH, cbs);
	if (n > 0)
		(void)syscall(SYS_io_getevents, aio, n, n, events, NULL);
	atomic_fetch_add(&t->io, 1);
	for (long i = 0; i < n; i++) {
		memcpy(shadow + page[i] * PAGE_BYTES, host.store + slot[i] * PAGE_BYTES,
		       GROUP * PAGE_BYTES);
		if (events[i].res != GROUP * PAGE_BYTES)
			fail_page(t, page[i], "because its read failed");
	}
	for (long i = 0; i < n; i++)
		check_pages(t, page[i], GROUP, "after a read from disk");
}

/* A child that has all the memory for a moment. */
static void fork_round(void)
{
	pid_t child = fork();

	if (child == 0) {
		struct timespec moment = {0, 2000000};

		(void)nanosleep(&moment, NULL);
		_exit(0);
	}
	if (child > 0)
		(void)waitpid(child, NULL, 0);
}

static void *guest_main(void *arg)
{
	struct guest_thread *t = arg;
	aio_context_t aio = 0;

	if (roles[t->number] == ROLE_DISK && syscall(SYS_io_setup, IO_DEPTH, &aio) < 0)
		t->direct = false;
	while (!atomic_load(&stop)) {
		if (roles[t->number] == ROLE_BALLOON)
			balloon_round(t);
		else if (roles[t->number] == ROLE_DISK && t->direct)
			disk_round(t, aio);
		else
			writer_round(t);
		if (t->number == 0 && ++t->rounds % 20000 == 0)
			fork_round();
		else if (t->number != 0)
			t->rounds++;
	}
	if (aio)
		(void)syscall(SYS_io_destroy, aio);
	return NULL;
}

/* --- the agent's side ------------------------------------------------------------------------ */

struct tally {
	uint64_t merges, merged_pages, zero_pages, busy, different, absent, other;
	uint64_t unmerged_pages, reclaims, reclaimed_pages, reclaims_whole, reclaim_busy,
		reclaim_other;
	uint32_t longest_wait_nsec;
};
static struct tally tally;
static uint64_t agent_random = 88172645463325252U;

/* Half of the memory is as QEMU's: huge pages, not for children. The other half children share,
 * and has small pages: a part of a huge page that was once shared with a child stays EBUSY to
 * UFFDIO_MOVE for ever, although the parent has it alone again. */
static uint32_t advice_of(const char *block)
{
	return RING_ADVICE_DONTDUMP |
	       (block < guest + PAGES / 2 * PAGE_BYTES ? RING_ADVICE_HUGEPAGE | RING_ADVICE_DONTFORK
						       : RING_ADVICE_NOHUGEPAGE);
}

/* What a page is equal to: a slot, RING_SLOT_ZERO, or -1. */
static int64_t recognise(const uint64_t *page)
{
	uint64_t slot = (page[0] >> 32) - 1;

	if (page[0] == 0)
		return memcmp(page, page + 1, PAGE_BYTES - 8) == 0 ? (int64_t)RING_SLOT_ZERO : -1;
	if (slot >= SLOTS || memcmp(page, host.store + slot * PAGE_BYTES, PAGE_BYTES) != 0)
		return -1;
	return (int64_t)slot;
}

static uint32_t find_runs(char *block, struct ring_run *runs)
{
	static uint64_t page[PAGE_BYTES / 8];
	uint32_t n = 0;

	for (uint64_t i = 0; i < HUGE_PAGES; i++) {
		char *at = block + i * PAGE_BYTES;
		struct iovec to = {page, PAGE_BYTES}, from = {at, PAGE_BYTES};
		struct ring_run *last = n ? &runs[n - 1] : NULL;
		int64_t slot;

		if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != PAGE_BYTES)
			continue;
		slot = recognise(page);
		if (slot < 0 || random_next(&agent_random) % 64 == 0)
			continue;
		if (last && last->addr + last->n_pages * PAGE_BYTES == (uintptr_t)at &&
		    (slot == RING_SLOT_ZERO ? last->slot == slot
					    : last->slot + last->n_pages == slot))
			last->n_pages++;
		else
			runs[n++] = remap_run(at, 1, (uint32_t)slot);
	}
	return n;
}

static void note_wait(void)
{
	tally.longest_wait_nsec = MAX(tally.longest_wait_nsec, host.last_wait_nsec);
}

static void agent_merge(char *block)
{
	static struct ring_run runs[HUGE_PAGES];
	uint32_t n = find_runs(block, runs);

	assert_int_equal(remap_block(&host, RING_MERGE, block, HUGE_PAGES, RING_MERGE_TRACK,
				     advice_of(block), runs, n),
			 1);
	note_wait();
	tally.merges++;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t *sum =
			runs[i].slot == RING_SLOT_ZERO ? &tally.zero_pages : &tally.merged_pages;

		*sum += runs[i].merged;
		tally.busy += runs[i].result == -EBUSY;
		tally.different += runs[i].result == -ESTALE;
		tally.absent += runs[i].result == -ENOENT;
		/* -EINVAL: merged already, and still the slot's page. */
		tally.other += runs[i].result < 0 && runs[i].result != -EBUSY &&
			       runs[i].result != -ESTALE && runs[i].result != -ENOENT &&
			       runs[i].result != -EINVAL;
	}
}

static void agent_unmerge(char *block)
{
	static struct ring_run runs[HUGE_PAGES];
	uint32_t n = remap_find_mapped(&host, block, HUGE_PAGES, runs, HUGE_PAGES);

	assert_int_equal(remap_block(&host, RING_UNMERGE, block, HUGE_PAGES, RING_MERGE_TRACK,
				     advice_of(block), runs, n),
			 1);
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(runs[i].result, 0);
		tally.unmerged_pages += runs[i].merged;
	}
}

/* Until every read that was in flight has ended. */
static void wait_for_io(void)
{
	unsigned before[THREADS];

	for (size_t i = 0; i < THREADS; i++)
		before[i] = atomic_load(&threads[i].io);
	for (size_t i = 0; i < THREADS; i++)
		while (before[i] % 2 && atomic_load(&threads[i].io) == before[i])
			(void)sched_yield();
}

static void agent_reclaim(char *block, uint32_t flags)
{
	static struct ring_run runs[HUGE_PAGES];
	uint32_t n = remap_find_mapped(&host, block, HUGE_PAGES, runs, HUGE_PAGES);

	assert_int_equal(remap_block(&host, RING_PROTECT, block, HUGE_PAGES, RING_MERGE_TRACK,
				     advice_of(block), runs, n),
			 1);
	wait_for_io();
	assert_int_equal(remap_block(&host, RING_RECLAIM, block, HUGE_PAGES,
				     RING_MERGE_TRACK | flags, advice_of(block), runs, n),
			 1);
	note_wait();
	tally.reclaims += n;
	if (n == 0)
		return;
	tally.reclaims_whole += (flags & RING_RECLAIM_WHOLE) && n && runs[0].result == 0;
	for (uint32_t i = 0; i < n; i++) {
		tally.reclaimed_pages += runs[i].merged;
		tally.reclaim_busy += runs[i].result == -EBUSY;
		tally.reclaim_other += runs[i].result < 0 && runs[i].result != -EBUSY;
	}
}

/* More threads than processors here want to run all the time: without this, "longest wait" would
 * only tell how long the others ran while the agent had pages frozen. */
static void agent_prioritise(void)
{
	struct sched_param p = {.sched_priority = 1};

	if (sched_setscheduler(0, SCHED_RR, &p) < 0)
		print_message("no real-time priority: %s\n", strerror(errno));
}

static void agent_round(void)
{
	char *block = guest + random_next(&agent_random) % BLOCKS * HUGE_BYTES;
	uint64_t dice = random_next(&agent_random) % 100;

	if (dice < 50)
		agent_merge(block);
	else if (dice < 60)
		agent_unmerge(block);
	else
		agent_reclaim(block, dice < 75 ? RING_RECLAIM_WHOLE : 0);
}

/* --- set-up and end ----------------------------------------------------------------------------
 */

static uint64_t model_seconds(void)
{
	const char *s = getenv("MEMSHARED_MODEL_SECONDS");
	uint64_t v = 20;

	if (s && parse_u64(s, 1, 86400, &v) < 0)
		fail_msg("MEMSHARED_MODEL_SECONDS=%s is no number", s);
	return v;
}

static int disk_open(void)
{
	char path[] = "/var/tmp/memshared-model-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC), direct;

	if (fd < 0)
		return -errno;
	direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	(void)unlink(path);
	for (uint64_t i = 0; i < SLOTS; i++)
		if (write(fd, host.store + i * PAGE_BYTES, PAGE_BYTES) != PAGE_BYTES)
			close_fdp(&direct);
	(void)fsync(fd);
	(void)close(fd);
	return direct;
}

static void guest_make(void)
{
	char *raw = mmap(NULL, (BLOCKS + 1) * HUGE_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(raw, MAP_FAILED);
	guest = (char *)ALIGN_UP((uintptr_t)raw, HUGE_BYTES);
	shadow = mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		      -1, 0);
	assert_ptr_not_equal(shadow, MAP_FAILED);
	(void)madvise(shadow, PAGES * PAGE_BYTES, MADV_DONTFORK);
	(void)madvise(guest, PAGES * PAGE_BYTES, MADV_DONTDUMP);
	(void)madvise(guest, PAGES / 2 * PAGE_BYTES, MADV_HUGEPAGE);
	(void)madvise(guest, PAGES / 2 * PAGE_BYTES, MADV_DONTFORK);
	(void)madvise(guest + PAGES / 2 * PAGE_BYTES, PAGES / 2 * PAGE_BYTES, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < SLOTS; i++)
		fill_slot((uint64_t *)(host.store + i * PAGE_BYTES), i);
	for (uint64_t i = 0; i < PAGES; i++) {
		fill_slot((uint64_t *)(shadow + i * PAGE_BYTES), i % SLOTS);
		memcpy(guest + i * PAGE_BYTES, shadow + i * PAGE_BYTES, PAGE_BYTES);
	}
	assert_int_equal(remap_track(&host, guest, PAGES), 0);
}

/* The kernel itself may hold a page for a moment (its lists, khugepaged): EBUSY, try again. */
static void give_back(char *block)
{
	uint64_t deadline = now_usec() + 5 * USEC_PER_SEC;

	do
		agent_reclaim(block, RING_RECLAIM_WHOLE);
	while (remap_count_maps(block, HUGE_PAGES) > 1 && now_usec() < deadline);
	if (remap_count_maps(block, HUGE_PAGES) > 1)
		fail_msg("block %td: %u mappings left: %s", (block - guest) / (ptrdiff_t)HUGE_BYTES,
			 remap_count_maps(block, HUGE_PAGES), strerror(-host.last_result));
}

static bool tally_is_full(void)
{
	return tally.merged_pages && tally.zero_pages && tally.unmerged_pages &&
	       tally.reclaimed_pages;
}

static void print_tally(void)
{
	print_message(
		"merges %lu: pages %lu, zero %lu; busy %lu, different %lu, absent %lu, other %lu\n",
		tally.merges, tally.merged_pages, tally.zero_pages, tally.busy, tally.different,
		tally.absent, tally.other);
	print_message(
		"unmerged %lu; reclaims %lu (whole blocks %lu): pages %lu, busy %lu, other %lu; "
		"longest wait %u us\n",
		tally.unmerged_pages, tally.reclaims, tally.reclaims_whole, tally.reclaimed_pages,
		tally.reclaim_busy, tally.reclaim_other, tally.longest_wait_nsec / 1000);
	for (size_t i = 0; i < THREADS; i++)
		print_message("thread %zu: %lu rounds%s\n", i, threads[i].rounds,
			      roles[i] == ROLE_DISK && !threads[i].direct ? ", no O_DIRECT here"
									  : "");
}

static void contents_equal_shadow(void **state _unused_)
{
	char flags_before[2][128], flags_after[128];
	uint64_t deadline = now_usec() + model_seconds() * USEC_PER_SEC;
	uint64_t last_deadline = deadline + 100 * USEC_PER_SEC;
	int r = remap_open(&host, SLOTS);

	if (r < 0) {
		print_message("no userfaultfd with UFFDIO_MOVE and faults from kernel mode: %s\n",
			      strerror(-r));
		remap_close(&host);
		skip();
	}
	guest_make();
	disk_fd = disk_open();
	for (uint32_t half = 0; half < 2; half++)
		remap_vm_flags(guest + half * (PAGES / 2) * PAGE_BYTES, flags_before[half],
			       sizeof(flags_before[half]));
	for (size_t i = 0; i < THREADS; i++) {
		threads[i].number = i;
		threads[i].random = 0x2545f4914f6cdd1dU * (i + 1);
		threads[i].direct = disk_fd >= 0;
		assert_int_equal(pthread_create(&threads[i].thread, NULL, guest_main, &threads[i]),
				 0);
	}
	agent_prioritise();
	/* A slow machine gets longer, until everything has happened. */
	while (!atomic_load(&stop) &&
	       (now_usec() < deadline || (!tally_is_full() && now_usec() < last_deadline)))
		agent_round();
	atomic_store(&stop, true);
	for (size_t i = 0; i < THREADS; i++)
		(void)pthread_join(threads[i].thread, NULL);
	print_tally();
	if (atomic_load(&failed))
		fail_msg("%s", failure);
	assert_memory_equal(guest, shadow, PAGES * PAGE_BYTES);
	/* Quiet now: everything can be given back, and the mappings are as at first, one a block.
	 * (A page that a child had, too, is its parent's alone again once it is written.) */
	for (uint32_t i = 0; i < PAGES; i++)
		((volatile char *)guest)[i * PAGE_BYTES] = shadow[i * PAGE_BYTES];
	for (uint32_t i = 0; i < BLOCKS; i++)
		give_back(guest + i * HUGE_BYTES);
	assert_memory_equal(guest, shadow, PAGES * PAGE_BYTES);
	assert_true(remap_count_maps(guest, PAGES) <= BLOCKS);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		remap_vm_flags(guest + i * HUGE_BYTES, flags_after, sizeof(flags_after));
		assert_string_equal(flags_before[i / (BLOCKS / 2)], flags_after);
	}
	assert_true(tally_is_full());
	assert_int_equal(tally.other, 0);
	close_fdp(&disk_fd);
	remap_close(&host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(contents_equal_shadow)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
