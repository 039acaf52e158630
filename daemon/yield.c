/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/yield.h"

#include "common/fault.h"
#include "common/log.h"
#include "common/util.h"
#include "daemon/enrolment.h"

/* How often it is tried to take memory back that QEMU holds. */
#define TAKE_AGAIN_USEC (2 * USEC_PER_SEC)
/* How often a monitor is asked whether QEMU still means to use userfaultfd. */
#define ASK_AGAIN_USEC (5 * USEC_PER_SEC)

struct yield_job {
	struct work work; /* must be first */
	struct manager *mgr;
	struct member *m; /* a reference */
	int error;
};

static int disarm_all(struct member *m, size_t n_blocks)
{
	int error = 0;

	for (size_t i = 0; i < n_blocks; i++) {
		int r = tracker_disarm(m->tracker, m->blocks[i]->start, m->blocks[i]->n_pages);

		if (r < 0 && error == 0)
			error = r;
	}
	return error;
}

static void settle(struct member *m, int r)
{
	yield_done_fn *done = m->yield.done;

	m->yield.done = NULL;
	if (done)
		done(m, r, m->yield.userdata);
}

static int submit(struct manager *mgr, struct member *m, void (*run)(struct work *w),
		  void (*done)(struct work *w))
{
	struct yield_job *j = calloc(1, sizeof(*j));
	int r = -ENOMEM;

	if (j) {
		*j = (struct yield_job){ .work = { .run = run, .done = done }, .mgr = mgr, .m = m };
		r = work_submit(mgr->pool, &j->work);
	}
	if (r < 0) {
		free(j);
		return r;
	}
	(void)member_ref(m);
	m->busy = true;
	return 0;
}

/* The common end of both jobs: true when there is more to say about the member. */
static bool finish(struct yield_job *j)
{
	struct member *m = j->m;

	m->busy = false;
	m->counts.cpu_nsec += j->work.cpu_nsec;
	if (j->mgr->stopping)
		return false;
	if (j->error == -ESRCH)
		m->gone = true;
	if (!m->gone)
		return true;
	settle(m, -ESRCH);
	enroll_finish_leaving(j->mgr, m);
	return false;
}

static void end_job(struct yield_job *j)
{
	struct manager *mgr = j->mgr;
	struct member *m = j->m;

	free(j);
	if (!mgr->stopping)
		manager_schedule(mgr);
	member_unref(m);
}

/* --- giving ------------------------------------------------------------------------------ */

static void give_run(struct work *w)
{
	struct yield_job *j = (struct yield_job *)w;

	j->error = member_agent_is_idle(j->m) ? disarm_all(j->m, j->m->n_blocks) : -ETIMEDOUT;
	FAULT_POINT("yield-given");
}

static void give_done(struct work *w)
{
	struct yield_job *j = (struct yield_job *)w;
	struct member *m = j->m;
	struct log_guest who = member_log(m);

	if (finish(j)) {
		m->yield.state = YIELD_GIVEN;
		/* What was unregistered before the failure is taken back. */
		if (j->error < 0)
			m->yield.until_usec = 0;
		log_full(j->error < 0 ? LOG_WARNING : LOG_INFO, &who, "%s: %s%s%s",
			 j->error < 0 ? "its memory cannot be given to QEMU's userfaultfd"
				      : "is not tracked, and QEMU may use userfaultfd on it",
			 m->yield.why, j->error < 0 ? ": " : "", j->error < 0 ? strerror(-j->error) : "");
		settle(m, j->error);
	}
	end_job(j);
}

/* --- taking ------------------------------------------------------------------------------ */

static void take_run(struct work *w)
{
	struct yield_job *j = (struct yield_job *)w;
	struct member *m = j->m;

	for (size_t i = 0; i < m->n_blocks && j->error >= 0; i++) {
		j->error = tracker_arm(m->tracker, m->blocks[i]->start, m->blocks[i]->n_pages);
		/* All or nothing: QEMU may be about to register the others. */
		if (j->error < 0)
			(void)disarm_all(m, i);
	}
	FAULT_POINT("yield-taken");
}

