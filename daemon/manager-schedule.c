/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The schedule: what of passes, rounds, tidying, giving back and yielding is due, and what becomes of it
 * when it is over. Each thing that ends calls manager_schedule(), which starts whatever may begin now
 * and sets the timer for what is next.
 */
#include "daemon/manager.h"

#include "common/log.h"
#include "common/util.h"
#include "daemon/enrolment.h"
#include "daemon/foreign.h"
#include "daemon/tidy.h"
#include "daemon/unmerge.h"
#include "daemon/yield.h"

/* Fewer new candidates than this wait for more. */
#define ROUND_MIN_PAGES	  16U
/* So do fewer than this share of what is merged, for so many passes. A round has ksmd walk all that is
 * marked, twice, and the guests' marks unfolded and folded, which costs 2 us for each page there,
 * and 20 us for each new one: at this share the former is two thirds of the latter. */
#define ROUND_SHARE	  8U
#define ROUND_PASSES	  16U
/* But not what came at once, as when a guest boots beside its twins: more than this share, within the time of
 * a pass. */
#define ROUND_WAVE_SHARE  32U
/* A refusal that took long to find (old kernels, many mappings) is looked for again after so many times
 * that: the domain's members wait meanwhile. */
#define CHECK_REST	  10U
/* The marks are folded when there was no round for so many passes (merge-ksm.h). */
#define FOLD_PASSES	  1U
/* Each round that gained fewer than that doubles how many the next one waits for, or how long. */
#define ROUND_BACKOFF_MAX 6U
/* A domain's store is tidied after so many passes when pages came to share or ceased to: what guests
 * have written does not merge again, and its slots are not freed, before. And as a whole after so
 * many, for what was left undone (tidy.h). */
#define TIDY_PASSES	  3U
#define TIDY_IDLE_PASSES  60U
/* What ceased to be shared since a round is audited after so many passes: pages that were written,
 * more than this share of all, or perhaps written, which is all that some trackers tell. */
#define AUDIT_PASSES	  6U
#define AUDIT_SHARE	  128U
/* A pass that failed is tried again after this. */
#define PASS_RETRY_USEC	  (5 * USEC_PER_SEC)

/* The registry compares what it sees with what was known, and has the guest reviewed. */
static void on_looked(struct guest *g _unused_, int r _unused_, const char *reason _unused_,
		      void *userdata _unused_)
{
}

/* RAM that is plugged in or out, of which nobody tells where there is no libvirt, changes the size of
 * the address space. What else does, the threads' heaps or mappings of ours, costs a look now and
 * then. */
static void look_for_ram(struct manager *mgr, struct member *m)
{
	uint64_t now = m->counts.vm_pages, then = m->vm_pages_looked;

	if ((now > then ? now - then : then - now) * PAGE_BYTES >= MEMORY_RAM_MIN_BYTES &&
	    registry_look_at(mgr->registry, m->process->pid, on_looked, NULL) >= 0)
		m->vm_pages_looked = now;
}

static uint64_t count_sharers(const struct manager *mgr, const struct domain *d)
{
	uint64_t sharers = 0;

	for (const struct member *m = mgr->members; m; m = m->next)
		sharers += m->domain == d ? member_sharers(m) : 0;
	return sharers;
}

/* How many frames are shared is known from the last round only. */
static bool needs_audit(const struct manager *mgr, const struct domain *d)
{
	struct merge_ksm_stats s;
	bool exact = true;
	uint64_t sharers;

	if (!mgr->merge_ksm || d->engine != POLICY_ENGINE_KSM)
		return false;
	for (const struct member *m = mgr->members; m; m = m->next)
		exact &= m->domain != d || !m->tracker || tracker_is_exact(m->tracker);
	sharers = count_sharers(mgr, d);
	merge_ksm_stats(mgr->merge_ksm, &s);
	return (!exact && sharers > 0) ||
	       sharers + MAX(s.sharers_pages / AUDIT_SHARE, (uint64_t)ROUND_MIN_PAGES) < s.sharers_pages;
}

static void note_wave(const struct manager *mgr, struct domain *d)
{
	uint64_t now = now_usec();

	d->wave |= d->offered - d->offered_before > count_sharers(mgr, d) / ROUND_WAVE_SHARE;
	if (now - d->offered_before_usec < mgr->pass_env.interval_usec)
		return;
	d->offered_before = d->offered;
	d->offered_before_usec = now;
}

