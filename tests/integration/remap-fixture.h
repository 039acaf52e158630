/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Agent and guest in one process: the transactions of daemon/agent, linked into the test, on
 * memory of the test's own. Nothing between them and the kernel is replaced.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/units.h"
#include "daemon/agent/ring.h"

struct remap {
	uint64_t policy; /* of the block: RING_POLICY(), or 0 */
	struct ring_agent agent;
	int uffd;
	int pagemap;  /* our own */
	int store_fd; /* writable; the agent has a read-only one */
	char *store;  /* writable mapping */
	uint64_t slots;
	uint8_t *payload; /* RING_PAYLOAD_BYTES */
	uint32_t last_wait_nsec, last_wait_cpu_nsec, last_advice_failed;
	int last_result; /* of RECLAIM with WHOLE */
};

/* 0 or -errno: -EPERM, -ENOSYS where userfaultfds for faults from kernel mode are not allowed. */
int remap_open(struct remap *r, uint64_t slots);
void remap_close(struct remap *r);

/* Runs one op on one block; results are copied back into runs. What transaction_run() says. */
int64_t remap_block(struct remap *r, enum ring_op op, void *addr, uint64_t n_pages, uint32_t flags,
		    uint32_t advice, struct ring_run *runs, uint32_t n_runs);
struct ring_run remap_run(void *addr, uint64_t n_pages, uint32_t slot);

/* The private mappings of the store within [addr, addr + n_pages), as runs. */
uint32_t remap_find_mapped(struct remap *r, void *addr, uint64_t n_pages, struct ring_run *runs,
			   uint32_t max);
/* Lines of /proc/self/maps within the range. */
uint32_t remap_count_maps(void *addr, uint64_t n_pages);
/* VmFlags of the mapping that holds addr, sorted out of what the kernel sets by itself. */
void remap_vm_flags(const void *addr, char *ret, size_t size);
/* As the tracker does: registers the range (arm), or protects all pages of it and tells how many
 * had been written since the last time (collect). */
int remap_track(struct remap *r, void *addr, uint64_t n_pages);
int64_t remap_collect(struct remap *r, void *addr, uint64_t n_pages);
