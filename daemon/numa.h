/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory policies (mbind) of a process's mappings, as /proc/PID/numa_maps tells them: QEMU binds a
 * memory backend to host nodes, and memory that replaces its pages must be bound likewise.
 *
 * The file costs the kernel a walk of all page tables: it is read when a guest enters. Any thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/units.h"

struct numa_range {
	hva start;
	uint64_t n_pages;
	uint64_t policy; /* RING_POLICY() of daemon/agent/ring.h; 0: none */
};

/*
 * Fills in the policies, for ranges that are mapped. What is a store's mapping has none of its own
 * and does not count. 0 (also where the kernel knows no nodes), -EOPNOTSUPP when a range has several,
 * or one that cannot be put back; or another -errno.
 */
int numa_read(int proc_fd, struct numa_range *ranges, size_t n);

/* Pure: one line, without its end. *ret_policy: -EOPNOTSUPP for one that cannot be put back, 1 when
 * the line is to be left out (a store's). -EINVAL: no such line. */
int numa_parse_line(const char *line, uint64_t *ret_start, uint64_t *ret_policy);
