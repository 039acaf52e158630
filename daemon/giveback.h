/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Giving back: all pages that a member shares become its own, private ones again, when it leaves
 * and when somebody asks for that (unmerge.h).
 *
 * Every private copy takes memory that the host had got back, and too many at once would end with
 * the kernel killing guests. So:
 *
 *   look    (worker)  what is shared, and how many copies that takes; refused, before anything is
 *                     changed, when less memory is available than that and a reserve, on the host
 *                     or within the limits of the guest's memory control groups
 *   piece   (worker)  some MiB of it; the memory is looked at again first
 *   verify  (worker)  what the page map says is left: gone over again as long as that gets less, and for
 *                     about two seconds when it does not, before that is an error
 *
 * with the rate (bytes a second, for all guests together) asked between pieces. A piece is the
 * agent's UNMERGE and RECLAIM for mappings of a store, whichever daemon made it, and
 * MADV_UNMERGEABLE for what is marked for KSM.
 *
 * SIGKILL between or within pieces leaves a guest with fewer shared pages: each page is either
 * shared or its own at any instant.
 *
 * Owned by the loop.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "daemon/budget.h"
#include "daemon/member.h"
#include "daemon/work.h"

#define GIVEBACK_REASON_MAX 256

struct giveback_env {
	sd_event *event;
	struct work_pool *pool;
	struct budget *rate; /* bytes */
	const bool *stopping; /* the daemon ends: no more pieces */
};

/* r < 0: some pages, or all, are still shared; reason says why. -ECANCELED: the member went. */
typedef void giveback_done_fn(struct member *m, int r, const char *reason, void *userdata);

enum giveback_what {
	GIVEBACK_STAYING, /* all pages; copies may stay in mappings of a store, to be reclaimed in time */
	GIVEBACK_LEAVING, /* all pages and mappings, also when the member is marked gone meanwhile */
	GIVEBACK_FOREIGN, /* those of other stores than the domain's */
};

/* Starts; the member must not be busy and is until done is called (never from within this call). A
 * member that goes meanwhile ends it, unless LEAVING. 0, -ENOMEM, -EAGAIN. */
int giveback_start(const struct giveback_env *env, struct member *m, enum giveback_what what,
		   giveback_done_fn *done, void *userdata);
/* May so many bytes of copies be made now, by this process (NULL: by several)? Asks the host, and the
 * limits of the process's memory control groups. 0, or -ENOMEM with the numbers in ret_reason. Any thread. */
int giveback_check_memory(const struct process *p, uint64_t need_bytes, char ret_reason[GIVEBACK_REASON_MAX]);
