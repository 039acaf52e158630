/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Grow: RAM that was plugged into an enrolled guest is taken in, and the guest keeps what it shares.
 *
 * On a worker, which has the member to itself: QEMU's MERGEABLE marks of the new blocks are noted in
 * what is kept about the guest (kept.h) and taken away, and the tracker is armed; then, on the loop,
 * the ledger gets the blocks. SIGKILL in between leaves blocks without marks that the next daemon
 * knows of, and enters with the others.
 *
 * While a guest waits for that, no job of the member or of the whole domain begins. Blocks that went or
 * are not what they were are none of this: the guest leaves and enters again.
 *
 * Owned by the loop.
 */
#pragma once

#include "daemon/manager.h"

/* Pages of the blocks that would be taken in; -EXDEV: some went. */
int64_t grow_pages(const struct member *m);
/* Takes them in; done is called once, later. After a failure the member is as it was. -EBUSY: a job has
 * the member, or it yields; -ENOMEM, -EAGAIN. */
int grow_start(struct manager *mgr, struct member *m, enroll_done_fn *done, void *userdata);
