/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/enrolment-private.h"

#include "common/kernel.h"
#include "common/log.h"
#include "common/util.h"
#include "daemon/grow.h"
#include "daemon/kept.h"
#include "daemon/libvirt-guests.h"
#include "daemon/unmerge.h"
#include "daemon/wish.h"
#include "daemon/yield.h"

/* A look is fresh enough to enter on. */
#define LOOK_FRESH_USEC USEC_PER_SEC
/* A guest that cannot leave, or take in new memory, now. */
#define LEAVE_RETRY_USEC (200 * USEC_PER_MSEC)
/* How long guests of an earlier daemon wait for libvirt's word before they are let in without. */
#define LIBVIRT_WAIT_USEC (30 * USEC_PER_SEC)
/* Timers need not be exact. */
#define TIMER_SLACK_USEC (100 * USEC_PER_MSEC)

struct log_guest enrolment_log(const struct guest *g)
{
	return (struct log_guest){ g->name, g->uuid, g->process.pid };
}

/* Notes in e->reason why the guest is not to be in; false when nothing keeps it out. */
static bool is_refused(struct guest *g)
{
	struct enrolment *e = g->enrolment;
	char why[GUEST_REASON_BYTES] = "";
	bool refused = enrolment_refuses(g, &e->policy, why);

	if (e->facts && *e->facts->policy_error && e->policy.enabled == POLICY_NO)
		(void)snprintf(why, sizeof(why), "its libvirt metadata is refused: %.200s",
			       e->facts->policy_error);
	else if (e->policy.enabled == POLICY_ESTIMATE)
		(void)snprintf(why, sizeof(why),
			       "its policy says enabled=estimate: it is never merged; memsharectl estimate "
			       "says what sharing would save");
	if (*why && !streq(why, e->reason) && e->policy.enabled != POLICY_ESTIMATE) {
		struct log_guest who = enrolment_log(g);

		log_full(LOG_WARNING, &who, "is not enrolled: %s", why);
	}
	if (*why || e->failures == 0)
		memcpy(e->reason, why, sizeof(why));
	return refused;
}

/* --- steps ------------------------------------------------------------------------------ */

static int on_retry(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	enrolment_review(userdata);
	return 0;
}

static void review_later(struct guest *g, uint64_t usec)
{
	struct enrolment *e = g->enrolment;

	if (e->timer) {
		(void)sd_event_source_set_time_relative(e->timer, usec);
		(void)sd_event_source_set_enabled(e->timer, SD_EVENT_ONESHOT);
	} else if (sd_event_add_time_relative(e->mgr->event, &e->timer, CLOCK_MONOTONIC, usec,
					      TIMER_SLACK_USEC, on_retry, g) < 0) {
		e->timer = NULL;
	}
}

/* The client hears how it ended. */
static void settle(struct guest *g, int r, const char *reason)
{
	struct enrolment *e = g->enrolment;
	enroll_done_fn *done = e->done;
	void *userdata = e->userdata;

	if (!done)
		return;
	e->done = NULL;
	e->userdata = NULL;
	if (r < 0 && r != -ESRCH) {
		e->runtime = e->before;
		e->failures = 0;
		e->retry_usec = 0;
		review_later(g, 0);
	}
	done(g, r, reason, userdata);
}

void enrolment_settle_unmerge(struct guest *g, int r, const char *reason)
{
	struct enrolment *e = g->enrolment;
	enroll_done_fn *done = e->unmerge_done;

	e->unmerge_done = NULL;
	if (done)
		done(g, r, reason, e->unmerge_userdata);
}

static void note_failure(struct guest *g, int r, const char *reason)
{
	struct enrolment *e = g->enrolment;
	struct log_guest who = enrolment_log(g);
	uint64_t wait;

	if (!*reason)
		reason = strerror(-r);
	if (e->failures == 0 || !streq(e->reason, reason))
		log_full(LOG_WARNING, &who, "is not as its policy says: %s", reason);
	e->failures++;
	wait = wish_backoff_usec(e->failures);
	e->retry_usec = now_usec() + wait;
	(void)snprintf(e->reason, sizeof(e->reason), "%s", reason);
	review_later(g, wait);
	settle(g, r, e->reason);
}

