/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/pagemap.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "common/kernel-abi.h"
#include "common/kernel.h"
#include "common/util.h"
#include "daemon/pagemap-runs.h"

/* Entries of the pagemap file read in one call: 2 MiB of memory, 4 KiB of answer. */
#define FILE_ENTRIES 512U

/* --- runs ------------------------------------------------------------------------------------ */

int run_joiner_flush(struct run_joiner *j)
{
	struct page_run run = j->run;

	j->run.n_pages = 0;
	return run.n_pages > 0 ? j->fn(&run, j->userdata) : 0;
}

int run_joiner_add(struct run_joiner *j, uint64_t start, uint64_t end, uint32_t bits)
{
	uint64_t n_pages = (end - start) >> PAGE_SHIFT;

	if (n_pages == 0)
		return 0;
	if (j->run.n_pages > 0 && j->run.bits == bits) {
		j->run.n_pages += n_pages;
		return 0;
	}

	int r = run_joiner_flush(j);

	if (r < 0)
		return r;
	j->run = (struct page_run){ .start = HVA(start), .n_pages = n_pages, .bits = bits };
	return 0;
}

static uint32_t bits_from_entry(uint64_t e, const struct pagemap_zero *zero, bool soft_dirty)
{
	uint32_t bits = 0;
	uint64_t pfn = e & PAGEMAP_ENTRY_PFN;

	if (e & PAGEMAP_ENTRY_PRESENT) {
		bits |= PAGE_PRESENT;
		if (pfn != 0 && zero &&
		    (pfn == zero->pfn ||
		     (zero->huge_pfn != 0 && pfn - zero->huge_pfn < HUGE_PAGES)))
			bits |= PAGE_ZERO;
	} else if (e & PAGEMAP_ENTRY_SWAPPED) {
		bits |= PAGE_SWAPPED;
	}
	if (e & PAGEMAP_ENTRY_FILE)
		bits |= PAGE_FILE;
	if (soft_dirty ? e & PAGEMAP_ENTRY_SOFT_DIRTY : !(e & PAGEMAP_ENTRY_UFFD_WP))
		bits |= PAGE_WRITTEN;
	return bits_normalise(bits);
}

static int decode_entries(const uint64_t *entries, uint64_t n, uint64_t addr,
			  const struct pagemap_zero *zero, bool soft_dirty, struct run_joiner *j)
{
	for (uint64_t i = 0; i < n; i++, addr += PAGE_BYTES) {
		int r = run_joiner_add(j, addr, addr + PAGE_BYTES,
				       bits_from_entry(entries[i], zero, soft_dirty));

		if (r < 0)
			return r;
	}
	return 0;
}

int pagemap_decode(const uint64_t *entries, uint64_t n, hva start, const struct pagemap_zero *zero,
		   bool soft_dirty, page_run_fn *fn, void *userdata)
{
	struct run_joiner j = { .fn = fn, .userdata = userdata };
	int r = decode_entries(entries, n, start.addr, zero, soft_dirty, &j);

	return r < 0 ? r : run_joiner_flush(&j);
}

/* --- the pagemap file ------------------------------------------------------------------------ */

/* The file of a process whose memory is gone (exit or exec) reads as empty. */
static int entries_read(int fd, uint64_t addr, uint64_t n, uint64_t *ret)
{
	size_t want = n * sizeof(*ret), have = 0;
	off_t offset = (off_t)((addr >> PAGE_SHIFT) * sizeof(*ret));

	while (have < want) {
		ssize_t got = pread(fd, (char *)ret + have, want - have, offset + (off_t)have);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			return -ESRCH;
		have += (size_t)got;
	}
	return 0;
}

int pagemap_check_memory(int fd)
{
	uint64_t entry;

	return entries_read(fd, 0, 1, &entry);
}

static int walk_file(int fd, uint64_t start, uint64_t end, bool soft_dirty,
		     struct run_joiner *j)
{
	struct pagemap_zero zero;
	uint64_t entries[FILE_ENTRIES];

