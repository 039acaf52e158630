/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tidying the store of a trust domain, so that guests which write for days do not wear it out:
 *
 *   reclaim  mappings whose pages were all copied become anonymous memory again, and so do copies
 *            whose slots no page shares any more (remap-guest.h)
 *   sweep    slots that no guest maps any more, and that no candidate waits for, are freed
 *
 * Both look at mappings, of which merged guests have tens of thousands. So reclaim looks where pages
 * ceased to be shared since the last time (ledger.h), and sweep goes by when one record in
 * TIDY_ORPHANS has no sharer, or when it is calm: fewer pages came to share or ceased to since
 * the last round than have none; but for a whole round, which looks at everything.
 *
 * A slot may be dropped only when no guest maps it; a mapping keeps it even when its page was
 * copied. The proof is a look at the mappings of every guest that was ever handed the store,
 * while none of them is being merged: so a round holds all members of the domain, and one that
 * cannot be looked at keeps everything. These are also guests that an earlier daemon had let in
 * and that are not back, and guests that have left and could not give everything back. What an earlier
 * daemon had asked of such a guest's agent may still be under way, so that a look counts only when the
 * agent had nothing to do from before it until after it.
 *
 * Owned by the loop.
 */
#pragma once

#include <stdint.h>

#include "daemon/kept.h"
#include "daemon/member.h"
#include "daemon/work.h"

struct tidy_result {
	uint64_t reclaimed_pages, freed_slots;
	uint64_t agents_nsec; /* CPU time of the agents */
	uint64_t cpu_nsec;    /* all CPU time, theirs included */
};
typedef void tidy_done_fn(struct domain *d, const struct tidy_result *result, void *userdata);

/* A sweep for fewer slots than this part of all would cost more than they are worth. */
#define TIDY_ORPHANS 32U
/* Calm is when this many times as many slots are without sharers as pages moved. */
#define TIDY_CALM    2U

/* Tidies d, as a whole or where something changed. Its members (all of them, none busy) are held until
 * done is called (never from within this call). users: guests that may map stores, members or not;
 * copied. 0, -ENOMEM, -EAGAIN. */
int tidy_start(struct work_pool *pool, struct ledger *ledger, struct domain *d, bool whole,
	       struct member *const *members, size_t n_members, const struct kept_store_user *users,
	       size_t n_users, tidy_done_fn *done, void *userdata);
