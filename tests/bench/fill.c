/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fills a guest's RAM from outside with a known mixture:
 *
 *   fill PID START PAGES SEED DUPLICATES RUN
 *
 * DUPLICATES per cent of the pages hold content that depends on the page's number only (equal
 * in all guests filled so), in runs of RUN pages; the others are unique to SEED. With RUN 1 the
 * duplicates are isolated: no two are neighbours up to 50 %.
 */
#include <inttypes.h>
#include <sys/uio.h>

#include "common/parse.h"
#include "common/units.h"
#include "common/util.h"

#define CHUNK_PAGES 256U

/* splitmix64: content that no two (seed, page, word) share. */
static uint64_t mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static void fill_page(uint64_t *page, uint64_t seed, uint64_t number)
{
	uint64_t x = mix(seed * UINT64_C(0x100000001b3) + number);

	for (size_t i = 0; i < PAGE_BYTES / sizeof(*page); i++)
		page[i] = x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
}

int main(int argc, char **argv)
{
	static uint64_t buf[CHUNK_PAGES * PAGE_BYTES / sizeof(uint64_t)];
	uint64_t pid, start, n_pages, seed, percent, run;
	size_t used;

	if (argc != 7 || parse_u64(argv[1], 1, INT32_MAX, &pid) < 0 ||
	    parse_u64_prefix(argv[2], strlen(argv[2]), 16, &start, &used) < 0 ||
	    parse_u64(argv[3], 1, UINT32_MAX, &n_pages) < 0 ||
	    parse_u64(argv[4], 1, UINT32_MAX, &seed) < 0 || parse_u64(argv[5], 0, 100, &percent) < 0 ||
	    parse_u64(argv[6], 1, 4096, &run) < 0) {
		(void)fprintf(stderr, "usage: fill PID START(hex) PAGES SEED DUPLICATES%% RUN\n");
		return EXIT_FAILURE;
	}
	for (uint64_t at = 0; at < n_pages; at += CHUNK_PAGES) {
		uint64_t n = MIN(n_pages - at, (uint64_t)CHUNK_PAGES);
		struct iovec local = { buf, n * PAGE_BYTES }, remote = { (void *)(start + at * PAGE_BYTES),
									 n * PAGE_BYTES };

		for (uint64_t i = 0; i < n; i++) {
			uint64_t page = at + i, cluster = page / run;
			/* Evenly spread: cluster k is a duplicate when k * percent / 100 steps. */
			bool duplicate = (cluster + 1) * percent / 100 != cluster * percent / 100;

			fill_page(buf + i * PAGE_BYTES / sizeof(uint64_t), duplicate ? 0 : seed, page);
		}
		if (process_vm_writev((pid_t)pid, &local, 1, &remote, 1, 0) !=
		    (ssize_t)(n * PAGE_BYTES)) {
			perror("process_vm_writev");
			return EXIT_FAILURE;
		}
	}
	return EXIT_SUCCESS;
}
