/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ranges of the guest's memory: the steps that the transactions are made of.
 *
 * Private to transaction.c and reclaim.c, inline because the agent's image is small and has no
 * data. Addresses are plain uint64_t here: freestanding code on the guest's own memory, which is
 * never dereferenced directly (the guest may unmap it at any time), only through system calls;
 * what is dereferenced is the agent's own: scratch, store window, mappings put aside.
 */
#pragma once

#include <asm/errno.h>
#include <linux/mman.h>

#include "common/kernel-abi.h"
#include "common/units.h"
#include "daemon/agent/ring.h"
#include "daemon/agent/syscall.h"

#define BLOCK_PAGES (RING_BLOCK_BYTES / PAGE_BYTES)
/*
 * How a range is frozen. A registration replaces the modes that a mapping had, unless it asks for
 * nothing new, and does not touch the marks of write protection: a range that is tracked and
 * frozen without WP would keep its marks while writes no longer take them off, and the
 * tracker would miss those. With WP, which does nothing by itself, ranges that are not
 * tracked need not be told apart, and UNREGISTER takes the marks off.
 */
#define FREEZE_MODE (UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP)
/* How often something that fails by bad luck (EAGAIN) is tried again before it is given up. */
#define LUCK_TRIES 8U

/* What a batch works with; immutable while it runs. */
struct range_env {
	int uffd;
	int store;
	uint64_t store_addr, store_bytes; /* the agent's own window on the store */
	uint64_t scratch;		  /* RING_BLOCK_BYTES, aligned to as much */
	uint64_t track_mode; /* UFFDIO_REGISTER_MODE_WP when the block is tracked, or 0 */
	int map_flags;	     /* MAP_NORESERVE or 0 */
	uint64_t policy;     /* RING_POLICY(), or 0 */
	bool mbind_denied;
};

static inline uint64_t pages_bytes(uint64_t n_pages)
{
	return n_pages << PAGE_SHIFT;
}

static inline int range_register(const struct range_env *e, uint64_t addr, uint64_t bytes,
				 uint64_t mode)
{
	struct uffdio_register r = {.range = {addr, bytes}, .mode = mode};

	return (int)sys_ioctl(e->uffd, UFFDIO_REGISTER, &r);
}

/* Wakes all who wait for a page of the range; they look again, and wait again if they must. */
static inline void range_wake(const struct range_env *e, uint64_t addr, uint64_t bytes)
{
	struct uffdio_range r = {addr, bytes};

	(void)sys_ioctl(e->uffd, UFFDIO_WAKE, &r);
}

/*
 * Ends the freeze of a range whose pages are all in place: missing pages read as the kernel
 * makes them again, waiters go on. There is no call that only drops MISSING, so the marks of
 * write protection go too: the range's pages count as written, which is allowed.
 *
 * The range must be what was registered, from end to end: then no mapping need be cut, and what
 * can fail is only memory for joining mappings, which passes.
 */
static inline void range_thaw(const struct range_env *e, uint64_t addr, uint64_t bytes)
{
	struct uffdio_range r = {addr, bytes};

	while (sys_ioctl(e->uffd, UFFDIO_UNREGISTER, &r) == -ENOMEM)
		pause_a_little();
	range_wake(e, addr, bytes);
	if (e->track_mode)
		(void)range_register(e, addr, bytes, e->track_mode);
}

/*
 * The same after a registration that failed half way, before anything was taken. The kernel goes
 * from mapping to mapping, in the order in which they were registered, and stops where a cut fails
 * (max_map_count): there it stopped registering, too. So it is not to be waited for.
 */
static inline void range_thaw_part(const struct range_env *e, uint64_t addr, uint64_t bytes)
{
	struct uffdio_range r = {addr, bytes};

	for (uint32_t i = 0; i < LUCK_TRIES; i++)
		if (sys_ioctl(e->uffd, UFFDIO_UNREGISTER, &r) != -ENOMEM)
			break;
	range_wake(e, addr, bytes);
	if (e->track_mode)
		(void)range_register(e, addr, bytes, e->track_mode);
}

/* Puts write-protection marks on what is mapped in a registered range, or takes them off. */
static inline int range_protect(const struct range_env *e, uint64_t addr, uint64_t bytes, bool on)
{
	struct uffdio_writeprotect w = {
		.range = {addr, bytes},
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};
	uint32_t tries = 0;
	int r;

	do
		r = (int)sys_ioctl(e->uffd, UFFDIO_WRITEPROTECT, &w);
	while (r == -EAGAIN && ++tries < LUCK_TRIES);
	return r;
}