/* Others may wait for what this guest has given up: a domain's engine, room. */
static void review_waiting(struct manager *mgr)
{
	for (struct guest *g = registry_guests(mgr->registry); g; g = g->next)
		if (g->enrolment && g->enrolment->policy.enabled == POLICY_YES &&
		    (g->state == GUEST_READY || g->state == GUEST_REFUSED || *g->enrolment->not_grown))
			review_later(g, 0);
}

static void on_entered(struct guest *g, int r, const char *reason, void *userdata _unused_)
{
	struct enrolment *e = g->enrolment;

	if (!e || e->mgr->stopping || g->state == GUEST_GONE)
		return;
	if (r < 0) {
		note_failure(g, r, reason);
		return;
	}
	/* One that is only to leave may fail in that again. */
	if (e->policy.enabled == POLICY_YES)
		e->failures = 0;
	e->was_in = true;
	e->left_behind = e->left_here = false;
	e->reason[0] = '\0';
	e->tied_to[0] = '\0';
	/* A client may have changed that since it was noted. */
	if (e->done)
		(void)kept_set_unmerged(e->mgr->guests_fd, &g->process, e->unmerged);
	if (e->unmerged)
		(void)unmerge_start(e->mgr, g->member, NULL, NULL);
	enrolment_review(g);
}

static void on_left(struct guest *g, int r, const char *reason, void *userdata _unused_)
{
	struct enrolment *e = g->enrolment;

	if (!e || e->mgr->stopping || g->state == GUEST_GONE)
		return;
	e->left_behind = e->left_here = r < 0 && r != -ESRCH;
	if (e->left_behind)
		(void)snprintf(e->tied_to, sizeof(e->tied_to), "%s", e->entered.domain);
	else
		e->tied_to[0] = '\0';
	if (r < 0)
		note_failure(g, r, reason);
	else
		review_later(g, 0);
	/* Once its member is gone. */
	review_waiting(e->mgr);
}

/* With which a guest enters that is to be cleared: it shares nothing new, and what would forbid
 * engine remap is no hindrance. */
static struct policy clearing_policy(void)
{
	const char *engine = policy_engine_to_string(kernel_allows_engine_remap() ? POLICY_ENGINE_ZERO
										  : POLICY_ENGINE_KSM);
	char reason[POLICY_REASON_MAX];
	struct policy p;

	policy_init_default(&p);
	(void)policy_set(&p, POLICY_FIELD_ENABLED, "yes", POLICY_SOURCE_DEFAULT, "to be let go", reason);
	(void)policy_set(&p, POLICY_FIELD_ENGINE, engine, POLICY_SOURCE_DEFAULT, "to be let go", reason);
	return p;
}

static void enter(struct guest *g, bool clear)
{
	struct enrolment *e = g->enrolment;
	int r;

	if (g->needs_uffd) {
		note_failure(g, -EAGAIN, YIELD_MONITOR_SAYS);
		return;
	}
	/* libvirt's word, if there is one, is in e->held. */
	if (g->may_arrive && !e->facts && !e->was_in) {
		note_failure(g, -EAGAIN, "it was started to take in a migration, and no monitor says whether "
					 "its memory has arrived (remedy: a free one, -qmp unix:PATH,server=on,"
					 "wait=off)");
		return;
	}
	if (clear) {
		struct log_guest who = enrolment_log(g);

		log_full(LOG_INFO, &who, "was enrolled by an earlier daemon and is not to be any more: its "
			 "pages are given back");
	}
	e->entered = clear ? clearing_policy() : e->policy;
	g->memory_changed = false;
	r = enroll_start(e->mgr, g, &e->entered, on_entered, NULL);
	if (r < 0)
		note_failure(g, r,
			     r == -ENOSPC ? "there is no room for more guests"
			     : r == -EPERM || r == -EAGAIN ? g->reason : "");
}