static void pass_done(struct member *m, int r, void *userdata)
{
	struct manager *mgr = userdata;
	uint64_t interval = mgr->pass_env.interval_usec;

	if (mgr->stopping)
		return;
	if (r == -ESRCH)
		m->gone = true;
	if (m->gone) {
		enroll_finish_leaving(mgr, m);
	} else if (r < 0 && m->yield.state == YIELD_NO) {
		struct log_guest who = member_log(m);

		log_full(LOG_WARNING, &who, "a pass over its memory failed (%s): trying again later",
			 strerror(-r));
		interval = MAX(interval, PASS_RETRY_USEC);
	} else {
		look_for_ram(mgr, m);
		note_wave(mgr, m->domain);
		m->domain->audit_due |= needs_audit(mgr, m->domain);
	}
	m->next_pass_usec = now_usec() + interval;
	manager_schedule(mgr);
}

/* Members that were held by a round may have left meanwhile. */
static void finish_gone(struct manager *mgr)
{
	for (struct member *m = mgr->members, *next; m; m = next) {
		next = m->next;
		if (m->gone && !m->busy)
			enroll_finish_leaving(mgr, m);
	}
}

/* When the next one is worth its while. */
static void note_round(struct domain *d, const struct merge_ksm_stats *s)
{
	d->last_round_usec = now_usec();
	d->fold_due = true;
	if (s->incomplete) {
		d->offered_last_round = d->offered - ROUND_MIN_PAGES;
		d->wave = true;
	}
	if (s->incomplete || s->gained_pages >= ROUND_MIN_PAGES)
		d->round_backoff = 0;
	else
		d->round_backoff = MIN(d->round_backoff + 1, ROUND_BACKOFF_MAX);
}

/* Why no round can start, said once: it is tried again with each pass, because what is in the way
 * (another process's mergeable memory, an advisor) may go by itself. */
static void note_refusal(struct manager *mgr, struct domain *d, const char *refusal)
{
	struct merge_ksm_stats s;

	merge_ksm_stats(mgr->merge_ksm, &s);
	if (*refusal) {
		d->offered_last_round = d->offered - ROUND_MIN_PAGES;
		d->next_round_usec = now_usec() + MAX(mgr->pass_env.interval_usec, s.check_usec * CHECK_REST);
	}
	if (streq(refusal, mgr->round_refusal))
		return;
	(void)snprintf(mgr->round_refusal, sizeof(mgr->round_refusal), "%s", refusal);
	if (*refusal)
		log_warning("domain %s is not merged: %s", d->name, refusal);
	else
		log_info("domain %s is merged again", d->name);
}

static void round_done(struct domain *d, int r, void *userdata)
{
	struct manager *mgr = userdata;
	struct merge_ksm_stats s;

	if (mgr->stopping)
		return;
	d->round_running = false;
	merge_ksm_stats(mgr->merge_ksm, &s);
	d->next_audit_usec = now_usec() + AUDIT_PASSES * mgr->pass_env.interval_usec;
	if (d->round_merges) {
		if (r >= 0 || !*s.refusal)
			note_round(d, &s);
		note_refusal(mgr, d, s.refusal);
	}
	if (r < 0 && !(d->round_merges && *s.refusal))
		log_warning("merging in domain %s failed (%s): trying again with the next pass", d->name,
			    strerror(-r));
	finish_gone(mgr);
	manager_schedule(mgr);
}

bool manager_is_resting(const struct manager *mgr)
{
	return mgr->config->pressure == CONFIG_PRESSURE_AUTO && !mgr->pressure.working;
}

static void remap_done(struct member *m, int r, void *userdata)
{
	struct manager *mgr = userdata;
	struct log_guest who = member_log(m);

	if (mgr->stopping)
		return;
	if (r == -ESRCH)
		m->gone = true;
	if (m->gone)
		enroll_finish_leaving(mgr, m);
	else if (r == -EPERM) /* of a device: it leaves when that has been looked at */
		(void)registry_look_at(mgr->registry, m->process->pid, on_looked, NULL);
	else if (r < 0 && m->yield.state == YIELD_NO)
		LOG_RATELIMITED(LOG_WARNING, &who, "merging failed (%s): trying again with the next pass",
				strerror(-r));
	manager_schedule(mgr);
}

/* All members of the domain are between passes, and none is due now. */
static bool domain_is_quiet(const struct manager *mgr, const struct domain *d, uint64_t now)
{
	for (const struct member *m = mgr->members; m; m = m->next)
		if (m->domain == d &&
		    (m->busy || (!m->gone && !member_rests(m) && m->next_pass_usec <= now)))
			return false;
	return true;
}

/* KSM has one tree: ksmd must not run for a domain while guests of another, which it served before
 * a reload, still have pages there, whatever AllowForeign says of processes that are not ours. */
static bool domain_has_ksm_alone(const struct manager *mgr, const struct domain *d)
{
	if (!streq(d->name, mgr->config->ksm_domain))
		return false;
	for (const struct member *m = mgr->members; m; m = m->next)
		if (m->domain != d && m->policy.engine == POLICY_ENGINE_KSM)
			return false;
	for (const struct guest *g = registry_guests(mgr->registry); g; g = g->next)
		if (g->enrolment && *g->enrolment->tied_to && !streq(g->enrolment->tied_to, d->name))
			return false;
	return true;
}

