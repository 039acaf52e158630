/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest enters (enroll-leave.c: leaves).
 *
 * On a worker: identify the process, find its RAM, plant the agent, make the tracker,
 * note QEMU's MERGEABLE marks in a file (kept.h) and take them away. Each step is undone when a later
 * one fails, in reverse order. SIGKILL of the daemon in between leaves at most a waiting agent and a
 * guest without MERGEABLE marks: both harmless. The next daemon reads what was kept and adopts the
 * agent. A guest that comes from an earlier daemon is looked through for mappings of stores first:
 * those of its domain's store are counted again (adopt.h), others given back (foreign.h).
 */
#include "common/fault.h"
#include "common/log.h"
#include "common/util.h"
#include "daemon/enrolment.h"
#include "daemon/kept.h"
#include "daemon/manager.h"
#include "daemon/merge-remap.h"
#include "daemon/numa.h"
#include "daemon/remap-guest.h"
#include "daemon/store.h"
#include "daemon/yield.h"

#define REASON_MAX 256
/* What a guest may use of its CPU share at once after a rest. */
#define CPU_BURST_USEC (200 * USEC_PER_MSEC)

struct enroll {
	struct work work; /* must be first */
	struct manager *mgr;
	struct policy policy;
	struct kept kept; /* the worker's until done */
	struct member *m; /* being made; the worker's until done */
	struct ram_block blocks[RAM_BLOCKS_MAX];
	size_t n_blocks;
	struct numa_range policies[RAM_BLOCKS_MAX]; /* of the blocks */
	bool unmarked; /* QEMU's marks are noted and taken away */
	int error;
	char reason[REASON_MAX];
	enroll_done_fn *done;
	void *userdata;
};

static int refuse(struct enroll *e, int r, const char *what)
{
	if (!*e->reason)
		(void)snprintf(e->reason, sizeof(e->reason), "%s: %s", what, strerror(-r));
	e->error = r;
	return r;
}

/* The blocks that an engine can serve. */
static void choose_blocks(struct enroll *e, const struct guest_memory *memory)
{
	for (size_t i = 0; i < memory->n_blocks; i++)
		if (!*memory->blocks[i].refusal)
			e->blocks[e->n_blocks++] = memory->blocks[i];
}

static int plant_agent(struct enroll *e)
{
	char why[AGENT_REASON_MAX] = "";
	int r;

	if (!e->policy.inject) {
		(void)snprintf(e->reason, sizeof(e->reason),
			       "every engine works from inside the guest's process, and its policy says "
			       "inject=no");
		return refuse(e, -EPERM, "");
	}
	r = agent_adopt(e->m->process, why, &e->m->agent);
	if (r == -ENOENT)
		r = agent_attach(e->m->process, why, &e->m->agent);
	if (r < 0)
		(void)snprintf(e->reason, sizeof(e->reason), "the agent cannot be planted: %s",
			       *why ? why : strerror(-r));
	return r < 0 ? refuse(e, r, "") : 0;
}

static int try_tracker(struct enroll *e, enum tracker_kind kind)
{
	int uffd = -1;

	/* One that an earlier daemon left, or a better kind that could not be, is of no use any more. */
	(void)agent_close_uffd(e->m->agent);
	if (kind == TRACKER_WP) {
		/* Transactions make the kernel's own accesses (KVM, vhost) wait as well. */
		uffd = agent_open_uffd(e->m->agent,
				       policy_engine_transacts(e->m->policy.engine) || e->m->foreign);
		if (uffd < 0)
			return uffd;
	}
	return tracker_new(kind, e->m->process, uffd,
			   e->m->policy.thp == THP_KEEP ? TRACKER_THP_KEEP : TRACKER_THP_ARM,
			   &e->m->tracker);
}

/* error: why the best kind that may be used, which is better, was not to be had; 0: it was. */
static void note_tracker_reason(struct enroll *e, enum tracker_kind better, int error)
{
	const char *why = "the best that this host and the guest allow";

	if (e->policy.tracker != POLICY_TRACKER_AUTO)
		why = "its policy says so";
	else if (policy_engine_transacts(e->m->policy.engine))
		why = "the engine works with its userfaultfd";
	if (error == 0)
		(void)snprintf(e->m->tracker_reason, sizeof(e->m->tracker_reason), "%s", why);
	else
		(void)snprintf(e->m->tracker_reason, sizeof(e->m->tracker_reason),
			       "the best that is left: %s says \"%s\"", tracker_kind_to_string(better),
			       strerror(-error));
}

