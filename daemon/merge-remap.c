/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/merge-remap.h"

#include "common/fault.h"
#include "common/log.h"
#include "common/util.h"
#include "daemon/ring-check.h"
#include "daemon/remap-guest.h"
#include "daemon/remap-plan.h"
#include "daemon/store.h"

/* Candidates that are worth a round of their own. */
#define ROUND_MIN_PAGES 16U
/* Passes that a page waits whose bytes differed, or that was pinned for I/O. */
#define DIFFERENT_WAIT 2U
#define BUSY_WAIT      4U
/* How often it is looked whether an agent that did not do a batch in time has done it by now. */
#define LATE_USEC (1 * USEC_PER_SEC)
/*
 * Work in one batch, and what a run, a page and the splitting of a huge page take at the most that was
 * seen on a busy machine. The agent runs before ordinary threads meanwhile (urgency.h), and
 * a guest's thread that waits for its processor has about so long to wait. Longer batches cost
 * hardly less: a round trip takes some 50 us.
 */
#define WORK_NSEC_MAX	1000000U
#define WORK_NSEC_RUN	15000U
#define WORK_NSEC_PAGE	1000U
#define WORK_NSEC_SPLIT 300000U

struct remap {
	struct work work; /* must be first */
	const struct pass_env *env;
	struct member *m;
	struct merge_remap_stats *stats;
	merge_remap_done_fn *done;
	void *userdata;
	sd_event_source *timer;

	struct remap_plan plan;
	size_t next; /* of its runs */
	uint64_t candidates; /* when it was made, less those that are none any more */

	/* The batch; the worker's while the job runs. */
	uint8_t *payload, *asked; /* what the ring gives back, and what we had asked */
	uint32_t payload_bytes, n_transactions;
	size_t batch_from; /* first planned run of the batch */
	int64_t result;
	bool late; /* the agent has not done it in time */
	uint64_t agent_nsec;
	/* Pages that were refused as what they were in, and are anonymous memory now; and their runs. */
	uint64_t freed_pages, freed_runs;
};

static void start_batch(struct remap *r);
static void wait_on(struct remap *r);

/* --- merge ----------------------------------------------------------------------------- */

uint32_t remap_advice_of(uint32_t vm_flags)
{
	static const struct {
		uint32_t flag, advice;
	} table[] = {
		{ VMF_DONTFORK, RING_ADVICE_DONTFORK },	      { VMF_DONTDUMP, RING_ADVICE_DONTDUMP },
		{ VMF_HUGEPAGE, RING_ADVICE_HUGEPAGE },	      { VMF_NOHUGEPAGE, RING_ADVICE_NOHUGEPAGE },
		{ VMF_WIPEONFORK, RING_ADVICE_WIPEONFORK },
	};
	uint32_t mask = 0;

	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (vm_flags & table[i].flag)
			mask |= table[i].advice;
	return mask;
}

uint32_t remap_flags_of(const struct member *m, uint32_t vm_flags)
{
	uint32_t flags = vm_flags & VMF_NORESERVE ? RING_MERGE_NORESERVE : 0;

	return m->tracker && tracker_kind(m->tracker) == TRACKER_WP ? flags | RING_MERGE_TRACK : flags;
}

static uint64_t block_of(const struct remap_planned *p)
{
	return hva_add_pages(p->block->start, p->run.first).addr / HUGE_BYTES;
}

static uint32_t work_nsec_of(const struct remap_planned *p)
{
	return WORK_NSEC_RUN + p->run.n_pages * WORK_NSEC_PAGE;
}

/* A transaction looks at all pages from its first run to its last, and gives back advice there: runs
 * that are farther apart than that are cheaper in two. */
#define TRANSACTION_GAP_PAGES 64U

static bool in_one_transaction(const struct remap_planned *before, const struct remap_planned *p)
{
	return p->block == before->block && block_of(p) == block_of(before) &&
	       p->run.first - (before->run.first + before->run.n_pages) <= TRANSACTION_GAP_PAGES;
}

/* How many of the planned runs from the next on, within 2 MiB, go into a transaction; 0 when the work of
 * the batch would be too much. Adds to *work_nsec. */
