/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What sharing has brought, counted so that no page counts twice.
 *
 *   shared   frames that several guest pages map
 *   sharers  the guest pages that map them
 *   sharing  sharers - shared: frames that the host got back (as KSM counts)
 *   unmapped sharers that are not in the page table of a guest with a balloon: it has given them up, or they
 *            are swapped out. They save nothing: without sharing they would take no memory either
 *   zero     guest pages that became holes: frames got back with nothing in their place
 *   saved    (sharing - unmapped + zero) pages in bytes, less overhead
 *   overhead what we take for it: trees, ledger, KSM's metadata, mappings, and of each guest's agent the
 *            ring and the stack, as far as they were in memory when its last pass began
 *
 * A guest's part of a shared frame is one over the number of its sharers; summed over guests
 * the parts give the frames. So a guest's sharing is its sharers less its parts, in the
 * proportion that the whole domain has. Of overhead it has its agent's and its mappings', of what is the
 * domain's or the host's a part in proportion to its RAM: summed over guests that is the overhead, too,
 * and what they saved is what the host saved, but for less than a page of rounding for each of them.
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
	uint64_t shared_pages, sharers_pages, sharing_pages, unmapped_pages, zero_pages;
	uint64_t overhead_bytes;
	int64_t saved_bytes;
};

void account_of_host(const struct manager *mgr, struct account *ret);
void account_of_domain(const struct manager *mgr, const struct domain *d, struct account *ret);
void account_of_member(const struct manager *mgr, const struct member *m, struct account *ret);
