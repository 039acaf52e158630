/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Yield: a member makes way for QEMU's own use of userfaultfd.
 *
 * The kernel gives a mapping to one userfaultfd only. While the tracker's is registered, QEMU cannot
 * begin what it needs one for: a background snapshot (it refuses the capability, with "not
 * compatible with guest memory configuration") or the receiving end of postcopy. So a member yields
 * when a client says so (Yield() of the control interface, which is to come before the capability is
 * switched on, for QEMU tells nobody that it refused), when libvirt says that memory is coming in, and
 * when QEMU's monitor says that the capability is on.
 *
 *   NO      as usual
 *   WANTED  jobs under way end at their next step (giving pages back, unmerge.h, goes on to its end),
 *           nothing new begins
 *   GIVEN   a worker has unregistered everything: QEMU may begin. When the time is over, and its
 *           monitor (where there is one that answers) sees no reason against it, a worker registers
 *           again; while QEMU holds the memory that fails (-EBUSY) and is tried again and again.
 *
 * A member that yields is neither read nor merged, nor is its domain tidied. Nor does ksmd run for
 * the domain: it drops the write protection of what it merges, and with it QEMU's record of what the
 * guest writes during a snapshot. Shared pages stay shared. Afterwards all pages count as written
 * once.
 *
 * SIGKILL of the daemon: in GIVEN nothing of ours is registered, QEMU's work goes on, and the next
 * daemon finds the memory taken, or takes it. Before that QEMU cannot begin until a daemon runs.
 *
 * Owned by the loop; the two jobs hold the member as others do.
 */
#pragma once

#include <stdint.h>

#include "daemon/manager.h"

/* For status. */
#define YIELD_MONITOR_SAYS                                                                               \
	"QEMU's monitor says that it needs userfaultfd: memory is coming in, or the migration capability " \
	"background-snapshot is on"
#define YIELD_QEMU_HAS_IT                                                                                  \
	"QEMU uses userfaultfd on its memory itself: a background snapshot or postcopy is under way"

/* r: 0 QEMU may begin; -ESRCH, or what kept us from unregistering. */
typedef void yield_done_fn(struct member *m, int r, void *userdata);

/*
 * The member yields, or goes on to, until usec from now (UINT64_MAX: until yield_end()), and as
 * long as QEMU holds the memory. why is said in status. done (NULL: nobody waits) is called once, when
 * nothing is registered any more, perhaps before this returns. -EBUSY: somebody waits for it
 * already; -ESRCH: the member is leaving or gone.
 */
int yield_begin(struct manager *mgr, struct member *m, uint64_t usec, const char *why, yield_done_fn *done,
		void *userdata);
/* Takes the memory back as soon as it can be had. */
void yield_end(struct manager *mgr, struct member *m);
/* Has a member of the domain yielded, or is about to? */
bool yield_holds_domain(const struct manager *mgr, const struct domain *d);
/* What is due for a member that yields and is not busy; returns when to come again (monotonic). */
uint64_t yield_step(struct manager *mgr, struct member *m, uint64_t now);
/* The member is gone: nobody need wait any more. */
void yield_lost(struct member *m);