static uint32_t transaction_runs(const struct remap *r, uint32_t *work_nsec)
{
	const struct remap_planned *first = &r->plan.runs[r->next];
	uint32_t work = *work_nsec, n = 0;

	if (ledger_is_huge(first->block, PAGE_ID(first->block->first.n + first->run.first)) &&
	    (r->next == 0 || block_of(first - 1) != block_of(first)))
		work += WORK_NSEC_SPLIT;
	while (r->next + n < r->plan.n && (n == 0 || in_one_transaction(&first[n - 1], &first[n]))) {
		work += work_nsec_of(&first[n]);
		/* A batch has one run at least, whatever its length. */
		if (work > WORK_NSEC_MAX && (n > 0 || *work_nsec > 0))
			break;
		*work_nsec = work;
		n++;
	}
	return n;
}

/* Packs transactions, each within 2 MiB, until that is work enough or the plan is at its end. */
static void pack_batch(struct remap *r)
{
	uint32_t work_nsec = 0;

	r->batch_from = r->next;
	r->payload_bytes = 0;
	r->n_transactions = 0;
	while (r->next < r->plan.n) {
		const struct remap_planned *first = &r->plan.runs[r->next];
		uint32_t n = transaction_runs(r, &work_nsec), bytes;
		struct ring_merge *t;
		struct ring_run *runs;

		bytes = (uint32_t)(sizeof(*t) + n * sizeof(*runs));
		if (n == 0 || r->payload_bytes + bytes > RING_PAYLOAD_BYTES)
			break;
		t = (struct ring_merge *)(r->payload + r->payload_bytes);
		runs = (struct ring_run *)(t + 1);
		*t = (struct ring_merge){
			.addr = hva_add_pages(first->block->start, first->run.first).addr,
			.n_runs = n,
			.flags = remap_flags_of(r->m, first->block->vm_flags) |
				 (member_may_balloon(r->m) ? (uint32_t)RING_MERGE_POPULATE : 0U),
			.advice_mask = remap_advice_of(first->block->vm_flags),
		};
		t->bytes = (uint64_t)(first[n - 1].run.first + first[n - 1].run.n_pages - first->run.first) *
			   PAGE_BYTES;
		for (uint32_t i = 0; i < n; i++) {
			const struct remap_planned *p = &r->plan.runs[r->next + i];

			runs[i] = (struct ring_run){
				.addr = hva_add_pages(p->block->start, p->run.first).addr,
				.n_pages = p->run.n_pages,
				.slot = p->run.slot == RUN_ZERO ? RING_SLOT_ZERO : p->run.slot,
			};
		}
		r->payload_bytes += bytes;
		r->n_transactions++;
		r->next += n;
	}
}

#define REFUSED_MAX 128U

/*
 * Copies that the guest has in mappings of the store are not anonymous memory, which is all that MERGE takes
 * (-EINVAL). Those in a mapping whose pages are all copied tidying gives back (tidy.h). But
 * where a guest rewrites single pages of long runs that may never come, and here is a page that has a
 * new twin: so it is cut out. Next time it can be merged.
 *
 * SIGKILL leaves the same bytes in anonymous memory.
 */
static void free_refused(struct remap *r)
{
	struct ring_run refused[REFUSED_MAX], *results[REFUSED_MAX];
	uint32_t at = 0;
	size_t n = 0;

	for (uint32_t i = 0; i < r->n_transactions; i++) {
		const struct ring_merge *t = (const struct ring_merge *)(r->asked + at);
		const struct ring_run *asked = (const struct ring_run *)(t + 1);
		struct ring_run *got = (struct ring_run *)(r->payload + at + sizeof(*t));

		for (uint32_t k = 0; k < t->n_runs && n < REFUSED_MAX; k++) {
			struct ring_run run = asked[k];

			if (ring_runs_check(&run, &got[k], 1) < 0 || run.result != -EINVAL)
				continue;
			run.addr += run.merged * PAGE_BYTES;
			run.n_pages -= run.merged;
			results[n] = &got[k];
			refused[n++] = run;
		}
		at += (uint32_t)(sizeof(*t) + t->n_runs * sizeof(*asked));
	}
	if (n == 0 || remap_reclaim_runs(r->m, refused, n) < 0)
		return;
	/* A run that is in several mappings goes page by page. */
	for (size_t i = 0; i < n; i++)
		if (refused[i].merged == 0 && refused[i].result == -EINVAL && refused[i].n_pages > 1) {
			refused[i].n_pages = 1;
			if (remap_reclaim_runs(r->m, &refused[i], 1) < 0)
				return;
		}
	for (size_t i = 0; i < n; i++)
		if (refused[i].merged > 0) {
			r->freed_pages += refused[i].merged;
			r->freed_runs++;
			results[i]->result = -ECANCELED; /* to be tried again */
		}
}

