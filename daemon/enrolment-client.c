/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What clients ask for: to enrol a guest, to unmerge it, to let go of it. */
#include "daemon/enrolment-private.h"

#include "common/util.h"
#include "daemon/kept.h"
#include "daemon/unmerge.h"
#include "daemon/wish.h"

static bool is_moving(const struct guest *g)
{
	return g->enrolment->done || g->enrolment->looking || g->state == GUEST_ENTERING ||
	       g->state == GUEST_LEAVING;
}

static void start_over(struct enrolment *e, enroll_done_fn *done, void *userdata)
{
	e->done = done;
	e->userdata = userdata;
	e->failures = 0;
	e->retry_usec = 0;
}

/* For this daemon and for later ones. */
static void set_unmerged(struct guest *g, bool unmerged)
{
	struct enrolment *e = g->enrolment;
	struct log_guest who = enrolment_log(g);
	int r;

	if (e->unmerged == unmerged)
		return;
	e->unmerged = unmerged;
	r = kept_set_unmerged(e->mgr->guests_fd, &g->process, unmerged);
	if (r < 0 && r != -ENOENT)
		log_full(LOG_WARNING, &who, "a later daemon will not know that it is %s: %s",
			 unmerged ? "unmerged" : "merged again", strerror(-r));
}

int enrolment_ask(struct guest *g, const struct policy *asked, enroll_done_fn *done, void *userdata,
		  char ret_reason[GUEST_REASON_BYTES])
{
	struct enrolment *e = g->enrolment;
	struct policy then;

	ret_reason[0] = '\0';
	if (!e)
		return -ENOMEM;
	wish_refuse_engines(g, e->facts);
	wish_resolve(e->mgr->config->policies, e->mgr->config->n_policies, g, e->facts, asked, &then);
	/* On its way in just so (after a restart, say): the client may wait for that. */
	if (!e->done && (e->looking || g->state == GUEST_ENTERING) && policy_equal(&then, &e->policy)) {
		set_unmerged(g, false);
		e->before = e->runtime;
		e->done = done;
		e->userdata = userdata;
		return 0;
	}
	if (is_moving(g) || e->unmerge_done)
		return -EBUSY;
	if (g->state == GUEST_ENROLLED && policy_equal(&then, &e->entered)) {
		if (!e->unmerged)
			return -EALREADY;
		set_unmerged(g, false);
		unmerge_end(e->mgr, g->member);
		done(g, 0, "", userdata);
		return 0;
	}
	/* Before anything is changed: a guest that is in stays as it is. */
	if (enrolment_refuses(g, &then, ret_reason))
		return -EPERM;
	set_unmerged(g, false);
	if (g->member)
		unmerge_end(e->mgr, g->member);
	e->before = e->runtime;
	e->runtime = *asked;
	/* Whoever asks has just looked. */
	e->looked_usec = now_usec();
	start_over(e, done, userdata);
	enrolment_review(g);
	return 0;
}

static void on_unmerged(struct guest *g, int r, const char *reason, void *userdata _unused_)
{
	if (!g->enrolment)
		return;
	if (r < 0)
		set_unmerged(g, false);
	enrolment_settle_unmerge(g, r, reason);
}

int enrolment_unmerge(struct guest *g, enroll_done_fn *done, void *userdata)
{
	struct enrolment *e = g->enrolment;
	int r;

	if (!e || g->state != GUEST_ENROLLED || !g->member || g->member->gone)
		return -ENOENT;
	if (is_moving(g) || e->unmerge_done || g->member->unmerge)
		return -EBUSY;
	if (e->unmerged && !g->member->unmerge_failed)
		return -EALREADY;
	/* Noted first: SIGKILL from here on leaves the rest to the next daemon. */
	set_unmerged(g, true);
	e->unmerge_done = done;
	e->unmerge_userdata = userdata;
	r = unmerge_start(e->mgr, g->member, on_unmerged, NULL);
	if (r < 0) {
		e->unmerge_done = NULL;
		set_unmerged(g, false);
	}
	return r;
}

int enrolment_release(struct guest *g, enroll_done_fn *done, void *userdata)
{
	struct enrolment *e = g->enrolment;
	char reason[POLICY_REASON_MAX];
	struct policy then, nothing;

	if (!e)
		return -ENOENT;
	if (is_moving(g))
		return -EBUSY;
	if (g->state != GUEST_ENROLLED && e->policy.enabled != POLICY_YES && !e->left_behind)
		return -ENOENT;
	policy_init_empty(&nothing);
	wish_resolve(e->mgr->config->policies, e->mgr->config->n_policies, g, e->facts, &nothing, &then);
	set_unmerged(g, false);
	e->runtime = nothing;
	if (then.enabled == POLICY_YES)
		(void)policy_set(&e->runtime, POLICY_FIELD_ENABLED, "no", POLICY_SOURCE_RUNTIME,
				 "memsharectl unenroll", reason);
	e->before = e->runtime;
	start_over(e, done, userdata);
	enrolment_review(g);
	return 0;
}
