/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Property of every tracker: a page that it does not report has the contents that it had.
 *
 * A model guest changes its memory at random through every path there is: stores of two
 * threads, writes of another process, reads of a file by the kernel, buffered and direct,
 * discards, population, swapping. After each round the tracker is asked, and every page that
 * it calls unwritten is compared with the copy taken when it was last reported.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "common/io.h"
#include "common/kernel.h"
#include "daemon/tracker.h"
#include "tests/platform/platform.h"

#define N_PAGES	   4096U
#define STORE_AT   1024U /* a private mapping of a store */
#define STORE_N	   256U
#define EMPTY_AT   1280U /* never touched at first */
#define EMPTY_N	   220U
#define HOLE_AT	   1500U /* not mapped */
#define HOLE_N	   20U
#define HUGE_AT	   2048U /* huge pages, where the kernel gives them */
#define HUGE_N	   (2 * HUGE_PAGES)
#define SPLIT_AT   3072U /* mappings of 64 pages */
#define ROUNDS	   60U
#define LIST_MAX   256U
#define FILE_PAGES 8U

/* Where guest and test talk: shared memory. */
struct shared {
	uint32_t list[LIST_MAX];
	uint32_t n;
	uint64_t value;
	char path[64];
};

struct world {
	struct guest guest;
	struct process process;
	struct tracker *tracker;
	struct shared *shared;
	enum tracker_kind kind;
	char *map;
	char *copies; /* of what was last reported */
	bool known[N_PAGES], was_file[N_PAGES], was_huge[N_PAGES];
	bool changed[N_PAGES]; /* by this round, in whatever way */
	uint32_t bits[N_PAGES];
	uint64_t excess_pages, reported_pages;
	uint64_t first_pages, later_pages; /* softdirty: reported by an epoch's first pass, and since */
	int store, file;
	bool swap;
};

static bool in(uint32_t page, uint32_t at, uint32_t n)
{
	return page >= at && page < at + n;
}

static char *page_at(const struct world *w, uint32_t page)
{
	return w->map + page * PAGE_BYTES;
}

/* --- in the guest ---------------------------------------------------------------------------- */

struct writer {
	struct shared *shared;
	uint64_t map;
	uint32_t first;
};

static void *write_every_second(void *userdata)
{
	const struct writer *w = userdata;

	for (uint32_t i = w->first; i < w->shared->n; i += 2) {
		volatile uint64_t *page =
			(volatile uint64_t *)(w->map + w->shared->list[i] * PAGE_BYTES);

		page[w->shared->value % 512] = w->shared->value + i;
	}
	return NULL;
}

static int64_t threads_write(uint64_t map, uint64_t shared, uint64_t unused _unused_)
{
	struct writer a = { (struct shared *)shared, map, 0 }, b = { a.shared, map, 1 };
	pthread_t thread;

	if (pthread_create(&thread, NULL, write_every_second, &a) != 0)
		return -EAGAIN;
	(void)write_every_second(&b);
	return -pthread_join(thread, NULL);
}

static int64_t kernel_reads(uint64_t map, uint64_t shared, uint64_t direct)
{
	const struct shared *s = (const struct shared *)shared;
	int fd = open(s->path, O_RDONLY | O_CLOEXEC | (direct ? O_DIRECT : 0));
	int64_t r = fd < 0 ? -errno : 0;

	for (uint32_t i = 0; r >= 0 && i < s->n; i++)
		if (pread(fd, (void *)(map + s->list[i] * PAGE_BYTES), PAGE_BYTES,
			  (off_t)((s->value + i) % FILE_PAGES * PAGE_BYTES)) < 0)
			r = -errno;
	if (fd >= 0)
		(void)close(fd);
	return r;
}

static int64_t advise_list(uint64_t map, uint64_t shared, uint64_t advice)
{
	const struct shared *s = (const struct shared *)shared;

	for (uint32_t i = 0; i < s->n; i++)
		if (madvise((void *)(map + s->list[i] * PAGE_BYTES), PAGE_BYTES, (int)advice) < 0)
			return -errno;
	return 0;
}

static int64_t read_list(uint64_t map, uint64_t shared, uint64_t unused _unused_)
{
	const struct shared *s = (const struct shared *)shared;

	for (uint32_t i = 0; i < s->n; i++)
		(void)*(volatile uint64_t *)(map + s->list[i] * PAGE_BYTES);
	return 0;
}

