/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "common/kernel-abi.h"
#include "daemon/pagemap.h"
#include "tests/unit/unit.h"

#define RUNS_MAX 32

struct runs {
	struct page_run v[RUNS_MAX];
	size_t n;
	size_t stop_at; /* fail when so many have come; 0: never */
};

static int note_run(const struct page_run *run, void *userdata)
{
	struct runs *runs = userdata;

	assert_true(runs->n < RUNS_MAX);
	assert_true(run->n_pages > 0);
	runs->v[runs->n++] = *run;
	return runs->n == runs->stop_at ? -ECANCELED : 0;
}

static void assert_run(const struct runs *runs, size_t i, uint64_t first_page, uint64_t n_pages,
		       uint32_t bits)
{
	assert_true(i < runs->n);
	assert_int_equal(runs->v[i].start.addr >> PAGE_SHIFT, first_page);
	assert_int_equal(runs->v[i].n_pages, n_pages);
	assert_int_equal(runs->v[i].bits, bits);
}

static void decode_bits(void **state _unused_)
{
	const struct pagemap_zero zero = { .pfn = 77, .huge_pfn = 512 };
	const uint64_t present = PAGEMAP_ENTRY_PRESENT;
	const uint64_t entries[] = {
		0,
		present | 5,
		present | 6,
		present | PAGEMAP_ENTRY_UFFD_WP | 7,
		present | 77,
		present | PAGEMAP_ENTRY_FILE | 512,
		present | PAGEMAP_ENTRY_FILE | 1023,
		present | PAGEMAP_ENTRY_FILE | 1024,
		PAGEMAP_ENTRY_SWAPPED | 77,
		PAGEMAP_ENTRY_SWAPPED | PAGEMAP_ENTRY_UFFD_WP,
		PAGEMAP_ENTRY_SOFT_DIRTY,
		PAGEMAP_ENTRY_UFFD_WP | PAGEMAP_ENTRY_FILE,
	};
	struct runs runs = { 0 };

	assert_int_equal(pagemap_decode(entries, ARRAY_SIZE(entries), HVA(10 * PAGE_BYTES), &zero,
					false, note_run, &runs),
			 0);
	assert_int_equal(runs.n, 8);
	assert_run(&runs, 0, 10, 1, 0);
	assert_run(&runs, 1, 11, 2, PAGE_PRESENT | PAGE_WRITTEN);
	assert_run(&runs, 2, 13, 1, PAGE_PRESENT);
	assert_run(&runs, 3, 14, 3, PAGE_PRESENT | PAGE_ZERO | PAGE_WRITTEN);
	assert_run(&runs, 4, 17, 1, PAGE_PRESENT | PAGE_FILE | PAGE_WRITTEN);
	assert_run(&runs, 5, 18, 1, PAGE_SWAPPED | PAGE_WRITTEN);
	assert_run(&runs, 6, 19, 1, PAGE_SWAPPED);
	assert_run(&runs, 7, 20, 2, 0);
}

static void decode_unprivileged(void **state _unused_)
{
	/* Without CAP_SYS_ADMIN every frame number is 0: no page may pass for the zero page. */
	const struct pagemap_zero unknown = { 0 };
	const uint64_t entries[] = { PAGEMAP_ENTRY_PRESENT, PAGEMAP_ENTRY_PRESENT };
	struct runs runs = { 0 };

	assert_int_equal(pagemap_decode(entries, 2, HVA(0), &unknown, false, note_run, &runs), 0);
	assert_int_equal(pagemap_decode(entries, 2, HVA(0), NULL, false, note_run, &runs), 0);
	assert_int_equal(runs.n, 2);
	assert_run(&runs, 0, 0, 2, PAGE_PRESENT | PAGE_WRITTEN);
	assert_run(&runs, 1, 0, 2, PAGE_PRESENT | PAGE_WRITTEN);
}

