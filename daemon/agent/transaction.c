/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * MERGE and UNMERGE.
 *
 * Theory of operation
 *
 * MERGE replaces pages of the guest's anonymous memory by private mappings of equal store
 * slots, while the guest runs. A run (neighbouring pages that map neighbouring slots) is cut
 * into pieces of at most FREEZE_PAGES; each piece is a transaction:
 *
 *   check    The pages are in memory (a swapped one would be read in during the freeze). The
 *            slots are read in. A huge page is split (the move would do so, which takes longer
 *            than all the rest).
 *   freeze   UFFDIO_REGISTER, MISSING mode, of exactly these pages: an access to a page that
 *            is not there waits from now on. Nothing waits yet, all pages are there.
 *   take     UFFDIO_MOVE to the scratch area. The kernel takes each page out of the guest's page
 *            table and flushes it, so that no writer can reach it any more, and refuses (EBUSY) a
 *            page that is pinned for I/O or also belongs to a forked child or to KSM. From here
 *            the agent alone has the page: it cannot change, and it is the guest's only copy.
 *   verify   Compared with the slots. What differs is given back.
 *   commit   mmap(MAP_FIXED | MAP_PRIVATE) of the slots over the equal part. One system call under
 *            the lock of the address space: an access sees either the frozen hole, and
 *            waits, or the mapping. Zero pages need no mapping: the hole is what they become.
 *   thaw     UFFDIO_WAKE (the registration went with the replaced mapping), or
 *            UFFDIO_UNREGISTER where the old mapping stays.
 *
 * Afterwards the advice is put back and the scratch pages, now known to be copies, are dropped.
 *
 * Why each piece has a registration of its own, and not the block: MISSING can't be taken back
 * alone. UFFDIO_REGISTER with fewer modes than there are changes nothing, UFFDIO_UNREGISTER drops
 * the write-protection marks of all pages in its range, and the tracker would have to call the
 * whole block written after each merge in it. Besides, the rest of the block need not wait. The
 * costs are about equal: a lone page is split from its mapping once in either case.
 *
 * Why the guest's addresses are never dereferenced: QEMU may unmap them at any moment (memory
 * hot-unplug), and a SIGSEGV of the agent is QEMU's death. System calls get an error instead.
 *
 * Failures. Until commit everything can be undone by moving the pages back, which needs no
 * memory and no mapping: pages_give_back() does not return before it is done. mmap checks its
 * limits (max_map_count, RLIMIT_AS) before it unmaps anything. If it fails later, for lack of
 * kernel memory, kernels before 6.12 leave a hole in the address space: gap_close() fills it at
 * once with anonymous memory, frozen, and the pages go back there; an access in between would
 * have been a fault. It takes an allocation of a few hundred bytes to fail in the kernel.
 *
 * What SIGKILL means. Of the daemon: nothing at any step, the agent finishes the batch; what it
 * did is visible to the next daemon as mappings of the store. Of the guest: the whole address
 * space goes, pages, mappings and waiters. There is no state outside of it but the store's slots,
 * which stay allocated until a daemon finds no mapping of them. Of the agent alone: impossible
 * (SIGKILL is for a process).
 *
 * MADV_DONTNEED by QEMU on a merged page (balloon) shows the slot again, and on a frozen one has no
 * effect: the guest, who gave the page up, finds its old bytes. The daemon refuses
 * guests that rely on such pages being zero.
 *
 * UNMERGE makes the kernel copy the pages of store mappings (MADV_POPULATE_WRITE: write faults
 * without writing). The copies are private anonymous pages inside the same mappings, nobody waits
 * longer than for a copy-on-write of his own, and nothing can be lost: there is no instant at
 * which the guest's bytes are elsewhere. RECLAIM is what makes them anonymous memory.
 */
#include "daemon/agent/transaction.h"

#include "daemon/agent/reclaim.h"

