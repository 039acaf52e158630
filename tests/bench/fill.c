/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fills a guest's RAM from outside with a known mixture:
 *
 *   fill PID START PAGES SEED DUPLICATES RUN [ROUND UNIT [SHARE]]
 *
 * DUPLICATES per cent of the pages hold content that depends on the page's number only (equal
 * in all guests filled so), in runs of RUN pages; the others are unique to SEED. With RUN 1 the
 * duplicates are isolated: no two are neighbours up to 50 %.
 *
 * With ROUND (1, 2, ...) SHARE per cent of the pages (50) get new content, in each round others:
 * UNIT neighbouring pages together. What was a duplicate is one again.
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

struct mixture {
	uint64_t seed, percent, run, round, unit, share;
};

static bool is_chosen(const struct mixture *m, uint64_t page)
{
	return m->round == 0 || mix(m->round << 40 ^ page / m->unit) % 100 < m->share;
}

/* The duplicates are spread evenly: cluster k is one when k * percent / 100 steps. */
static void mixture_page(const struct mixture *m, uint64_t page, uint64_t *to)
{
	uint64_t cluster = page / m->run;
	bool duplicate = (cluster + 1) * m->percent / 100 != cluster * m->percent / 100;

	fill_page(to, (duplicate ? 0 : m->seed) ^ m->round << 32, page);
}

/* Writes the chosen ones of n pages from page at on; 0 or -errno. */
static int fill_some(const struct mixture *m, pid_t pid, uint64_t start, uint64_t at, uint64_t n)
{
	static uint64_t buf[CHUNK_PAGES * PAGE_BYTES / sizeof(uint64_t)];
	struct iovec remote[CHUNK_PAGES], local = { buf, 0 };
	size_t n_remote = 0;

	for (uint64_t page = at; page < at + n; page++) {
		if (!is_chosen(m, page))
			continue;
		mixture_page(m, page, buf + local.iov_len / sizeof(uint64_t));
		local.iov_len += PAGE_BYTES;
		remote[n_remote++] = (struct iovec){ (void *)(start + page * PAGE_BYTES), PAGE_BYTES };
	}
	if (process_vm_writev(pid, &local, 1, remote, n_remote, 0) != (ssize_t)local.iov_len)
		return -errno;
	return 0;
}

int main(int argc, char **argv)
{
	struct mixture m = { .unit = 1, .share = 50 };
	uint64_t pid, start, n_pages;
	size_t used;

	if ((argc != 7 && argc != 9 && argc != 10) || parse_u64(argv[1], 1, INT32_MAX, &pid) < 0 ||
	    parse_u64_prefix(argv[2], strlen(argv[2]), 16, &start, &used) < 0 ||
	    parse_u64(argv[3], 1, UINT32_MAX, &n_pages) < 0 ||
	    parse_u64(argv[4], 1, UINT32_MAX, &m.seed) < 0 ||
	    parse_u64(argv[5], 0, 100, &m.percent) < 0 || parse_u64(argv[6], 1, 4096, &m.run) < 0 ||
	    (argc >= 9 && (parse_u64(argv[7], 1, 100000, &m.round) < 0 ||
			   parse_u64(argv[8], 1, 4096, &m.unit) < 0)) ||
	    (argc == 10 && parse_u64(argv[9], 0, 100, &m.share) < 0)) {
		(void)fprintf(stderr, "usage: fill PID START(hex) PAGES SEED DUPLICATES%% RUN [ROUND UNIT [SHARE]]\n");
		return EXIT_FAILURE;
	}
	for (uint64_t at = 0; at < n_pages; at += CHUNK_PAGES) {
		int r = fill_some(&m, (pid_t)pid, start, at, MIN(n_pages - at, (uint64_t)CHUNK_PAGES));

		if (r < 0) {
			(void)fprintf(stderr, "process_vm_writev: %s\n", strerror(-r));
			return EXIT_FAILURE;
		}
	}
	return EXIT_SUCCESS;
}
