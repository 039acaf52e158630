/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Foreign mappings: pages of another store than its domain's that a guest has when it enters. An
 * earlier daemon merged them, and its store was lost, or the guest was in another trust domain
 * then, or it left and could not give them back.
 *
 * The guest gets them back first: until then it is enrolled, but neither read nor merged, and so
 * shares nothing in its new domain. That goes by pieces, at UnmergeRate, and waits for memory
 * (giveback.h); what is kept about the guest names the former stores until it is done, so that a
 * later daemon frees none of their slots under it.
 *
 * Owned by the loop.
 */
#pragma once

#include "daemon/manager.h"

/* Begins, or tries again, where it is due and the member is free. */
void foreign_go(struct manager *mgr, struct member *m, uint64_t now_usec);
