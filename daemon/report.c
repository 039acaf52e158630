/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/report.h"


#include "common/io.h"
#include "common/kernel.h"
#include "common/units.h"
#include "common/util.h"
#include "daemon/enrolment.h"
#include "daemon/libvirt-guests.h"
#include "daemon/wish.h"
#include "autoconf.h"

#define INT(v) ((json_int_t)(v))

/* Jansson leaves members out whose value is NULL where the format says "*". */
static const char *or_null(const char *s)
{
	return s && *s ? s : NULL;
}

/* --- guests ---------------------------------------------------------------------- */

static json_t *blocks_json(const struct guest *g)
{
	json_t *list = json_array();

	for (size_t i = 0; i < g->memory.n_blocks; i++) {
		const struct ram_block *b = &g->memory.blocks[i];

		(void)json_array_append_new(
			list, json_pack("{s:s*, s:I, s:s, s:b, s:s*}", "name", or_null(b->name), "ram_bytes",
					INT(b->n_pages * PAGE_BYTES), "backing",
					block_backing_to_string(b->backing), "confirmed", (int)b->confirmed,
					"refusal", or_null(b->refusal)));
	}
	return list;
}

/* What the engine is to merge. */
static uint64_t offered_pages(const struct member *m)
{
	uint64_t n = 0;

	for (size_t i = 0; i < m->n_blocks; i++)
		n += m->blocks[i]->counts[PAGE_STATE_CANDIDATE] + m->blocks[i]->counts[PAGE_STATE_ZEROS];
	return n;
}

static json_t *refusals_json(const struct manager *mgr, const struct guest *g)
{
	json_t *list = json_array();
	struct merge_ksm_stats s = { 0 };
	uint64_t kept;

	/* What keeps every engine out is said once. */
	if (*g->engine_refusal[POLICY_ENGINE_AUTO])
		(void)json_array_append_new(list, json_string(g->engine_refusal[POLICY_ENGINE_AUTO]));
	for (unsigned i = POLICY_ENGINE_AUTO + 1; i < POLICY_ENGINE_MAX; i++)
		if (*g->engine_refusal[i] && !*g->engine_refusal[POLICY_ENGINE_AUTO])
			(void)json_array_append_new(list, json_sprintf("%s: %s", policy_engine_to_string(i),
								       g->engine_refusal[i]));
	if (!g->member)
		return list;
	if (g->enrolment && *g->enrolment->not_grown)
		(void)json_array_append_new(list, json_sprintf("memory that was plugged in is not taken in: %s",
							       g->enrolment->not_grown));
	if (mgr->merge_ksm)
		merge_ksm_stats(mgr->merge_ksm, &s);
	if (*s.refusal)
		(void)json_array_append_new(list, json_sprintf("ksm: %s", s.refusal));
	if (g->member->policy.thp == THP_KEEP && g->member->counts.huge_pages > 0)
		(void)json_array_append_new(
			list, json_sprintf("%" JSON_INTEGER_FORMAT " MiB in huge pages are kept whole and not "
					   "looked at, so that nobody knows what that costs (memsharectl estimate "
					   "looks): its policy says thp=keep; thp=split:N would merge in them",
					   INT(g->member->counts.huge_pages * PAGE_BYTES >> 20)));
	/* As of the last plan: some may have been written since. */
	kept = MIN(g->member->counts.kept_huge_pages, offered_pages(g->member));
	if (kept > 0)
		(void)json_array_append_new(
			list, json_sprintf("%" JSON_INTEGER_FORMAT
					   " duplicate pages stay because their huge pages are kept whole: "
					   "a smaller N in thp=split:N would free them",
					   INT(kept)));
	if (g->member->counts.unmarked_pages > 0)
		(void)json_array_append_new(
			list, json_sprintf("%" JSON_INTEGER_FORMAT
					   " duplicate pages stay because ksmd may look at so few ranges only, and "
					   "not at huge pages that are kept whole between them: a greater max-maps "
					   "(or MaxRanges) would free them",
					   INT(g->member->counts.unmarked_pages)));
	return list;
}