static int64_t lay_out(uint64_t map, uint64_t store, uint64_t unused _unused_)
{
	char *m = (char *)map;

	(void)madvise(m, HUGE_AT * PAGE_BYTES, MADV_NOHUGEPAGE);
	(void)madvise(m + SPLIT_AT * PAGE_BYTES, (N_PAGES - SPLIT_AT) * PAGE_BYTES,
		      MADV_NOHUGEPAGE);
	for (uint64_t page = 0; page < N_PAGES; page++)
		if (!in((uint32_t)page, EMPTY_AT, EMPTY_N))
			*(volatile uint64_t *)(m + page * PAGE_BYTES) = page + 1;
	(void)madvise(m + HUGE_AT * PAGE_BYTES, HUGE_N * PAGE_BYTES, MADV_COLLAPSE);
	for (uint64_t page = SPLIT_AT; page < N_PAGES; page += 128)
		if (madvise(m + page * PAGE_BYTES, 64 * PAGE_BYTES, MADV_DONTFORK) < 0)
			return -errno;
	if (munmap(m + HOLE_AT * PAGE_BYTES, HOLE_N * PAGE_BYTES) < 0 ||
	    mmap(m + STORE_AT * PAGE_BYTES, STORE_N * PAGE_BYTES, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED, (int)store, 0) == MAP_FAILED)
		return -errno;
	return 0;
}

/* Writes to each page once, in random order and slowly: nothing that is lost is covered up by
 * a later write. */
static int64_t write_each_once(uint64_t map, uint64_t seed, uint64_t spin)
{
	static uint32_t order[N_PAGES];

	srandom((unsigned)seed);
	for (uint32_t i = 0; i < N_PAGES; i++) {
		uint32_t j = (uint32_t)random() % (i + 1);

		order[i] = order[j];
		order[j] = i;
	}
	for (uint32_t i = 0; i < N_PAGES; i++) {
		if (!in(order[i], HOLE_AT, HOLE_N))
			++*(volatile uint64_t *)(map + order[i] * PAGE_BYTES + 8);
		for (volatile uint64_t n = 0; n < spin; n++)
			;
	}
	return 0;
}

/* --- the test -------------------------------------------------------------------------------- */

static void pick(struct world *w, uint32_t n, bool small_only)
{
	w->shared->n = 0;
	w->shared->value = (uint64_t)random();
	while (w->shared->n < n) {
		uint32_t page = (uint32_t)random() % N_PAGES;

		if (in(page, HOLE_AT, HOLE_N) || (small_only && in(page, HUGE_AT, HUGE_N)))
			continue;
		w->shared->list[w->shared->n++] = page;
		w->changed[page] = true;
	}
}

static void call_list(struct world *w, guest_fn *fn, uint64_t argument)
{
	int64_t r = guest_call(&w->guest, fn, (uintptr_t)w->map, (uintptr_t)w->shared, argument);

	if (r < 0)
		fail_msg("in the guest: %s", strerror((int)-r));
}

static void write_from_outside(struct world *w)
{
	char text[64];

	for (uint32_t i = 0; i < w->shared->n; i++) {
		struct iovec local = { text, sizeof(text) };
		struct iovec remote = { page_at(w, w->shared->list[i]) + 2000, sizeof(text) };

		memset(text, (int)random(), sizeof(text));
		assert_int_equal(must(process_vm_writev(w->guest.pid, &local, 1, &remote, 1, 0)),
				 sizeof(text));
	}
}

static void one_round(struct world *w, unsigned round)
{
	memset(w->changed, 0, sizeof(w->changed));
	pick(w, (uint32_t)random() % LIST_MAX, round % 4 != 0);
	call_list(w, threads_write, 0);
	pick(w, (uint32_t)random() % 16, round % 4 != 1);
	write_from_outside(w);
	pick(w, (uint32_t)random() % 16, round % 4 != 2);
	call_list(w, kernel_reads, 0);
	pick(w, (uint32_t)random() % 8, true);
	call_list(w, kernel_reads, 1);
	pick(w, (uint32_t)random() % 32, true);
	call_list(w, advise_list, MADV_DONTNEED);
	/* Some of what was discarded is read again, or written. */
	w->shared->n /= 2;
	call_list(w, read_list, 0);
	w->shared->n /= 2;
	call_list(w, threads_write, 0);
	pick(w, (uint32_t)random() % 32, true);
	call_list(w, read_list, 0);
	if (!w->swap)
		return;
	pick(w, (uint32_t)random() % 64, true);
	call_list(w, advise_list, MADV_PAGEOUT);
	w->shared->n /= 2;
	call_list(w, read_list, 0);
	w->shared->n /= 2;
	call_list(w, threads_write, 0);
}

