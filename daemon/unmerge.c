/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/unmerge.h"

#include "common/log.h"
#include "common/util.h"
#include "daemon/giveback.h"
#include "daemon/remap-guest.h"

struct unmerge {
	struct manager *mgr;
	bool running;
	enroll_done_fn *done;
	void *userdata;
};

/* Frees what was asked for and tells how it ended. */
static void conclude(struct member *m, int r, const char *reason)
{
	struct unmerge *u = TAKE_PTR(m->unmerge);

	if (r < 0 && u->done)
		m->unmerged = false;
	m->unmerge_failed = r < 0 && !u->done;
	if (u->done && !u->mgr->stopping)
		u->done(m->guest, r, reason, u->userdata);
	free(u);
}

static void given_back(struct member *m, int r, const char *reason, void *userdata)
{
	struct manager *mgr = userdata;
	struct log_guest who = member_log(m);

	if (r >= 0) {
		for (size_t i = 0; i < m->n_blocks; i++) {
			free(m->marks[i].v);
			m->marks[i] = (struct marks){ NULL, 0 };
		}
		m->folded = false;
		m->n_maps = 0;
		remap_list_free(TAKE_PTR(m->found));
		enroll_forget_pages(mgr, m);
		log_full(LOG_INFO, &who, "has all its pages back and is not merged until it is enrolled again");
	} else if (r != -ECANCELED && r != -ESRCH) {
		log_full(LOG_WARNING, &who, "not all its pages are given back: %s", reason);
	}
	conclude(m, r, r == -ECANCELED ? "it leaves" : reason);
	if (mgr->stopping)
		return;
	if (m->gone)
		enroll_finish_leaving(mgr, m);
	manager_schedule(mgr);
}

void unmerge_go(struct manager *mgr, struct member *m)
{
	int r;

	/* Giving back needs the userfaultfd. */
	if (m->busy || m->gone || m->unmerge->running || m->yield.state != YIELD_NO)
		return;
	r = giveback_start(&mgr->giveback, m, GIVEBACK_STAYING, given_back, mgr);
	if (r == -EAGAIN) /* the queue is full: with the next job that ends */
		return;
	if (r < 0)
		conclude(m, r, strerror(-r));
	else
		m->unmerge->running = true;
}

int unmerge_start(struct manager *mgr, struct member *m, enroll_done_fn *done, void *userdata)
{
	struct unmerge *u;

	if (m->unmerge || m->gone)
		return -EBUSY;
	m->unmerge_failed = false;
	u = calloc(1, sizeof(*u));
	if (!u)
		return -ENOMEM;
	*u = (struct unmerge){ .mgr = mgr, .done = done, .userdata = userdata };
	m->unmerge = u;
	m->unmerged = true;
	unmerge_go(mgr, m);
	return 0;
}

void unmerge_abandon(struct member *m)
{
	if (m->unmerge)
		conclude(m, -ESRCH, process_alive(m->process) ? "it leaves" : "the process has exited");
}

void unmerge_end(struct manager *mgr, struct member *m)
{
	m->unmerged = false;
	m->unmerge_failed = false;
	m->next_pass_usec = 0;
	manager_schedule(mgr);
}
