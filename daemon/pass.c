/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/fault.h"
#include "common/util.h"
#include "daemon/pass-private.h"

/* At the end of a block, pages whose twins others are joining are waited for so often. Left over,
 * they are read again in the next pass. */
#define LATER_WAITS 100U
#define LATER_USEC  (2 * USEC_PER_MSEC)
/* QEMU's own memory comes and goes, too: less than this is no sign. */
#define RESIDENT_SLACK_PAGES 64U

static void start_collect(struct pass *p);

static void pass_free(struct pass *p)
{
	free(p->runs);
	free(p->ranges);
	free(p->results);
	free(p->pairs);
	free(p->later);
	free(p->copies);
	free(p);
}

/* Not cleared: what a pass does not use is not touched, and costs nothing. */
static bool alloc_buffers(struct pass *p)
{
	p->ranges = malloc(PASS_SLICE_PAGES * sizeof(*p->ranges));
	p->results = malloc(PASS_SLICE_PAGES * sizeof(*p->results));
	p->pairs = malloc(PASS_SLICE_PAGES * sizeof(*p->pairs));
	p->later = malloc(PASS_SLICE_PAGES * sizeof(*p->later));
	if (p->m->domain->store)
		p->copies = malloc(PAIR_CHUNK_PAGES * PAGE_BYTES);
	return p->ranges && p->results && p->pairs && p->later &&
	       (p->copies || !p->m->domain->store);
}

void pass_finish(struct pass *p, int r)
{
	struct member *m = p->m;

	(void)sd_event_source_unref(p->timer);
	turn_end(&m->turn);
	pass_drop_pairs(p);
	if (r == 0) {
		p->counts.passes = m->counts.passes + 1;
		p->counts.pass_usec = now_usec() - p->started_usec;
		p->counts.read_total = m->counts.read_total + p->counts.read_pages;
		p->counts.cpu_nsec = m->counts.cpu_nsec;
		p->counts.kept_huge_pages = m->counts.kept_huge_pages;
		p->counts.unmarked_pages = m->counts.unmarked_pages;
		m->look_everywhere = m->look_everywhere && !p->everywhere;
		m->counts = p->counts;
	}
	m->busy = false;
	p->done(m, m->gone ? -ECANCELED : r, p->userdata);
	member_unref(m);
	pass_free(p);
}

/* --- the budget between two jobs ----------------------------------------------- */

static void proceed(struct pass *p);

static int on_budget(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	proceed(userdata);
	return 0;
}

/* Then calls p->next if all budgets allow. */
static void wait_usec(struct pass *p, uint64_t wait)
{
	int r;

	if (!p->timer) {
		r = sd_event_add_time_relative(p->env->event, &p->timer, CLOCK_MONOTONIC, wait, 1000,
					       on_budget, p);
	} else {
		r = sd_event_source_set_time_relative(p->timer, wait);
		if (r >= 0)
			r = sd_event_source_set_enabled(p->timer, SD_EVENT_ONESHOT);
	}
	if (r < 0)
		pass_finish(p, r);
}

/* Calls p->next now or when all budgets allow; a guest that left or yields ends the pass. */
static void proceed(struct pass *p)
{
	uint64_t now = now_usec();
	uint64_t wait = MAX(budget_wait_usec(p->env->cpu, now), budget_wait_usec(p->env->reads, now));
	uint64_t own = budget_wait_usec(&p->m->cpu, now);

	if (wait > 0)
		turns_note_shortage(p->env->turns, now);
	p->m->turn.aside = own > 0;
	wait = MAX(wait, own);
	if (wait == 0)
		wait = turn_wait_usec(&p->m->turn, now);
	if (p->m->gone || p->m->yield.state != YIELD_NO)
		pass_finish(p, -ECANCELED);
	else if (wait > 0)
		wait_usec(p, MIN(wait, (uint64_t)MEMBER_WAIT_USEC));
	else
		p->next(p);
}

void pass_then(struct pass *p, void (*next)(struct pass *p))
{
	p->next = next;
	proceed(p);
}

void pass_submit(struct pass *p, void (*run)(struct work *w), void (*done)(struct work *w))
{
	int r;

	p->work.run = run;
	p->work.done = done;
	p->error = 0;
	r = work_submit(p->env->pool, &p->work);
	if (r < 0)
		pass_finish(p, r);
}

/* The loop's own work since start_nsec, and the job's, count. */
void pass_charge(struct pass *p, uint64_t start_nsec)
{
	uint64_t nsec = p->work.cpu_nsec + thread_cpu_nsec() - start_nsec;

	p->m->counts.cpu_nsec += nsec;
	budget_charge(p->env->cpu, nsec, now_usec());
	budget_charge(&p->m->cpu, nsec, now_usec());
	turn_charge(&p->m->turn, nsec);
}