static void on_looked(struct guest *g, int r, const char *reason, void *userdata)
{
	struct guest *asked = userdata; /* a reference */
	struct enrolment *e = asked->enrolment;

	if (e && !e->mgr->stopping && asked->state != GUEST_GONE) {
		e->looking = false;
		if (r < 0) {
			note_failure(asked, r, reason);
		} else if (g == asked) {
			e->looked_usec = now_usec();
			enrolment_review(g);
		}
	}
	guest_unref(asked);
}

static void look_or_enter(struct guest *g, bool clear)
{
	struct enrolment *e = g->enrolment;
	int r;

	if (e->looked_usec && now_usec() - e->looked_usec < LOOK_FRESH_USEC) {
		enter(g, clear);
		return;
	}
	r = registry_look_at(e->mgr->registry, g->process.pid, on_looked, guest_ref(g));
	e->looking = r >= 0;
	if (r < 0) {
		note_failure(g, r, "");
		guest_unref(g);
	}
}

static void leave(struct guest *g)
{
	struct enrolment *e = g->enrolment;
	/* Its memory is not touched before it has arrived: what libvirt says then brings us back. */
	int r = e->held ? -EBUSY : enroll_leave(e->mgr, g->member, on_left, NULL);

	/* Its worker ends some time, and then it is looked at again. */
	if (r < 0)
		review_later(g, LEAVE_RETRY_USEC);
}

static void on_grown(struct guest *g, int r, const char *reason, void *userdata _unused_)
{
	struct log_guest who = enrolment_log(g);

	if (!g->enrolment || g->state != GUEST_ENROLLED)
		return;
	if (r >= 0) {
		enrolment_review(g);
		return;
	}
	log_full(LOG_WARNING, &who, "its new memory cannot be taken in (%s): it leaves and enters again", reason);
	leave(g);
}

/* Memory was plugged in; what went, or is another now, makes it enter again. */
static void grow(struct guest *g)
{
	struct enrolment *e = g->enrolment;
	struct log_guest who = enrolment_log(g);
	int64_t more = grow_pages(g->member);
	int r = (int)MIN(more, (int64_t)0);

	e->not_grown[0] = '\0';
	if (more > 0 && enrolment_exceeds_memory(e->mgr, (uint64_t)more, e->not_grown)) {
		log_full(LOG_WARNING, &who, "its new memory is not taken in: %s", e->not_grown);
		more = 0;
	}
	if (more > 0)
		r = grow_start(e->mgr, g->member, on_grown, NULL);
	if (r == -EXDEV)
		leave(g);
	else if (r < 0)
		review_later(g, LEAVE_RETRY_USEC);
	else
		g->memory_changed = false;
	if (more == 0)
		enrolment_review(g);
}

/* Is there room now for memory that was plugged in when there was none? */
static void grow_after_all(struct guest *g)
{
	struct enrolment *e = g->enrolment;
	int64_t more;

	if (!*e->not_grown)
		return;
	more = g->state == GUEST_ENROLLED && g->member ? grow_pages(g->member) : 0;
	if (more <= 0)
		e->not_grown[0] = '\0';
	else
		g->memory_changed |= !enrolment_exceeds_memory(e->mgr, (uint64_t)more, e->not_grown);
}

static void adapt(struct guest *g)
{
	struct enrolment *e = g->enrolment;

	enroll_adapt(e->mgr, g->member, &e->policy);
	e->entered = e->policy;
	(void)kept_set_asked(e->mgr->guests_fd, &g->process, &e->runtime);
	settle(g, 0, "");
}