static void arm_anew(const struct member *m)
{
	for (size_t i = 0; i < m->n_blocks; i++) {
		int r = tracker_arm(m->tracker, m->blocks[i]->start, m->blocks[i]->n_pages);

		if (r < 0 && r != -ESRCH)
			log_debug("arming after a merge: %s", strerror(-r));
	}
}

static void batch_run(struct work *w)
{
	struct remap *r = (struct remap *)w;
	uint64_t before = agent_cpu_nsec(r->m->agent), after;

	r->freed_pages = r->freed_runs = 0;
	if (r->late) {
		r->result = agent_call_late(r->m->agent, r->payload, r->payload_bytes);
	} else {
		r->result = remap_look_at_devices(r->m);
		if (r->result >= 0 && r->m->domain->store)
			r->result = remap_map_store(r->m);
		FAULT_POINT("remap-before-batch");
	}
	if (r->result >= 0 && !r->late)
		r->result = agent_call(r->m->agent, RING_MERGE, r->n_transactions, 0, r->payload,
				       r->payload_bytes);
	r->late = r->result == -ETIMEDOUT;
	if (r->late)
		return;
	FAULT_POINT("remap-batch-done");
	if (r->result >= 0)
		free_refused(r);
	/* Mappings were replaced, and the agent has registered them; unless it went wrong. */
	if (r->result < 0)
		arm_anew(r->m);
	for (size_t i = r->batch_from; i < r->next && r->result >= 0; i++) {
		const struct remap_planned *p = &r->plan.runs[i];

		tracker_remapped(r->m->tracker, hva_add_pages(p->block->start, p->run.first),
				 p->run.n_pages);
	}
	/* 0 when the guest is gone by now. */
	after = agent_cpu_nsec(r->m->agent);
	r->agent_nsec = after > before ? after - before : 0;
}

/* --- apply ------------------------------------------------------------------------------ */

static uint64_t count_candidates(const struct member *m)
{
	uint64_t n = 0;

	for (size_t i = 0; i < m->n_blocks; i++)
		n += m->blocks[i]->counts[PAGE_STATE_CANDIDATE] + m->blocks[i]->counts[PAGE_STATE_ZEROS];
	return n;
}

static void finish(struct remap *r, int error)
{
	struct member *m = r->m;

	(void)sd_event_source_unref(r->timer);
	m->busy = false;
	/* Not those that others' passes have found meanwhile: they are for the next round. */
	m->remap_left_pages = r->candidates;
	r->done(m, m->gone ? -ECANCELED : error, r->userdata);
	member_unref(m);
	free(r->plan.runs);
	free(r->payload);
	free(r->asked);
	free(r);
}

/* Why page number `merged` of the run is not, and what becomes of it. Pages behind it were not
 * tried: they stay candidates. */
static void apply_refused(struct remap *r, const struct remap_planned *p, uint32_t i, int error)
{
	struct domain *d = r->m->domain;
	page_id page = PAGE_ID(p->block->first.n + p->run.first + i);

	switch (error) {
	case -ENOENT:
		domain_forget_absent(d, p->block, page);
		break;
	case -EBUSY:
		domain_forget_young(d, p->block, page, BUSY_WAIT);
		r->stats->busy_pages++;
		break;
	case -ENOMEM: /* no mapping or no memory now: nothing is wrong with the page */
	case -ECANCELED:
		return;
	case -EINVAL:
		domain_forget_young(d, p->block, page, LEDGER_WAIT_MAX);
		break;
	default:
		domain_forget_young(d, p->block, page, DIFFERENT_WAIT);
		r->stats->different_pages++;
		break;
	}
	r->candidates -= MIN(r->candidates, UINT64_C(1));
}