/* Bound of one freeze: a registration and a mapping take 6 to 10 us, moving and comparing 0.3 us a
 * page, or 1 us when neither is in the cache: about 50 us, of the 1 ms that a guest may be made to
 * wait. Longer pieces cost hardly less, and the longer a page is frozen the likelier it is that
 * the scheduler takes our processor away meanwhile: that is what long waits come from. */
#define FREEZE_PAGES 64U

struct merge {
	struct range_env env;
	struct freeze_clock clock;
	/* New mappings, which lack advice, are within [from, to). */
	uint64_t new_from, new_to;
	uint64_t block;
	bool populate;
	uint8_t resident[BLOCK_PAGES]; /* from the block's first page */
};

static void merge_note_new(struct merge *m, uint64_t addr, uint64_t bytes)
{
	if (m->new_from == m->new_to)
		m->new_from = addr;
	m->new_to = addr + bytes;
}

/* After an mmap that failed: see "Failures" above. */
static void gap_close(struct merge *m, uint64_t addr, uint64_t bytes)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE;
	long r;

	do {
		r = sys_mmap(addr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
	} while (r == -ENOMEM || r == -EAGAIN);
	if (sys_is_error(r)) /* the guest itself has mapped something there */
		return;
	merge_note_new(m, addr, bytes);
	while (range_register(&m->env, addr, bytes, FREEZE_MODE) == -ENOMEM)
		pause_a_little();
}

/* Commit: the slots in place of the frozen pages, whose bytes are equal and in scratch. */
static int piece_map(struct merge *m, uint64_t addr, uint32_t n_pages, uint32_t slot)
{
	uint64_t bytes = pages_bytes(n_pages);
	long r = sys_mmap(addr, bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_FIXED | m->env.map_flags, m->env.store,
			  pages_bytes(slot));

	if (!sys_is_error(r)) {
		merge_note_new(m, addr, bytes);
		return 0;
	}
	if (!range_is_mapped(addr, bytes))
		gap_close(m, addr, bytes);
	return (int)r;
}

/* How many of the pages in scratch, from the first on, are what they should become. */
static uint32_t piece_verify(const struct merge *m, uint64_t scratch, uint32_t n_pages,
			     uint32_t slot)
{
	if (slot == RING_SLOT_ZERO)
		return pages_zero(scratch, n_pages);
	return pages_equal(scratch, m->env.store_addr + pages_bytes(slot), n_pages);
}

/* One piece: freeze to thaw. Returns why page number *ret_merged was not merged, 0 if all were. */
static int piece_merge(struct merge *m, uint64_t addr, uint32_t n_pages, uint32_t slot,
		       uint32_t *ret_merged)
{
	const struct range_env *e = &m->env;
	const uint64_t scratch = e->scratch + (addr & (RING_BLOCK_BYTES - 1));
	uint32_t moved = 0, equal = 0, mapped = 0;
	const uint64_t since = freeze_clock_begin(&m->clock);
	int r;

	*ret_merged = 0;
	/* SIGKILL of the daemon, here and below: nothing, this function runs on. */
	r = range_register(e, addr, pages_bytes(n_pages), FREEZE_MODE);
	if (r == -ENOMEM)
		range_thaw_part(e, addr, pages_bytes(n_pages));
	if (r < 0)
		return r;
	r = pages_move(e, scratch, addr, n_pages, UFFDIO_MOVE_MODE_DONTWAKE, &moved);
	/* The guest's only copy of `moved` pages is in scratch now. */
	equal = piece_verify(m, scratch, moved, slot);
	if (equal < moved)
		r = -ESTALE;
	if (equal > 0 && slot != RING_SLOT_ZERO) {
		int q = piece_map(m, addr, equal, slot);

		if (q < 0) {
			equal = 0;
			r = q;
		}
		mapped = equal;
	}
	/* What is in scratch up to `equal` is a copy from here on: of slots, or of the zero page.
	 */
	if (equal < moved)
		pages_give_back(e, addr + pages_bytes(equal), scratch + pages_bytes(equal),
				moved - equal);
	if (mapped < n_pages)
		range_thaw(e, addr + pages_bytes(mapped), pages_bytes(n_pages - mapped));
	if (mapped > 0)
		range_wake(e, addr, pages_bytes(mapped));
	freeze_clock_note(&m->clock, since);
	*ret_merged = equal;
	return r;
}

