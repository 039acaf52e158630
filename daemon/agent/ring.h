/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ring between the daemon and the agent inside QEMU: the only interface of the agent.
 *
 * A sealed memfd (F_SEAL_SHRINK | F_SEAL_GROW) made by the daemon and mapped by both: one
 * header page, RING_BATCHES descriptors, and a payload area for each. The daemon publishes
 * batches in order (published++), the agent carries each out and counts it done (done++);
 * both sides wait by futex on these words (shared futexes), and the agent also writes to an
 * eventfd when it has one, so that the daemon's loop can sleep.
 *
 * The agent is a servant without state of its own: all that it knows between two batches is
 * in struct ring_agent, so that a new daemon finds it. If the daemon dies, the agent finishes
 * what was published and waits.
 *
 * Trust: QEMU can write every byte here. The daemon keeps its own copy of everything it
 * needs, reads each result once, checks it against what it asked (ring_result_check in
 * daemon/agent-link.c) and derives no address, length or index from the ring. A liar harms
 * only itself.
 *
 * Layout is ABI between versions of the daemon: a change of any struct raises RING_VERSION,
 * and a daemon that finds another version replaces the agent.
 *
 * This header is included by freestanding code: no libc.
 */
#pragma once

#include <stdint.h>

#define RING_MAGIC	   UINT64_C(0x3164726168736d6d) /* "mmshard1" */
#define RING_VERSION	   3U
#define RING_BATCHES	   4U
#define RING_PAYLOAD_BYTES (256U << 10)
#define RING_HEADER_BYTES  4096U
#define RING_BYTES	   (RING_HEADER_BYTES + RING_BATCHES * RING_PAYLOAD_BYTES)
/* Name of the memfd: how a new daemon finds the ring in /proc/PID/maps. */
#define RING_MEMFD_NAME "memshared-ring"

enum ring_op {
	RING_PING = 1,	 /* result: RING_VERSION */
	RING_ADVISE,	 /* payload: ring_advise[]; madvise on each */
	RING_RECEIVE_FD, /* takes the descriptor that came with message RING_FD_TAG(arg) into role
			    RING_FD_ROLE(arg), closing what was there; result: its number. Messages
			    with other tags (from a daemon that died) are dropped */
	RING_CLOSE_FD,	 /* closes the descriptor of role arg */
	RING_OPEN_UFFD,	 /* makes a userfaultfd in role RING_FD_UFFD (-EEXIST when there is one):
			    when arg is RING_UFFD_KERNEL from RING_FD_UFFD_DEVICE, when it is
			    RING_UFFD_USER by userfaultfd(2), user mode only; result: its number */
	RING_MAP_STORE,	 /* maps arg bytes of RING_FD_STORE for reading; again when it has grown */
	RING_MERGE,	 /* payload: ring_merge + ring_run[]: one block, one transaction */
	RING_UNMERGE,	 /* payload: ring_merge + ring_run[]: gives private copies back, as pages
			    of the same mappings */
	RING_PROTECT,	 /* payload: ring_merge + ring_run[]: write-protects private copies in
			    mappings of the store, for RECLAIM's proof. Until RECLAIM has run on
			    them (or the userfaultfd is closed) the tracker can't tell them from
			    the store's pages */
	RING_RECLAIM,	 /* payload: ring_merge + ring_run[]: makes anonymous memory of mappings
			    of the store again, with the same bytes */
	RING_EXIT,	 /* closes every descriptor, unmaps the store, ends the thread */
};

/* Descriptors that the agent holds, in QEMU's descriptor table. */
enum ring_fd {
	RING_FD_SOCKET,	     /* the agent's end: SCM_RIGHTS arrive here */
	RING_FD_SOCKET_PEER, /* the daemon's end; kept open so that a new daemon can take it over */
	RING_FD_EVENT,	     /* eventfd written after each batch */
	RING_FD_UFFD_DEVICE, /* /dev/userfaultfd */
	RING_FD_UFFD,
	RING_FD_STORE,	     /* the domain's store, read only */
	RING_FD_RING,	     /* the ring's and the image's own: mapped by memshared-attach, then */
	RING_FD_CODE,	     /* closed by the agent as its first act */
	RING_FD_MAX,
};