static void apply_run(struct remap *r, const struct remap_planned *p, const struct ring_run *result)
{
	struct domain *d = r->m->domain;
	bool zero = p->run.slot == RUN_ZERO;

	for (uint32_t i = 0; i < result->merged; i++) {
		page_id page = PAGE_ID(p->block->first.n + p->run.first + i);

		if (zero)
			domain_made_hole(d, p->block, page);
		else
			domain_merged(d, p->block, page, RECORD_ID(ledger_word(r->env->ledger, page)));
	}
	r->candidates -= MIN(r->candidates, (uint64_t)result->merged);
	if (zero || !member_may_balloon(r->m))
		r->m->resident_pages -= MIN(r->m->resident_pages, (uint64_t)result->merged);
	*(zero ? &r->stats->holes_pages : &r->stats->merged_pages) += result->merged;
	if (result->merged > 0 && !zero)
		r->m->n_maps += RUN_MAPS;
	if (result->merged < p->run.n_pages)
		apply_refused(r, p, result->merged, result->result);
}

static void note_nsec(uint64_t histogram[MERGE_REMAP_WAITS], uint64_t *longest, uint32_t nsec)
{
	unsigned i = 0;

	while (i + 1 < MERGE_REMAP_WAITS && nsec / NSEC_PER_USEC >= UINT64_C(1) << i)
		i++;
	histogram[i]++;
	*longest = MAX(*longest, (uint64_t)nsec);
}

static void note_urgency(struct merge_remap_stats *s, const struct urgency *u)
{
	if (u->kind == URGENCY_REALTIME) {
		s->urgent_batches++;
		return;
	}
	s->other_batches++;
	s->urgency_error = u->error;
}

/* QEMU can write what comes back: only results are taken from it, checked, and the rest is what
 * we had asked. -EPROTO when it lies. */
static int apply_batch(struct remap *r)
{
	size_t k = r->batch_from;
	uint32_t at = 0;

	for (uint32_t i = 0; i < r->n_transactions; i++) {
		const struct ring_merge *t = (const struct ring_merge *)(r->asked + at);
		const struct ring_merge *got = (const struct ring_merge *)(r->payload + at);
		struct ring_run *runs = (struct ring_run *)(r->asked + at + sizeof(*t));

		if (ring_runs_check(runs, (const struct ring_run *)(got + 1), t->n_runs) < 0)
			return -EPROTO;
		for (uint32_t n = 0; n < t->n_runs; n++)
			apply_run(r, &r->plan.runs[k++], &runs[n]);
		note_nsec(r->stats->wait_histogram, &r->stats->wait_max_nsec, got->wait_nsec);
		note_nsec(r->stats->cpu_histogram, &r->stats->cpu_max_nsec, got->wait_cpu_nsec);
		at += (uint32_t)(sizeof(*t) + t->n_runs * sizeof(*runs));
	}
	return 0;
}

static int on_timer(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	struct remap *r = userdata;

	if (r->late)
		wait_on(r);
	else
		start_batch(r);
	return 0;
}

static int set_timer(struct remap *r, uint64_t usec)
{
	int q;

	if (!r->timer)
		return sd_event_add_time_relative(r->env->event, &r->timer, CLOCK_MONOTONIC, usec, 1000,
						  on_timer, r);
	q = sd_event_source_set_time_relative(r->timer, usec);
	return q < 0 ? q : sd_event_source_set_enabled(r->timer, SD_EVENT_ONESHOT);
}

/*
 * QEMU stands still, with pages of the guest's in the agent's hands, perhaps: the member stays busy, for
 * nobody may look at what the guest has now, until the agent goes on. Who wants it to leave or to yield meanwhile
 * is told that it cannot be (member_agent_is_idle()).
 */
