/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The block transactions of engine `remap`, which run inside the guest's process: equal pages
 * become mappings of the store (MERGE), private copies of them (UNMERGE), and anonymous memory
 * again (RECLAIM). What each guarantees and why is at the top of transaction.c and reclaim.c.
 *
 * Freestanding: for the agent, and linked into tests that play guest and agent in one process.
 * All state between two calls is in struct ring_agent. One thread at a time.
 *
 * Before MERGE and RECLAIM: RING_FD_UFFD is a userfaultfd of kind RING_UFFD_KERNEL (one that only
 * sees user mode would fail KVM's and the kernel's own accesses with EFAULT instead of letting
 * them wait) with UFFDIO_API done, by the tracker or by who else owns it in the daemon;
 * RING_FD_STORE is the store, mapped by MAP_STORE at its present size.
 */
#pragma once

#include "daemon/agent/ring.h"

/* Maps (anew) `bytes` of the store for the agent to read: 0, or -errno. As `r--s` in
 * /proc/PID/maps: not a mapping that keeps a slot in use. */
int64_t transaction_map_store(struct ring_agent *a, uint64_t bytes);
/* Carries out op on n blocks: payload is n times (struct ring_merge, its runs), without gaps.
 * The number of blocks carried out (each run's result is in the run), or -errno if the first
 * block could not be: -EINVAL malformed, -EBADF a descriptor is missing, -EPERM the
 * userfaultfd is of the wrong kind, -ENOMEM no memory for the scratch area. */
int64_t transaction_run(struct ring_agent *a, enum ring_op op, void *payload, uint32_t n_blocks);
/* The store window alone: to be called before another store's descriptor takes the place of the one
 * that is mapped, so that pages are never compared with one file and mapped from another. */
void transaction_unmap_store(struct ring_agent *a);
/* Unmaps scratch area and store window. */
void transaction_release(struct ring_agent *a);