/* A descriptor's message is one uint32_t, its tag, with the descriptor as SCM_RIGHTS. */
#define RING_FD_ARG(role, tag) ((uint64_t)(tag) << 32 | (uint32_t)(role))
#define RING_FD_ROLE(arg)      ((uint32_t)(arg))
#define RING_FD_TAG(arg)       ((uint32_t)((arg) >> 32))

enum ring_uffd {
	RING_UFFD_USER,	  /* faults from user mode only; needs no right */
	RING_UFFD_KERNEL, /* also faults from kernel mode (KVM, vhost) */
};

struct ring_advise {
	uint64_t addr;
	uint64_t bytes;
	int32_t advice;
	int32_t result; /* 0 or -errno, written by the agent */
};

#define RING_BLOCK_BYTES (UINT64_C(2) << 20)

/* A block transaction covers [addr, addr + bytes), at most RING_BLOCK_BYTES, whose mappings all
 * have the same advice (but for the store's own). Runs are in order of address and disjoint. */
struct ring_merge {
	uint64_t addr;
	uint64_t bytes;
	uint32_t n_runs;
	uint32_t flags;	      /* enum ring_merge_flag */
	uint32_t advice_mask; /* enum ring_advice: what to put back on replaced mappings */
	uint32_t wait_nsec;   /* written by the agent: the longest that a page was frozen */
	/* Written by the agent: the CPU time of its thread in that longest freeze. The rest of it the
	 * agent slept for a lock, or had no processor. */
	uint32_t wait_cpu_nsec;
	/* Written by the agent: enum ring_advice that could not be put back. */
	uint32_t advice_failed;
	int32_t result; /* written by the agent: RECLAIM with WHOLE, of the last range; else 0 */
	uint32_t reserved;
	/* The block's memory policy: RING_POLICY(), or 0. RECLAIM gives it to new memory. */
	uint64_t policy;
};

/* A memory policy (mbind): its mode, not 0, and its nodes, of which node 55 is the last. */
#define RING_POLICY(mode, nodes) ((uint64_t)(mode) << 56 | (uint64_t)(nodes))
#define RING_POLICY_MODE(p)	 ((uint32_t)((p) >> 56))
#define RING_POLICY_NODES(p)	 ((p) & ((UINT64_C(1) << 56) - 1))

enum ring_merge_flag {
	/* The block is tracked: new mappings are registered for write protection too. */
	RING_MERGE_TRACK = 1 << 0,
	/* The block's own mappings are not accounted (VmFlags nr): nor are the new ones. */
	RING_MERGE_NORESERVE = 1 << 1,
	/* RECLAIM: nothing can have pinned these pages to write to them later (no direct I/O in
	 * this process), so the proof by write protection is not asked for. Without it: PROTECT,
	 * then wait until all direct I/O from before is over (daemon/pins.h), then RECLAIM. */
	RING_RECLAIM_UNPINNED = 1 << 2,
	/* RECLAIM: the whole block becomes anonymous mappings, what lies between the runs too: one
	 * for every 32 runs or 256 pages, and one in all when it is then asked for without runs. */
	RING_RECLAIM_WHOLE = 1 << 3,
	/* PROTECT: takes the marks off again. */
	RING_PROTECT_OFF = 1 << 4,
	/* MERGE: the slots are in the guest's page table at once, not when they are touched. */
	RING_MERGE_POPULATE = 1 << 5,
};

enum ring_advice {
	RING_ADVICE_DONTFORK = 1 << 0,
	RING_ADVICE_DONTDUMP = 1 << 1,
	RING_ADVICE_HUGEPAGE = 1 << 2,
	RING_ADVICE_NOHUGEPAGE = 1 << 3,
	RING_ADVICE_MERGEABLE = 1 << 4,
	RING_ADVICE_WIPEONFORK = 1 << 5,
	RING_ADVICE_POLICY = 1 << 6, /* only as what could not be put back */
};

