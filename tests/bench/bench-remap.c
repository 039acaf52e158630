/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bench-remap [MIB [SECONDS [LENGTH]]]: what merging costs the agent, and the guest.
 *
 * A guest of MIB (default 256) in this process, DONTFORK and MERGEABLE as QEMU's memory is,
 * tracked; its pages equal slots of a store. For runs of different lengths (or of LENGTH) all of it is merged
 * (runs with one page left out in between) and given back, for SECONDS (default 5) each, while
 * a guest thread reads pages at random and times each access.
 *
 * The transactions are carried out as an agent carries them out: at real-time priority where the host
 * allows it (urgency.h), a block at a time, with a sleep in between.
 *
 *   cpu    thread CPU time of the transactions for each page, scratch and advice included
 *   maps   mappings the guest gained for each page
 *   freeze how long pages were frozen: the agent's own figure, the longest of each block;
 *   work   the CPU time in these
 *   and how long accesses of the guest thread took, of those that took 2 us or more (waits.h)
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "common/parse.h"
#include "common/util.h"
#include "daemon/process.h"
#include "daemon/urgency.h"
#include "tests/bench/waits.h"
#include "tests/integration/remap-fixture.h"

#define ADVICE	(RING_ADVICE_DONTFORK | RING_ADVICE_MERGEABLE)
#define BUCKETS 20000U /* of a microsecond */

struct histogram {
	uint64_t n;
	uint32_t count[BUCKETS + 1];
	uint64_t longest_nsec;
};

static struct remap host;
static struct process self;
static uint64_t blocks, urgent_blocks;
static char *guest;
static uint64_t n_pages;
static atomic_bool stop;

static uint64_t nsec_of(clockid_t clock)
{
	struct timespec t;

	(void)clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

static void histogram_add(struct histogram *h, uint64_t nsec)
{
	h->count[MIN(nsec / NSEC_PER_USEC, BUCKETS)]++;
	h->n++;
	h->longest_nsec = MAX(h->longest_nsec, nsec);
}

static uint64_t histogram_usec(const struct histogram *h, unsigned permille)
{
	uint64_t left = h->n * permille / 1000;

	for (uint64_t i = 0; i < BUCKETS; i++) {
		if (left < h->count[i])
			return i;
		left -= h->count[i];
	}
	return BUCKETS;
}

static void histogram_print(const char *name, const struct histogram *h)
{
	(void)printf("  %-7s p50 %4" PRIu64 " us  p99 %4" PRIu64 " us  p99.9 %5" PRIu64
		     " us  p100 %6.1f us  (%" PRIu64 ")\n",
		     name, histogram_usec(h, 500), histogram_usec(h, 990), histogram_usec(h, 999),
		     (double)h->longest_nsec / 1000, h->n);
}

static void *toucher_main(void *arg)
{
	struct waits *w = arg;
	uint64_t x = 42;

	(void)prctl(PR_SET_NAME, "guest");
	waits_reset(w);
	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		uint64_t start;

		x = x * 6364136223846793005U + 1442695040888963407U;
		start = waits_now();
		(void)*(volatile char *)(guest + (x >> 33) % n_pages * PAGE_BYTES);
		waits_note(w, waits_now() - start);
	}
	return NULL;
}

static void content(char *to, uint64_t page)
{
	uint64_t *p = (uint64_t *)to;

	for (uint64_t i = 0; i < PAGE_BYTES / 8; i++)
		p[i] = (page + 1) * 0x9e3779b97f4a7c15U + i;
}