/* --- collect and apply ------------------------------------------------------------ */

static int on_run(const struct page_run *run, void *userdata)
{
	struct pass *p = userdata;
	struct run *last;

	if (p->n_runs == p->runs_size) {
		uint32_t size = p->runs_size ? p->runs_size * 2 : 256;
		struct run *grown = reallocarray(p->runs, size, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		p->runs = grown;
		p->runs_size = size;
	}
	last = &p->runs[p->n_runs++];
	last->first = (uint32_t)((run->start.addr - pass_block(p)->start.addr) >> PAGE_SHIFT);
	last->n_pages = (uint32_t)run->n_pages;
	last->bits = run->bits;
	return 0;
}

static void collect_run(struct work *w)
{
	struct pass *p = (struct pass *)w;
	const struct ledger_block *b = pass_block(p);

	p->n_runs = 0;
	for (uint32_t i = 0; i < p->n_looks && p->error >= 0; i++)
		p->error = tracker_collect(p->m->tracker, hva_add_pages(b->start, p->looks[i].first),
					   p->looks[i].n_pages, on_run, p);
	if (p->error >= 0)
		p->error = FAULT_ERRNO("pass-collected");
}

static void want_read(struct pass *p, uint32_t i)
{
	struct scan_range *last = p->n_ranges > 0 ? &p->ranges[p->n_ranges - 1] : NULL;
	hva at = hva_add_pages(pass_block(p)->start, i);

	p->n_read++;
	if (last && hva_add_pages(last->start, last->n_pages).addr == at.addr)
		last->n_pages++;
	else
		p->ranges[p->n_ranges++] = (struct scan_range){ at, 1 };
}

/* A page that is present and was written, or may have been. */
static void apply_written(struct pass *p, struct ledger_block *b, uint32_t i)
{
	const struct member_policy *policy = &p->m->policy;
	page_id page = PAGE_ID(b->first.n + i);
	enum page_state s = ledger_state(p->env->ledger, page);
	unsigned first, wait, tries = 0;

	/* Perhaps it was not: shared pages are left to the engine's audit, the others are read. */
	if (!tracker_is_exact(p->m->tracker)) {
		if (s == PAGE_STATE_SHARED || s == PAGE_STATE_PAIRING)
			return;
		if (s == PAGE_STATE_ABSENT)
			ledger_set_young(p->env->ledger, b, page, 0, 0);
		want_read(p, i);
		return;
	}
	if (s == PAGE_STATE_PAIRING) /* is being joined: the engine finds out */
		return;
	first = member_wait_steps(s == PAGE_STATE_SHARED ? policy->cow_backoff_usec : policy->min_age_usec,
				  p->env->interval_usec, p->step_passes);
	wait = first;
	/* A second write does not end what is left of cow-backoff, or of this: what was read in vain waits
	 * twice as long before it is read again. */
	if (s == PAGE_STATE_YOUNG) {
		tries = MIN(ledger_word(p->env->ledger, page), LEDGER_TRIES_MAX);
		wait = MAX(wait, ledger_wait(p->env->ledger, page));
	} else if (s == PAGE_STATE_UNSTABLE) {
		tries = MIN(ledger_tries(p->env->ledger, page) + 1, LEDGER_TRIES_MAX);
	}
	wait = MAX(wait, MIN(first << tries, LEDGER_WAIT_MAX));
	domain_forget_young(p->m->domain, b, page, wait);
	if (tries > 0)
		ledger_set_young(p->env->ledger, b, page, wait, tries);
	if (wait == 0)
		want_read(p, i);
}

/* Present and not written since it was last seen. */
static void apply_unwritten(struct pass *p, struct ledger_block *b, uint32_t i)
{
	page_id page = PAGE_ID(b->first.n + i);
	unsigned wait;

	switch (ledger_state(p->env->ledger, page)) {
	case PAGE_STATE_ABSENT: /* swapped in again: an ordinary page */
		ledger_set_young(p->env->ledger, b, page, 0, 0);
		want_read(p, i);
		break;
	case PAGE_STATE_YOUNG:
		ledger_touch(b, page);
		wait = ledger_wait(p->env->ledger, page);
		if (wait > MEMBER_WAIT_FINE && !p->steps)
			break;
		if (wait <= 1)
			want_read(p, i);
		else
			ledger_set_young(p->env->ledger, b, page, wait - 1,
					 ledger_word(p->env->ledger, page));
		break;
	default:
		break;
	}
}

/* Copies in mappings of the store are reported each time. They are taken as not written after the first,
 * and read again after so many passes: an old fingerprint does no harm but that a twin is missed. */
#define COPY_PASSES QUIET_PASSES_MAX

static void apply_copy(struct pass *p, struct ledger_block *b, uint32_t i)
{
	page_id page = PAGE_ID(b->first.n + i);

	switch (ledger_state(p->env->ledger, page)) {
	case PAGE_STATE_SHARED:
	case PAGE_STATE_HOLE:
		apply_written(p, b, i);
		break;
	case PAGE_STATE_UNSTABLE:
		/* So that it falls on a pass that looks there. */
		if ((p->m->counts.passes + i / LEDGER_PART_PAGES / QUIET_GROUP_PARTS) % COPY_PASSES == 0)
			domain_forget_young(p->m->domain, b, page, 1);
		break;
	default:
		apply_unwritten(p, b, i);
		break;
	}
}

/* A mapping of the store stays one while its page is reclaimed or dropped: it shows the slot again.
 * A protected hole shows as swapped; a private copy that is swapped out as written, too. A
 * hole of ours is absent by nature. */
static bool stays_when_absent(const struct pass *p, enum page_state s, uint32_t bits)
{
	return s == PAGE_STATE_PAIRING || s == PAGE_STATE_HOLE ||
	       (s == PAGE_STATE_SHARED && p->m->domain->store &&
		!(bits & PAGE_SWAPPED && bits & PAGE_WRITTEN));
}

static void apply_run(struct pass *p, struct ledger_block *b, const struct run *run)
{
	uint32_t end = run->first + run->n_pages;
	const uint8_t *states = ledger_states(p->env->ledger, b);

	quiet_note_run(b, run->first, run->n_pages, run->bits);
	if (!(run->bits & PAGE_PRESENT) || run->bits & PAGE_ZERO) {
		for (uint32_t i = run->first; (i = ledger_skip_absent(states, i, end)) < end; i++)
			if (run->bits & PAGE_ZERO && LEDGER_STATE_OF(states[i]) == PAGE_STATE_ZEROS)
				domain_made_hole(p->m->domain, b, PAGE_ID(b->first.n + i));
			else if (!stays_when_absent(p, LEDGER_STATE_OF(states[i]), run->bits))
				domain_forget_absent(p->m->domain, b, PAGE_ID(b->first.n + i));
			else if (LEDGER_STATE_OF(states[i]) == PAGE_STATE_SHARED)
				b->parts[i / LEDGER_PART_PAGES].unmapped_pages++;
		return;
	}
	ledger_note_huge(b, PAGE_ID(b->first.n + run->first), run->n_pages, run->bits & PAGE_HUGE);
	/* Huge pages that are to stay whole are no candidates: not tracked, not read. The kernel may
	 * have made one where the guest wrote to a hole of ours, which is none any more then. */
	if (run->bits & PAGE_HUGE && p->m->policy.thp == THP_KEEP) {
		for (uint32_t i = run->first; (i = ledger_skip_absent(states, i, end)) < end; i++)
			if (LEDGER_STATE_OF(states[i]) != PAGE_STATE_PAIRING)
				domain_forget_absent(p->m->domain, b, PAGE_ID(b->first.n + i));
		return;
	}
	if (run->bits & PAGE_FILE) /* a store page: shared until it is written */
		return;
	if (run->bits & PAGE_COPY && p->m->domain->store) {
		for (uint32_t i = run->first; i < end; i++)
			apply_copy(p, b, i);
	} else if (run->bits & PAGE_WRITTEN) {
		p->counts.written_pages += run->n_pages;
		for (uint32_t i = run->first; i < end; i++)
			apply_written(p, b, i);
	} else {
		for (uint32_t i = run->first; (i = ledger_skip_settled(states, i, end)) < end; i++)
			apply_unwritten(p, b, i);
	}
}

/* A collect that failed may have taken marks that it did not report: what follows the last run counts as
 * written. Fingerprints are not to be trusted then; frames of shared pages tell by themselves. */
static void forget_uncollected(struct pass *p)
{
	struct ledger_block *b = pass_block(p);
	const struct run *last = p->n_runs > 0 ? &p->runs[p->n_runs - 1] : NULL;
	uint32_t from = last ? last->first + last->n_pages : 0;

	for (uint32_t k = 0; k < p->n_looks; k++)
		for (uint32_t i = MAX(from, p->looks[k].first); i < p->looks[k].first + p->looks[k].n_pages; i++) {
			page_id page = PAGE_ID(b->first.n + i);
			enum page_state s = ledger_state(p->env->ledger, page);

			if (s == PAGE_STATE_UNSTABLE || s == PAGE_STATE_YOUNG)
				domain_forget_young(p->m->domain, b, page, 1);
		}
}

static void collect_done(struct work *w)
{
	struct pass *p = (struct pass *)w;
	uint64_t start = thread_cpu_nsec();

	p->n_ranges = 0;
	p->n_read = 0;
	for (uint32_t i = 0; i < p->n_runs && !p->m->gone; i++)
		apply_run(p, pass_block(p), &p->runs[i]);
	if (p->error < 0) {
		if (!p->m->gone)
			forget_uncollected(p);
		pass_charge(p, start);
		pass_finish(p, p->error);
		return;
	}
	for (uint32_t i = 0; i < p->n_looks; i++)
		quiet_end(pass_block(p), &p->looks[i], p->m->counts.passes);
	pass_charge(p, start);
	pass_then(p, p->n_read > 0 ? pass_start_scan : pass_next_slice);
}

static void start_collect(struct pass *p)
{
	pass_submit(p, collect_run, collect_done);
}

/* --- slices ----------------------------------------------------------------------------- */

/* Deals with pages that wait for their twins; false: the pass may go on. */
static bool settle_later(struct pass *p)
{
	if (p->n_later == 0)
		return false;
	pass_offer_later(p);
	if (p->n_pairs > 0) {
		pass_then(p, pass_start_join);
		return true;
	}
	if (p->n_later == 0 || p->at + p->n_pages < pass_block(p)->n_pages)
		return false;
	if (p->later_waits++ < LATER_WAITS) {
		p->next = pass_next_slice;
		/* Those that it waits for go first, however far ahead. */
		p->m->turn.aside = true;
		wait_usec(p, LATER_USEC);
		return true;
	}
	p->n_later = 0;
	return false;
}

void pass_next_slice(struct pass *p)
{
	do {
		if (settle_later(p))
			return;
		p->at += p->n_pages;
		while (p->block < p->m->n_blocks && p->at >= pass_block(p)->n_pages) {
			p->block++;
			p->at = 0;
		}
		if (p->block == p->m->n_blocks) {
			for (size_t i = 0; i < p->m->n_blocks; i++)
				quiet_count(p->m->blocks[i], &p->counts.present_pages,
					    &p->counts.swapped_pages, &p->counts.huge_pages,
					    &p->counts.unmapped_pages);
			pass_finish(p, 0);
			return;
		}
		p->n_pages = MIN(PASS_SLICE_PAGES, pass_block(p)->n_pages - p->at);
		p->n_looks = quiet_plan(pass_block(p), p->at, p->n_pages, p->m->counts.passes, p->everywhere,
					p->looks);
	} while (p->n_looks == 0);
	pass_then(p, start_collect);
}

/* Pages may have been swapped out or given up: the first look after that is at everything. */
static bool memory_went(struct member *m, uint64_t resident_pages)
{
	bool went = resident_pages + RESIDENT_SLACK_PAGES <= m->resident_pages;

	m->resident_pages = went ? resident_pages : MAX(m->resident_pages, resident_pages);
	return went;
}

static void begin_run(struct work *w)
{
	struct pass *p = (struct pass *)w;

	p->error = process_alive(p->m->process) ? tracker_begin_pass(p->m->tracker) : -ESRCH;
	if (p->error >= 0)
		p->error = process_vm_pages(p->m->process, &p->counts.vm_pages, &p->resident_pages);
	p->counts.agent_bytes = p->m->agent ? agent_memory_bytes(p->m->agent) : 0;
}

static void begin_done(struct work *w)
{
	struct pass *p = (struct pass *)w;

	if (p->error < 0 || p->m->gone) {
		pass_finish(p, p->error);
		return;
	}
	p->everywhere = memory_went(p->m, p->resident_pages) || p->m->look_everywhere ||
			tracker_kind(p->m->tracker) == TRACKER_SOFTDIRTY;
	pass_next_slice(p);
}

int pass_start(const struct pass_env *env, struct member *m, pass_done_fn *done, void *userdata)
{
	struct pass *p = calloc(1, sizeof(*p));
	int r = -ENOMEM;

	assert(!m->busy);
	if (!p)
		return -ENOMEM;
	p->env = env;
	p->m = m;
	p->started_usec = now_usec();
	p->step_passes = member_step_passes(&m->policy, env->interval_usec);
	p->steps = m->counts.passes % p->step_passes == 0;
	p->done = done;
	p->userdata = userdata;
	if (alloc_buffers(p)) {
		p->work.run = begin_run;
		p->work.done = begin_done;
		r = work_submit(env->pool, &p->work);
	}
	if (r < 0) {
		pass_free(p);
		return r;
	}
	m->busy = true;
	(void)member_ref(m);
	turn_begin(env->turns, &m->turn);
	return 0;
}