static int note_bits(const struct page_run *run, void *userdata)
{
	struct world *w = userdata;
	uint64_t first = (run->start.addr - (uintptr_t)w->map) >> PAGE_SHIFT;

	assert_true(first + run->n_pages <= N_PAGES);
	for (uint64_t i = 0; i < run->n_pages; i++)
		w->bits[first + i] = run->bits;
	return 0;
}

static void collect(struct world *w)
{
	static const uint32_t cuts[] = { 0, 700, HUGE_AT, SPLIT_AT + 32, N_PAGES };

	memset(w->bits, 0xff, sizeof(w->bits));
	assert_int_equal(tracker_begin_pass(w->tracker), 0);
	for (size_t i = 0; i + 1 < ARRAY_SIZE(cuts); i++)
		assert_int_equal(tracker_collect(w->tracker, HVA(page_at(w, cuts[i])),
						 cuts[i + 1] - cuts[i], note_bits, w),
				 0);
}

/* What the ledger does: pages that are not there are forgotten, reported ones are read. The
 * others must be as they were, which can be seen only while the guest rests. */
static void check(struct world *w, bool resting)
{
	char now[PAGE_BYTES];

	for (uint32_t page = 0; page < N_PAGES; page++) {
		uint32_t bits = w->bits[page];
		char *copy = w->copies + page * PAGE_BYTES;
		bool file = bits & PAGE_FILE, reported;

		assert_true(bits != UINT32_MAX);
		if (!(bits & PAGE_PRESENT)) {
			w->known[page] = false;
			continue;
		}
		assert_false(in(page, HOLE_AT, HOLE_N));
		reported = (bits & PAGE_WRITTEN) || !w->known[page] ||
			   (w->kind == TRACKER_SOFTDIRTY && file && !w->was_file[page]);
		if (reported || resting)
			assert_int_equal(process_read_pages(&w->process, HVA(page_at(w, page)), 1,
							    reported ? copy : now),
					 1);
		if (!reported && resting && memcmp(now, copy, PAGE_BYTES) != 0)
			fail_msg("page %u changed and was not reported (bits %#x)", page, bits);
		w->reported_pages += reported;
		/* Excess is stated for small anonymous pages; what was huge has marks in common. */
		w->excess_pages += w->known[page] && (bits & PAGE_WRITTEN) && !w->changed[page] &&
				   !in(page, STORE_AT, STORE_N) && !w->was_huge[page];
		w->known[page] = true;
		w->was_file[page] = file;
		w->was_huge[page] |= (bits & PAGE_HUGE) != 0;
	}
}

/* What softdirty states of its excess: an epoch, which begins with a pass that reports everything, goes
 * on only while its other passes together have reported less than that one. */
static void check_epoch(struct world *w)
{
	uint64_t reported = 0;
	bool first = true;

	for (uint32_t page = 0; page < N_PAGES; page++) {
		if ((w->bits[page] & (PAGE_PRESENT | PAGE_ZERO)) != PAGE_PRESENT)
			continue;
		first &= (w->bits[page] & PAGE_WRITTEN) != 0;
		reported += (w->bits[page] & PAGE_WRITTEN) != 0;
	}
	if (first) {
		w->first_pages = reported;
		w->later_pages = 0;
		return;
	}
	if (w->later_pages >= MAX(w->first_pages, (uint64_t)1))
		fail_msg("an epoch that began with %llu pages goes on after %llu more",
			 (unsigned long long)w->first_pages, (unsigned long long)w->later_pages);
	w->later_pages += reported;
}

static int start(struct world *w, enum tracker_kind kind, enum tracker_thp thp)
{
	int uffd;

	assert_int_equal(guest_call(&w->guest, lay_out, (uintptr_t)w->map, (uint64_t)w->store, 0),
			 0);
	assert_int_equal(process_open(&w->process, w->guest.pid), 0);
	uffd = kind == TRACKER_WP ? guest_uffd(&w->guest) : -1;
	w->kind = kind;
	assert_int_equal(tracker_new(kind, &w->process, uffd, thp, &w->tracker), 0);
	return tracker_arm(w->tracker, HVA(w->map), N_PAGES);
}

