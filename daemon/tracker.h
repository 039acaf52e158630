/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Trackers: what says which pages were written since it was last asked.
 *
 * One tracker serves one guest. Kinds, best first: wp (write protection in userfaultfd's async
 * mode, needs the agent's userfaultfd), softdirty (/proc/PID/clear_refs), rehash (knows
 * nothing: reports every present page as written, and the ledger compares fingerprints).
 *
 * A pass over a block: tracker_collect() calls back with runs that cover the block; a run
 * with PAGE_WRITTEN may have been written since the previous collect, a run without it was
 * not, whoever wrote (guest, QEMU, kernel, another process). Reporting too much is allowed,
 * too little never. What is written while collect runs is reported by this pass or the next.
 *
 * Limits, which the caller must know:
 *  - A run that is not present loses what was known of its pages: when they are present again
 *    they count as new, WRITTEN or not. Pages in transit show as swapped for a moment.
 *  - A page with PAGE_FILE that the ledger does not hold as shared has changed, WRITTEN or not
 *    (softdirty: the guest discarded its copy of a store page and sees the store's again).
 *  - A device that was told to write to a page before a collect (DMA, registered buffers) and
 *    writes after it leaves no mark with wp; softdirty leaves such pages marked. So a
 *    fingerprint can be stale for as long as nobody else writes there. Bytes are compared
 *    before anything is merged, and engines skip pinned pages: a page that turns out
 *    different must be read again.
 *  - After a collect that failed, every page of the range that it did not report counts as
 *    written.
 *
 * Stated excess, in pages reported that were not written: wp none, but for 512 where a huge
 * page was written and still is one; private copies in a store's mapping always; softdirty see
 * tracker-softdirty.c; pages for which the kernel lost the mark (KSM merged them, moved by
 * UFFDIO_MOVE, mapping replaced or unregistered).
 *
 * Thread: the daemon's loop owns a tracker; collect may be called from one worker at a time,
 * and not while an engine replaces mappings in the same range.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "daemon/pagemap.h"

enum tracker_kind {
	TRACKER_WP,
	TRACKER_SOFTDIRTY,
	TRACKER_REHASH,
	TRACKER_KIND_MAX,
};
const char *tracker_kind_to_string(enum tracker_kind k);
int tracker_kind_from_string(const char *s, enum tracker_kind *ret);

/* What wp does about pages mapped by huge pages. */
enum tracker_thp {
	/* Leaves them unprotected, hence whole: they are reported with PAGE_HUGE | PAGE_WRITTEN
	 * in each pass, and the caller compares fingerprints. */
	TRACKER_THP_KEEP,
	/* Protects them. They stay whole until the first write, which splits the mapping. */
	TRACKER_THP_ARM,
};

struct tracker;

/*
 * Makes a tracker. uffd is the guest's userfaultfd in our descriptor table (pidfd_getfd), with
 * UFFDIO_API not yet done; the tracker takes ownership, also on failure; -1 for the other
 * kinds. The process must outlive the tracker.
 * -EOPNOTSUPP when the kernel lacks what the kind needs; -EALREADY when the handshake was done
 * (by an earlier daemon): let the agent make a new one.
 */
int tracker_new(enum tracker_kind kind, const struct process *p, int uffd, enum tracker_thp thp,
		struct tracker **ret);
/* Disarms everything first. NULL is fine. */
void tracker_free(struct tracker *t);
/* Leaves everything as it is: for a guest whose agent is not idle (agent-link.h). NULL is fine. */
void tracker_abandon(struct tracker *t);
enum tracker_kind tracker_kind(const struct tracker *t);
/* Does a page reported as written show that it was, since the collect before? Else it may have been:
 * the caller compares fingerprints, and knows nothing new of pages that it cannot compare. */
bool tracker_is_exact(const struct tracker *t);
/*
 * Starts to track a range; its pages count as written until the first collect. Also to be
 * called again, before the next collect, for a range in which mappings were replaced (remap,
 * hot-plug); what is tracked already keeps its marks. Mappings that can't be tracked
 * (read-only, on a disk file) go on being reported as written. -EBUSY when somebody else
 * (QEMU's postcopy or background snapshot) holds a userfaultfd on part of it: then nothing of
 * the range gets tracked. -ESRCH.
 *
 * wp: an engine that registers part of the range with the same userfaultfd for MISSING must
 * unregister it afterwards (nothing else ends that mode) and have it armed again.
 */
int tracker_arm(struct tracker *t, hva start, uint64_t n_pages);
/* An engine has replaced mappings in a range that is armed, and has had the new ones registered
 * (RING_MERGE_TRACK): cheaper than arming again. Before the next collect. */
void tracker_remapped(struct tracker *t, hva start, uint64_t n_pages);
/* Ends it, for what of the range was armed. */
int tracker_disarm(struct tracker *t, hva start, uint64_t n_pages);
/* Called once before the blocks of a pass: softdirty acts on the whole process, and wp sees
 * whether the process has mapped or unmapped anything. */
int tracker_begin_pass(struct tracker *t);
int tracker_collect(struct tracker *t, hva start, uint64_t n_pages, page_run_fn *fn,
		    void *userdata);
