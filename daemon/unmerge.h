/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unmerge: a guest that stays enrolled gets all its pages back, and shares none until it is told to
 * again.
 *
 * It is not read and not merged meanwhile, and no other guest can find its pages: they are out of
 * the trees. Holes stay holes (there is nothing to share in them) but are not counted any more,
 * since nobody looks whether they still are.
 *
 * That it is unmerged is part of what is kept about the guest (kept.h): a later daemon, or entering
 * again for whatever reason, leaves it so.
 *
 * Owned by the loop.
 */
#pragma once

#include "daemon/manager.h"

/* Marks the member unmerged at once, and gives its pages back as soon as its job is over. done (NULL
 * is fine) is called once, perhaps before this returns. After a failure the member
 * is not unmerged, unless nobody waits to hear that. -EBUSY, -ENOMEM. */
int unmerge_start(struct manager *mgr, struct member *m, enroll_done_fn *done, void *userdata);
/* Begins what waits for the member to be free. */
void unmerge_go(struct manager *mgr, struct member *m);
/* The member goes. */
void unmerge_abandon(struct member *m);
/* It is merged again, from the next pass on. */
void unmerge_end(struct manager *mgr, struct member *m);
