/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which pages of a member engine remap merges in one round, in the order of their addresses: CANDIDATE
 * pages whose record has a slot, and ZEROS, as runs (runs.h), as far as the policy and the kernel let
 * the guest have more mappings, and without the huge pages that the policy keeps whole.
 *
 * The loop's.
 */
#pragma once

#include <stddef.h>

#include "daemon/ledger.h"
#include "daemon/member.h"
#include "daemon/runs.h"

struct remap_planned {
	struct ledger_block *block;
	struct run run;
};

struct remap_plan {
	struct remap_planned *runs; /* to be freed by whoever asked */
	size_t n;
};

/* 0, -ENOMEM, or -EALREADY when there is nothing to merge. Counts in the member what stays in huge pages. */
int remap_plan_make(const struct ledger *ledger, struct member *m, struct remap_plan *ret);