/* What only an enrolled guest has. */
static void add_member(const struct manager *mgr, const struct member *m, json_t *o)
{
	struct account a;
	bool yields = m->yield.state == YIELD_GIVEN;
	json_t *more;

	account_of_member(mgr, m, &a);
	more = json_pack("{s:s, s:s, s:s, s:s*, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "domain",
			 m->domain->name, "engine", policy_engine_to_string(m->policy.engine), "tracker",
			 m->tracker && !yields ? tracker_kind_to_string(tracker_kind(m->tracker)) : "none",
			 "tracker_reason", or_null(yields ? m->yield.why : m->tracker_reason),
			 "present_bytes", INT(a.present_bytes), "shared_pages", INT(a.sharers_pages),
			 "sharing_pages", INT(a.sharing_pages), "unmapped_pages", INT(a.unmapped_pages), "zero_pages",
			 INT(a.zero_pages), "saved_bytes", INT(a.saved_bytes), "overhead_bytes", INT(a.overhead_bytes), "passes",
			 INT(m->counts.passes), "last_pass_usec", INT(m->counts.pass_usec), "read_pages",
			 INT(m->counts.read_total), "cpu_usec", INT(m->counts.cpu_nsec / NSEC_PER_USEC));
	(void)json_object_update(o, more);
	json_decref(more);
}

/* Of its state, or why it is not as its policy says. */
static const char *reason_of(const struct guest *g)
{
	if (g->member && g->member->agent_is_late)
		return MEMBER_AGENT_IS_LATE "; nothing is done for it until it goes on";
	if (g->member && g->member->yield.state != YIELD_NO)
		return g->member->yield.why;
	if (!*g->reason && g->member && g->member->unmerge)
		return "its pages are being given back";
	if (!*g->reason && g->member && g->member->foreign)
		return *g->member->foreign_reason ? g->member->foreign_reason
						  : "what it shared before is being given back";
	if (!*g->reason && g->member && g->member->unmerge_failed)
		return "not all its pages could be given back, for want of memory most likely: memsharectl "
		       "unmerge tries again";
	if (!*g->reason && g->member && g->member->unmerged)
		return "unmerged: it shares nothing until it is enrolled again (memsharectl enroll)";
	return !*g->reason && g->enrolment ? g->enrolment->reason : g->reason;
}

json_t *report_guest(const struct manager *mgr, const struct guest *g)
{
	const struct enrolment *e = g->enrolment;
	json_t *o = json_pack("{s:i, s:s*, s:s*, s:s, s:s*, s:s, s:I, s:i, s:i, s:i, s:i, s:i, s:o, s:o, s:s*, "
			      "s:s*}", "pid", (int)g->process.pid, "name", or_null(g->name), "uuid", or_null(g->uuid),
			      "state", guest_state_to_string(g->state), "reason", or_null(reason_of(g)),
			      "source", guest_source_to_string(g->source), "ram_bytes",
			      INT(memory_total_pages(&g->memory) * PAGE_BYTES), "present_bytes", 0,
			      "shared_pages", 0, "sharing_pages", 0, "zero_pages", 0, "saved_bytes", 0,
			      "blocks", blocks_json(g), "refusals", refusals_json(mgr, g), "title",
			      e && e->facts ? or_null(e->facts->title) : NULL, "enabled",
			      e ? policy_enabled_to_string(e->policy.enabled) : NULL);

	if (o && g->member && g->member->unmerged)
		(void)json_object_set_new(o, "unmerged", json_true());
	if (o && g->member)
		add_member(mgr, g->member, o);
	return o;
}

json_t *report_guests(const struct manager *mgr)
{
	json_t *list = json_array();

	for (const struct guest *g = registry_guests(mgr->registry); g; g = g->next)
		(void)json_array_append_new(list, report_guest(mgr, g));
	return list;
}