#define RING_SLOT_ZERO UINT32_MAX /* the run's pages are all zeros: no slot, a hole */

/* result: 0 when all pages are done; else why page number `merged` of the run is not, and none
 * after it:
 *   -ENOENT  it is absent or swapped out        -EBUSY   it is pinned or has another owner
 *   -ESTALE  it differs from the slot           -ENOMEM  no memory, or no mapping left
 *   -EINVAL  it cannot be merged here (not anonymous, locked, other protection)
 *   -EFAULT  the slot cannot be read            -ECANCELED  the batch stopped before */
struct ring_run {
	uint64_t addr;
	uint32_t n_pages;
	uint32_t slot;	  /* first slot; the run maps slot, slot + 1, ...; unused but by MERGE */
	int32_t result;	  /* written by the agent */
	uint32_t merged;  /* pages done, from the start of the run: written by the agent */
};

/* One batch. op, n, arg are written by the daemon; result by the agent. */
struct ring_batch {
	uint32_t op;
	uint32_t n; /* entries in the payload */
	uint64_t arg;
	int64_t result; /* the number of entries carried out, or -errno of the whole batch */
	uint64_t reserved;
};

/* Calls that the guest's seccomp filter denies, which the agent therefore never makes. */
enum ring_denied {
	RING_DENIED_USERFAULTFD = 1 << 0,
	RING_DENIED_SET_NAME = 1 << 1,
	RING_DENIED_MBIND = 1 << 2,
};

/* Written by memshared-attach step by step, each address and descriptor as soon as it is there,
 * so that what a killed memshared-attach leaves behind can be found and removed. */
struct ring_agent {
	int32_t fds[RING_FD_MAX]; /* -1 where there is none */
	int32_t tid;
	uint64_t code_addr, code_bytes;	  /* what detaching must unmap */
	uint64_t private_addr, private_bytes; /* stack and thread block */
	uint64_t ring_addr;
	uint64_t store_addr, store_bytes; /* 0 when not mapped */
	uint64_t scratch_addr, scratch_bytes;
	uint32_t denied; /* enum ring_denied */
	/* The thread that memshared-attach has borrowed, and its signal mask: to be put back if
	 * memshared-attach was killed meanwhile. 0 when there is none. */
	int32_t borrowed_tid;
	uint64_t borrowed_sigmask;
	uint32_t uffd_kind; /* enum ring_uffd of RING_FD_UFFD */
	uint32_t reserved;
};

struct ring_header {
	uint64_t magic;
	uint32_t version;
	uint32_t published;  /* batches published, ever (modulo 2^32); futex the agent waits on */
	uint32_t done;	     /* batches done, ever; futex the daemon waits on */
	uint32_t exit_word;  /* tid while the agent lives; when it ends the kernel clears the word
				and wakes who waits on it (CLONE_CHILD_CLEARTID) */
	uint64_t reserved[4];
	struct ring_batch batches[RING_BATCHES]; /* number k uses batches[k % RING_BATCHES] */
	struct ring_agent agent;
};

_Static_assert(sizeof(struct ring_header) <= RING_HEADER_BYTES, "header fits its page");
_Static_assert(sizeof(struct ring_run) == 24, "ABI");
_Static_assert(sizeof(struct ring_merge) == 56, "ABI");

#define RING_RUNS_MAX	((RING_PAYLOAD_BYTES - sizeof(struct ring_merge)) / sizeof(struct ring_run))
#define RING_ADVISE_MAX (RING_PAYLOAD_BYTES / sizeof(struct ring_advise))

static inline uint8_t *ring_payload(struct ring_header *h, uint32_t batch)
{
	return (uint8_t *)h + RING_HEADER_BYTES + (batch % RING_BATCHES) * RING_PAYLOAD_BYTES;
}