static void take_done(struct work *w)
{
	struct yield_job *j = (struct yield_job *)w;
	struct member *m = j->m;
	struct log_guest who = member_log(m);

	/* Not when somebody asked for it meanwhile: then it is given right back. */
	if (!finish(j) || m->yield.state != YIELD_GIVEN) {
		;
	} else if (j->error < 0) {
		m->yield.until_usec = now_usec() + TAKE_AGAIN_USEC;
		if (j->error == -EBUSY)
			(void)snprintf(m->yield.why, sizeof(m->yield.why),
				       "%s", YIELD_QEMU_HAS_IT);
		else
			(void)snprintf(m->yield.why, sizeof(m->yield.why), "its memory cannot be tracked: %s",
				       strerror(-j->error));
	} else {
		m->yield.state = YIELD_NO;
		m->look_everywhere = true;
		m->yield.why[0] = '\0';
		m->next_pass_usec = now_usec();
		m->domain->audit_wanted |= m->policy.engine == POLICY_ENGINE_KSM && j->mgr->merge_ksm;
		log_full(LOG_INFO, &who, "is tracked again");
	}
	end_job(j);
}

/* Its monitor was asked, where it has one that answers. */
static void on_looked(struct guest *g, int r _unused_, const char *reason _unused_, void *userdata)
{
	struct guest *asked = userdata; /* a reference */
	struct member *m = asked->member;

	if (asked->enrolment && !asked->enrolment->mgr->stopping && m && !m->gone && m->yield.looking) {
		m->yield.looking = false;
		/* Somebody may have asked for more time meanwhile. */
		m->yield.looked = g == asked && !g->needs_uffd && m->yield.until_usec <= now_usec();
		if (!m->yield.looked)
			m->yield.until_usec = MAX(m->yield.until_usec, now_usec() + ASK_AGAIN_USEC);
		if (asked->needs_uffd)
			(void)snprintf(m->yield.why, sizeof(m->yield.why), "%s", YIELD_MONITOR_SAYS);
		manager_schedule(asked->enrolment->mgr);
	}
	guest_unref(asked);
}

uint64_t yield_step(struct manager *mgr, struct member *m, uint64_t now)
{
	struct yield *y = &m->yield;

	if (y->state == YIELD_WANTED)
		return submit(mgr, m, give_run, give_done) < 0 ? now + TAKE_AGAIN_USEC : UINT64_MAX;
	if (y->looking)
		return now + TAKE_AGAIN_USEC;
	if (y->until_usec > now)
		return y->until_usec;
	if (!y->looked) {
		y->looking = registry_look_at(mgr->registry, m->process->pid, on_looked,
					      guest_ref(m->guest)) >= 0;
		if (!y->looking)
			guest_unref(m->guest);
		return now + TAKE_AGAIN_USEC;
	}
	y->looked = false;
	return submit(mgr, m, take_run, take_done) < 0 ? now + TAKE_AGAIN_USEC : UINT64_MAX;
}

/* --- who wants it ------------------------------------------------------------------------- */

int yield_begin(struct manager *mgr, struct member *m, uint64_t usec, const char *why, yield_done_fn *done,
		void *userdata)
{
	struct yield *y = &m->yield;

	if (m->gone || m->leave)
		return -ESRCH;
	if (done && y->done)
		return -EBUSY;
	y->until_usec = usec == UINT64_MAX ? UINT64_MAX : now_usec() + usec;
	(void)snprintf(y->why, sizeof(y->why), "%s", why);
	if (done) {
		y->done = done;
		y->userdata = userdata;
	}
	y->looked = false;
	if (y->state == YIELD_NO) {
		y->state = YIELD_WANTED;
		if (mgr->merge_ksm)
			merge_ksm_cut(mgr->merge_ksm, m);
	}
	if (y->state == YIELD_GIVEN && !m->busy)
		settle(m, 0);
	/* Else a worker has the member; perhaps it is taking the memory back just now. */
	else if (y->state == YIELD_GIVEN)
		y->state = YIELD_WANTED;
	manager_schedule(mgr);
	return 0;
}

void yield_end(struct manager *mgr, struct member *m)
{
	if (m->yield.state == YIELD_NO)
		return;
	m->yield.until_usec = 0;
	manager_schedule(mgr);
}

bool yield_holds_domain(const struct manager *mgr, const struct domain *d)
{
	for (const struct member *m = mgr->members; m; m = m->next)
		if (m->domain == d && m->yield.state != YIELD_NO)
			return true;
	return false;
}

void yield_lost(struct member *m)
{
	settle(m, -ESRCH);
}