json_t *report_policy(const struct guest *g)
{
	const struct enrolment *e = g->enrolment;

	if (!e)
		return NULL;
	return json_pack("{s:i, s:s*, s:s*, s:s, s:s, s:s*, s:o}", "pid", (int)g->process.pid, "name",
			 or_null(g->name), "uuid", or_null(g->uuid), "voucher",
			 wish_voucher_to_string(wish_voucher(g, e->facts, &e->runtime)), "state",
			 guest_state_to_string(g->state), "reason", or_null(reason_of(g)), "fields",
			 policy_to_json(&e->policy));
}

/* --- status ----------------------------------------------------------------------- */

static json_t *totals(const struct manager *mgr)
{
	struct account a;

	account_of_host(mgr, &a);
	return json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "guests", (int)a.guests, "ram_bytes",
			 INT(a.ram_bytes), "present_bytes", INT(a.present_bytes), "shared_pages",
			 INT(a.shared_pages), "sharing_pages", INT(a.sharing_pages), "unmapped_pages",
			 INT(a.unmapped_pages), "zero_pages", INT(a.zero_pages), "saved_bytes", INT(a.saved_bytes), "overhead_bytes",
			 INT(a.overhead_bytes), "overhead_max_bytes", INT(enrolment_tree_memory_max(mgr)),
			 "reserved_bytes", INT(enrolment_reserved_bytes(mgr)), "bookkeeping_bytes",
			 INT(manager_overhead_bytes(mgr)));
}

static json_t *domains(const struct manager *mgr)
{
	json_t *list = json_array();

	for (const struct domain *d = mgr->domains; d; d = d->next) {
		struct account a;

		account_of_domain(mgr, d, &a);
		(void)json_array_append_new(
			list, json_pack("{s:s, s:i, s:s, s:I, s:I, s:I, s:I, s:I}", "name", d->name, "guests",
					(int)d->n_members, "engine", policy_engine_to_string(d->engine), "shared_pages", INT(a.shared_pages),
					"sharing_pages", INT(a.sharing_pages), "unmapped_pages", INT(a.unmapped_pages),
					"zero_pages", INT(a.zero_pages),
					"saved_bytes", INT(a.saved_bytes)));
	}
	return list;
}

static json_t *facility(const char *name, bool available, const char *state, const char *reason)
{
	return json_pack("{s:s, s:b, s:s*, s:s*}", "name", name, "available", (int)available, "state",
			 or_null(state), "reason", or_null(reason));
}

/* An absent member where libvirt is switched off. */
static json_t *libvirt(const struct manager *mgr)
{
	const char *trouble = mgr->libvirt ? libvirt_guests_trouble(mgr->libvirt) : NULL;

	return trouble ? facility("libvirt", !*trouble, NULL, trouble) : NULL;
}

static json_t *engines(const struct manager *mgr)
{
	struct merge_ksm_stats s = { 0 };

	bool remap = kernel_allows_engine_remap();
	const char *missing = remap ? NULL : "memshared --check says what is missing";

	if (mgr->merge_ksm)
		merge_ksm_stats(mgr->merge_ksm, &s);
	return json_pack("[o, o, o]", facility("remap", remap, NULL, missing),
			 facility("zero", remap, NULL, missing),
			 facility("ksm", mgr->merge_ksm != NULL,
					 mgr->merge_ksm ? merge_ksm_phase_to_string(s.phase) : NULL,
					 *s.refusal ? s.refusal : mgr->ksm_reason));
}

static json_t *trackers(void)
{
	bool wp = kernel_allows_tracker_wp(), soft = kernel_allows_tracker_softdirty();

	return json_pack("[o, o, o]",
			 facility("wp", wp, NULL, wp ? NULL : "needs Linux 6.7: memshared --check"),
			 facility("softdirty", soft, NULL,
				  soft ? NULL : "this kernel has no CONFIG_MEM_SOFT_DIRTY"),
			 facility("rehash", true, NULL, NULL));
}

