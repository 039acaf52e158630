/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Adoption: what guests share in the store of an earlier daemon is known again to the domain that
 * has taken the store over (stores.h).
 *
 *   adopt_start()  reads each slot in use, and makes a record of it: the fingerprint comes from its
 *                  bytes, nothing else is believed. Until that is done no member of the
 *                  domain is read or merged. Of two slots with the same bytes (a daemon was
 *                  killed between two passes) one gets a record.
 *   adopt_member() counts as sharers the pages of a member that map slots, by what its mappings
 *                  were when it entered.
 *
 * From then on these pages are like those that we merged: others join them, after the agent has
 * compared bytes, and slots without mappings are freed (tidy.h), those without a record too.
 *
 * Nothing here changes a guest or a slot: after SIGKILL the next daemon reads them again.
 *
 * Owned by the loop.
 */
#pragma once

#include "daemon/domain.h"
#include "daemon/member.h"
#include "daemon/pass.h"

typedef void adopt_done_fn(struct domain *d, uint64_t n_slots, void *userdata);

/* The domain must stay until done is called (never from within this call). 0, -ENOMEM, -EAGAIN. */
int adopt_start(const struct pass_env *env, struct domain *d, adopt_done_fn *done, void *userdata);
/* Before the member's first pass; its m->found is used up. */
int adopt_member(struct ledger *l, struct member *m);
