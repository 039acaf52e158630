/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/manager.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "common/kernel.h"
#include "common/log.h"
#include "common/util.h"
#include "daemon/enrolment.h"
#include "daemon/kept.h"
#include "daemon/libvirt-guests.h"
#include "daemon/stores.h"
#include "daemon/yield.h"

/* How much CPU a pass may use before another that waits: about the longest job. */
#define TURN_AHEAD_NSEC	  (20 * USEC_PER_MSEC * NSEC_PER_USEC)
#define TURN_BEHIND_NSEC  (200 * USEC_PER_MSEC * NSEC_PER_USEC)
#define KSM_SYS_PATH "/sys/kernel/mm/ksm"
/* What may be used of the CPU budget at once after a rest. */
#define CPU_BURST_USEC	  (200 * USEC_PER_MSEC)
#define ROUND_MAX_USEC	  (60 * USEC_PER_SEC)
/* How long stores of an earlier daemon are kept for guests that have not come back. */
#define STORES_WAIT_USEC  (120 * USEC_PER_SEC)
#define PRESSURE_LOOK_USEC (5 * USEC_PER_SEC)

/* --- set up ------------------------------------------------------------------------ */

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
		.interval_usec = c->pass_interval_usec,
		.round_max_usec = ROUND_MAX_USEC,
	};
}

/* An earlier daemon was killed while it drove ksmd, whatever our own configuration says of it. */
static void restore_ksm(struct manager *mgr)
{
	int r;

	if (mgr->ksm.state_error < 0)
		log_warning("the host's KSM settings that an earlier run may have left changed stay as they "
			    "are: %s cannot be read: %s", mgr->ksm.state_path, strerror(-mgr->ksm.state_error));
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
	if (!kernel_allows_engine_ksm()) {
		ksm_close(&mgr->ksm);
		(void)snprintf(mgr->ksm_reason, sizeof(mgr->ksm_reason),
			       "it cannot work on this host: memshared --check says why");
		return 0;
	}
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

static int on_timer(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	manager_schedule(userdata);
	return 0;
}

/* With pressure=auto, members rest while memory is plentiful. */
static int on_pressure(sd_event_source *s, uint64_t usec _unused_, void *userdata)
{
	struct manager *mgr = userdata;
	_cleanup_close_ int proc_fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct pressure_sample sample;

	if (proc_fd >= 0 && pressure_read(proc_fd, &sample) >= 0 &&
	    pressure_update(&mgr->pressure, &mgr->config->pressure_thresholds, &sample)) {
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
		int r = ksm_restore(&mgr->ksm);

		if (r < 0)
			log_warning("the host's KSM settings could not be put back, the next start tries again: %s",
				    strerror(-r));
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
	manager_bound_stores(mgr);
	reconfigure_ksm(mgr);
	/* Its thresholds may be others. */
	(void)sd_event_source_set_time_relative(mgr->pressure_timer, 0);
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
