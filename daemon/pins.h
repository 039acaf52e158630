/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that devices are writing to: when is it certain that there are none from before?
 *
 * A page is pinned (FOLL_PIN) while direct I/O reads into it. Before a private copy in a mapping of
 * the store may be replaced (RECLAIM, see daemon/agent/reclaim.c), all pins from before it was
 * write-protected must be gone. The kernel does not tell a page's pins, but it counts those that
 * it took and gave back on the whole host, ever. When both counts are equal at one instant after
 * the protection, no such pin is left.
 *
 * The counts are kept for each processor and summed lazily, so they are read thus: fold, read
 * `released`, fold, read `acquired`. What was acquired before the first reading is in the
 * second; what is in `released` was released before the first. If they are equal, then as
 * many had been released at the first reading as were acquired by then: none was left.
 *
 * On a host that has long-lived pins (VFIO, RDMA, io_uring with registered buffers, of whomever)
 * they are never equal: then nothing is proven, and such copies are reclaimed only from guests
 * without direct I/O (RING_RECLAIM_UNPINNED) or not at all.
 *
 * Any thread. Costs an interrupt of every processor, twice: not for each block.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* 1 when no page of the host was pinned at some instant during the call, which began at
 * *ret_usec (monotonic): whatever was protected before that is free of old pins. 0 when that is
 * not certain: try again. -errno: -EPERM without root, -ENODATA where the kernel has no counts. */
int pins_quiet(uint64_t *ret_usec);

/* Pure. */
int pins_parse_vmstat(const char *buf, size_t len, uint64_t *ret_acquired, uint64_t *ret_released);