/* Pages from addr on that are in memory, at most n_pages. */
static uint32_t resident_prefix(const struct merge *m, uint64_t addr, uint32_t n_pages)
{
	uint64_t first = (addr - m->block) >> PAGE_SHIFT;
	uint32_t n = 0;

	while (n < n_pages && (m->resident[first + n] & 1))
		n++;
	return n;
}

/*
 * The slots are in the page table as the pages were that they replace: one that is not there later on was
 * given up since (the daemon's accounting). Nobody waits any more. It takes 0.3 us a page, which the guest's own
 * faults would take. Failure is no harm.
 */
static void run_populate(const struct merge *m, const struct ring_run *run)
{
	if (m->populate && run->merged > 0 && run->slot != RING_SLOT_ZERO)
		(void)sys_madvise(run->addr, pages_bytes(run->merged), MADV_POPULATE_READ);
}

static void run_merge(struct merge *m, struct ring_run *run)
{
	const uint64_t addr = run->addr;
	const uint32_t n_pages = run->n_pages, slot = run->slot;
	const uint32_t present = resident_prefix(m, addr, n_pages);
	uint32_t done = 0;
	int r = 0;

	while (r == 0 && done < present) {
		uint64_t from = addr + pages_bytes(done);
		/* A piece lies within one aligned RING_BLOCK_BYTES, as the scratch area does. */
		uint64_t left = (RING_BLOCK_BYTES - (from & (RING_BLOCK_BYTES - 1))) >> PAGE_SHIFT;
		uint32_t n = present - done, merged;

		n = n > FREEZE_PAGES ? FREEZE_PAGES : n;
		n = n > left ? (uint32_t)left : n;
		r = piece_merge(m, from, n, slot == RING_SLOT_ZERO ? slot : slot + done, &merged);
		done += merged;
	}
	if (r == 0 && present < n_pages)
		r = -ENOENT;
	run->merged = done;
	run->result = r;
	run_populate(m, run);
}

static bool slots_valid(const struct range_env *e, uint32_t slot, uint32_t n_pages)
{
	return slot == RING_SLOT_ZERO || pages_bytes((uint64_t)slot + n_pages) <= e->store_bytes;
}

/*
 * Reads in the slots of runs[i] and of those after it whose slots follow on, so that no freeze
 * waits for the store's swap, and so that a slot that cannot be read is an error and no SIGBUS.
 * Returns the first run that is not covered; *ret_error says whether the slots can be read.
 */
static uint32_t slots_prepare(const struct range_env *e, const struct ring_run *runs, uint32_t n,
			      uint32_t i, int *ret_error)
{
	const uint32_t slot = runs[i].slot;
	uint32_t end = slot;

	*ret_error = 0;
	if (slot == RING_SLOT_ZERO)
		return i + 1;
	for (; i < n && runs[i].slot == end && slots_valid(e, end, runs[i].n_pages); i++)
		end += runs[i].n_pages;
	if (sys_madvise(e->store_addr + pages_bytes(slot), pages_bytes(end - slot),
			MADV_POPULATE_READ) < 0)
		*ret_error = -EFAULT;
	return i;
}

/* What new mappings lack that the old ones had. A fork just before this would have given the
 * child these pages, too, which costs it memory and the guest nothing. */
static void merge_finish(struct merge *m, struct ring_merge *block)
{
	uint64_t bytes = m->new_to - m->new_from;

	if (bytes == 0)
		return;
	if (m->env.track_mode)
		(void)range_register(&m->env, m->new_from, bytes, m->env.track_mode);
	block->advice_failed = range_advise(m->new_from, bytes, block->advice_mask);
}

/* MADV_COLD on a part of a huge page splits it (tests/platform/remap-freeze.c), and does nothing else
 * but to have that one page, which is about to go, look unused. Failure is no harm: the move splits. */