/* Whether the whole range is mapped by something, and which of its pages are in memory (one byte
 * each, 1 = yes): absent, swapped and marked pages are not. -ENOMEM when a part is unmapped. */
static inline int range_residency(uint64_t addr, uint64_t bytes, uint8_t *ret_vec)
{
	return (int)sys_mincore(addr, bytes, ret_vec);
}

static inline bool range_is_mapped(uint64_t addr, uint64_t bytes)
{
	uint8_t vec[BLOCK_PAGES];

	return range_residency(addr, bytes, vec) == 0;
}

/* After `refusal`: is the page gone from `from` all the same, and something at `to`? */
static inline bool page_has_moved(uint64_t to, uint64_t from, int refusal)
{
	uint8_t there = 0, here = 1;

	if (refusal == -ENOENT) /* the kernel looks at the destination first: nothing is there */
		return false;
	return range_residency(from, PAGE_BYTES, &here) == 0 && !(here & 1) &&
	       (refusal == -EEXIST ||
		(range_residency(to, PAGE_BYTES, &there) == 0 && (there & 1)));
}

/*
 * Moves pages, frames and all, to where none are. Stops at the first that cannot be moved:
 * *ret_moved pages were, and the return says why the next was not.
 *
 * The kernel wants each side of a move within one mapping, and the guest's memory consists of
 * more than is known here: what is refused for this (or another) reason is tried by halves.
 *
 * What the kernel counts is not all that it moved. Since it moves pages by batches (Linux 6.17;
 * mm/userfaultfd.c, move_pages()), a batch that had to be tried again, because a page of it was
 * just being migrated or locked, is moved and not counted: the move is tried once more, and ends
 * with -EEXIST. Taken for not moved, these pages would be lost to the guest. So each refusal is
 * checked against what is where, page by page (tests/platform/uffd-move.c).
 *
 * By the same slip the kernel would try for ever when, between the two tries, somebody drops the page and
 * holes are allowed: ALLOW_SRC_HOLES is for memory that nobody but the agent knows.
 */
static inline int pages_move(const struct range_env *e, uint64_t to, uint64_t from,
			     uint32_t n_pages, uint64_t mode, uint32_t *ret_moved)
{
	uint32_t done = 0, chunk = n_pages, tries = 0;
	int r = 0;

	while (done < n_pages) {
		struct uffdio_move m = {
			.dst = to + pages_bytes(done),
			.src = from + pages_bytes(done),
			.len = pages_bytes(chunk),
			.mode = mode,
		};
		uint32_t moved = 0;

		r = (int)sys_ioctl(e->uffd, UFFDIO_MOVE, &m);
		if (m.move > 0)
			moved = (uint32_t)((uint64_t)m.move >> PAGE_SHIFT);
		else if (r < 0 && page_has_moved(m.dst, m.src, r))
			moved = 1;
		if (moved > 0) {
			done += moved;
			chunk = n_pages - done;
			tries = 0;
			r = 0;
		} else if (r == -EINVAL && chunk > 1) {
			chunk /= 2;
		} else if (r != -EAGAIN || ++tries == LUCK_TRIES) {
			break;
		}
	}
	*ret_moved = done;
	return r;
}

/* The same where some of the pages may be holes, which stay. The guest may make more of them meanwhile. */
static inline int pages_move_some(const struct range_env *e, uint64_t to, uint64_t from,
				  uint32_t n_pages, uint64_t mode, uint32_t *ret_done)
{
	uint32_t done = 0;
	int r = 0;

	while (r == 0 && done < n_pages) {
		uint32_t moved;

		r = pages_move(e, to + pages_bytes(done), from + pages_bytes(done), n_pages - done, mode,
			       &moved);
		done += moved;
		if (r == -ENOENT && range_is_mapped(from + pages_bytes(done), PAGE_BYTES)) {
			done++;
			r = 0;
		}
	}
	*ret_done = done;
	return r;
}

/* One page by copy; 0, or -ENOENT when there is no memory of ours to copy it to any more. */
static inline int page_copy_in(const struct range_env *e, uint64_t to, uint64_t from)
{
	struct uffdio_copy c = {.dst = to, .src = from, .len = PAGE_BYTES};
	int r = (int)sys_ioctl(e->uffd, UFFDIO_COPY, &c);

	return r == -EEXIST ? 0 : r;
}