/* A few candidates wait for more. Those that ksmd cannot merge (their frames are in use for I/O, say)
 * come again and again: rounds for them alone become rare. */
static bool domain_wants_round(const struct manager *mgr, const struct domain *d, uint64_t now)
{
	uint64_t new = d->offered - d->offered_last_round;

	if (!mgr->merge_ksm || d->round_running || d->engine != POLICY_ENGINE_KSM ||
	    new < ROUND_MIN_PAGES || now < d->next_round_usec)
		return false;
	if (!d->wave && new < count_sharers(mgr, d) / ROUND_SHARE &&
	    now - d->last_round_usec < ROUND_PASSES * mgr->pass_env.interval_usec)
		return false;
	if (new < (uint64_t)ROUND_MIN_PAGES << d->round_backoff &&
	    now - d->last_round_usec < mgr->pass_env.interval_usec << d->round_backoff)
		return false;
	return domain_has_ksm_alone(mgr, d);
}

static bool domain_is_idle(const struct manager *mgr, const struct domain *d)
{
	for (const struct member *m = mgr->members; m; m = m->next)
		if (m->domain == d && m->busy)
			return false;
	return !d->round_running;
}

static void start_round(struct manager *mgr, struct domain *d, enum merge_ksm_kind kind)
{
	_cleanup_free_ struct member **members = calloc(MAX(mgr->n_members, 1U), sizeof(struct member *));
	size_t n = 0;
	int r = -ENOMEM;

	for (struct member *m = mgr->members; members && m; m = m->next)
		if (m->domain == d && !m->gone && !member_rests(m) && m->agent && member_agent_is_idle(m))
			members[n++] = m;
	/* Not again before there is something new. */
	if (kind == MERGE_KSM_MERGE) {
		d->offered_last_round = d->offered_before = d->offered;
		d->wave = false;
	}
	d->fold_due &= kind != MERGE_KSM_FOLD;
	if (members && n == 0) {
		d->audit_wanted = d->audit_due = false;
		return;
	}
	if (members)
		r = merge_ksm_round(mgr->merge_ksm, d, members, n, kind, round_done, mgr);
	d->round_running = r >= 0;
	d->round_merges = kind == MERGE_KSM_MERGE;
	if (kind == MERGE_KSM_FOLD)
		return;
	d->audit_due &= r < 0;
	if (kind == MERGE_KSM_AUDIT)
		d->audit_wanted = r < 0;
	else if (r < 0)
		note_refusal(mgr, d, strerror(-r));
}

static void tidy_over(struct domain *d, const struct tidy_result *result, void *userdata)
{
	struct manager *mgr = userdata;

	if (mgr->stopping)
		return;
	if (result->reclaimed_pages > 0 || result->freed_slots > 0)
		log_debug("domain %s: %llu copied pages made anonymous again, %llu slots freed", d->name,
			  (unsigned long long)result->reclaimed_pages,
			  (unsigned long long)result->freed_slots);
	/* What comes next waits for it. */
	budget_charge(&mgr->cpu, result->cpu_nsec, now_usec());
	mgr->remap_stats.agent_cpu_nsec += result->agents_nsec;
	d->round_running = false;
	finish_gone(mgr);
	manager_schedule(mgr);
}

uint64_t manager_next_whole_tidy(const struct manager *mgr, uint64_t now)
{
	return now + TIDY_IDLE_PASSES * mgr->config->pass_interval_usec;
}

/* Needs every member of the domain, those that are entering or leaving included. */
static void start_tidy(struct manager *mgr, struct domain *d, uint64_t now)
{
	bool whole = d->next_tidy_usec <= now;
	_cleanup_free_ struct member **members = calloc(d->n_members, sizeof(struct member *));
	size_t n = 0;

	for (struct member *m = mgr->members; members && m; m = m->next)
		if (m->domain == d && !m->gone && member_agent_is_idle(m))
			members[n++] = m;
	if (n == 0 || n != d->n_members)
		return;
	d->last_tidy_usec = now;
	d->untidy = !whole;
	if (whole)
		d->next_tidy_usec = manager_next_whole_tidy(mgr, now);
	d->round_running = tidy_start(mgr->pool, mgr->ledger, d, whole, members, n, mgr->store_users,
				      mgr->n_store_users, tidy_over, mgr) >= 0;
}