static void decode_soft_dirty(void **state _unused_)
{
	const uint64_t entries[] = { PAGEMAP_ENTRY_PRESENT | PAGEMAP_ENTRY_SOFT_DIRTY,
				     PAGEMAP_ENTRY_SWAPPED | PAGEMAP_ENTRY_SOFT_DIRTY,
				     PAGEMAP_ENTRY_PRESENT, PAGEMAP_ENTRY_SOFT_DIRTY };
	struct runs runs = { 0 };

	assert_int_equal(pagemap_decode(entries, 4, HVA(0), NULL, true, note_run, &runs), 0);
	assert_int_equal(runs.n, 4);
	assert_run(&runs, 0, 0, 1, PAGE_PRESENT | PAGE_WRITTEN);
	assert_run(&runs, 1, 1, 1, PAGE_SWAPPED | PAGE_WRITTEN);
	assert_run(&runs, 2, 2, 1, PAGE_PRESENT);
	assert_run(&runs, 3, 3, 1, 0);
}

static void decode_stops(void **state _unused_)
{
	const uint64_t entries[] = { PAGEMAP_ENTRY_PRESENT, 0, PAGEMAP_ENTRY_PRESENT };
	struct runs runs = { .stop_at = 1 };

	assert_int_equal(pagemap_decode(entries, 3, HVA(0), NULL, false, note_run, &runs),
			 -ECANCELED);
	assert_int_equal(runs.n, 1);
	assert_int_equal(pagemap_decode(entries, 0, HVA(0), NULL, false, note_run, &runs), 0);
	assert_int_equal(runs.n, 1);
}

/* The walk on ourselves: a range with a hole in the mappings. */
static void walk_self(void **state)
{
	const unsigned *flags = *state;
	struct process p = {
		.proc_fd = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC),
		.pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC),
	};
	char *map = mmap(NULL, 8 * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);
	uint64_t first = (uintptr_t)map >> PAGE_SHIFT;
	struct runs runs = { 0 };

	assert_true(p.pagemap_fd >= 0 && map != MAP_FAILED);
	(void)madvise(map, 8 * PAGE_BYTES, MADV_NOHUGEPAGE);
	map[2 * PAGE_BYTES] = 1;
	map[3 * PAGE_BYTES] = 1;
	assert_int_equal(munmap(map + 5 * PAGE_BYTES, PAGE_BYTES), 0);
	map[7 * PAGE_BYTES] = 1;
	assert_int_equal(pagemap_walk(&p, HVA(map), 8, *flags, note_run, &runs), 0);
	assert_int_equal(runs.n, 4);
	assert_run(&runs, 0, first, 2, 0);
	assert_run(&runs, 1, first + 2, 2, PAGE_PRESENT | PAGE_WRITTEN);
	assert_run(&runs, 2, first + 4, 3, 0);
	assert_run(&runs, 3, first + 7, 1, PAGE_PRESENT | PAGE_WRITTEN);
	assert_int_equal(pagemap_walk(&p, HVA(map), 0, *flags, note_run, &runs), 0);
	(void)munmap(map, 8 * PAGE_BYTES);
	(void)close(p.pagemap_fd);
	(void)close(p.proc_fd);
}

static void walk_gone(void **state)
{
	const unsigned *flags = *state;
	struct process p = { .pagemap_fd = -1 };
	struct runs runs = { 0 };
	char path[32];
	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0) {
		(void)pause();
		_exit(0);
	}
	(void)snprintf(path, sizeof(path), "/proc/%d", (int)child);
	p.proc_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	p.pagemap_fd = openat(p.proc_fd, "pagemap", O_RDONLY | O_CLOEXEC);
	assert_true(p.pagemap_fd >= 0);
	assert_int_equal(pagemap_walk(&p, HVA(0x10000), 1, *flags, note_run, &runs), 0);
	assert_int_equal(runs.n, 1);
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(pagemap_walk(&p, HVA(0x10000), 1, *flags, note_run, &runs), -ESRCH);
	(void)close(p.pagemap_fd);
	(void)close(p.proc_fd);
}

int main(void)
{
	static unsigned file = PAGEMAP_FORCE_FILE, best = 0;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(decode_bits),
		cmocka_unit_test(decode_unprivileged),
		cmocka_unit_test(decode_soft_dirty),
		cmocka_unit_test(decode_stops),
		{ "walk_self", walk_self, NULL, NULL, &best },
		{ "walk_self_file", walk_self, NULL, NULL, &file },
		{ "walk_gone", walk_gone, NULL, NULL, &best },
		{ "walk_gone_file", walk_gone, NULL, NULL, &file },
	};

	return cmocka_run_group_tests_name("pagemap", tests, NULL, NULL);
}
