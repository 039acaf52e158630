/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bench-floor [MIB [LENGTH]]: what the kernel takes for what no merging from user space can leave out.
 *
 * On MIB (default 128) of this process's memory, every second run of LENGTH pages (default 1) a duplicate:
 *
 *   read    all pages once by process_vm_readv, as they are scanned
 *   take    UFFDIO_MOVE of each duplicate run out of the memory; all of it is registered beforehand, at once
 *   equal   the bytes of these pages and of their slots, compared
 *   map     mmap of each run's slots in its place
 *
 * each in CPU time a merged page, with nobody else at these mappings. No run is registered by itself, no
 * advice put back, no one woken, nothing decided: less than this a merge cannot cost, however it is done.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "common/parse.h"
#include "common/util.h"
#include "daemon/agent/range.h"
#include "tests/integration/remap-fixture.h"

#define READ_BYTES (256U << 10)

struct floor {
	struct remap host;
	struct range_env env;
	uint64_t n_pages, length;
	uint64_t merged_pages;
	char *guest, *aside;
};

static char *memory_new(uint64_t bytes)
{
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || madvise(p, bytes, MADV_NOHUGEPAGE) < 0) {
		perror("mmap");
		exit(1);
	}
	return p;
}

static void check(int64_t r, const char *what)
{
	if (r >= 0)
		return;
	(void)fprintf(stderr, "%s: %s\n", what, strerror((int)-r));
	exit(1);
}

static void prepare(struct floor *f)
{
	uint64_t bytes = f->n_pages * PAGE_BYTES;

	f->guest = memory_new(bytes);
	f->aside = memory_new(bytes);
	for (uint64_t i = 0; i < f->n_pages; i++)
		for (uint64_t k = 0; k < PAGE_BYTES / 8; k++)
			((uint64_t *)(f->guest + i * PAGE_BYTES))[k] =
				((uint64_t *)(f->host.store + i * PAGE_BYTES))[k] = (i + 1) * 0x9e3779b97f4a7c15U + k;
	f->env = (struct range_env){
		.uffd = f->host.uffd,
		.store = f->host.agent.fds[RING_FD_STORE],
		.store_addr = f->host.agent.store_addr,
		.store_bytes = f->host.agent.store_bytes,
	};
	check(range_register(&f->env, (uintptr_t)f->guest, bytes, UFFDIO_REGISTER_MODE_MISSING), "register");
	check(range_register(&f->env, (uintptr_t)f->aside, bytes, UFFDIO_REGISTER_MODE_WP), "register");
	check(madvise((void *)f->env.store_addr, bytes, MADV_POPULATE_READ), "populate");
}

static void do_read(struct floor *f, uint64_t page)
{
	static char buffer[READ_BYTES];
	struct iovec to = { buffer, READ_BYTES }, from = { f->guest + page * PAGE_BYTES, READ_BYTES };

	if (page % (READ_BYTES / PAGE_BYTES) == 0)
		check(process_vm_readv(getpid(), &to, 1, &from, 1, 0) == READ_BYTES ? 0 : -EIO, "read");
}

static void do_take(struct floor *f, uint64_t page)
{
	uint64_t offset = page * PAGE_BYTES;
	uint32_t moved;

	check(pages_move(&f->env, (uintptr_t)f->aside + offset, (uintptr_t)f->guest + offset,
			 (uint32_t)f->length, UFFDIO_MOVE_MODE_DONTWAKE, &moved), "move");
}

static void do_equal(struct floor *f, uint64_t page)
{
	uint64_t offset = page * PAGE_BYTES;

	check(pages_equal((uintptr_t)f->aside + offset, f->env.store_addr + offset, (uint32_t)f->length) ==
			      f->length ? 0 : -EIO, "equal");
}

static void do_map(struct floor *f, uint64_t page)
{
	uint64_t offset = page * PAGE_BYTES;

	if (mmap(f->guest + offset, f->length * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
		 f->env.store, (off_t)offset) == MAP_FAILED)
		check(-errno, "map");
}

/* Every page, or every second run; CPU time a merged page. */
static double measure(struct floor *f, const char *name, void (*fn)(struct floor *f, uint64_t page),
		      uint64_t step)
{
	uint64_t start = thread_cpu_nsec();
	double usec;

	for (uint64_t page = 0; page + f->length <= f->n_pages; page += step)
		fn(f, page);
	usec = (double)(thread_cpu_nsec() - start) / 1000 / (double)f->merged_pages;
	(void)printf("  %-6s %6.2f us\n", name, usec);
	return usec;
}

int main(int argc, char **argv)
{
	struct floor f = { .length = 1 };
	uint64_t mib = 128;
	double all;

	if ((argc > 1 && parse_u64(argv[1], 2, 1 << 20, &mib) < 0) ||
	    (argc > 2 && parse_u64(argv[2], 1, HUGE_PAGES, &f.length) < 0) || argc > 3) {
		(void)fprintf(stderr, "usage: bench-floor [MIB [LENGTH]]\n");
		return 2;
	}
	f.n_pages = MIB(mib) / PAGE_BYTES;
	f.merged_pages = f.n_pages / (2 * f.length) * f.length;
	check(remap_open(&f.host, f.n_pages), "userfaultfd");
	prepare(&f);
	(void)printf("runs of %" PRIu64 ", %" PRIu64 " pages merged of %" PRIu64 ":\n", f.length, f.merged_pages,
		     f.n_pages);
	all = measure(&f, "read", do_read, 1);
	all += measure(&f, "take", do_take, 2 * f.length);
	all += measure(&f, "equal", do_equal, 2 * f.length);
	all += measure(&f, "map", do_map, 2 * f.length);
	(void)printf("  %-6s %6.2f us a merged page\n", "all", all);
	return 0;
}