static void huge_split(const struct ring_merge *block, const struct ring_run *runs)
{
	if (block->n_runs > 0)
		(void)sys_madvise(runs[0].addr, PAGE_BYTES, MADV_COLD);
}

static void merge_block(struct merge *m, struct ring_merge *block, struct ring_run *runs)
{
	const uint32_t n = block->n_runs;
	const bool mapped = range_residency(block->addr, block->bytes, m->resident) == 0;
	uint32_t ready = 0;
	int error = -EINVAL;

	m->block = block->addr;
	m->new_from = m->new_to = 0;
	huge_split(block, runs);
	for (uint32_t i = 0; i < n; i++) {
		if (mapped && i >= ready)
			ready = slots_prepare(&m->env, runs, n, i, &error);
		runs[i].merged = 0;
		runs[i].result = error;
		if (error == 0)
			run_merge(m, &runs[i]);
	}
	merge_finish(m, block);
	/* Everything in scratch is a copy by now. */
	(void)sys_madvise(m->env.scratch, RING_BLOCK_BYTES, MADV_DONTNEED);
}

static void unmerge_block(struct ring_merge *block, struct ring_run *runs)
{
	for (uint32_t i = 0; i < block->n_runs; i++) {
		long r = sys_madvise(runs[i].addr, pages_bytes(runs[i].n_pages),
				     MADV_POPULATE_WRITE);

		runs[i].result = (int32_t)r;
		runs[i].merged = r == 0 ? runs[i].n_pages : 0;
	}
}

/* Time T0 of RECLAIM's proof: see reclaim.c. */
static void protect_block(const struct range_env *e, struct ring_merge *block,
			  struct ring_run *runs)
{
	const bool on = !(block->flags & RING_PROTECT_OFF);

	for (uint32_t i = 0; i < block->n_runs; i++) {
		uint64_t bytes = pages_bytes(runs[i].n_pages);
		int r = range_register(e, runs[i].addr, bytes, UFFDIO_REGISTER_MODE_WP);

		if (r == 0)
			r = range_protect(e, runs[i].addr, bytes, on);
		runs[i].result = r;
		runs[i].merged = r == 0 ? runs[i].n_pages : 0;
	}
}

/* The scratch area: anonymous as the guest's memory is, else MOVE would refuse; registered,
 * because MOVE's destination must be, in a mode in which reading its holes does not wait. A child
 * of the guest's gets no part of it (and no share in the pages). */
static int scratch_prepare(struct ring_agent *a, struct range_env *e)
{
	uint64_t addr;
	int r;

	if (!a->scratch_bytes) {
		r = range_new(RING_BLOCK_BYTES, 0, MAP_NORESERVE, &addr);
		if (r < 0)
			return r;
		(void)range_advise(addr, RING_BLOCK_BYTES,
				   RING_ADVICE_WIPEONFORK | RING_ADVICE_DONTDUMP |
					   RING_ADVICE_NOHUGEPAGE);
		a->scratch_addr = addr;
		a->scratch_bytes = RING_BLOCK_BYTES;
	}
	e->scratch = a->scratch_addr;
	return range_register(e, e->scratch, RING_BLOCK_BYTES, UFFDIO_REGISTER_MODE_WP);
}

static int env_prepare(struct ring_agent *a, enum ring_op op, struct range_env *e)
{
	*e = (struct range_env){
		.uffd = a->fds[RING_FD_UFFD],
		.store = a->fds[RING_FD_STORE],
		.store_addr = a->store_addr,
		.store_bytes = a->store_bytes,
		.mbind_denied = a->denied & RING_DENIED_MBIND,
	};
	if (op == RING_UNMERGE)
		return 0;
	if (e->uffd < 0)
		return -EBADF;
	/* Without a store (engine zero) no run has valid slots but those of zeros. */
	if (e->store < 0)
		e->store_bytes = 0;
	if (a->uffd_kind != RING_UFFD_KERNEL)
		return -EPERM;
	return op == RING_MERGE ? scratch_prepare(a, e) : 0;
}