static void guest_make(void)
{
	uint64_t bytes = n_pages * PAGE_BYTES;
	char *raw = mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (raw == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	guest = (char *)ALIGN_UP((uintptr_t)raw, HUGE_BYTES);
	(void)madvise(guest, bytes, MADV_NOHUGEPAGE);
	(void)madvise(guest, bytes, MADV_DONTFORK);
	(void)madvise(guest, bytes, MADV_MERGEABLE);
	for (uint64_t i = 0; i < n_pages; i++) {
		content(guest + i * PAGE_BYTES, i);
		content(host.store + i * PAGE_BYTES, i);
	}
	(void)remap_track(&host, guest, n_pages);
}

static void must_be_ok(int64_t r, const struct ring_run *runs, uint32_t n, const char *what)
{
	for (uint32_t i = 0; i < n; i++)
		if (r != 1 || runs[i].result < 0) {
			(void)fprintf(stderr, "%s: block %" PRId64 ", run %u of %u: %s\n", what, r,
				      i, n, strerror(-runs[i].result));
			exit(1);
		}
}

/* As the daemon has it done; adds the CPU time. */
static int64_t block_run(enum ring_op op, char *block, uint32_t flags, struct ring_run *runs, uint32_t n,
			 uint64_t *cpu_nsec)
{
	const struct timespec rest = { .tv_nsec = 200000 };
	struct urgency urgency;
	uint64_t start;
	int64_t r;

	urgency_begin(&self, gettid(), &urgency);
	blocks++;
	urgent_blocks += urgency.kind == URGENCY_REALTIME;
	start = nsec_of(CLOCK_THREAD_CPUTIME_ID);
	r = remap_block(&host, op, block, HUGE_PAGES, flags, ADVICE, runs, n);
	*cpu_nsec += nsec_of(CLOCK_THREAD_CPUTIME_ID) - start;
	urgency_end(&self, gettid(), &urgency);
	(void)nanosleep(&rest, NULL);
	return r;
}

/* One pass over the guest: merges, then gives everything back. Adds to the sums. */
static void pass(uint32_t length, struct histogram *freeze, struct histogram *work, uint64_t *pages,
		 uint64_t *cpu_nsec, uint64_t *maps)
{
	static struct ring_run runs[HUGE_PAGES];

	for (uint64_t b = 0; b < n_pages; b += HUGE_PAGES) {
		char *block = guest + b * PAGE_BYTES;
		uint32_t n = 0;
		int64_t r;

		for (uint32_t i = 0; i + length <= HUGE_PAGES; i += length + 1)
			runs[n++] = remap_run(block + i * PAGE_BYTES, length, (uint32_t)b + i);
		r = block_run(RING_MERGE, block, RING_MERGE_TRACK, runs, n, cpu_nsec);
		must_be_ok(r, runs, n, "merge");
		histogram_add(freeze, host.last_wait_nsec);
		histogram_add(work, host.last_wait_cpu_nsec);
		*pages += (uint64_t)n * length;
		*maps += b == 0 ? remap_count_maps(block, HUGE_PAGES) : 0;
	}
}

static void give_back(struct histogram *freeze, uint64_t *pages, uint64_t *cpu_nsec)
{
	static struct ring_run runs[HUGE_PAGES];

	for (uint64_t b = 0; b < n_pages; b += HUGE_PAGES) {
		char *block = guest + b * PAGE_BYTES;
		uint32_t n = remap_find_mapped(&host, block, HUGE_PAGES, runs, HUGE_PAGES);
		int64_t r = block_run(RING_RECLAIM, block,
				      RING_MERGE_TRACK | RING_RECLAIM_UNPINNED | RING_RECLAIM_WHOLE, runs, n,
				      cpu_nsec);

		must_be_ok(r, runs, n, "reclaim");
		histogram_add(freeze, host.last_wait_nsec);
		for (uint32_t i = 0; i < n; i++)
			*pages += runs[i].n_pages;
	}
}

static void measure(uint32_t length, uint64_t seconds)
{
	static struct histogram freeze, work, back;
	static struct waits waits;
	uint64_t pages = 0, cpu = 0, back_pages = 0, back_cpu = 0, maps = 0, passes = 0;
	uint64_t deadline = now_usec() + seconds * USEC_PER_SEC;
	pthread_t toucher;

	memset(&freeze, 0, sizeof(freeze));
	memset(&work, 0, sizeof(work));
	blocks = urgent_blocks = 0;
	memset(&back, 0, sizeof(back));
	atomic_store(&stop, false);
	if (pthread_create(&toucher, NULL, toucher_main, &waits) != 0)
		exit(1);
	do {
		pass(length, &freeze, &work, &pages, &cpu, &maps);
		give_back(&back, &back_pages, &back_cpu);
		passes++;
	} while (now_usec() < deadline);
	atomic_store(&stop, true);
	(void)pthread_join(toucher, NULL);
	(void)printf("runs of %u: cpu %.2f us/page, reclaim %.2f us/page, maps %.2f/page, %" PRIu64
		     " pages; %" PRIu64 " of %" PRIu64 " blocks at real-time priority\n",
		     length, (double)cpu / 1000 / (double)pages,
		     (double)back_cpu / 1000 / (double)back_pages,
		     (double)maps / (double)passes / (double)(HUGE_PAGES / (length + 1) * length),
		     pages, urgent_blocks, blocks);
	histogram_print("freeze", &freeze);
	histogram_print("work", &work);
	histogram_print("reclaim", &back);
	waits_print(&waits);
}

int main(int argc, char **argv)
{
	static const uint32_t lengths[] = {1, 2, 4, 16, 64, 511};
	uint64_t mib = 256, seconds = 5, length = 0;
	int r;

	if ((argc > 1 && parse_u64(argv[1], 2, 1 << 20, &mib) < 0) ||
	    (argc > 2 && parse_u64(argv[2], 1, 3600, &seconds) < 0) ||
	    (argc > 3 && parse_u64(argv[3], 1, HUGE_PAGES - 1, &length) < 0) || argc > 4) {
		(void)fprintf(stderr, "usage: bench-remap [MIB [SECONDS [LENGTH]]]\n");
		return 2;
	}
	n_pages = ALIGN_DOWN(MIB(mib) / PAGE_BYTES, HUGE_PAGES);
	if (process_open(&self, getpid()) < 0)
		return 1;
	r = remap_open(&host, n_pages);
	if (r < 0) {
		(void)fprintf(stderr, "userfaultfd: %s\n", strerror(-r));
		return 77;
	}
	guest_make();
	for (size_t i = 0; i < ARRAY_SIZE(lengths) && length == 0; i++)
		measure(lengths[i], seconds);
	if (length > 0)
		measure((uint32_t)length, seconds);
	return 0;
}