/* A guest that is in when libvirt or its monitor says that QEMU needs userfaultfd. */
static void make_way(struct guest *g)
{
	struct manager *mgr = g->enrolment->mgr;

	if (!g->member)
		return;
	if (g->enrolment->held)
		(void)yield_begin(mgr, g->member, UINT64_MAX,
				  "libvirt says that its memory is still coming in (migration)", NULL, NULL);
	else if (g->member->yield.until_usec == UINT64_MAX)
		yield_end(mgr, g->member);
	else if (g->needs_uffd && g->member->yield.state == YIELD_NO)
		(void)yield_begin(mgr, g->member, 0, YIELD_MONITOR_SAYS, NULL, NULL);
}

/* Has all been heard that could want a guest in? */
static bool is_settled(const struct manager *mgr)
{
	return mgr->libvirt ? libvirt_guests_settled(mgr->libvirt) : !mgr->config->libvirt_enabled;
}

/* A guest of an earlier daemon that libvirt has not spoken of yet: it would be taken for one that is
 * nobody's, enter another trust domain, and get all its pages back first. */
static bool awaits_libvirt(const struct guest *g)
{
	const struct enrolment *e = g->enrolment;

	return e->left_behind && !e->facts && !e->runtime.set && !e->done && !is_settled(e->mgr) &&
	       now_usec() < e->mgr->started_usec + LIBVIRT_WAIT_USEC;
}

/* --- the review ---------------------------------------------------------------------------- */

void enrolment_review(struct guest *g)
{
	struct enrolment *e = g->enrolment;
	struct wish w;

	if (!e || e->mgr->stopping || g->state == GUEST_GONE || e->looking)
		return;
	wish_resolve(e->mgr->config->policies, e->mgr->config->n_policies, g, e->facts, &e->runtime,
		     &e->policy);
	wish_refuse_engines(g, e->facts);
	make_way(g);
	grow_after_all(g);
	w = (struct wish){
		.policy = &e->policy,
		.entered = &e->entered,
		/* "auto" follows the configuration: KSM's domain may be another now. */
		.moved = g->member && enroll_engine(e->mgr, &e->policy) != g->member->policy.engine,
		.refused = is_refused(g),
		.held = e->held || awaits_libvirt(g),
		.left_behind = e->left_behind && (e->done || e->left_here || is_settled(e->mgr)),
		.resting = now_usec() < e->retry_usec,
	};
	switch (wish_step(g, &w)) {
	case WISH_ENTER:
		look_or_enter(g, false);
		break;
	case WISH_CLEAR:
		look_or_enter(g, true);
		break;
	case WISH_LEAVE:
		leave(g);
		break;
	case WISH_ADAPT:
		adapt(g);
		break;
	case WISH_GROW:
		grow(g);
		break;
	case WISH_NOTHING:
		if (g->state == GUEST_ENROLLED || e->policy.enabled != POLICY_YES)
			settle(g, 0, "");
		else
			settle(g, -EPERM, e->reason);
		break;
	case WISH_WAIT:
		if (awaits_libvirt(g)) {
			(void)snprintf(e->reason, sizeof(e->reason),
				       "an earlier daemon had it: waiting for what libvirt says of it");
			review_later(g, USEC_PER_SEC);
		} else if (e->held && g->state != GUEST_ENTERING && g->state != GUEST_LEAVING) {
			(void)snprintf(e->reason, sizeof(e->reason),
				       "its memory is still coming in (migration)");
			settle(g, -EAGAIN, e->reason);
		} else if (w.resting) {
			review_later(g, e->retry_usec - MIN(now_usec(), e->retry_usec));
		}
		break;
	case WISH_STEP_MAX:
		break;
	}
}

void enrolment_review_all(struct manager *mgr)
{
	for (struct guest *g = registry_guests(mgr->registry), *next; g; g = next) {
		next = g->next;
		if (g->enrolment) {
			g->enrolment->failures = 0;
			g->enrolment->retry_usec = 0;
		}
		enrolment_review(g);
	}
}

