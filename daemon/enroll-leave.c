/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest leaves: its shared pages are given back (giveback.h); then, on a worker, QEMU's MERGEABLE
 * marks are put back, the tracker disarmed, the agent detached and the file about the guest removed;
 * then, on the loop, the pages leave the trees and the ledger.
 */
#include "common/fault.h"
#include "common/log.h"
#include "common/util.h"
#include "daemon/kept.h"
#include "daemon/manager.h"
#include "daemon/unmerge.h"
#include "daemon/yield.h"

#define REASON_MAX 256

struct leave {
	struct work work; /* must be first */
	struct manager *mgr;
	struct member *m;
	int error;
	char reason[REASON_MAX];
	enroll_done_fn *done;
	void *userdata;
};

static void forget_member(struct manager *mgr, struct member *m)
{
	struct member **at = &mgr->members;

	while (*at && *at != m)
		at = &(*at)->next;
	assert(*at == m);
	*at = m->next;
	mgr->n_members--;
	yield_lost(m);
	enroll_drop_blocks(mgr, m);
	unmerge_abandon(m);
	manager_leave_domain(mgr, m->domain);
	m->guest->member = NULL;
	member_unref(m);
}

static void leave_run(struct work *w)
{
	struct leave *l = (struct leave *)w;
	struct member *m = l->m;
	char why[AGENT_REASON_MAX] = "";
	int r = l->error < 0 ? l->error : merge_ksm_leave(m);

	l->error = 0;
	if (r < 0 && r != -ESRCH) {
		_cleanup_free_ char *cause = strdup(!member_agent_is_idle(m) ? MEMBER_AGENT_IS_LATE
						    : *l->reason	     ? l->reason
										 : strerror(-r));

		/* No memory for private copies, or QEMU stands still: the guest keeps what it shares. */
		l->error = r;
		(void)snprintf(l->reason, sizeof(l->reason), "its shared pages stay shared: %.150s",
			       cause ? cause : "");
	}
	member_drop_tracker(m);
	r = agent_detach(TAKE_PTR(m->agent), why);
	if (r < 0 && r != -ESRCH && l->error == 0) {
		l->error = r;
		(void)snprintf(l->reason, sizeof(l->reason), "the agent could not be removed: %s",
			       *why ? why : strerror(-r));
	}
	/* Last of all: until everything was given back a later daemon must know of this guest. */
	FAULT_POINT("enroll-left");
	if (l->error == 0)
		kept_remove(l->mgr->guests_fd, m->process);
}

static void leave_done(struct work *w)
{
	struct leave *l = (struct leave *)w;
	struct log_guest who = member_log(l->m);

	log_full(l->error < 0 ? LOG_WARNING : LOG_INFO, &who, "has left domain %s%s%s", l->m->domain->name,
		 *l->reason ? ": " : "", l->reason);
	l->m->busy = false;
	if (l->error < 0)
		manager_note_stranger(l->mgr, l->m);
	(void)guest_apply(l->m->guest, GUEST_LEFT, l->reason);
	if (l->done)
		l->done(l->m->guest, l->error, l->reason, l->userdata);
	if (!l->mgr->stopping)
		forget_member(l->mgr, l->m);
	free(l);
}

static void given_back(struct member *m, int r, const char *reason, void *userdata)
{
	struct leave *l = userdata;

	/* The next daemon goes on with it. */
	if (l->mgr->stopping) {
		m->leave = NULL;
		free(l);
		return;
	}
	m->busy = true;
	l->error = r;
	if (r < 0)
		(void)snprintf(l->reason, sizeof(l->reason), "%s", reason);
	if (work_submit(l->mgr->pool, &l->work) < 0) {
		/* The queue is full: better late on this thread than never. */
		leave_run(&l->work);
		leave_done(&l->work);
	}
}

int enroll_leave(struct manager *mgr, struct member *m, enroll_done_fn *done, void *userdata)
{
	struct leave *l;
	int r;

	/* Giving pages back needs the userfaultfd. */
	if (m->yield.state != YIELD_NO && !m->gone) {
		yield_end(mgr, m);
		return -EBUSY;
	}
	r = guest_apply(m->guest, GUEST_UNENROLL, NULL);
	if (r < 0)
		return r;
	if (m->gone || m->leave)
		return -EALREADY;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	*l = (struct leave){
		.work = { .run = leave_run, .done = leave_done },
		.mgr = mgr,
		.m = m,
		.done = done,
		.userdata = userdata,
	};
	m->leave = l;
	m->gone = true;
	if (!m->busy)
		enroll_finish_leaving(mgr, m);
	else if (mgr->merge_ksm)
		merge_ksm_cut(mgr->merge_ksm, m);
	return 0;
}

void enroll_lost(struct manager *mgr, struct member *m)
{
	if (m->gone)
		return;
	m->gone = true;
	if (!m->busy)
		enroll_finish_leaving(mgr, m);
}

void enroll_finish_leaving(struct manager *mgr, struct member *m)
{
	struct leave *l = m->leave;

	assert(m->gone && !m->busy);
	if (!l) {
		struct log_guest who = member_log(m);

		log_full(LOG_INFO, &who, "has exited");
		if (!process_alive(m->process))
			kept_remove(mgr->guests_fd, m->process);
		forget_member(mgr, m);
		return;
	}
	/* Where the queue is full manager_schedule() tries again with the next job that ends. */
	(void)giveback_start(&mgr->giveback, m, GIVEBACK_LEAVING, given_back, l);
}