static int make_tracker(struct enroll *e)
{
	static const enum tracker_kind kinds[] = { TRACKER_WP, TRACKER_SOFTDIRTY, TRACKER_REHASH };
	static const enum policy_tracker asked[] = {
		POLICY_TRACKER_WP, POLICY_TRACKER_SOFTDIRTY, POLICY_TRACKER_REHASH,
	};
	enum tracker_kind better = TRACKER_WP;
	int r = -EOPNOTSUPP, error = 0;

	/* Transactions need the userfaultfd that wp brings. */
	if (policy_engine_transacts(e->m->policy.engine) && e->policy.tracker != POLICY_TRACKER_AUTO &&
	    e->policy.tracker != POLICY_TRACKER_WP)
		(void)snprintf(e->reason, sizeof(e->reason),
			       "engine %s works with tracker wp only: set tracker=auto, or engine=ksm",
			       policy_engine_to_string(e->m->policy.engine));
	for (size_t i = 0;
	     i < (policy_engine_transacts(e->m->policy.engine) ? 1 : ARRAY_SIZE(kinds)) && r < 0; i++)
		if (e->policy.tracker == POLICY_TRACKER_AUTO || e->policy.tracker == asked[i]) {
			r = try_tracker(e, kinds[i]);
			if (r >= 0) {
				note_tracker_reason(e, better, error);
			} else if (error == 0) {
				better = kinds[i];
				error = r;
			}
		}
	/* Where the best kind can be made but not arm, there is no memory, or QEMU needs userfaultfd itself:
	 * both pass, and a worse kind would stay. */
	for (size_t i = 0; i < e->n_blocks && r >= 0; i++)
		r = tracker_arm(e->m->tracker, e->blocks[i].start, e->blocks[i].n_pages);
	if (r == -EBUSY)
		(void)snprintf(e->reason, sizeof(e->reason), "%s", YIELD_QEMU_HAS_IT);
	return r < 0 ? refuse(e, r, "its memory cannot be tracked") : 0;
}

/* The stores that these mappings may be of must be known to later daemons. What was kept tells them;
 * the names of the files do only where that is broken, for QEMU can choose such names. */
static int note_stores(struct enroll *e, const struct remap_list *foreign)
{
	struct kept earlier = { 0 };
	int r = kept_load(e->mgr->guests_fd, e->m->process, &earlier);

	if (r == -EINVAL)
		return remap_list_note_stores(foreign, &e->kept);
	if (r == -ENOENT || r == -ESTALE)
		r = 0;
	for (unsigned i = 0; i < earlier.n_stores && r >= 0; i++)
		r = kept_add_store(&e->kept, earlier.stores[i]);
	kept_done(&earlier);
	return r;
}

/* What earlier daemons have merged in it. Once the agent is there, whose last batch is over. */
static int find_mappings(struct enroll *e)
{
	struct member *m = e->m;
	struct remap_list *foreign = NULL;
	uint64_t copies;
	int r = remap_list_new(m, REMAP_FOREIGN, &foreign, &copies);

	if (r >= 0) {
		m->foreign = remap_list_pages(foreign) > 0;
		r = m->foreign ? note_stores(e, foreign) : 0;
	}
	remap_list_free(foreign);
	if (r >= 0 && m->domain->adopted)
		r = remap_list_new(m, REMAP_OWN, &m->found, &copies);
	return r < 0 ? refuse(e, r, "what it shares already cannot be told") : 0;
}

/* Engine remap must be able to put them back; others do so where they can. */
static int find_policies(struct enroll *e)
{
	int r;

	for (size_t i = 0; i < e->n_blocks; i++)
		e->policies[i] = (struct numa_range){ e->blocks[i].start, e->blocks[i].n_pages, 0 };
	r = numa_read(e->m->process->proc_fd, e->policies, e->n_blocks);
	if (r >= 0 || e->m->policy.engine != POLICY_ENGINE_REMAP)
		return 0;
	return refuse(e, r, r == -EOPNOTSUPP ? "its memory has NUMA policies of a kind that cannot be put back"
					     : "its NUMA policies cannot be read");
}

static void undo_enter(struct enroll *e)
{
	char why[AGENT_REASON_MAX];
	bool given_back = !e->unmarked || merge_ksm_leave(e->m) >= 0;

	tracker_free(e->m->tracker);
	e->m->tracker = NULL;
	if (e->m->agent)
		(void)agent_detach(e->m->agent, why);
	e->m->agent = NULL;
	/* What an earlier daemon did is not undone. */
	if (e->unmarked && given_back && !e->kept.inherited)
		kept_remove(e->mgr->guests_fd, e->m->process);
}

