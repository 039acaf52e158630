/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What sharing has brought, counted so that no page counts twice.
 *
 *   shared   frames that several guest pages map
 *   sharers  the guest pages that map them
 *   sharing  sharers - shared: frames that the host got back (as KSM counts)
 *   zero     guest pages that became holes: frames got back with nothing in their place
 *   saved    (sharing + zero) pages in bytes, less overhead
 *   overhead what we take for it: trees, ledger, KSM's metadata, mappings
 *
 * A guest's part of a shared frame is one over the number of its sharers; summed over guests
 * the parts give the frames. So a guest's sharing is its sharers less its parts, in the
 * proportion that the whole domain has.
 *
 * Owned by the loop.
 */
#pragma once

#include <stdint.h>

#include "daemon/domain.h"
#include "daemon/manager.h"

struct account {
	unsigned guests;
	uint64_t ram_bytes, present_bytes;
	uint64_t shared_pages, sharers_pages, sharing_pages, zero_pages;
	uint64_t overhead_bytes;
	int64_t saved_bytes;
};

void account_of_host(const struct manager *mgr, struct account *ret);
void account_of_domain(const struct manager *mgr, const struct domain *d, struct account *ret);
void account_of_member(const struct manager *mgr, const struct member *m, struct account *ret);