/*
 * Gives pages back to the frozen range that they were taken from. This cannot be given up, for
 * these bytes are the guest's only copy: whatever fails is tried again, by moving and by copying,
 * until the page is in its place, or the place is gone because the guest itself unmapped it.
 * (Nobody can have put another page there: who touches the range waits. -EEXIST would mean that
 * the guest's own userfaultfd work did, and then that page is the newer one.)
 */
static inline void pages_give_back(const struct range_env *e, uint64_t to, uint64_t from,
				   uint32_t n_pages)
{
	uint32_t done = 0;

	while (done < n_pages) {
		uint64_t offset = pages_bytes(done);
		uint32_t moved;
		int r = pages_move(e, to + offset, from + offset, n_pages - done,
				   UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES, &moved);

		done += moved;
		if (r == 0)
			continue;
		offset = pages_bytes(done);
		r = page_copy_in(e, to + offset, from + offset);
		if (r == 0 || r == -ENOENT)
			done++;
		else
			pause_a_little();
	}
}

/* Pages that were not looked at lately are not in the cache, and the processor's own prefetching ends
 * with each page: so many bytes ahead are asked for. An address that is not mapped is no harm. */
#define PREFETCH_BYTES 1024U

/* How many pages, from the first on, are equal. Both are the agent's own. */
static inline uint32_t pages_equal(uint64_t a, uint64_t b, uint32_t n_pages)
{
	const uint64_t *p = (const uint64_t *)a, *q = (const uint64_t *)b;
	uint32_t page;

	for (page = 0; page < n_pages; page++) {
		for (uint32_t i = 0; i < PAGE_BYTES / 8; i += 8, p += 8, q += 8) {
			uint64_t differ = 0;

			__builtin_prefetch((const char *)p + PREFETCH_BYTES);
			__builtin_prefetch((const char *)q + PREFETCH_BYTES);
			for (uint32_t k = 0; k < 8; k++)
				differ |= p[k] ^ q[k];
			if (differ)
				return page;
		}
	}
	return page;
}

static inline uint32_t pages_zero(uint64_t a, uint32_t n_pages)
{
	const uint64_t *p = (const uint64_t *)a;
	uint32_t page;

	for (page = 0; page < n_pages; page++) {
		for (uint32_t i = 0; i < PAGE_BYTES / 8; i += 8, p += 8) {
			uint64_t any = 0;

			for (uint32_t k = 0; k < 8; k++)
				any |= p[k];
			if (any)
				return page;
		}
	}
	return page;
}

/* Puts advice on a range; returns the part of the mask that could not be. */
static inline uint32_t range_advise(uint64_t addr, uint64_t bytes, uint32_t mask)
{
	static const struct {
		uint32_t bit;
		int advice;
	} table[] = {
		{RING_ADVICE_DONTFORK, MADV_DONTFORK},	 {RING_ADVICE_DONTDUMP, MADV_DONTDUMP},
		{RING_ADVICE_HUGEPAGE, MADV_HUGEPAGE},	 {RING_ADVICE_NOHUGEPAGE, MADV_NOHUGEPAGE},
		{RING_ADVICE_MERGEABLE, MADV_MERGEABLE}, {RING_ADVICE_WIPEONFORK, MADV_WIPEONFORK},
	};
	uint32_t failed = 0;

	for (uint32_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		uint32_t tries = 0;
		long r = -EAGAIN;

		if (!(mask & table[i].bit))
			continue;
		while ((r == -EAGAIN || r == -ENOMEM) && tries++ < LUCK_TRIES)
			r = sys_madvise(addr, bytes, table[i].advice);
		if (r < 0)
			failed |= table[i].bit;
	}
	return failed;
}

/*
 * Gives new anonymous memory its policy; false when that cannot be. Not for mappings of the store: of
 * those the kernel takes the policy to be the file's, which all guests have in common
 * (tests/platform/store-mapping.c).
 */
static inline bool range_bind(const struct range_env *e, uint64_t addr, uint64_t bytes)
{
	const uint64_t nodes = RING_POLICY_NODES(e->policy);

	return !e->policy || (!e->mbind_denied && sys_mbind(addr, bytes, RING_POLICY_MODE(e->policy),
							    nodes ? &nodes : 0) == 0);
}

