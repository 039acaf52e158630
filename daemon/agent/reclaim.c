/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * RECLAIM: mappings of the store become anonymous memory again.
 *
 * Theory of operation
 *
 * A merged page that the guest wrote is a private copy, but one inside a mapping of a file: it
 * can neither be merged again (UFFDIO_MOVE wants anonymous memory) nor is its slot free. Left
 * alone, a guest that writes for days would end with nothing but such mappings. RECLAIM
 * replaces a range of them by one anonymous mapping with the same bytes, so that it can merge
 * again.
 *
 * There is no call that changes the kind of a mapping, and no call that moves a page from one kind
 * to the other. So the bytes are copied, and the difficulty is in-flight I/O: a copy of a page
 * into which a device is still writing (O_DIRECT) loses what arrives later. UFFDIO_MOVE would
 * say EBUSY, but not here. Therefore:
 *
 *   prepare  A new anonymous mapping elsewhere ("fresh"), its advice and policy set, its pages
 *            filled with a first copy (so that none need be allocated later). Spare mappings are
 *            made and given back, so that max_map_count cannot stop us half way.
 *   freeze   The range is registered MISSING and MINOR: MISSING catches accesses to what is not
 *            in the page table and has no slot, MINOR those that would find the slot's page.
 *            Present pages are still used by the guest.
 *   take     mremap(MREMAP_DONTUNMAP) moves the pages "aside", frames and all, and leaves the
 *            emptied mapping where it is, registration included: all accesses wait from now
 *            on. This is atomic (one lock, one flush), and I/O in flight goes on into the same
 *            frames, which are ours to look at now. Anonymous parts of the range (WHOLE) go
 *            to the fresh mapping by UFFDIO_MOVE, which refuses pinned ones.
 *   verify   That no page may still be written by a device, see below.
 *   copy     From aside to fresh.
 *   commit   mremap(MREMAP_FIXED) of fresh over the range: again atomic; whoever looks sees the
 *            frozen emptiness and waits, or the final bytes.
 *   thaw     UFFDIO_WAKE. What is aside is unmapped.
 *
 * Undo, up to commit, is mremap of each mapping from aside to where it was: the very same pages.
 *
 * The proof that nothing writes late. A device writes to a page that was pinned for writing. The
 * kernel pins it so only through a writable entry of the page table, else it takes a write fault
 * first (which also makes the copy of a slot's page). Say PROTECT marked the page write-protected
 * at time T0. Then:
 *   (1) pins from before T0 are gone if at some time since then the process (or the host) had
 *       no such pin at all. The daemon establishes this, at leisure (daemon/pins.h).
 *   (2) pins from after T0 needed a write fault, which took the protection off. So if the entry
 *       is still protected when the page has been put aside, there is none, and as the page is in
 *       no page table but ours, there will be none.
 * (2) can be seen only by writing to the page aside (its own byte back): an entry that is
 * protected takes a fault, which the thread's fault counter shows; a writable one takes none, and
 * the range is put back (-EBUSY). The counter could err if just between two readings another
 * fault hit this thread, e.g. on its stack: pages that the reading itself has just
 * used; it would have to coincide with a device write to a page that PROTECT had marked and that
 * had been left alone until microseconds ago. Automatic NUMA balancing, which also makes entries
 * fault, leaves pinned pages of such mappings alone, and so does migration (compaction), which
 * takes no page that has more references than entries, as a pinned one has.
 * Where nothing in the process does direct I/O, the daemon says RING_RECLAIM_UNPINNED instead.
 * A slot's page that was never written has no pin for writing at all, and passes (2) because
 * writing to it faults.
 *
 * The marks are RECLAIM's alone: the tracker never protects copies in mappings of the store
 * (daemon/pagemap-scan.c says why) and takes what is not written there for the store's page. So
 * no collect may fall between PROTECT and RECLAIM, and RECLAIM leaves no mark, also when it fails.
 *
 * What SIGKILL means. Of the daemon: nothing, the agent finishes. Of the guest: nothing outside
 * its address space is involved.
 */
#include "daemon/agent/reclaim.h"

#include <linux/resource.h>

/* Mappings that a transaction may need beyond one for each run: fresh, splits at both ends of
 * the range and of aside, and what the kernel's own checks want free. */
#define SPARE_MAPS 12U

/* Bounds of one freeze, as measured: 8 us for a run and the gap before it, 0.3 us to copy a page
 * and 0.6 us to verify it: about half of the millisecond that a guest may be made to wait. */
#define FREEZE_RUNS  32U
#define FREEZE_PAGES 256U

struct reclaim {
	const struct range_env *e;
	uint64_t addr, bytes;  /* becomes one anonymous mapping */
	struct ring_run *runs; /* the store's mappings in it */
	uint32_t n_runs;
	uint32_t flags, advice_mask;
	uint32_t advice_failed;
	uint64_t fresh;
	/* What undo has to undo: parts registered (all runs, then all gaps), runs put aside, gaps
	 * moved. */
	uint32_t n_frozen, n_aside, n_moved;
	uint64_t aside[BLOCK_PAGES];
	uint8_t resident[BLOCK_PAGES];
};

static uint64_t run_bytes(const struct ring_run *run)
{
	return pages_bytes(run->n_pages);
}

static uint64_t run_end(const struct ring_run *run)
{
	return run->addr + run_bytes(run);
}

/* Where a page of the range will be copied to. */
static uint64_t fresh_of(const struct reclaim *c, uint64_t addr)
{
	return c->fresh + (addr - c->addr);
}

/* Gap i is the anonymous part before run i (after the last one for i == n_runs); often empty. */
static void gap_get(const struct reclaim *c, uint32_t i, uint64_t *ret_addr, uint64_t *ret_bytes)
{
	uint64_t from = i == 0 ? c->addr : run_end(&c->runs[i - 1]);
	uint64_t to = i == c->n_runs ? c->addr + c->bytes : c->runs[i].addr;

	*ret_addr = from;
	*ret_bytes = to - from;
}

/* All pages of the runs must be in memory: reading one in is not for a freeze. */
static int reclaim_check(struct reclaim *c)
{
	if (range_residency(c->addr, c->bytes, c->resident) < 0)
		return -EINVAL;
	for (uint32_t i = 0; i < c->n_runs; i++) {
		uint64_t first = (c->runs[i].addr - c->addr) >> PAGE_SHIFT;

		for (uint32_t k = 0; k < c->runs[i].n_pages; k++)
			if (!(c->resident[first + k] & 1))
				return -ENOENT;
	}
	return 0;
}

/*
 * Makes sure that mappings can be made later. One mapping is cut into as many as will be needed
 * (advice on every other page cuts it), then all are given back. Other threads could take
 * them all the same; then an undo waits until there is one again.
 */
static int spare_maps_check(uint32_t n)
{
	uint64_t bytes = pages_bytes(n), addr;
	long r = sys_mmap(0, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (sys_is_error(r))
		return (int)r;
	addr = (uint64_t)r;
	for (uint32_t i = 1; i < n && r >= 0; i += 2)
		r = sys_madvise(addr + pages_bytes(i), PAGE_BYTES, MADV_DONTFORK);
	(void)sys_munmap(addr, bytes);
	return r < 0 ? -ENOMEM : 0;
}

static int fresh_fill(struct reclaim *c)
{
	for (uint32_t i = 0; i < c->n_runs; i++) {
		uint64_t done = 0;
		uint32_t tries = 0;

		while (done < run_bytes(&c->runs[i])) {
			struct uffdio_copy copy = {
				.dst = fresh_of(c, c->runs[i].addr) + done,
				.src = c->runs[i].addr + done,
				.len = run_bytes(&c->runs[i]) - done,
			};
			int r = (int)sys_ioctl(c->e->uffd, UFFDIO_COPY, &copy);

			if (copy.copy > 0)
				done += (uint64_t)copy.copy;
			else if (r < 0 && (r != -EAGAIN || ++tries == LUCK_TRIES))
				return r;
		}
	}
	return 0;
}

/* Nothing here changes what the guest sees. */
static int reclaim_prepare(struct reclaim *c)
{
	int r = spare_maps_check(2 * c->n_runs + SPARE_MAPS);

	if (r < 0)
		return r;
	r = range_new(c->bytes, c->addr, c->e->map_flags, &c->fresh);
	if (r < 0)
		return r;
	/* Huge pages are no concern: filling by UFFDIO_COPY makes base pages. */
	c->advice_failed = range_advise(c->fresh, c->bytes, c->advice_mask);
	if (!range_bind(c->e, c->fresh, c->bytes))
		c->advice_failed |= RING_ADVICE_POLICY;
	r = range_register(c->e, c->fresh, c->bytes, UFFDIO_REGISTER_MODE_WP);
	if (r == 0)
		r = fresh_fill(c);
	if (r < 0)
		(void)sys_munmap(c->fresh, c->bytes);
	return r;
}

/* Part i is run i, and after the runs gap i - n_runs. */
static void part_get(const struct reclaim *c, uint32_t i, uint64_t *ret_addr, uint64_t *ret_bytes)
{
	if (i >= c->n_runs) {
		gap_get(c, i - c->n_runs, ret_addr, ret_bytes);
		return;
	}
	*ret_addr = c->runs[i].addr;
	*ret_bytes = run_bytes(&c->runs[i]);
}

/* Registers one part. -EINVAL when it is not of the kind that the daemon took it for. */
static int part_freeze(const struct reclaim *c, uint32_t i)
{
	uint64_t addr, bytes, mode = FREEZE_MODE;
	int r;

	part_get(c, i, &addr, &bytes);
	if (bytes == 0)
		return 0;
	if (i < c->n_runs)
		mode |= UFFDIO_REGISTER_MODE_MINOR;
	else /* marks on absent pages are no pages, but MOVE stumbles */
		(void)range_protect(c->e, addr, bytes, false);
	r = range_register(c->e, addr, bytes, mode);
	if (r == -ENOMEM)
		range_thaw_part(c->e, addr, bytes);
	return r;
}

static int reclaim_freeze(struct reclaim *c)
{
	int r = 0;

	while (r == 0 && c->n_frozen < 2 * c->n_runs + 1) {
		r = part_freeze(c, c->n_frozen);
		if (r == 0)
			c->n_frozen++;
	}
	return r;
}

/* Puts the runs aside and moves the gaps. Undo looks at n_aside and n_moved. */
static int reclaim_take(struct reclaim *c)
{
	for (uint32_t i = 0; i < c->n_runs; i++) {
		uint64_t bytes = run_bytes(&c->runs[i]);
		long r = sys_mremap(c->runs[i].addr, bytes, bytes,
				    MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);

		/* SIGKILL of the daemon: nothing, here as below. */
		if (sys_is_error(r))
			return r == -EFAULT ? -EINVAL : (int)r;
		c->aside[c->n_aside++] = (uint64_t)r;
	}
	for (uint32_t i = 0; i <= c->n_runs; i++) {
		uint64_t addr, bytes;
		uint32_t moved;
		int r;

		gap_get(c, i, &addr, &bytes);
		r = pages_move_some(c->e, fresh_of(c, addr), addr, (uint32_t)(bytes >> PAGE_SHIFT),
				    UFFDIO_MOVE_MODE_DONTWAKE, &moved);
		if (r < 0) {
			pages_give_back(c->e, addr, fresh_of(c, addr), moved);
			return r;
		}
		c->n_moved++;
	}
	return 0;
}

static uint64_t faults_now(void)
{
	struct rusage u;

	u.ru_minflt = 0;
	u.ru_majflt = 0;
	(void)sys_getrusage(RUSAGE_THREAD, &u);
	return (uint64_t)u.ru_minflt + (uint64_t)u.ru_majflt;
}

/* "The proof that nothing writes late", part (2), for what is aside of one run. */
static int aside_verify(const struct reclaim *c, uint32_t i)
{
	uint64_t faults = faults_now();

	for (uint32_t k = 0; k < c->runs[i].n_pages; k++) {
		uint64_t now;

		byte_touch((uint8_t *)(c->aside[i] + pages_bytes(k)));
		now = faults_now();
		if (now == faults)
			return -EBUSY;
		faults = now;
	}
	return 0;
}

static int reclaim_copy(struct reclaim *c)
{
	(void)faults_now(); /* the code and the stack are there */
	for (uint32_t i = 0; i < c->n_runs; i++) {
		int r = c->flags & RING_RECLAIM_UNPINNED ? 0 : aside_verify(c, i);

		if (r < 0)
			return r;
		__builtin_memcpy((void *)fresh_of(c, c->runs[i].addr), (const void *)c->aside[i],
				 run_bytes(&c->runs[i]));
	}
	return 0;
}

/*
 * Fresh in place of the range. It is registered for the fill, and would be joined with a neighbour
 * that is registered (tracked) in the same way and was fresh before it: mremap() ends the registration
 * of what it moved, and thereby the neighbour's (tests/platform/remap-freeze.c), whose marks then
 * stay while writes no longer take them off. So its own ends first.
 */
static int reclaim_commit(struct reclaim *c)
{
	struct uffdio_range fresh = {c->fresh, c->bytes};
	int q = (int)sys_ioctl(c->e->uffd, UFFDIO_UNREGISTER, &fresh);

	if (q < 0)
		return q;
	for (;;) {
		long r = sys_mremap(c->fresh, c->bytes, c->bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
				    c->addr);

		if (!sys_is_error(r))
			return 0;
		/* Refused before anything was changed: undo. But if the kernel ran out of memory
		 * after it had unmapped the range, there is no way but forward, at once. */
		if (range_is_mapped(c->addr, c->bytes))
			return (int)r;
		pause_a_little();
	}
}

/* The very pages back to where they were. Like pages_give_back(), this cannot be given up. */
static void reclaim_undo(struct reclaim *c)
{
	for (uint32_t i = 0; i < c->n_aside; i++) {
		uint64_t bytes = run_bytes(&c->runs[i]);

		while (sys_is_error(sys_mremap(c->aside[i], bytes, bytes,
					       MREMAP_MAYMOVE | MREMAP_FIXED, c->runs[i].addr)))
			pause_a_little();
	}
	for (uint32_t i = 0; i < c->n_moved; i++) {
		uint64_t addr, bytes;

		gap_get(c, i, &addr, &bytes);
		pages_give_back(c->e, addr, fresh_of(c, addr), (uint32_t)(bytes >> PAGE_SHIFT));
	}
	for (uint32_t i = 0; i < c->n_frozen; i++) {
		uint64_t addr, bytes;

		part_get(c, i, &addr, &bytes);
		if (bytes)
			range_thaw(c->e, addr, bytes);
	}
	(void)sys_munmap(c->fresh, c->bytes);
}

static int reclaim_range(struct reclaim *c, struct freeze_clock *clock)
{
	uint64_t since;
	int r = reclaim_check(c);

	if (r == 0)
		r = reclaim_prepare(c);
	if (r < 0) {
		for (uint32_t i = 0; i < c->n_runs; i++)
			(void)range_protect(c->e, c->runs[i].addr, run_bytes(&c->runs[i]), false);
		return r;
	}
	since = freeze_clock_begin(clock);
	r = reclaim_freeze(c);
	if (r == 0)
		r = reclaim_take(c);
	if (r == 0)
		r = reclaim_copy(c);
	if (r == 0)
		r = reclaim_commit(c);
	if (r < 0) {
		reclaim_undo(c);
		freeze_clock_note(clock, since);
		return r;
	}
	range_wake(c->e, c->addr, c->bytes);
	freeze_clock_note(clock, since);
	for (uint32_t i = 0; i < c->n_aside; i++)
		(void)sys_munmap(c->aside[i], run_bytes(&c->runs[i]));
	if (c->e->track_mode)
		(void)range_register(c->e, c->addr, c->bytes, c->e->track_mode);
	return 0;
}

/* How many of the runs from i on go into one freeze. */
static uint32_t range_runs(const struct ring_merge *m, const struct ring_run *runs, uint32_t i)
{
	uint32_t n = 0, n_pages = 0;

	while (i + n < m->n_runs && n < FREEZE_RUNS && (n == 0 || n_pages < FREEZE_PAGES)) {
		n_pages += runs[i + n].n_pages;
		n++;
	}
	return m->flags & RING_RECLAIM_WHOLE ? n : 1;
}

void reclaim_block(const struct range_env *e, struct freeze_clock *clock, struct ring_merge *m,
		   struct ring_run *runs)
{
	const bool whole = m->flags & RING_RECLAIM_WHOLE;
	const uint64_t end = m->addr + m->bytes;
	uint64_t from = m->addr;
	uint32_t i = 0;

	/* WHOLE without runs makes one mapping of anonymous pieces: there is a range all the same.
	 */
	while (i < m->n_runs || (whole && m->n_runs == 0 && from < end)) {
		uint32_t n = m->n_runs ? range_runs(m, runs, i) : 0;
		struct reclaim c;
		int r;

		c.e = e;
		c.addr = whole ? from : runs[i].addr;
		c.bytes = whole ? (i + n < m->n_runs ? runs[i + n].addr : end) - from
				: run_bytes(&runs[i]);
		c.runs = &runs[i];
		c.n_runs = n;
		c.flags = m->flags;
		c.advice_mask = m->advice_mask;
		c.advice_failed = 0;
		c.n_frozen = 0;
		c.n_aside = 0;
		c.n_moved = 0;
		from += c.bytes;
		r = reclaim_range(&c, clock);
		m->advice_failed |= c.advice_failed;
		m->result = whole ? r : 0;
		for (uint32_t k = i; k < i + n; k++) {
			runs[k].result = r;
			runs[k].merged = r == 0 ? runs[k].n_pages : 0;
		}
		i += n;
	}
}