	pagemap_zero_probe(&zero);
	for (uint64_t n; start < end; start += n << PAGE_SHIFT) {
		n = MIN((end - start) >> PAGE_SHIFT, (uint64_t)FILE_ENTRIES);

		int r = entries_read(fd, start, n, entries);

		if (r >= 0)
			r = decode_entries(entries, n, start, &zero, soft_dirty, j);
		if (r < 0)
			return r;
	}
	return 0;
}

int pagemap_read_pfns(const struct process *p, hva start, uint64_t n_pages, uint64_t *ret_pfns)
{
	int r = entries_read(p->pagemap_fd, start.addr, n_pages, ret_pfns);

	if (r < 0)
		return r;
	for (uint64_t i = 0; i < n_pages; i++) {
		uint64_t pfn = ret_pfns[i] & PAGEMAP_ENTRY_PFN;

		if (!(ret_pfns[i] & PAGEMAP_ENTRY_PRESENT))
			pfn = 0;
		else if (pfn == 0)
			return -EPERM;
		ret_pfns[i] = pfn;
	}
	return 0;
}

/* Reading untouched memory of ours maps the zero page there. The huge one comes at the same
 * place for all, and stays as long as we live once we have mapped it. */
static uint64_t zero_pfn_probe(size_t bytes, int advice)
{
	_cleanup_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	char *map = mmap(NULL, 2 * bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t entries[2] = { 0 }, pfn = 0;

	if (map == MAP_FAILED)
		return 0;

	char *page = (char *)ALIGN_UP((uintptr_t)map, bytes);

	(void)madvise(map, 2 * bytes, advice);
	(void)*(volatile char *)page;
	if (fd >= 0 && entries_read(fd, (uintptr_t)page, 2, entries) == 0 &&
	    (entries[0] & PAGEMAP_ENTRY_PRESENT))
		pfn = entries[0] & PAGEMAP_ENTRY_PFN;
	/* Not the huge zero page after all: the kernel gave a small one. */
	if (bytes > PAGE_BYTES && (entries[1] & PAGEMAP_ENTRY_PFN) != pfn + 1)
		pfn = 0;
	(void)munmap(map, 2 * bytes);
	return pfn;
}

void pagemap_zero_probe(struct pagemap_zero *ret)
{
	static _Atomic uint64_t pfn, huge_pfn;
	static atomic_bool known;

	/* Two threads may both probe: they learn the same. */
	if (!atomic_load(&known)) {
		atomic_store(&pfn, zero_pfn_probe(PAGE_BYTES, MADV_NOHUGEPAGE));
		atomic_store(&huge_pfn, zero_pfn_probe(HUGE_BYTES, MADV_HUGEPAGE));
		atomic_store(&known, true);
	}
	*ret = (struct pagemap_zero){ .pfn = pfn, .huge_pfn = huge_pfn };
}

/* --- the walk -------------------------------------------------------------------------------- */

int pagemap_walk(const struct process *p, hva start, uint64_t n_pages, unsigned flags,
		 page_run_fn *fn, void *userdata)
{
	struct run_joiner j = { .fn = fn, .userdata = userdata };
	bool soft_dirty = flags & PAGEMAP_SOFT_DIRTY;
	int r, flushed;

	assert(!soft_dirty || !(flags & PAGEMAP_CLEAR_WRITTEN));
	if (n_pages == 0)
		return 0;
	if ((flags & PAGEMAP_FORCE_FILE) || !kernel_has(KERNEL_PAGEMAP_SCAN) ||
	    (soft_dirty && !kernel_has(KERNEL_SCAN_SOFT_DIRTY))) {
		if (flags & PAGEMAP_CLEAR_WRITTEN)
			return -EOPNOTSUPP;
		r = walk_file(p->pagemap_fd, start.addr, hva_add_pages(start, n_pages).addr,
			      soft_dirty, &j);
	} else {
		r = pagemap_walk_scan(p, start, n_pages, flags, NULL, &j);
	}
	/* Also after an error: what was cleared must be reported. */
	flushed = run_joiner_flush(&j);
	return r < 0 ? r : flushed;
}
