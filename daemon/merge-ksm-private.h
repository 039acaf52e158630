/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of engine ksm share. */
#pragma once

#include "daemon/merge-ksm.h"

/* The states of pages that the engine is to merge or has merged. */
static inline bool merge_ksm_wants(enum page_state s)
{
	return s >= PAGE_STATE_ZEROS && s <= PAGE_STATE_SHARED;
}
_Static_assert(PAGE_STATE_ZEROS < PAGE_STATE_CANDIDATE && PAGE_STATE_CANDIDATE < PAGE_STATE_SHARED,
	       "the three states that engines serve are neighbours");

/* Loop: sets m->marks to what is to be marked, and *ret (the caller's to free) to the advice for the
 * agent that makes it so, which must be given. -ENOMEM. */
int merge_ksm_plan(const struct ledger *l, struct member *m, struct ring_advise **ret, uint32_t *ret_n);