static void wait_for_agent(struct remap *r)
{
	struct log_guest who = member_log(r->m);

	if (!r->m->agent_is_late)
		log_full(LOG_WARNING, &who, "its agent does not go on with a batch; is QEMU stopped, or traced?");
	r->m->agent_is_late = true;
	if (r->m->gone || r->m->yield.state != YIELD_NO || set_timer(r, LATE_USEC) < 0)
		finish(r, -ECANCELED);
}

static void batch_done(struct work *w)
{
	struct remap *r = (struct remap *)w;
	uint64_t start = thread_cpu_nsec(), nsec;

	if (r->late) {
		wait_for_agent(r);
		return;
	}
	r->m->agent_is_late = false;
	if (r->result >= 0 && !r->m->gone) {
		r->result = apply_batch(r);
		/* Worth another round. Each was cut out of a mapping. */
		r->candidates -= MIN(r->candidates, r->freed_pages);
		r->m->n_maps += r->freed_runs * RUN_MAPS;
		note_urgency(r->stats, agent_urgency(r->m->agent));
	}
	/* The agent's time is QEMU's, as far as the kernel goes; we make it go and count it as ours:
	 * it works while we wait. */
	nsec = r->work.cpu_nsec + thread_cpu_nsec() - start + r->agent_nsec;
	r->m->counts.cpu_nsec += nsec;
	r->stats->agent_cpu_nsec += r->agent_nsec;
	budget_charge(r->env->cpu, nsec, now_usec());
	budget_charge(&r->m->cpu, nsec, now_usec());
	if (r->result < 0 || r->m->gone || r->next == r->plan.n)
		finish(r, (int)MIN(r->result, (int64_t)0));
	else
		start_batch(r);
}

/* Once more for the same batch. */
static void wait_on(struct remap *r)
{
	r->work = (struct work){ .run = batch_run, .done = batch_done };
	if (work_submit(r->env->pool, &r->work) < 0)
		wait_for_agent(r);
}

static int submit_batch(struct remap *r)
{
	pack_batch(r);
	memcpy(r->asked, r->payload, r->payload_bytes);
	r->work = (struct work){ .run = batch_run, .done = batch_done };
	return work_submit(r->env->pool, &r->work);
}

/* Now, or when the budget allows. */
static void start_batch(struct remap *r)
{
	uint64_t now = now_usec();
	uint64_t wait = MAX(budget_wait_usec(r->env->cpu, now), budget_wait_usec(&r->m->cpu, now));
	int q;

	if (r->m->gone || r->m->yield.state != YIELD_NO) {
		finish(r, -ECANCELED);
		return;
	}
	q = wait > 0 ? set_timer(r, MIN(wait, (uint64_t)MEMBER_WAIT_USEC)) : submit_batch(r);
	if (q < 0)
		finish(r, q);
}

bool merge_remap_wanted(const struct member *m)
{
	/* What the last round left (huge pages kept whole, no mappings to be had) wants no other. */
	return count_candidates(m) >= m->remap_left_pages + ROUND_MIN_PAGES;
}

int merge_remap_round(const struct pass_env *env, struct member *m, struct merge_remap_stats *stats,
		      merge_remap_done_fn *done, void *userdata)
{
	struct remap *r = calloc(1, sizeof(*r));
	int q;

	assert(!m->busy);
	if (!r)
		return -ENOMEM;
	*r = (struct remap){ .env = env, .m = m, .stats = stats, .done = done, .userdata = userdata };
	r->payload = malloc(RING_PAYLOAD_BYTES);
	r->asked = malloc(RING_PAYLOAD_BYTES);
	r->candidates = count_candidates(m);
	q = r->payload && r->asked ? remap_plan_make(env->ledger, m, &r->plan) : -ENOMEM;
	if (q == -EALREADY)
		m->remap_left_pages = r->candidates;
	if (q >= 0)
		q = submit_batch(r);
	if (q < 0) {
		free(r->plan.runs);
		free(r->payload);
		free(r->asked);
		free(r);
		return q;
	}
	m->busy = true;
	(void)member_ref(m);
	return 0;
}