static void loses_nothing(struct world *w, enum tracker_kind kind, enum tracker_thp thp)
{
	assert_int_equal(start(w, kind, thp), 0);
	collect(w);
	check(w, true);
	if (kind == TRACKER_SOFTDIRTY)
		check_epoch(w);
	w->excess_pages = w->reported_pages = 0;
	for (unsigned round = 0; round < ROUNDS; round++) {
		one_round(w, round);
		collect(w);
		check(w, true);
		if (kind == TRACKER_SOFTDIRTY)
			check_epoch(w);
	}
	print_message("%s: %llu pages reported in %u rounds, %llu of them in excess\n",
		      tracker_kind_to_string(kind), (unsigned long long)w->reported_pages, ROUNDS,
		      (unsigned long long)w->excess_pages);
}

static void require(enum tracker_kind kind)
{
	if (kind == TRACKER_WP) {
		SKIP_WITHOUT(KERNEL_PAGEMAP_SCAN);
		SKIP_WITHOUT(KERNEL_UFFD_WP_ASYNC);
		SKIP_WITHOUT(KERNEL_PIDFD_GETFD);
	}
	if (kind == TRACKER_SOFTDIRTY)
		SKIP_WITHOUT(KERNEL_SOFT_DIRTY);
}

static void wp_loses_nothing(void **state)
{
	struct world *w = *state;

	require(TRACKER_WP);
	loses_nothing(w, TRACKER_WP, TRACKER_THP_ARM);
	assert_int_equal(w->excess_pages, 0);
}

/* Huge pages stay whole, and what was written to them is reported. */
static void wp_keeps_huge(void **state)
{
	struct world *w = *state;
	uint32_t n_huge = 0;

	require(TRACKER_WP);
	loses_nothing(w, TRACKER_WP, TRACKER_THP_KEEP);
	assert_int_equal(w->excess_pages, 0);
	for (uint32_t i = 0; i < HUGE_N; i++) {
		n_huge += w->was_huge[HUGE_AT + i];
		assert_int_equal(w->was_huge[HUGE_AT + i],
				 (w->bits[HUGE_AT + i] & PAGE_HUGE) != 0);
	}
	if (n_huge == 0)
		SKIP("no huge page to be had; the rest passed");
}

static void softdirty_loses_nothing(void **state)
{
	require(TRACKER_SOFTDIRTY);
	loses_nothing(*state, TRACKER_SOFTDIRTY, TRACKER_THP_ARM);
}

static void rehash_loses_nothing(void **state)
{
	loses_nothing(*state, TRACKER_REHASH, TRACKER_THP_ARM);
}

static void with_swap(struct world *w, enum tracker_kind kind)
{
	require(kind);
	swap_borrow();
	w->swap = true;
	loses_nothing(w, kind, TRACKER_THP_ARM);
}

static void wp_with_swap(void **state)
{
	with_swap(*state, TRACKER_WP);
}

static void softdirty_with_swap(void **state)
{
	with_swap(*state, TRACKER_SOFTDIRTY);
}

static bool guest_is_busy(const struct guest *g)
{
	struct pollfd fd = { .fd = g->socket, .events = POLLIN };

	return must(poll(&fd, 1, 0)) == 0;
}

/* The guest writes while we collect; then, at rest, every page is as it was last reported. */
static void under_fire(struct world *w, enum tracker_kind kind)
{
	unsigned n = 0;

	require(kind);
	assert_int_equal(start(w, kind, TRACKER_THP_ARM), 0);
	collect(w);
	check(w, true);
	for (unsigned phase = 0; phase < 20; phase++) {
		guest_send(&w->guest, write_each_once, (uintptr_t)w->map, phase, 10000);
		for (; guest_is_busy(&w->guest); n++) {
			collect(w);
			check(w, false);
		}
		assert_int_equal(guest_receive(&w->guest), 0);
		collect(w);
		check(w, true);
	}
	print_message("%s: %u collects while the guest wrote\n", tracker_kind_to_string(kind), n);
}

static void wp_under_fire(void **state)
{
	under_fire(*state, TRACKER_WP);
}

static void softdirty_under_fire(void **state)
{
	under_fire(*state, TRACKER_SOFTDIRTY);
}

