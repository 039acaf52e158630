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

/* How many of n marks are so near to each other that they are looked at together, with what is between. */
static size_t marks_together(const struct mark *v, size_t n)
{
	size_t k = 1;

	while (k < n && v[k].first + v[k].n_pages - v[0].first <= PAGE_MAP_PAGES &&
	       v[k].first - (v[k - 1].first + v[k - 1].n_pages) <= PAGE_MAP_GAP)
		k++;
	return k;
}

static int verify_marks(struct ksm_job *job, const struct ledger_block *b, const struct mark *v, size_t n)
{
	uint32_t first = v[0].first, n_pages = v[n - 1].first + v[n - 1].n_pages - first;
	_cleanup_free_ uint64_t *pfns = calloc(n_pages, sizeof(*pfns));
	hva start = hva_add_pages(b->start, first);
	int r;

	if (!pfns)
		return -ENOMEM;
	/* In this order: a page that is written after collect shows in the next pass; one that was
	 * written before has a frame of its own. Merging drops write protection, so the tracker's
	 * word counts only for pages that were not candidates. */
	if (tracker_is_exact(job->m->tracker))
		r = tracker_collect(job->m->tracker, start, n_pages, note_run, &job->runs);
	else /* the pass must not miss what is told only once */
		r = pagemap_walk(job->m->process, start, n_pages, 0, note_run, &job->runs);
	if (r >= 0)
		r = pagemap_read_pfns(job->m->process, start, n_pages, pfns);
	for (size_t k = 0; k < n && r >= 0; k++)
		for (uint32_t i = v[k].first; i < v[k].first + v[k].n_pages; i++)
			if (pfns[i - first])
				job->verified[job->n_verified++] = (struct frame_page){
					pfns[i - first], PAGE_ID(b->first.n + i)
				};
	return r;
}

static void verify_run(struct work *w)
{
	struct ksm_job *job = (struct ksm_job *)w;
	struct member *m = job->m;
	uint64_t merging, n_pages = 0;
	int r = 0;

	job->runs.n = 0;
	job->n_verified = 0;
	for (size_t i = 0; i < m->n_blocks; i++)
		for (size_t k = 0; k < m->marks[i].n; k++)
			n_pages += m->marks[i].v[k].n_pages;
	job->verified = calloc(MAX(n_pages, UINT64_C(1)), sizeof(*job->verified));
	if (!job->verified)
		r = -ENOMEM;
	for (size_t i = 0; i < m->n_blocks && r >= 0; i++)
		for (size_t k = 0, some; k < m->marks[i].n && r >= 0; k += some) {
			some = marks_together(m->marks[i].v + k, m->marks[i].n - k);
			r = verify_marks(job, m->blocks[i], m->marks[i].v + k, some);
		}
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
	mk->stats.gained_pages += s != PAGE_STATE_SHARED;
	if (s == PAGE_STATE_CANDIDATE)
		domain_merged(b->member->domain, b, page, RECORD_ID(ledger_word(mk->ledger, page)));
	else if (s != PAGE_STATE_SHARED)
		domain_merged(b->member->domain, b, page, RECORD_ID(UINT32_MAX));
}

/* v: sorted by frame. */
static void apply_frames(struct merge_ksm *mk, const struct frame_page *v, size_t n)
{
	mk->stats.shared_pages = 0;
	mk->stats.sharers_pages = 0;
	mk->stats.gained_pages = 0;
	mk->stats.missed_pages = 0;
	for (size_t i = 0, end; i < n; i = end) {
		for (end = i + 1; end < n && v[end].pfn == v[i].pfn; end++)
			;
		for (size_t k = i; k < end; k++) {
			struct ledger_block *b = ledger_find(mk->ledger, v[k].page);

			if (end - i >= 2)
				apply_shared(mk, b, v[k].page);
			else
				apply_alone(mk, b, v[k].page);
		}
		if (end - i >= 2) {
			mk->stats.shared_pages++;
			mk->stats.sharers_pages += end - i;
		}
	}
}

/* The kernel's zero page is no frame of the guest's, however many pages map it. */
static bool has_frame(const struct merge_ksm *mk, page_id page)
{
	enum page_state s = ledger_state(mk->ledger, page);

	return s != PAGE_STATE_ABSENT && s != PAGE_STATE_HOLE;
}

static void verify_done(struct work *w)
{
	struct ksm_job *job = (struct ksm_job *)w;
	struct merge_ksm *mk = job->mk;
	_cleanup_free_ struct frame_page *all = NULL;
	size_t n = 0, at = 0;

	if (!merge_ksm_job_done(job))
		return;
	mk->stats.rmap_items = 0;
	for (size_t i = 0; i < mk->n_members; i++) {
		job = &mk->jobs[i];
		job->m->shared_pages = 0;
		if (job->m->gone)
			continue;
		apply_runs(mk, job);
		if (job->error < 0)
			forget_fingerprints(mk, job);
		else
			n += job->n_verified;
	}
	/* And the scratch that sorting takes. */
	all = calloc(MAX(2 * n, (size_t)1), sizeof(*all));
	if (!all) {
		merge_ksm_finish_round(mk, -ENOMEM);
		return;
	}
	for (size_t i = 0; i < mk->n_members; i++) {
		job = &mk->jobs[i];
		if (job->m->gone || job->error < 0)
			continue;
		for (size_t k = 0; k < job->n_verified; k++)
			if (has_frame(mk, job->verified[k].page))
				all[at++] = job->verified[k];
		mk->stats.rmap_items += job->rmap_items;
	}
	frames_sort(all, all + at, at);
	apply_frames(mk, all, at);
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

void merge_ksm_verify(struct merge_ksm *mk)
{
	mk->stats.phase = MERGE_KSM_VERIFY;
	merge_ksm_submit_jobs(mk, verify_run, verify_done);
}
