/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/manager.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/kernel.h"
#include "common/log.h"
#include "common/util.h"
#include "daemon/enrolment.h"
#include "daemon/foreign.h"
#include "daemon/kept.h"
#include "daemon/libvirt-guests.h"
#include "daemon/stores.h"
#include "daemon/tidy.h"
#include "daemon/unmerge.h"
#include "daemon/yield.h"

/* How much CPU a pass may use before another that waits: about the longest job. */
#define TURN_AHEAD_NSEC	  (20 * USEC_PER_MSEC * NSEC_PER_USEC)
#define TURN_BEHIND_NSEC  (200 * USEC_PER_MSEC * NSEC_PER_USEC)
#define KSM_SYS_PATH "/sys/kernel/mm/ksm"
/* What may be used of the CPU budget at once after a rest. */
#define CPU_BURST_USEC	  (200 * USEC_PER_MSEC)
#define ROUND_MAX_USEC	  (60 * USEC_PER_SEC)
/* Fewer new candidates than this wait for more: a round costs ksmd a walk of all marks. */
#define ROUND_MIN_PAGES	  16U
/* Each round that gained fewer than that doubles how many the next one waits for, or how long. */
#define ROUND_BACKOFF_MAX 6U
/* A domain's store is tidied after so many passes when pages came to share or ceased to: what guests
 * have written does not merge again, and its slots are not freed, before. And else after so many, for
 * what could not be done the last time. */
#define TIDY_PASSES	  3U
#define TIDY_IDLE_PASSES  60U
/* How long stores of an earlier daemon are kept for guests that have not come back. */
#define STORES_WAIT_USEC  (120 * USEC_PER_SEC)
#define PRESSURE_LOOK_USEC (5 * USEC_PER_SEC)
/* A pass that failed is tried again after this. */
#define PASS_RETRY_USEC	  (5 * USEC_PER_SEC)

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata);

/* --- set up ------------------------------------------------------------------------ */

/* The secret outlives us, so that domains keep their keys: a file that only root can read. */
static int load_secret(struct manager *mgr)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;
	int r;

	if (asprintf(&path, "%s/secret", mgr->config->state_directory) < 0)
		return -ENOMEM;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd >= 0 && io_read_full(fd, mgr->secret, sizeof(mgr->secret)) == 0)
		return 0;
	close_fdp(&fd);
	if (getrandom(mgr->secret, sizeof(mgr->secret), 0) != sizeof(mgr->secret))
		return -EIO;
	(void)unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400);
	if (fd < 0)
		return -errno;
	r = io_write_full(fd, mgr->secret, sizeof(mgr->secret));
	return r < 0 ? r : 0;
}

/* An eighth of a second's worth of copies may follow a rest at once. */
static void set_giveback_rate(struct manager *mgr)
{
	uint64_t rate = mgr->config->unmerge_bytes_per_sec ? mgr->config->unmerge_bytes_per_sec : UINT64_MAX;

	budget_init(&mgr->giveback_rate, rate, rate == UINT64_MAX ? 1 : rate / 8, now_usec());
}

static void set_budgets(struct manager *mgr, bool first)
{
	const struct config *c = mgr->config;
	/* Thousandths of a CPU are so many nanoseconds a second. */
	uint64_t rate = (uint64_t)c->cpu_permille * (NSEC_PER_SEC / 1000);
	uint64_t burst = MAX(rate / USEC_PER_SEC * CPU_BURST_USEC, UINT64_C(1));
	uint64_t reads = c->pages_per_second ? c->pages_per_second : UINT64_MAX;
	uint64_t reads_burst = c->pages_per_second ? c->pages_per_second : 1;

	if (first) {
		budget_init(&mgr->cpu, rate, burst, now_usec());
		budget_init(&mgr->reads, reads, reads_burst, now_usec());
	} else {
		budget_set_rate(&mgr->cpu, rate, burst, now_usec());
		budget_set_rate(&mgr->reads, reads, reads_burst, now_usec());
	}
	set_giveback_rate(mgr);
	mgr->pass_env.interval_usec = c->pass_interval_usec;
}

static struct merge_ksm_config ksm_config(const struct config *c)
{
	return (struct merge_ksm_config){
		.allow_foreign = c->ksm_allow_foreign,
		.pages_to_scan = c->ksm_pages_to_scan,
		.sleep_msec = c->ksm_sleep_millisecs,
		.round_max_usec = ROUND_MAX_USEC,
	};
}

/* An earlier daemon was killed while it drove ksmd, whatever our own configuration says of it. */
static void restore_ksm(struct manager *mgr)
{
	int r;

	if (!mgr->ksm.saved)
		return;
	r = ksm_restore(&mgr->ksm);
	log_notice("put back the host's KSM settings that an earlier run had left changed%s%s",
		   r < 0 ? ": " : "", r < 0 ? strerror(-r) : "");
}