static void enter_run(struct work *w)
{
	struct enroll *e = (struct enroll *)w;
	bool transacts = policy_engine_transacts(e->m->policy.engine);
	const char *what = "";
	int r;

	if (plant_agent(e) < 0)
		return;
	FAULT_POINT("enroll-attached");
	if (find_mappings(e) < 0 || find_policies(e) < 0 || make_tracker(e) < 0) {
		undo_enter(e);
		return;
	}
	r = merge_ksm_enter(e->m, e->mgr->guests_fd, &e->kept, &what);
	FAULT_POINT("enroll-unmarked");
	e->unmarked = r >= 0;
	if (r < 0) {
		(void)refuse(e, r, what);
		undo_enter(e);
		return;
	}
	r = transacts ? merge_remap_enter(e->m) : 0;
	if (r < 0) {
		(void)refuse(e, r, "the store cannot be handed over");
		undo_enter(e);
	}
}

void enroll_forget_pages(struct manager *mgr, struct member *m)
{
	for (size_t i = 0; i < m->n_blocks; i++) {
		struct ledger_block *b = m->blocks[i];
		const uint8_t *states = ledger_states(mgr->ledger, b);

		for (uint32_t k = 0; (k = ledger_skip_absent(states, k, b->n_pages)) < b->n_pages; k++)
			domain_forget_absent(m->domain, b, PAGE_ID(b->first.n + k));
	}
}

void enroll_drop_blocks(struct manager *mgr, struct member *m)
{
	enroll_forget_pages(mgr, m);
	for (size_t i = 0; i < m->n_blocks; i++)
		ledger_remove_block(mgr->ledger, m->blocks[i]);
	m->n_blocks = 0;
}

/* The worker succeeded: the loop's tables follow. */
static int admit(struct enroll *e)
{
	struct manager *mgr = e->mgr;
	struct member *m = e->m;
	int r = 0;

	for (size_t i = 0; i < e->n_blocks && r >= 0; i++) {
		r = ledger_add_block(mgr->ledger, m, e->blocks[i].start, e->blocks[i].n_pages,
				     &m->blocks[i]);
		if (r < 0)
			break;
		m->blocks[i]->vm_flags = e->blocks[i].flags;
		m->blocks[i]->policy = e->policies[i].policy;
		m->n_blocks++;
	}
	if (r < 0) {
		enroll_drop_blocks(mgr, m);
		return refuse(e, r, "the ledger has no room for it");
	}
	m->next = mgr->members;
	mgr->members = m;
	mgr->n_members++;
	manager_entered_domain(mgr, m);
	return 0;
}

static void log_entered(const struct member *m)
{
	struct log_guest who = member_log(m);

	log_full(LOG_INFO, &who, "enrolled in domain %s, tracked by %s, one thread stopped for %lu us",
		 m->domain->name, tracker_kind_to_string(tracker_kind(m->tracker)),
		 (unsigned long)agent_stopped_usec(m->agent));
}

static void enter_done(struct work *w)
{
	struct enroll *e = (struct enroll *)w;
	struct manager *mgr = e->mgr;
	struct guest *g = e->m->guest;

	mgr->n_entering--;
	budget_charge(&mgr->cpu, e->work.cpu_nsec, now_usec());
	if (mgr->stopping) {
		e->error = -ECANCELED;
		(void)snprintf(e->reason, sizeof(e->reason), "the daemon is stopping");
	} else if (e->error == 0 && admit(e) < 0) {
		undo_enter(e);
	}
	if (e->error == 0) {
		g->member = e->m;
		(void)guest_apply(g, GUEST_ENTERED, NULL);
		log_entered(e->m);
	} else {
		(void)guest_apply(g, GUEST_ENTER_FAILED, e->reason);
	}
	e->done(g, e->error, e->reason, e->userdata);
	if (!process_alive(e->m->process))
		kept_remove(mgr->guests_fd, e->m->process);
	if (e->error < 0) {
		manager_leave_domain(mgr, e->m->domain);
		member_unref(e->m);
	} else if (g->state == GUEST_GONE) { /* exited while it entered */
		enroll_lost(mgr, e->m);
	}
	kept_done(&e->kept);
	free(e);
	manager_schedule(mgr);
}

enum policy_engine enroll_engine(const struct manager *mgr, const struct policy *p)
{
	if (p->engine != POLICY_ENGINE_AUTO)
		return p->engine;
	/* KSM was given this domain by the administrator; all others are remap's. */
	return mgr->merge_ksm && streq(p->domain, mgr->config->ksm_domain) ? POLICY_ENGINE_KSM
									  : POLICY_ENGINE_REMAP;
}

static struct member_policy member_policy_of(const struct manager *mgr, const struct policy *p)
{
	enum policy_engine engine = enroll_engine(mgr, p);

