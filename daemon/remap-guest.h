/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Engine remap, the part that concerns a guest's mappings of the store: handing the store over,
 * giving everything back, and making anonymous memory of what the guest has copied.
 *
 * All for a worker that holds the member; they wait for the agent.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "daemon/member.h"

/* enum ring_advice for these enum vm_flag: what new mappings must be given. */
uint32_t remap_advice_of(uint32_t vm_flags);
/* Has the agent map the store at its present size. */
int remap_map_store(struct member *m);
/*
 * Makes anonymous memory of the mappings of the store whose pages the guest has all copied, so that
 * they can merge again and their slots become free; the tracker learns of it. Where the
 * process does direct I/O, only if it can be proven that no device writes to them (pins.h). Sets
 * n_maps to the mappings of the store that are left. Returns the pages reclaimed, or -errno.
 */
int64_t remap_reclaim(struct member *m);