/* Bounds and order; what the kernel thinks of the addresses it says itself. */
static bool block_valid(const struct range_env *e, enum ring_op op, const struct ring_merge *b,
			const struct ring_run *runs)
{
	uint64_t at = b->addr, end = b->addr + b->bytes;

	if (b->addr % PAGE_BYTES || b->bytes % PAGE_BYTES || b->bytes == 0 ||
	    b->bytes > RING_BLOCK_BYTES || end < b->addr)
		return false;
	for (uint32_t i = 0; i < b->n_runs; i++) {
		const struct ring_run *r = &runs[i];

		if (r->addr % PAGE_BYTES || r->addr < at || r->n_pages == 0 || r->addr >= end ||
		    r->n_pages > (end - r->addr) >> PAGE_SHIFT)
			return false;
		if (op == RING_MERGE && !slots_valid(e, r->slot, r->n_pages))
			return false;
		at = r->addr + pages_bytes(r->n_pages);
	}
	return true;
}

static void block_run(struct merge *m, enum ring_op op, struct ring_merge *b, struct ring_run *runs)
{
	m->env.track_mode = b->flags & RING_MERGE_TRACK ? UFFDIO_REGISTER_MODE_WP : 0;
	m->env.map_flags = b->flags & RING_MERGE_NORESERVE ? MAP_NORESERVE : 0;
	m->env.policy = b->policy;
	m->populate = b->flags & RING_MERGE_POPULATE;
	b->advice_failed = 0;
	b->result = 0;
	freeze_clock_start(&m->clock);
	if (op == RING_MERGE)
		merge_block(m, b, runs);
	else if (op == RING_UNMERGE)
		unmerge_block(b, runs);
	else if (op == RING_PROTECT)
		protect_block(&m->env, b, runs);
	else
		reclaim_block(&m->env, &m->clock, b, runs);
	freeze_clock_end(&m->clock, &b->wait_nsec, &b->wait_cpu_nsec);
}

int64_t transaction_run(struct ring_agent *a, enum ring_op op, void *payload, uint32_t n_blocks)
{
	uint8_t *at = payload, *end = at + RING_PAYLOAD_BYTES;
	struct merge m;
	uint32_t done;
	int r;

	r = env_prepare(a, op, &m.env);
	for (done = 0; r == 0 && done < n_blocks; done++) {
		struct ring_merge *b = (struct ring_merge *)at;
		struct ring_run *runs = (struct ring_run *)(b + 1);

		if ((uint64_t)(end - at) < sizeof(*b) || b->n_runs > BLOCK_PAGES ||
		    (uint64_t)(end - at) < sizeof(*b) + b->n_runs * sizeof(*runs) ||
		    !block_valid(&m.env, op, b, runs)) {
			r = -EINVAL;
			break;
		}
		block_run(&m, op, b, runs);
		at = (uint8_t *)(runs + b->n_runs);
	}
	return done ? (int64_t)done : r;
}

int64_t transaction_map_store(struct ring_agent *a, uint64_t bytes)
{
	long r;

	if (bytes == 0 || bytes % PAGE_BYTES)
		return -EINVAL;
	if (a->fds[RING_FD_STORE] < 0)
		return -EBADF;
	r = sys_mmap(0, bytes, PROT_READ, MAP_SHARED, a->fds[RING_FD_STORE], 0);
	if (sys_is_error(r))
		return r;
	transaction_unmap_store(a);
	a->store_addr = (uint64_t)r;
	a->store_bytes = bytes;
	(void)range_advise(a->store_addr, bytes, RING_ADVICE_DONTFORK | RING_ADVICE_DONTDUMP);
	return 0;
}

void transaction_unmap_store(struct ring_agent *a)
{
	if (a->store_bytes)
		(void)sys_munmap(a->store_addr, a->store_bytes);
	a->store_bytes = 0;
}

void transaction_release(struct ring_agent *a)
{
	transaction_unmap_store(a);
	if (a->scratch_bytes)
		(void)sys_munmap(a->scratch_addr, a->scratch_bytes);
	a->scratch_bytes = 0;
}
