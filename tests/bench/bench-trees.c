/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How fast pages are hashed, and what the trees cost: for each operation the median of several
 * rounds, as nanoseconds of CPU for one; for each tree its bytes for one entry.
 *
 *   bench-trees [PAGES]     4,000,000 by default
 *
 * Keys are random and so is the order of look-ups: nearly each one misses the caches, as they
 * do in the daemon.
 */
#include <inttypes.h>

#include "common/fingerprint.h"
#include "common/parse.h"
#include "common/units.h"
#include "common/util.h"
#include "daemon/stable.h"
#include "daemon/unstable.h"

#define ROUNDS	   5
#define HASH_PAGES 256U /* 1 MiB: in the second-level cache, as a scan's buffer is */

struct samples {
	double ns[ROUNDS];
	unsigned n;
};

static uint64_t mix64(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static uint64_t cpu_nsec(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

static void sample(struct samples *s, uint64_t since, uint64_t n)
{
	s->ns[s->n++] = (double)(cpu_nsec() - since) / (double)n;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(struct samples *s)
{
	qsort(s->ns, s->n, sizeof(s->ns[0]), compare);
	return s->ns[s->n / 2];
}

/* The compiler may not drop what was computed. */
static void keep(uint64_t x)
{
	__asm__ volatile("" : : "r"(x));
}

static _noreturn_ void die(const char *what)
{
	(void)fprintf(stderr, "bench-trees: %s\n", what);
	exit(1);
}

/* --- hashes ----------------------------------------------------------------- */

enum hash { HASH_FINGERPRINT, HASH_ZERO };

static uint64_t hash_one(enum hash h, const uint8_t *page)
{
	static struct fingerprint_seed seed;

	return h == HASH_ZERO ? page_is_zero(page) : fingerprint_page(&seed, page);
}

static void bench_hash(const char *name, enum hash h, const uint8_t *pages, unsigned repeat)
{
	struct samples s = { .n = 0 };
	double ns;

	while (s.n < ROUNDS) {
		uint64_t start = cpu_nsec();

		for (unsigned i = 0; i < repeat; i++)
			for (unsigned j = 0; j < HASH_PAGES; j++)
				keep(hash_one(h, pages + j * PAGE_BYTES));
		sample(&s, start, (uint64_t)repeat * HASH_PAGES);
	}
	ns = median(&s);
	(void)printf("%-28s %8.0f ns a page", name, ns);
	/* Data is seen not to be zeros in its first bytes: no speed of reading. */
	if (ns > 10)
		(void)printf("  %8.1f GB/s", (double)PAGE_BYTES / ns);
	(void)printf("\n");
}

static void bench_hashes(void)
{
	uint8_t *pages = aligned_alloc(PAGE_BYTES, HASH_PAGES * PAGE_BYTES);

	if (!pages)
		die("no memory");
	for (size_t i = 0; i < HASH_PAGES * PAGE_BYTES; i++)
		pages[i] = (uint8_t)mix64(i);
	bench_hash("fingerprint (XXH3-64)", HASH_FINGERPRINT, pages, 200);
	bench_hash("zero check, data", HASH_ZERO, pages, 200);
	memset(pages, 0, HASH_PAGES * PAGE_BYTES);
	bench_hash("zero check, zeros", HASH_ZERO, pages, 200);
	free(pages);
}

/* --- the unstable tree ---------------------------------------------------------- */

static uint32_t word_of(uint32_t page, void *userdata)
{
	return ((const uint32_t *)userdata)[page];
}

static void insert(struct unstable *u, uint32_t *words, uint32_t page, uint64_t fingerprint)
{
	words[page] = (uint32_t)(fingerprint >> 32);
	if (unstable_insert(u, fingerprint, PAGE_ID(page)) < 0)
		die("cannot insert");
}

static void report(const char *name, struct samples *s)
{
	(void)printf("%-28s %8.0f ns\n", name, median(s));
}

static void bench_unstable(uint32_t n)
{
	struct samples inserts = { .n = 0 }, hits = inserts, misses = inserts, writes = inserts,
		       removes = inserts;
	uint32_t *words = malloc(n * sizeof(*words));
	double bytes = 0, bytes_after = 0;

	if (!words)
		die("no memory");
	memset(words, 0xff, n * sizeof(*words));
	for (uint64_t round = 0; round < ROUNDS; round++) {
		uint64_t base = round << 40, start = cpu_nsec();
		struct unstable *u;
		page_id found;

		if (unstable_new(word_of, words, &u) < 0)
			die("no memory");
		for (uint32_t i = 0; i < n; i++)
			insert(u, words, i, mix64(base + i));
		sample(&inserts, start, n);
		bytes = (double)unstable_bytes(u) / n;

		start = cpu_nsec();
		for (uint32_t i = 0; i < n; i++)
			keep(unstable_find(u, mix64(base + mix64(i) % n), &found, 1));
		sample(&hits, start, n);

		start = cpu_nsec();
		for (uint32_t i = 0; i < n; i++)
			keep(unstable_find(u, mix64(~base - i), &found, 1));
		sample(&misses, start, n);

		start = cpu_nsec();
		for (uint32_t i = 0; i < n; i++) {
			uint32_t page = (uint32_t)(mix64(~(uint64_t)i) % n);

			if (unstable_remove(u, words[page], PAGE_ID(page)) < 0)
				die("lost a page");
			insert(u, words, page, mix64(base + n + i));
		}
		sample(&writes, start, n);
		bytes_after = (double)unstable_bytes(u) / n;

		start = cpu_nsec();
		for (uint32_t i = 0; i < n; i++)
			if (unstable_remove(u, words[i], PAGE_ID(i)) < 0)
				die("lost a page");
		sample(&removes, start, n);
		unstable_free(u);
	}
	free(words);
	report("unstable insert", &inserts);
	report("unstable find, there", &hits);
	report("unstable find, not there", &misses);
	report("unstable remove and insert", &writes);
	report("unstable remove", &removes);
	(void)printf("%-28s %8.2f bytes an entry; %.2f a page with the ledger's 5\n",
		     "unstable memory", bytes, bytes + 5);
	(void)printf("%-28s %8.2f bytes an entry\n", "  after every page changed", bytes_after);
}

/* --- the stable tree ------------------------------------------------------------ */

static void bench_stable(uint32_t n)
{
	struct samples inserts = { .n = 0 }, finds = inserts, frees = inserts;
	record_id *records = malloc(n * sizeof(*records));
	double bytes = 0;

	if (!records)
		die("no memory");
	memset(records, 0xff, n * sizeof(*records));
	for (uint64_t round = 0; round < ROUNDS; round++) {
		uint64_t base = round << 40, start = cpu_nsec();
		struct stable *s;

		if (stable_new(&s) < 0)
			die("no memory");
		for (uint32_t i = 0; i < n; i++)
			if (stable_insert(s, mix64(base + i), SLOT_ID(i), &records[i]) < 0)
				die("cannot insert");
		sample(&inserts, start, n);
		bytes = (double)stable_bytes(s) / n;

		start = cpu_nsec();
		for (uint32_t i = 0; i < n; i++) {
			uint32_t j = (uint32_t)(mix64(i) % n);
			record_id r;

			if (!stable_find(s, mix64(base + j), &r))
				die("lost a record");
		}
		sample(&finds, start, n);

		start = cpu_nsec();
		for (uint32_t i = 0; i < n; i++)
			stable_free_record(s, records[i]);
		sample(&frees, start, n);
		stable_free(s);
	}
	free(records);
	report("stable insert", &inserts);
	report("stable find", &finds);
	report("stable free", &frees);
	(void)printf("%-28s %8.2f bytes a shared page\n", "stable memory", bytes);
}

int main(int argc, char **argv)
{
	uint64_t n = 4000000;

	if (argc > 2 || (argc == 2 && parse_u64(argv[1], 1000, UINT32_MAX / 2, &n) < 0)) {
		(void)fprintf(stderr, "usage: bench-trees [PAGES]\n");
		return 2;
	}
	(void)printf("%" PRIu64 " pages, medians of %d rounds, CPU time\n", n, ROUNDS);
	bench_hashes();
	bench_unstable((uint32_t)n);
	bench_stable((uint32_t)(n / 4));
	return 0;
}
