/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/foreign.h"

#include "common/fault.h"
#include "common/log.h"
#include "common/util.h"
#include "daemon/giveback.h"
#include "daemon/kept.h"
#include "daemon/store.h"

#define RETRY_USEC (60 * USEC_PER_SEC)

static void given_back(struct member *m, int r, const char *reason, void *userdata)
{
	struct manager *mgr = userdata;
	struct log_guest who = member_log(m);

	if (mgr->stopping)
		return;
	if (r < 0) {
		m->foreign_retry_usec = now_usec() + RETRY_USEC;
		if (r != -ECANCELED && r != -ESRCH && !*m->foreign_reason)
			log_full(LOG_WARNING, &who, "cannot get back yet what it shared before: %s", reason);
		(void)snprintf(m->foreign_reason, sizeof(m->foreign_reason),
			       "what it shared before cannot be given back yet: %.100s", reason);
	} else {
		FAULT_POINT("foreign-given-back");
		m->foreign = false;
		m->foreign_reason[0] = '\0';
		/* Killed before: the next daemon looks for mappings of a store that has none, in vain. */
		(void)kept_set_store(mgr->guests_fd, m->process,
				     m->domain->store ? store_label(m->domain->store) : NULL);
		log_full(LOG_INFO, &who, "has back what it shared before it came to domain %s", m->domain->name);
	}
	if (m->gone)
		enroll_finish_leaving(mgr, m);
	manager_schedule(mgr);
}

void foreign_go(struct manager *mgr, struct member *m, uint64_t now)
{
	if (m->busy || m->gone || m->unmerge || now < m->foreign_retry_usec)
		return;
	/* Where the queue is full the next job that ends brings us here again. */
	(void)giveback_start(&mgr->giveback, m, GIVEBACK_FOREIGN, given_back, mgr);
}
