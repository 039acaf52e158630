/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a pass of a tracker costs: CPU time of the caller per page and pass.
 *
 * usage: bench-tracker [MIB]   (default 1024)
 *
 * The tracked process is a child with that much memory, all of it present. "store" means that
 * every second 64 pages are a private mapping of a store, as after merging; "huge" that the
 * memory has huge pages, left whole or armed.
 */
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "common/kernel-abi.h"
#include "common/kernel.h"
#include "common/parse.h"
#include "daemon/tracker.h"
#include "tests/platform/platform.h"

#define PASSES	  5U
#define RUN_PAGES 64U

static uint64_t n_pages;

enum memory { SMALL, STORE, HUGE };

static int64_t lay_out(uint64_t map, uint64_t memory, uint64_t store)
{
	char *m = (char *)map;

	(void)madvise(m, n_pages * PAGE_BYTES, memory == HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	for (uint64_t page = 0; memory == STORE && page < n_pages; page += 2 * RUN_PAGES)
		if (mmap(m + page * PAGE_BYTES, RUN_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_FIXED, (int)store,
			 (off_t)(page / 2 * PAGE_BYTES)) == MAP_FAILED)
			return -errno;
	for (uint64_t page = 0; page < n_pages; page++) {
		volatile char *p = m + page * PAGE_BYTES;

		if (memory == STORE && page / RUN_PAGES % 2 == 0)
			(void)*p;
		else
			*p = 1;
	}
	return 0;
}

/* Writes n random pages, in runs of run pages. */
static int64_t write_some(uint64_t map, uint64_t n, uint64_t run)
{
	for (uint64_t i = 0; i < n; i += run) {
		uint64_t page = (uint64_t)random() % (n_pages - run);

		for (uint64_t j = 0; j < run; j++)
			++*(volatile char *)(map + (page + j) * PAGE_BYTES);
	}
	return 0;
}

static int count_written(const struct page_run *run, void *userdata)
{
	if (run->bits & PAGE_WRITTEN)
		*(uint64_t *)userdata += run->n_pages;
	return 0;
}

static void measure(struct guest *g, struct tracker *t, char *map, const char *what,
		    uint64_t written, uint64_t run)
{
	uint64_t usec = 0, reported = 0;

	for (unsigned pass = 0; pass < PASSES; pass++) {
		uint64_t begin;

		(void)guest_call(g, write_some, (uintptr_t)map, written, run ? run : 1);
		begin = usec_of(CLOCK_THREAD_CPUTIME_ID);
		if (tracker_begin_pass(t) < 0 ||
		    tracker_collect(t, HVA(map), n_pages, count_written, &reported) < 0)
			exit(EXIT_FAILURE);
		usec += usec_of(CLOCK_THREAD_CPUTIME_ID) - begin;
	}
	(void)printf("%-48s %8.2f ns/page %10.1f ms/pass %9llu reported/pass\n", what,
		     (double)usec * 1e3 / (double)(PASSES * n_pages), (double)usec / 1e3 / PASSES,
		     (unsigned long long)(reported / PASSES));
}

static void bench(enum tracker_kind kind, enum memory memory, enum tracker_thp thp,
		  const char *title)
{
	char *map = map_huge(n_pages / HUGE_PAGES);
	int store = must(memfd_create("bench-store", MFD_CLOEXEC));
	struct process p = PROCESS_INIT;
	struct tracker *t = NULL;
	uint64_t first = 0, begin;
	struct guest g;
	int uffd;

	(void)printf("%s\n", title);
	if (ftruncate(store, (off_t)(n_pages * PAGE_BYTES)) < 0)
		exit(EXIT_FAILURE);
	guest_start(&g);
	uffd = kind == TRACKER_WP ? guest_uffd(&g) : -1;
	if (guest_call(&g, lay_out, (uintptr_t)map, memory, (uint64_t)store) < 0 ||
	    process_open(&p, g.pid) < 0 || tracker_new(kind, &p, uffd, thp, &t) < 0 ||
	    tracker_arm(t, HVA(map), n_pages) < 0) {
		(void)printf("  not possible here\n");
	} else {
		(void)tracker_begin_pass(t);
		begin = usec_of(CLOCK_THREAD_CPUTIME_ID);
		(void)tracker_collect(t, HVA(map), n_pages, count_written, &first);
		begin = usec_of(CLOCK_THREAD_CPUTIME_ID) - begin;
		(void)printf("%-48s %8.2f ns/page\n", "  first pass",
			     (double)begin * 1e3 / (double)n_pages);
		measure(&g, t, map, "  nothing written", 0, 1);
		measure(&g, t, map, "  1 % written, single pages", n_pages / 100, 1);
		measure(&g, t, map, "  1 % written, runs of 16", n_pages / 100, 16);
		measure(&g, t, map, "  10 % written, single pages", n_pages / 10, 1);
	}
	tracker_free(t);
	process_close(&p);
	guest_stop(&g);
	(void)close(store);
	unmap_pages(map, n_pages);
}

int main(int argc, char **argv)
{
	uint64_t mib = 1024;

	if (argc > 2 || (argc == 2 && parse_u64(argv[1], 4, 1U << 20, &mib) < 0)) {
		(void)fprintf(stderr, "usage: bench-tracker [MIB]\n");
		return EXIT_FAILURE;
	}
	n_pages = ALIGN_DOWN(MIB(mib) / PAGE_BYTES, (uint64_t)HUGE_PAGES);
	bench(TRACKER_WP, SMALL, TRACKER_THP_ARM, "wp, small pages");
	bench(TRACKER_WP, STORE, TRACKER_THP_ARM, "wp, half of it in a store");
	bench(TRACKER_WP, HUGE, TRACKER_THP_KEEP, "wp, huge pages, kept whole");
	bench(TRACKER_WP, HUGE, TRACKER_THP_ARM, "wp, huge pages, armed");
	bench(TRACKER_SOFTDIRTY, SMALL, TRACKER_THP_ARM, "softdirty, small pages");
	bench(TRACKER_REHASH, SMALL, TRACKER_THP_ARM, "rehash, small pages (without reading them)");
	return EXIT_SUCCESS;
}