static json_t *ksmd(const struct manager *mgr)
{
	struct merge_ksm_stats s;
	struct ksm_counters c;
	uint64_t run = 0;

	if (!mgr->ksm_there || ksm_read_counters(&mgr->ksm, &c) < 0)
		return NULL;
	(void)io_read_u64(mgr->ksm.dir_fd, "run", &run);
	merge_ksm_stats(mgr->merge_ksm, &s);
	return json_pack("{s:s, s:b, s:I, s:I, s:I, s:I, s:s*}", "run",
			 run == 1   ? "running"
			 : run == 2 ? "unmerging"
				    : "stopped",
			 "ours",
			 (int)(s.phase >= MERGE_KSM_START && s.phase <= MERGE_KSM_STOP), "shared_pages", INT(c.pages_shared),
			 "sharing_pages", INT(c.pages_sharing), "zero_pages", INT(c.zero_pages), "cpu_usec",
			 INT(s.ksmd_cpu_nsec / NSEC_PER_USEC), "reason", or_null(s.refusal));
}

static json_t *pressure(const struct manager *mgr)
{
	const struct pressure *p = &mgr->pressure;

	return json_pack("{s:s, s:s, s:I, s:I, s:s*}", "mode", config_pressure_to_string(mgr->config->pressure),
			 "state", manager_is_resting(mgr) ? "resting" : "working", "available_bytes",
			 INT(p->last.available_bytes), "total_bytes", INT(p->last.total_bytes), "reason",
			 or_null(p->reason));
}

static json_t *cpu(const struct manager *mgr)
{
	uint64_t uptime = MAX(now_usec() - mgr->started_usec, UINT64_C(1));
	struct merge_ksm_stats s = { 0 };
	uint64_t own = usec_of(CLOCK_PROCESS_CPUTIME_ID), ksmd, agents;

	if (mgr->merge_ksm)
		merge_ksm_stats(mgr->merge_ksm, &s);
	ksmd = s.ksmd_cpu_nsec / NSEC_PER_USEC;
	agents = mgr->remap_stats.agent_cpu_nsec / NSEC_PER_USEC;
	return json_pack("{s:I, s:I, s:I, s:I, s:I}", "daemon_usec", INT(own), "ksmd_usec", INT(ksmd),
			 "agents_usec", INT(agents), "used_permille",
			 INT((own + ksmd + agents) * 1000 / uptime), "budget_permille",
			 INT(mgr->config->cpu_permille));
}

static json_t *remap(const struct manager *mgr)
{
	const struct merge_remap_stats *s = &mgr->remap_stats;
	json_t *freezes = json_array(), *freezes_cpu = json_array(), *answer;

	for (size_t i = 0; i < MERGE_REMAP_WAITS; i++) {
		(void)json_array_append_new(freezes, json_integer(INT(s->wait_histogram[i])));
		(void)json_array_append_new(freezes_cpu, json_integer(INT(s->cpu_histogram[i])));
	}
	answer = json_pack("{s:I, s:I, s:I, s:I, s:I, s:o, s:I, s:o, s:I, s:I}", "merged_pages",
			   INT(s->merged_pages), "hole_pages", INT(s->holes_pages), "busy_pages",
			   INT(s->busy_pages), "different_pages", INT(s->different_pages), "freeze_max_usec",
			   INT(s->wait_max_nsec / NSEC_PER_USEC), "freezes", freezes, "freeze_cpu_max_usec",
			   INT(s->cpu_max_nsec / NSEC_PER_USEC), "freezes_cpu", freezes_cpu, "urgent_batches",
			   INT(s->urgent_batches), "other_batches", INT(s->other_batches));
	if (s->other_batches > 0)
		(void)json_object_set_new(answer, "other_reason",
					  json_sprintf("no real-time priority for the agent: %s",
						       strerror(-s->urgency_error)));
	return answer;
}

/* Root gets past the store's mode (store.h). */
static void warn_of_root(const struct manager *mgr, const struct domain *d, json_t *list)
{
	int n = 0;

	for (const struct member *m = mgr->members; m; m = m->next)
		n += m->domain == d && m->policy.engine == POLICY_ENGINE_REMAP && m->guest->is_root;
	if (n > 0 && d->n_members > 1)
		(void)json_array_append_new(
			list, json_sprintf("domain %s: QEMU of %d guests runs as root, which could write to "
					   "what all of them share: let it run as a user of its own",
					   d->name, n));
}