static int open_ksm(struct manager *mgr)
{
	const struct config *c = mgr->config;
	struct merge_ksm_config mk = ksm_config(c);
	_cleanup_free_ char *state = NULL;
	int r;

	if (asprintf(&state, "%s/ksm", c->state_directory) < 0)
		return -ENOMEM;
	r = kernel_has(KERNEL_KSM) ? ksm_open(&mgr->ksm, KSM_SYS_PATH, state) : -EOPNOTSUPP;
	if (r == -EOPNOTSUPP) {
		(void)snprintf(mgr->ksm_reason, sizeof(mgr->ksm_reason),
			       "this host has no KSM that we may drive: memshared --check says why");
		return 0;
	}
	if (r < 0)
		return r;
	restore_ksm(mgr);
	if (!*c->ksm_domain) {
		ksm_close(&mgr->ksm);
		(void)snprintf(mgr->ksm_reason, sizeof(mgr->ksm_reason),
			       "no trust domain is named for it: set Domain= in [Ksm]");
		return 0;
	}
	mgr->ksm_there = true;
	mgr->ksm_reason[0] = '\0';
	return merge_ksm_new(mgr->event, mgr->pool, mgr->ledger, &mgr->ksm, &mgr->cpu, &mk,
			     &mgr->merge_ksm);
}

/* With pressure=auto, members rest while memory is plentiful. */
static int on_pressure(sd_event_source *s, uint64_t usec _unused_, void *userdata)
{
	struct manager *mgr = userdata;
	_cleanup_close_ int proc_fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct pressure_sample sample;

	if (proc_fd >= 0 && pressure_read(proc_fd, &sample) >= 0 &&
	    pressure_update(&mgr->pressure, &sample)) {
		if (mgr->config->pressure == CONFIG_PRESSURE_AUTO)
			log_info("%s: %s", mgr->pressure.working ? "working" : "resting",
				 mgr->pressure.reason);
		manager_schedule(mgr);
	}
	(void)sd_event_source_set_time_relative(s, PRESSURE_LOOK_USEC);
	return sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

static unsigned count_workers(const struct config *c)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (c->workers)
		return c->workers;
	return (unsigned)MIN(MAX(cpus, 1L), 4L);
}

