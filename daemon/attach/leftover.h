/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an agent that ended, or a memshared-attach that was killed, left in a guest.
 *
 * The ring says where it is; but the guest can write the ring, so each claim is checked against
 * what the kernel says of the process, and dropped if that is something else. (A guest that
 * lies well can at most have its own mappings taken away.)
 */
#pragma once

#include <stdbool.h>

#include "daemon/agent/ring.h"
#include "daemon/attach/target.h"

/* File name of the agent's image. */
#define LEFTOVER_CODE_NAME "memshared-agent.bin"

/* Whether a ring is mapped. -errno. */
int leftover_find_ring(const struct target *t);
/* Drops from *a what is not there: addresses become 0, descriptors -1. -errno. */
int leftover_check(const struct target *t, struct ring_agent *a);