	return (struct member_policy){
		.engine = engine,
		.min_age_usec = p->min_age_usec,
		.thp = p->thp_split ? THP_SPLIT : THP_KEEP,
		.thp_split = p->thp_split,
		.max_maps = engine == POLICY_ENGINE_KSM ? MIN(p->max_maps, mgr->config->ksm_max_ranges)
						       : p->max_maps,
		.cow_backoff_usec = p->cow_backoff_usec,
	};
}

/* Thousandths of a CPU are so many nanoseconds a second. */
static uint64_t cpu_rate(const struct policy *p)
{
	return (uint64_t)p->cpu_permille * (NSEC_PER_SEC / 1000);
}

static uint64_t cpu_burst(const struct policy *p)
{
	return cpu_rate(p) / USEC_PER_SEC * CPU_BURST_USEC;
}

void enroll_adapt(struct manager *mgr, struct member *m, const struct policy *policy)
{
	m->policy = member_policy_of(mgr, policy);
	m->turn.weight = policy->weight;
	budget_set_rate(&m->cpu, cpu_rate(policy), cpu_burst(policy), now_usec());
}

static struct member *new_member(const struct manager *mgr, struct guest *g, const struct policy *p)
{
	struct member *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->refs = 1;
	m->guest = guest_ref(g);
	m->process = &g->process;
	m->ram_pages = memory_total_pages(&g->memory);
	m->policy = member_policy_of(mgr, p);
	m->turn.weight = p->weight;
	budget_init(&m->cpu, cpu_rate(p), cpu_burst(p), now_usec());
	return m;
}

static int enter_domain(struct manager *mgr, struct member *m, const struct policy *policy)
{
	char name[DOMAIN_NAME_MAX], store_name[DOMAIN_NAME_MAX];

	if (!streq(policy->domain, POLICY_SELF))
		return manager_enter_domain(mgr, policy->domain, policy->domain, m->policy.engine,
					    &m->domain);
	/* The store of a guest that is gone must not come to one that has its pid by then. */
	(void)snprintf(name, sizeof(name), "self:%d", (int)m->process->pid);
	(void)snprintf(store_name, sizeof(store_name), "self:%d-%llu", (int)m->process->pid,
		       (unsigned long long)m->process->start_ticks);
	return manager_enter_domain(mgr, name, store_name, m->policy.engine, &m->domain);
}

/* What later daemons must know; the marks come in the worker. */
static int keep(struct enroll *e)
{
	char value[POLICY_VALUE_MAX], reason[POLICY_REASON_MAX];
	int r = 0;

	policy_init_empty(&e->kept.asked);
	e->kept.unmerged = e->m->guest->enrolment->unmerged;
	if (e->m->domain->store)
		r = kept_add_store(&e->kept, store_label(e->m->domain->store));
	for (enum policy_field f = 0; f < POLICY_FIELD_MAX && r >= 0; f++) {
		if (e->policy.source[f] != POLICY_SOURCE_RUNTIME)
			continue;
		policy_format(&e->policy, f, value);
		r = policy_set(&e->kept.asked, f, value, POLICY_SOURCE_RUNTIME, "", reason);
	}
	for (size_t i = 0; i < e->n_blocks && r >= 0; i++)
		r = range_set_add(&e->kept.ram, e->blocks[i].start.addr,
				  hva_add_pages(e->blocks[i].start, e->blocks[i].n_pages).addr);
	return r;
}

int enroll_start(struct manager *mgr, struct guest *g, const struct policy *policy,
		 enroll_done_fn *done, void *userdata)
{
	struct enroll *e;
	int r;

	if (mgr->n_members + mgr->n_entering >= MEMBERS_MAX)
		return -ENOSPC;
	r = guest_apply(g, GUEST_ENROLL, NULL);
	if (r < 0)
		return r;
	e = calloc(1, sizeof(*e));
	if (e) {
		*e = (struct enroll){
			.work = { .run = enter_run, .done = enter_done },
			.mgr = mgr,
			.policy = *policy,
			.done = done,
			.userdata = userdata,
			.m = new_member(mgr, g, policy),
		};
		choose_blocks(e, &g->memory);
	}
	r = e && e->m ? enter_domain(mgr, e->m, policy) : -ENOMEM;
	if (r >= 0)
		r = keep(e);
	if (r >= 0)
		r = work_submit(mgr->pool, &e->work);
	if (r < 0) {
		if (e && e->m) {
			manager_leave_domain(mgr, e->m->domain);
			member_unref(e->m);
		}
		if (e)
			kept_done(&e->kept);
		free(e);
		(void)guest_apply(g, GUEST_ENTER_FAILED, "there is no memory or no room for more work");
		return r;
	}
	mgr->n_entering++;
	return 0;
}