static int open_state(struct manager *mgr)
{
	int r;

	if (mkdir(mgr->config->state_directory, 0700) < 0 && errno != EEXIST)
		return -errno;
	r = load_secret(mgr);
	if (r < 0)
		return r;
	mgr->guests_fd = kept_open_dir(mgr->config->state_directory);
	if (mgr->guests_fd < 0)
		return mgr->guests_fd;
	/* Two daemons would free each other's slots. Gone with us, however we end. */
	if (flock(mgr->guests_fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	(void)kept_sweep(mgr->guests_fd);
	r = kept_store_users(mgr->guests_fd, &mgr->store_users, &mgr->n_store_users);
	return r < 0 ? r : stores_new(mgr->config->state_directory, &mgr->stores);
}

/* Whoever was enrolled by the earlier daemon has come back by now, or will get its pages back. */
static int on_stores(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	struct manager *mgr = userdata;

	stores_drop_unclaimed(mgr->stores);
	return 0;
}

static int set_up(struct manager *mgr, char ret_reason[MANAGER_REASON_MAX])
{
	int r = open_state(mgr);

	if (r < 0) {
		(void)snprintf(ret_reason, MANAGER_REASON_MAX, "StateDirectory=%s %s",
			       mgr->config->state_directory,
			       r == -EBUSY ? "is another memshared's" : "cannot be used");
		return r;
	}
	r = ledger_new(&mgr->ledger);
	if (r >= 0)
		r = work_pool_new(mgr->event, count_workers(mgr->config), &mgr->pool);
	if (r < 0)
		return r;
	mgr->pass_env = (struct pass_env){
		.event = mgr->event,
		.pool = mgr->pool,
		.ledger = mgr->ledger,
		.cpu = &mgr->cpu,
		.reads = &mgr->reads,
		.turns = &mgr->turns,
		.stopping = &mgr->stopping,
	};
	mgr->giveback = (struct giveback_env){
		.event = mgr->event,
		.pool = mgr->pool,
		.rate = &mgr->giveback_rate,
		.stopping = &mgr->stopping,
	};
	turns_init(&mgr->turns, TURN_AHEAD_NSEC, TURN_BEHIND_NSEC);
	fingerprint_seed_init(&mgr->pass_env.seed);
	set_budgets(mgr, true);
	r = open_ksm(mgr);
	if (r >= 0)
		r = registry_new(mgr->event, mgr->pool, enrolment_guest_changed, mgr, &mgr->registry);
	if (r >= 0 && mgr->config->libvirt_enabled)
		r = libvirt_guests_new(mgr, mgr->config->libvirt_uri, &mgr->libvirt);
	if (r >= 0)
		r = sd_event_add_time_relative(mgr->event, &mgr->pressure_timer, CLOCK_MONOTONIC, 0, 0,
					       on_pressure, mgr);
	if (r >= 0)
		r = sd_event_add_time_relative(mgr->event, &mgr->timer, CLOCK_MONOTONIC, 0, 0, on_timer,
					       mgr);
	if (r >= 0)
		r = sd_event_add_time_relative(mgr->event, &mgr->stores_timer, CLOCK_MONOTONIC,
					       STORES_WAIT_USEC, USEC_PER_SEC, on_stores, mgr);
	return r < 0 ? r : 0;
}

int manager_new(sd_event *event, struct config *config, struct manager **ret,
		char ret_reason[MANAGER_REASON_MAX])
{
	struct manager *mgr = calloc(1, sizeof(*mgr));
	int r;

	if (!mgr)
		return -ENOMEM;
	mgr->event = event;
	mgr->config = config;
	mgr->started_usec = now_usec();
	mgr->ksm.dir_fd = -1;
	mgr->guests_fd = -1;
	r = set_up(mgr, ret_reason);
	if (r < 0) {
		mgr->config = NULL; /* stays the caller's */
		manager_free(mgr);
		return r;
	}
	*ret = mgr;
	return 0;
}

void manager_free(struct manager *mgr)
{
	if (!mgr)
		return;
	mgr->stopping = true;
	for (struct member *m = mgr->members; m; m = m->next)
		m->gone = true;
	libvirt_guests_free(TAKE_PTR(mgr->libvirt));
	registry_stop(mgr->registry);
	/* Ends the jobs that run; what they hold is given back by their done functions. */
	work_pool_free(mgr->pool);
	merge_ksm_free(mgr->merge_ksm);
	if (mgr->ksm_there) {
		(void)ksm_restore(&mgr->ksm);
		ksm_close(&mgr->ksm);
	}
	while (mgr->members) {
		struct member *m = mgr->members;

		mgr->members = m->next;
		yield_lost(m);
		member_unref(m);
	}
	while (mgr->domains) {
		struct domain *d = mgr->domains;

		mgr->domains = d->next;
		domain_free(d);
	}
	enrolment_free_all(mgr);
	registry_free(mgr->registry);
	ledger_free(mgr->ledger);
	(void)sd_event_source_unref(mgr->timer);
	(void)sd_event_source_unref(mgr->pressure_timer);
	(void)sd_event_source_unref(mgr->stores_timer);
	stores_free(mgr->stores);
	free(mgr->store_users);
	close_fdp(&mgr->guests_fd);
	config_free(mgr->config);
	free(mgr);
}

/* Guests of a domain that the engine does not serve any more leave in the review that follows. */
static void reconfigure_ksm(struct manager *mgr)
{
	struct merge_ksm_config mk = ksm_config(mgr->config);
	int r;

	if (mgr->merge_ksm) {
		merge_ksm_configure(mgr->merge_ksm, &mk);
		return;
	}
	r = open_ksm(mgr);
	if (r < 0)
		log_warning("engine ksm cannot be started: %s", strerror(-r));
}

void manager_reconfigure(struct manager *mgr, struct config *config)
{
	config_free(mgr->config);
	mgr->config = config;
	set_budgets(mgr, false);
	reconfigure_ksm(mgr);
	enrolment_review_all(mgr);
	manager_schedule(mgr);
}

/* --- what it takes ------------------------------------------------------------------------ */

uint64_t manager_overhead_bytes(const struct manager *mgr)
{
	uint64_t bytes = ledger_bytes(mgr->ledger);

	for (const struct domain *d = mgr->domains; d; d = d->next)
		bytes += domain_bytes(d);
	if (mgr->merge_ksm) {
		struct merge_ksm_stats s;

		merge_ksm_stats(mgr->merge_ksm, &s);
		/* struct ksm_rmap_item and ksm_stable_node are 64 bytes, a mapping about 192. */
		bytes += (s.rmap_items + s.shared_pages) * 64 + s.ranges * 192;
	}
	return bytes;
}

/* --- passes and rounds ------------------------------------------------------------------ */

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

static void round_done(struct domain *d, int r, void *userdata)
{
	struct manager *mgr = userdata;
	struct merge_ksm_stats s;

	if (mgr->stopping)
		return;
	d->round_running = false;
	merge_ksm_stats(mgr->merge_ksm, &s);
	d->last_round_usec = now_usec();
	if (s.incomplete)
		d->offered_last_round = d->offered - ROUND_MIN_PAGES;
	if (s.incomplete || s.gained_pages >= ROUND_MIN_PAGES)
		d->round_backoff = 0;
	else
		d->round_backoff = MIN(d->round_backoff + 1, ROUND_BACKOFF_MAX);
	if (r < 0)
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

/* Candidates that ksmd cannot merge (their frames are in use for I/O, say) come again and again:
 * rounds for them alone become rare. */
static bool domain_wants_round(const struct manager *mgr, const struct domain *d, uint64_t now)
{
	uint64_t new = d->offered - d->offered_last_round;

	if (!mgr->merge_ksm || d->round_running || d->engine != POLICY_ENGINE_KSM || new < ROUND_MIN_PAGES)
		return false;
	if (new < (uint64_t)ROUND_MIN_PAGES << d->round_backoff &&
	    now - d->last_round_usec < mgr->pass_env.interval_usec << d->round_backoff)
		return false;
	return domain_has_ksm_alone(mgr, d);
}

/* Why no round can start, said once: it is tried again with each pass, because what is in the way
 * (another process's mergeable memory, an advisor) may go by itself. */
static void note_refusal(struct manager *mgr, struct domain *d, int r)
{
	struct merge_ksm_stats s;

	merge_ksm_stats(mgr->merge_ksm, &s);
	if (r < 0) {
		d->offered_last_round = d->offered - ROUND_MIN_PAGES;
		if (!*s.refusal)
			(void)snprintf(s.refusal, sizeof(s.refusal), "%s", strerror(-r));
	}
	if (streq(s.refusal, mgr->round_refusal))
		return;
	memcpy(mgr->round_refusal, s.refusal, sizeof(s.refusal));
	if (*s.refusal)
		log_warning("domain %s is not merged: %s", d->name, s.refusal);
	else
		log_info("domain %s is merged again", d->name);
}

static bool domain_is_idle(const struct manager *mgr, const struct domain *d)
{
	for (const struct member *m = mgr->members; m; m = m->next)
		if (m->domain == d && m->busy)
			return false;
	return !d->round_running;
}

/* An audit is a round without ksmd. */
static void start_round(struct manager *mgr, struct domain *d, bool audit)
{
	_cleanup_free_ struct member **members = calloc(MAX(mgr->n_members, 1U), sizeof(struct member *));
	size_t n = 0;
	int r = -ENOMEM;

	for (struct member *m = mgr->members; members && m; m = m->next)
		if (m->domain == d && !m->gone && !member_rests(m) && m->agent)
			members[n++] = m;
	/* Not again before there is something new. */
	if (!audit)
		d->offered_last_round = d->offered;
	if (members && n == 0) {
		d->audit_wanted = false;
		return;
	}
	if (members)
		r = merge_ksm_round(mgr->merge_ksm, d, members, n, !audit, round_done, mgr);
	d->round_running = r >= 0;
	if (audit)
		d->audit_wanted = r < 0;
	else
		note_refusal(mgr, d, r);
}

static void tidy_over(struct domain *d, uint64_t reclaimed_pages, uint64_t freed_slots, void *userdata)
{
	struct manager *mgr = userdata;

	if (mgr->stopping)
		return;
	if (reclaimed_pages > 0 || freed_slots > 0)
		log_debug("domain %s: %llu copied pages made anonymous again, %llu slots freed", d->name,
			  (unsigned long long)reclaimed_pages, (unsigned long long)freed_slots);
	d->round_running = false;
	finish_gone(mgr);
	manager_schedule(mgr);
}

/* Needs every member of the domain, those that are entering or leaving included. */
static void start_tidy(struct manager *mgr, struct domain *d, uint64_t now)
{
	_cleanup_free_ struct member **members = calloc(d->n_members, sizeof(struct member *));
	size_t n = 0;

	for (struct member *m = mgr->members; members && m; m = m->next)
		if (m->domain == d && !m->gone)
			members[n++] = m;
	if (n == 0 || n != d->n_members)
		return;
	d->last_tidy_usec = now;
	d->next_tidy_usec = now + TIDY_IDLE_PASSES * mgr->config->pass_interval_usec;
	d->moved = 0;
	d->round_running = tidy_start(mgr->pool, mgr->ledger, d, members, n, mgr->store_users,
				      mgr->n_store_users, tidy_over, mgr) >= 0;
}

/* When the store is to be tidied next; UINT64_MAX: never. */
static uint64_t tidy_due(const struct manager *mgr, const struct domain *d)
{
	/* What strangers map may change at any time. */
	bool soon = d->moved > 0 || d->n_strangers > 0;

	if (!d->store || d->round_running || d->adopting)
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
		start_round(mgr, d, true);
	else if (domain_wants_round(mgr, d, now) && domain_is_quiet(mgr, d, now))
		start_round(mgr, d, false);
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

static int on_timer(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	manager_schedule(userdata);
	return 0;
}