/* After disarming, another userfaultfd can have the memory; while it has, arming says so. */
static int64_t hold_other(uint64_t page, uint64_t n_pages, uint64_t unused _unused_)
{
	int fd = uffd_make(UFFD_FEATURE_WP_ASYNC);
	int r = fd < 0 ? fd : uffd_register(fd, (void *)page, n_pages, UFFDIO_REGISTER_MODE_WP);

	/* On success it stays open: the guest holds it until it dies. */
	if (r < 0)
		close_fdp(&fd);
	return r < 0 ? r : fd;
}

static void wp_gives_way(void **state)
{
	struct world *w = *state;
	uint64_t page = (uintptr_t)w->map;

	require(TRACKER_WP);
	assert_int_equal(start(w, TRACKER_WP, TRACKER_THP_ARM), 0);
	collect(w);
	assert_int_equal(guest_call(&w->guest, hold_other, page, 10, 0), -EBUSY);
	assert_int_equal(tracker_disarm(w->tracker, HVA(w->map), N_PAGES), 0);
	assert_true(guest_call(&w->guest, hold_other, page + 300 * PAGE_BYTES, 10, 0) >= 0);
	assert_int_equal(tracker_arm(w->tracker, HVA(w->map), N_PAGES), -EBUSY);
	/* Nothing is tracked: all that is there is reported. */
	collect(w);
	for (uint32_t i = 0; i < N_PAGES; i++)
		assert_true(w->bits[i] == 0 || (w->bits[i] & PAGE_WRITTEN));
	assert_int_equal(tracker_arm(w->tracker, HVA(w->map), 300), 0);
}

static void gone_guest(void **state)
{
	struct world *w = *state;
	static const enum tracker_kind kinds[] = { TRACKER_REHASH, TRACKER_WP, TRACKER_SOFTDIRTY };

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct world *world = w;

		if ((kinds[i] == TRACKER_WP && !(kernel_has(KERNEL_PAGEMAP_SCAN) &&
						 kernel_has(KERNEL_UFFD_WP_ASYNC))) ||
		    (kinds[i] == TRACKER_SOFTDIRTY && !kernel_has(KERNEL_SOFT_DIRTY)))
			continue;
		guest_stop(&world->guest);
		guest_start(&world->guest);
		assert_int_equal(start(world, kinds[i], TRACKER_THP_ARM), 0);
		collect(world);
		guest_stop(&world->guest);
		assert_int_equal(tracker_collect(world->tracker, HVA(world->map), N_PAGES,
						 note_bits, world),
				 -ESRCH);
		tracker_free(world->tracker);
		world->tracker = NULL;
		process_close(&world->process);
	}
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	char page[PAGE_BYTES];

	srandom(4711);
	w->shared = mmap(NULL, sizeof(*w->shared), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	w->map = map_huge(N_PAGES / HUGE_PAGES);
	w->copies = malloc(N_PAGES * PAGE_BYTES);
	w->store = make_store(STORE_N, 1);
	strcpy(w->shared->path, "/var/tmp/memshared-tracker-XXXXXX");
	w->file = mkostemp(w->shared->path, O_CLOEXEC);
	if (!w->copies || w->file < 0)
		return -1;
	for (unsigned i = 0; i < FILE_PAGES; i++) {
		memset(page, 'A' + (int)i, sizeof(page));
		if (io_write_full(w->file, page, sizeof(page)) < 0)
			return -1;
	}
	if (fsync(w->file) < 0)
		return -1;
	w->process = (struct process)PROCESS_INIT;
	guest_start(&w->guest);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	tracker_free(w->tracker);
	process_close(&w->process);
	guest_stop(&w->guest);
	if (w->swap)
		swap_return();
	(void)unlink(w->shared->path);
	close_fdp(&w->file);
	close_fdp(&w->store);
	unmap_pages(w->map, N_PAGES);
	(void)munmap(w->shared, sizeof(*w->shared));
	free(w->copies);
	free(w);
	return 0;
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(wp_loses_nothing),
		TEST(wp_keeps_huge),
		TEST(wp_with_swap),
		TEST(wp_under_fire),
		TEST(wp_gives_way),
		TEST(softdirty_loses_nothing),
		TEST(softdirty_with_swap),
		TEST(softdirty_under_fire),
		TEST(rehash_loses_nothing),
		TEST(gone_guest),
	};

	return cmocka_run_group_tests_name("tracker", tests, NULL, NULL);
}