/* When the store is to be tidied next; UINT64_MAX: never. */
static uint64_t tidy_due(const struct manager *mgr, const struct domain *d)
{
	/* What strangers map may change at any time. */
	bool soon = d->moved > 0 || d->unswept || d->n_strangers > 0;

	if (!d->store || d->round_running || d->adopting)
		return UINT64_MAX;
	/* To look at all mappings for nothing would cost more than all else that goes on. */
	if (d->next_tidy_usec > 0 && !soon && !d->untidy && !d->strangers)
		return UINT64_MAX;
	return soon ? MIN(d->next_tidy_usec, d->last_tidy_usec + TIDY_PASSES * mgr->config->pass_interval_usec)
		    : d->next_tidy_usec;
}

/* Pages that are to be given back. Returns when to look again (monotonic). */
static uint64_t schedule_giving_back(struct manager *mgr, uint64_t now)
{
	uint64_t next = UINT64_MAX;

	for (struct member *m = mgr->members; m; m = m->next) {
		if (m->unmerge)
			unmerge_go(mgr, m);
		else if (m->foreign && m->yield.state == YIELD_NO)
			foreign_go(mgr, m, now);
		if (m->foreign && !m->busy && !m->gone)
			next = MIN(next, MAX(m->foreign_retry_usec, now + USEC_PER_SEC));
	}
	return next;
}

/* A member yields, or waits to be free to take in new memory (grow.h). */
static bool domain_is_held(const struct manager *mgr, const struct domain *d)
{
	for (const struct member *m = mgr->members; m; m = m->next)
		if (m->domain == d && !m->gone && m->guest->memory_changed)
			return true;
	return yield_holds_domain(mgr, d);
}

/* What is due for the domain as a whole; returns when to come again (monotonic). Its members must wait
 * for an audit that is wanted. */
static uint64_t schedule_domain(struct manager *mgr, struct domain *d, uint64_t now)
{
	uint64_t next = UINT64_MAX;

	if (domain_is_held(mgr, d))
		return d->audit_wanted ? now + PASS_RETRY_USEC : next;
	if (d->audit_wanted && domain_is_idle(mgr, d))
		start_round(mgr, d, MERGE_KSM_AUDIT);
	else if (domain_wants_round(mgr, d, now) && domain_is_quiet(mgr, d, now))
		start_round(mgr, d, MERGE_KSM_MERGE);
	else if (d->audit_due && d->next_audit_usec <= now && domain_is_quiet(mgr, d, now))
		start_round(mgr, d, MERGE_KSM_AUDIT);
	else if (d->fold_due && !d->round_running && domain_is_quiet(mgr, d, now) &&
		 now - d->last_round_usec >= FOLD_PASSES * mgr->pass_env.interval_usec)
		start_round(mgr, d, MERGE_KSM_FOLD);
	else if (tidy_due(mgr, d) <= now && domain_is_quiet(mgr, d, now))
		start_tidy(mgr, d, now);
	/* Also when no member has passes. */
	if (d->store && store_used_pages(d->store) > 0)
		next = MAX(tidy_due(mgr, d), now + USEC_PER_SEC);
	return d->audit_wanted ? MIN(next, now + PASS_RETRY_USEC) : next;
}

/* The same for a member that is free. */
static uint64_t schedule_member(struct manager *mgr, struct member *m, uint64_t now)
{
	m->agent_is_late = !member_agent_is_idle(m);
	if (m->agent_is_late)
		return now + PASS_RETRY_USEC;
	if (m->next_pass_usec > now && policy_engine_transacts(m->policy.engine) && merge_remap_wanted(m))
		(void)merge_remap_round(&mgr->pass_env, m, &mgr->remap_stats, remap_done, mgr);
	else if (m->next_pass_usec <= now && pass_start(&mgr->pass_env, m, pass_done, mgr) < 0)
		m->next_pass_usec = now + PASS_RETRY_USEC;
	return m->busy ? UINT64_MAX : m->next_pass_usec;
}

void manager_schedule(struct manager *mgr)
{
	bool resting = manager_is_resting(mgr);
	uint64_t now = now_usec(), next;

	if (mgr->stopping)
		return;
	finish_gone(mgr);
	next = schedule_giving_back(mgr, now);
	for (struct domain *d = mgr->domains; d && !resting; d = d->next) {
		uint64_t due = schedule_domain(mgr, d, now);

		next = MIN(next, due);
	}
	for (struct member *m = mgr->members; m; m = m->next) {
		uint64_t due = UINT64_MAX;

		if (m->busy || m->gone)
			continue;
		if (m->yield.state != YIELD_NO)
			due = yield_step(mgr, m, now);
		else if (!resting && !member_rests(m) && !m->domain->audit_wanted &&
			 !m->guest->memory_changed)
			due = schedule_member(mgr, m, now);
		next = MIN(next, due);
	}
	if (next == UINT64_MAX) {
		(void)sd_event_source_set_enabled(mgr->timer, SD_EVENT_OFF);
		return;
	}
	(void)sd_event_source_set_time(mgr->timer, next);
	(void)sd_event_source_set_enabled(mgr->timer, SD_EVENT_ONESHOT);
}