void enrolment_review_left_behind(struct manager *mgr)
{
	for (struct guest *g = registry_guests(mgr->registry), *next; g; g = next) {
		next = g->next;
		if (g->enrolment && g->enrolment->left_behind)
			enrolment_review(g);
	}
}

/* --- guests come and go ------------------------------------------------------------------------ */

static void enrolment_free(struct guest *g)
{
	struct enrolment *e = g->enrolment;

	if (!e)
		return;
	settle(g, -ESRCH, "the process has exited");
	enrolment_settle_unmerge(g, -ESRCH, "the process has exited");
	g->enrolment = NULL;
	(void)sd_event_source_disable_unref(e->timer);
	libvirt_facts_free(e->facts);
	free(e);
}

void enrolment_free_all(struct manager *mgr)
{
	if (!mgr->registry)
		return;
	for (struct guest *g = registry_guests(mgr->registry); g; g = g->next)
		enrolment_free(g);
}

/* A guest that is new to us: what clients had asked of an earlier daemon holds on. */
static void remember(struct guest *g)
{
	struct enrolment *e = g->enrolment;
	struct kept k = { 0 };
	struct log_guest who = enrolment_log(g);
	int r = kept_load(e->mgr->guests_fd, &g->process, &k);

	policy_init_empty(&e->runtime);
	e->was_in = e->left_behind = r != -ENOENT;
	if (r >= 0) {
		e->runtime = k.asked;
		e->unmerged = k.unmerged;
	} else if (r != -ENOENT) {
		log_full(LOG_WARNING, &who,
			 "was enrolled by an earlier daemon, and what that kept about it cannot be read (%s): "
			 "what clients asked for is lost, and merge marks of ours count as QEMU's",
			 strerror(-r));
	}
	kept_done(&k);
}

void enrolment_guest_changed(struct guest *g, void *userdata)
{
	struct manager *mgr = userdata;

	if (g->state == GUEST_GONE) {
		enrolment_free(g);
		/* A job may have seen its memory go before its pidfd told, and left the file. */
		kept_remove(mgr->guests_fd, &g->process);
		if (g->member)
			enroll_lost(mgr, g->member);
		review_waiting(mgr);
		return;
	}
	if (!g->enrolment) {
		g->enrolment = calloc(1, sizeof(*g->enrolment));
		if (!g->enrolment)
			return; /* it is left alone */
		g->enrolment->mgr = mgr;
		remember(g);
	}
	enrolment_review(g);
}

/* What clients asked for has been persisted, and comes from libvirt now. */
static void forget_runtime(struct guest *g)
{
	struct enrolment *e = g->enrolment;
	struct policy nothing, then;

	policy_init_empty(&nothing);
	wish_resolve(e->mgr->config->policies, e->mgr->config->n_policies, g, e->facts, &nothing, &then);
	if (!e->runtime_until_facts || then.enabled != e->runtime.enabled)
		return;
	e->runtime = nothing;
	e->runtime_until_facts = false;
	(void)kept_set_asked(e->mgr->guests_fd, &g->process, &nothing);
}

void enrolment_set_facts(struct guest *g, struct libvirt_facts *facts, bool held)
{
	struct enrolment *e = g->enrolment;

	if (!e) {
		libvirt_facts_free(facts);
		return;
	}
	libvirt_facts_free(e->facts);
	e->facts = facts;
	e->listed = facts;
	e->held = held;
	/* News: what failed before may work now. */
	e->failures = 0;
	e->retry_usec = 0;
	if (facts) {
		(void)guest_identify(g, GUEST_SOURCE_LIBVIRT, facts->name, facts->uuid);
		forget_runtime(g);
	} else {
		/* What it calls itself comes with the next look. */
		g->source = GUEST_SOURCE_PROC;
	}
	enrolment_review(g);
}

void enrolment_will_persist(struct guest *g, bool will)
{
	if (g->enrolment)
		g->enrolment->runtime_until_facts = will;
}