/* Private anonymous memory of `bytes`, at an address equal to `congruent` modulo
 * RING_BLOCK_BYTES (so that huge pages and page tables can move whole). 0 or -errno. */
static inline int range_new(uint64_t bytes, uint64_t congruent, int flags, uint64_t *ret_addr)
{
	uint64_t size = bytes + RING_BLOCK_BYTES, start, addr;
	long r = sys_mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1,
			  0);

	if (sys_is_error(r))
		return (int)r;
	start = (uint64_t)r;
	addr = start + ((congruent - start) & (RING_BLOCK_BYTES - 1));
	/* Failure leaves a reservation behind that costs nothing but addresses. */
	if (addr > start)
		(void)sys_munmap(start, addr - start);
	if (addr + bytes < start + size)
		(void)sys_munmap(addr + bytes, start + size - addr - bytes);
	*ret_addr = addr;
	return 0;
}

/*
 * The longest freeze of a block, in cycles until the end, then in nanoseconds, and how much of it
 * this thread had a processor. To ask for its CPU time is a system call of 0.3 us, so it is asked
 * not before every freeze, but when the last answer is CPU_FRESH_CYCLES old; the time from then to the
 * freeze is taken to have been spent on the processor, which errs by as little.
 */
struct freeze_clock {
	uint64_t longest;
	uint64_t longest_cpu_nsec, longest_lead; /* CPU time since `lead` cycles before that freeze */
	uint64_t cycles_at_start;
	uint64_t nsec_at_start;
	uint64_t cpu_nsec, cpu_cycles; /* the last answer, and when */
};

#define CPU_FRESH_CYCLES 200000U

enum {
	CLOCK_MONOTONIC_ = 1,
	CLOCK_THREAD_CPUTIME_ID_ = 3,
};

static inline uint64_t nsec_now(int clock)
{
	struct sys_timespec t = {0, 0};

	(void)sys_clock_gettime(clock, &t);
	return (uint64_t)t.sec * UINT64_C(1000000000) + (uint64_t)t.nsec;
}

static inline void freeze_clock_start(struct freeze_clock *c)
{
	c->longest = 0;
	c->longest_cpu_nsec = 0;
	c->longest_lead = 0;
	c->nsec_at_start = nsec_now(CLOCK_MONOTONIC_);
	c->cycles_at_start = cycles_now();
	c->cpu_cycles = 0;
}

/* A freeze begins: when, in cycles. */
static inline uint64_t freeze_clock_begin(struct freeze_clock *c)
{
	uint64_t cycles = cycles_now();

	if (c->cpu_cycles != 0 && cycles - c->cpu_cycles < CPU_FRESH_CYCLES)
		return cycles;
	c->cpu_nsec = nsec_now(CLOCK_THREAD_CPUTIME_ID_);
	c->cpu_cycles = cycles_now();
	return c->cpu_cycles;
}

static inline void freeze_clock_note(struct freeze_clock *c, uint64_t since)
{
	uint64_t cycles = cycles_now() - since;

	if (cycles <= c->longest)
		return;
	c->longest = cycles;
	c->longest_cpu_nsec = nsec_now(CLOCK_THREAD_CPUTIME_ID_) - c->cpu_nsec;
	c->longest_lead = since - c->cpu_cycles;
}

static inline uint32_t nsec_clamp(uint64_t nsec)
{
	return nsec > UINT32_MAX ? UINT32_MAX : (uint32_t)nsec;
}

/* The block itself is the yardstick: so many cycles were so many nanoseconds. */
static inline void freeze_clock_end(const struct freeze_clock *c, uint32_t *ret_nsec,
				    uint32_t *ret_cpu_nsec)
{
	uint64_t cycles = (cycles_now() - c->cycles_at_start) >> 10;
	uint64_t nsec = nsec_now(CLOCK_MONOTONIC_) - c->nsec_at_start, longest = 0, lead = 0;

	if (c->longest && cycles) {
		longest = (c->longest >> 10) * nsec / cycles;
		lead = (c->longest_lead >> 10) * nsec / cycles;
	} else if (c->longest) {
		longest = nsec;
	}
	*ret_nsec = nsec_clamp(longest);
	if (c->longest_cpu_nsec < lead)
		*ret_cpu_nsec = 0;
	else if (c->longest_cpu_nsec - lead < longest)
		*ret_cpu_nsec = nsec_clamp(c->longest_cpu_nsec - lead);
	else
		*ret_cpu_nsec = nsec_clamp(longest);
}
