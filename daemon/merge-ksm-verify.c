/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * VERIFY: what ksmd has merged, by the frames that the pages have now. A page is shared when another one
 * of its domain has the same frame, whatever the kernel's counters say.
 */
#include "daemon/merge-ksm-private.h"

#include "common/log.h"
#include "common/util.h"

/* Passes that a page waits at least which ksmd did not merge. */
#define NOT_MERGED_WAIT 4U
/* Entries of the page map in one read, and what is read for nothing rather than reading once more. */
#define PAGE_MAP_PAGES	4096U
#define PAGE_MAP_GAP	32U

static int note_run(const struct page_run *run, void *userdata)
{
	struct run_list *l = userdata;

	if (l->n == l->size) {
		size_t size = l->size ? l->size * 2 : 256;
		struct page_run *grown = reallocarray(l->v, size, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		l->v = grown;
		l->size = size;
	}
	l->v[l->n++] = *run;
	return 0;
}

static uint32_t mark_end(const struct mark *m)
{
	return m->first + m->n_pages;
}

/* Looks at the pages [first, end) of a block. */
static int verify_pages(struct ksm_job *job, const struct ledger_block *b, uint32_t first, uint32_t end,
			uint64_t *ret_pfns)
{
	hva start = hva_add_pages(b->start, first);
	int r;

	/* In this order: a page that is written after collect shows in the next pass; one that was
	 * written before has a frame of its own. Merging drops write protection, so the tracker's
	 * word counts only for pages that were not candidates. */
	if (tracker_is_exact(job->m->tracker))
		r = tracker_collect(job->m->tracker, start, end - first, note_run, &job->runs);
	else /* the pass must not miss what is told only once */
		r = pagemap_walk(job->m->process, start, end - first, 0, note_run, &job->runs);
	return r < 0 ? r : pagemap_read_pfns(job->m->process, start, end - first, ret_pfns);
}

static void note_pfns(struct ksm_job *job, const uint64_t *pfns, uint32_t n)
{
	struct pagemap_zero zero;

	pagemap_zero_probe(&zero);
	for (uint32_t i = 0; i < n; i++) {
		/* The kernel's zero page is no frame of the guest's, however many pages map it. */
		bool zeros = pfns[i] == zero.pfn || (zero.huge_pfn && pfns[i] - zero.huge_pfn < HUGE_PAGES);

		job->pfns[job->n_pfns++] = zeros ? 0 : pfns[i];
		job->pfn_end = MAX(job->pfn_end, pfns[i] + 1);
	}
}

/* Marks that are near to each other are looked at together, with what is between them; long ones in pieces. */
static int verify_block(struct ksm_job *job, const struct ledger_block *b, const struct marks *marks)
{
	_cleanup_free_ uint64_t *pfns = calloc(PAGE_MAP_PAGES, sizeof(*pfns));
	const struct mark *v = marks->v, *end_mark = v + marks->n;
	uint32_t first, end = 0;
	int r = pfns ? 0 : -ENOMEM;

	while (v < end_mark && r >= 0) {
		const struct mark *last = v;

		first = MAX(end, v->first);
		end = MIN(mark_end(v), first + PAGE_MAP_PAGES);
		while (end == mark_end(last) && last + 1 < end_mark && last[1].first - end <= PAGE_MAP_GAP &&
		       last[1].first - first < PAGE_MAP_PAGES) {
			last++;
			end = MIN(mark_end(last), first + PAGE_MAP_PAGES);
		}
		r = verify_pages(job, b, first, end, pfns);
		for (; v <= last && r >= 0; v++) {
			uint32_t from = MAX(first, v->first), to = MIN(end, mark_end(v));

			note_pfns(job, pfns + (from - first), to - from);
		}
		if (end < mark_end(last))
			v = last;
	}
	return r;
}

static void verify_run(struct work *w)
{
	struct ksm_job *job = (struct ksm_job *)w;
	struct member *m = job->m;
	uint64_t merging, n_pages = 0;
	int r = 0;

	job->runs.n = 0;
	for (size_t i = 0; i < m->n_blocks; i++)
		for (size_t k = 0; k < m->marks[i].n; k++)
			n_pages += m->marks[i].v[k].n_pages;
	job->pfns = malloc(MAX(n_pages, UINT64_C(1)) * sizeof(*job->pfns));
	if (!job->pfns)
		r = -ENOMEM;
	for (size_t i = 0; i < m->n_blocks && r >= 0; i++)
		r = verify_block(job, m->blocks[i], &m->marks[i]);
	if (ksm_process_counts(m->process->proc_fd, &merging, &job->rmap_items) < 0)
		job->rmap_items = 0;
	job->error = r;
}

/* Passes, at most what the ledger has room for. */
static unsigned wait_passes(const struct merge_ksm *mk, const struct member *m, uint64_t usec)
{
	uint64_t interval = mk->config.interval_usec;

	return member_wait_steps(usec, interval, member_step_passes(&m->policy, interval));
}

/* Candidates keep their state: their frames decide. Others were written or went away. */
static void apply_runs(struct merge_ksm *mk, struct ksm_job *job)
{
	struct member *m = job->m;
	/* The next pass counts one down without having heard of the write. */
	unsigned wait = MIN(wait_passes(mk, m, m->policy.min_age_usec) + 1, LEDGER_WAIT_MAX);

	for (size_t i = 0; i < job->runs.n; i++) {
		const struct page_run *run = &job->runs.v[i];
		struct ledger_block *b = NULL;

		for (size_t k = 0; k < m->n_blocks && !b; k++)
			if (run->start.addr >= m->blocks[k]->start.addr &&
			    run->start.addr < hva_add_pages(m->blocks[k]->start, m->blocks[k]->n_pages).addr)
				b = m->blocks[k];
		/* Huge pages that are to stay whole are no candidates. */
		bool looks = tracker_is_exact(m->tracker) &&
			     !(run->bits & PAGE_HUGE && m->policy.thp == THP_KEEP);

		if (!b)
			continue;
		for (uint64_t n = 0; n < run->n_pages; n++) {
			page_id page = ledger_id(b, hva_add_pages(run->start, n));
			enum page_state s = ledger_state(mk->ledger, page);

			/* Where ksmd splits a huge page, the kernel (6.12) frees its pages of zeros
			 * at once: it maps the zero page in their place. */
			if (run->bits & PAGE_ZERO && s == PAGE_STATE_ZEROS)
				domain_made_hole(m->domain, b, page);
			else if ((!(run->bits & PAGE_PRESENT) || run->bits & PAGE_ZERO) &&
				 s != PAGE_STATE_HOLE)
				domain_forget_absent(m->domain, b, page);
			else if (looks && run->bits & PAGE_WRITTEN && !merge_ksm_wants(s))
				domain_forget_young(m->domain, b, page,
						    s == PAGE_STATE_YOUNG ? MAX(wait, ledger_wait(mk->ledger, page))
									  : wait);
		}
	}
}

/* A collect that failed may have taken marks that it did not report: fingerprints count for nothing. */
static void forget_fingerprints(struct merge_ksm *mk, struct ksm_job *job)
{
	struct member *m = job->m;

	for (size_t i = 0; i < m->n_blocks; i++) {
		struct ledger_block *b = m->blocks[i];

		for (uint32_t n = 0; m->marks[i].n > 0 && n < b->n_pages; n++)
			if (ledger_state(mk->ledger, PAGE_ID(b->first.n + n)) == PAGE_STATE_UNSTABLE)
				domain_forget_young(m->domain, b, PAGE_ID(b->first.n + n), 1);
	}
}

/* A page whose frame no other page of the domain has is not shared. */
static void apply_alone(struct merge_ksm *mk, struct ledger_block *b, page_id page)
{
	const struct member *m = b->member;
	enum page_state s = ledger_state(mk->ledger, page);
	bool missed = mk->converged && mk->kind == MERGE_KSM_MERGE &&
		      (s == PAGE_STATE_CANDIDATE || s == PAGE_STATE_ZEROS);
	unsigned wait = wait_passes(mk, m, missed ? m->policy.min_age_usec : m->policy.cow_backoff_usec);

	mk->stats.missed_pages += missed;
	if (missed || s == PAGE_STATE_SHARED)
		domain_forget_young(m->domain, b, page, MAX(wait, NOT_MERGED_WAIT));
}

static void apply_shared(struct merge_ksm *mk, struct ledger_block *b, page_id page)
{
	enum page_state s = ledger_state(mk->ledger, page);

	b->member->shared_pages++;
	mk->stats.sharers_pages++;
	mk->stats.gained_pages += s != PAGE_STATE_SHARED;
	if (s == PAGE_STATE_CANDIDATE)
		domain_merged(b->member->domain, b, page, RECORD_ID(ledger_word(mk->ledger, page)));
	else if (s != PAGE_STATE_SHARED)
		domain_merged(b->member->domain, b, page, RECORD_ID(UINT32_MAX));
}

static void apply_frames(struct merge_ksm *mk, const struct ksm_job *job)
{
	const struct member *m = job->m;
	const uint64_t *pfn = job->pfns;

	for (size_t i = 0; i < m->n_blocks; i++)
		for (size_t k = 0; k < m->marks[i].n; k++) {
			struct ledger_block *b = m->blocks[i];
			uint32_t end = mark_end(&m->marks[i].v[k]);

			for (uint32_t n = m->marks[i].v[k].first; n < end; n++, pfn++) {
				page_id page = PAGE_ID(b->first.n + n);
				enum page_state s = ledger_state(mk->ledger, page);

				if (*pfn == 0 || s == PAGE_STATE_ABSENT || s == PAGE_STATE_HOLE)
					continue;
				if (frames_is_shared(&mk->frames, *pfn))
					apply_shared(mk, b, page);
				else
					apply_alone(mk, b, page);
			}
		}
}

static void count_run(struct work *w)
{
	struct ksm_job *job = (struct ksm_job *)w;

	for (uint64_t i = 0; i < job->n_pfns && job->error >= 0; i++)
		if (job->pfns[i])
			frames_count(&job->mk->frames, job->pfns[i]);
}

static void count_done(struct work *w)
{
	struct merge_ksm *mk = ((struct ksm_job *)w)->mk;

	if (!merge_ksm_job_done((struct ksm_job *)w))
		return;
	mk->stats.shared_pages = mk->frames.n_shared;
	mk->stats.sharers_pages = 0;
	mk->stats.gained_pages = 0;
	mk->stats.missed_pages = 0;
	mk->stats.rmap_items = 0;
	for (size_t i = 0; i < mk->n_members; i++) {
		mk->members[i]->shared_pages = 0;
		if (mk->members[i]->gone || mk->jobs[i].error < 0)
			continue;
		apply_frames(mk, &mk->jobs[i]);
		mk->stats.rmap_items += mk->jobs[i].rmap_items;
	}
	mk->stats.incomplete = !mk->converged;
	mk->stats.rounds++;
	log_debug("domain %s: a round of %llu s%s: %llu pages merged, %llu not", mk->domain->name,
		  (unsigned long long)((now_usec() - mk->started_usec) / USEC_PER_SEC),
		  mk->cut	    ? ", cut short"
		  : mk->converged ? ""
				  : ", out of time",
		  (unsigned long long)mk->stats.gained_pages, (unsigned long long)mk->stats.missed_pages);
	merge_ksm_finish_round(mk, mk->error);
}

static void verify_done(struct work *w)
{
	struct merge_ksm *mk = ((struct ksm_job *)w)->mk;
	uint64_t pfn_end = 0;

	if (!merge_ksm_job_done((struct ksm_job *)w))
		return;
	for (size_t i = 0; i < mk->n_members; i++) {
		struct ksm_job *job = &mk->jobs[i];

		/* Those of a guest that leaves count for the others. */
		pfn_end = MAX(pfn_end, job->pfn_end);
		if (job->m->gone)
			continue;
		apply_runs(mk, job);
		if (job->error < 0)
			forget_fingerprints(mk, job);
	}
	if (frames_init(&mk->frames, pfn_end) < 0)
		merge_ksm_finish_round(mk, -ENOMEM);
	else
		merge_ksm_submit_jobs(mk, count_run, count_done);
}

void merge_ksm_verify(struct merge_ksm *mk)
{
	mk->stats.phase = MERGE_KSM_VERIFY;
	mk->error = 0;
	merge_ksm_submit_jobs(mk, verify_run, verify_done);
}