/* See pins.h. */
static void warn_of_pins(const struct manager *mgr, json_t *list)
{
	int n = 0;

	for (const struct member *m = mgr->members; m; m = m->next)
		n += m->pins_held;
	if (n > 0)
		(void)json_array_append_new(
			list, json_sprintf("%d guests do direct I/O while something on this host holds memory pinned "
					   "(VFIO, RDMA, io_uring, steady direct I/O): what they write of shared pages "
					   "merges no more, and they cannot leave: end that, or give their disks "
					   "cache=writeback", n));
}

static void warn_of_full_store(const struct manager *mgr, const struct domain *d, json_t *list)
{
	if (!d->store || !store_is_full(d->store))
		return;
	(void)json_array_append_new(
		list, json_sprintf("domain %s: its store is full (%llu MiB): what has no twin in it yet is not merged "
				   "until pages in it are freed%s", d->name,
				   (unsigned long long)(store_capacity_pages(d->store) * PAGE_BYTES >> 20),
				   mgr->config->store_max_bytes ? ", or StoreMax= in [Remap] is raised" : ""));
}

static json_t *warnings(const struct manager *mgr)
{
	json_t *list = json_array();
	struct merge_ksm_stats s;
	int n_out = 0, n_left_behind = 0;

	/* That nobody has asked for it is no trouble. */
	if (*mgr->ksm_reason && *mgr->config->ksm_domain)
		(void)json_array_append_new(list, json_sprintf("engine ksm is off: %s", mgr->ksm_reason));
	if (mgr->merge_ksm) {
		merge_ksm_stats(mgr->merge_ksm, &s);
		if (*s.refusal)
			(void)json_array_append_new(list, json_sprintf("engine ksm: %s", s.refusal));
	}
	for (const struct domain *d = mgr->domains; d; d = d->next) {
		warn_of_root(mgr, d, list);
		warn_of_full_store(mgr, d, list);
	}
	warn_of_pins(mgr, list);
	for (const struct guest *g = registry_guests(mgr->registry); g; g = g->next)
		n_out += g->enrolment && g->enrolment->policy.enabled == POLICY_YES &&
			 g->state != GUEST_ENROLLED && *reason_of(g);
	for (const struct domain *d = mgr->domains; d; d = d->next) {
		if (d->adopting)
			(void)json_array_append_new(
				list, json_sprintf("domain %s: the shared pages of an earlier daemon are read first, "
						   "nothing else is merged meanwhile", d->name));
		if (d->n_strangers > 0)
			(void)json_array_append_new(
				list, json_sprintf("domain %s: %u guests that are not enrolled may still share its "
						   "pages", d->name, d->n_strangers));
	}
	for (const struct guest *g = registry_guests(mgr->registry); g; g = g->next)
		n_left_behind += g->enrolment && g->enrolment->left_behind;
	if (n_left_behind > 0)
		(void)json_array_append_new(
			list, json_sprintf("%d guests that are not enrolled have something of an earlier enrolment "
					   "in them: memsharectl guests says why", n_left_behind));
	if (n_out > 0)
		(void)json_array_append_new(
			list, json_sprintf("%d guests are to be merged and are not: memsharectl guests says why",
					   n_out));
	return list;
}

json_t *report_status(const struct manager *mgr)
{
	bool working = false;

	for (const struct member *m = mgr->members; m; m = m->next)
		working = working || m->busy;
	return json_pack("{s:s, s:s, s:I, s:i, s:o, s:o, s:o, s:o, s:o*, s:o, s:o, s:o, s:o, s:o*}", "version",
			 PACKAGE_VERSION, "state", working ? "working" : "resting", "uptime_usec",
			 INT(now_usec() - mgr->started_usec), "page_bytes", (int)PAGE_BYTES, "totals",
			 totals(mgr), "domains", domains(mgr), "engines", engines(mgr), "trackers",
			 trackers(), "ksmd", ksmd(mgr), "pressure", pressure(mgr), "cpu", cpu(mgr), "remap",
			 remap(mgr), "warnings", warnings(mgr), "libvirt", libvirt(mgr));
}
