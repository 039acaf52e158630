/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/merge-ksm-private.h"

#include "common/fault.h"
#include "common/log.h"
#include "common/util.h"

/* How often a running ksmd is looked at; also how far it can overrun its budget. */
#define POLL_USEC (20 * USEC_PER_MSEC)
/* How long ksmd sleeps between two batches while the budget is used up: a change of this setting
 * wakes it, so that it goes on as soon as it may. */
#define PAUSE_MSEC 60000U
/* Full scans that end after marking until all that was marked has been tried: the first began before
 * that, and may have missed most of it; a page's first scan only takes its checksum; the next merges. */
#define TRIED_SCANS 3U
/* And until ksmd came by at each page once. */
#define VISITED_SCANS 2U

const char *merge_ksm_phase_to_string(enum merge_ksm_phase p)
{
	static const char *const names[] = {
		[MERGE_KSM_IDLE] = "idle",
		[MERGE_KSM_CHECK] = "looking at other processes",
		[MERGE_KSM_MARK] = "marking",
		[MERGE_KSM_START] = "starting ksmd",
		[MERGE_KSM_RUN] = "merging",
		[MERGE_KSM_STOP] = "stopping ksmd",
		[MERGE_KSM_VERIFY] = "verifying",
	};

	_Static_assert(ARRAY_SIZE(names) == MERGE_KSM_PHASE_MAX, "a name for each phase");
	return names[p];
}

int merge_ksm_new(sd_event *event, struct work_pool *pool, struct ledger *ledger, struct ksm *ksm,
		  struct budget *cpu, const struct merge_ksm_config *config, struct merge_ksm **ret)
{
	struct merge_ksm *mk = calloc(1, sizeof(*mk));

	if (!mk)
		return -ENOMEM;
	mk->event = event;
	mk->pool = pool;
	mk->ledger = ledger;
	mk->ksm = ksm;
	mk->cpu = cpu;
	mk->config = *config;
	*ret = mk;
	return 0;
}

void merge_ksm_configure(struct merge_ksm *mk, const struct merge_ksm_config *config)
{
	mk->config = *config;
}

static void job_free(struct ksm_job *job)
{
	free(job->plan.advice);
	free(job->runs.v);
	free(job->pfns);
}

void merge_ksm_free(struct merge_ksm *mk)
{
	if (!mk)
		return;
	if (mk->stats.phase == MERGE_KSM_START || mk->stats.phase == MERGE_KSM_RUN)
		(void)ksm_stop(mk->ksm);
	(void)sd_event_source_unref(mk->timer);
	frames_done(&mk->frames);
	for (size_t i = 0; i < mk->n_members; i++) {
		job_free(&mk->jobs[i]);
		member_unref(mk->members[i]);
	}
	free(mk->jobs);
	free(mk->members);
	free(mk);
}

void merge_ksm_stats(const struct merge_ksm *mk, struct merge_ksm_stats *ret)
{
	*ret = mk->stats;
}

void merge_ksm_finish_round(struct merge_ksm *mk, int r)
{
	struct domain *d = mk->domain;

	for (size_t i = 0; i < mk->n_members; i++) {
		job_free(&mk->jobs[i]);
		mk->members[i]->busy = false;
	}
	frames_done(&mk->frames);
	mk->stats.phase = MERGE_KSM_IDLE;
	mk->domain = NULL;
	mk->done(d, r, mk->userdata);
	for (size_t i = 0; i < mk->n_members; i++)
		member_unref(mk->members[i]);
	free(mk->jobs);
	free(mk->members);
	mk->jobs = NULL;
	mk->members = NULL;
	mk->n_members = 0;
}

void merge_ksm_submit_jobs(struct merge_ksm *mk, void (*run)(struct work *w),
			   void (*done)(struct work *w))
{
	mk->n_running = mk->n_members;
	for (size_t i = 0; i < mk->n_members; i++) {
		struct ksm_job *job = &mk->jobs[i];

		job->work = (struct work){ .run = run, .done = done };
		if (work_submit(mk->pool, &job->work) < 0) {
			/* The queue is full: do it here rather than not at all. */
			run(&job->work);
			done(&job->work);
		}
	}
}

bool merge_ksm_job_done(struct ksm_job *job)
{
	struct merge_ksm *mk = job->mk;

	budget_charge(mk->cpu, job->work.cpu_nsec, now_usec());
	budget_charge(&job->m->cpu, job->work.cpu_nsec, now_usec());
	job->m->counts.cpu_nsec += job->work.cpu_nsec;
	if (job->error < 0 && job->error != -ESRCH && mk->error == 0)
		mk->error = job->error;
	return --mk->n_running == 0;
}

/* --- MARK --------------------------------------------------------------------- */

static void mark_run(struct work *w)
{
	struct ksm_job *job = (struct ksm_job *)w;
	int64_t n;

	FAULT_POINT("ksm-before-mark");
	if (job->mk->kind == MERGE_KSM_FOLD) {
		job->error = merge_ksm_fold(job->m);
		return;
	}
	n = agent_advise(job->m->agent, job->plan.advice, job->plan.n_advice);
	/* Single ranges may fail (a hole since the plan): they just do not merge. */
	job->error = n < 0 ? (int)n : 0;
	FAULT_POINT("ksm-marked");
}

static int on_poll(sd_event_source *s, uint64_t usec, void *userdata);

static int arm_poll(struct merge_ksm *mk)
{
	if (!mk->timer)
		return sd_event_add_time_relative(mk->event, &mk->timer, CLOCK_MONOTONIC, POLL_USEC,
						  1000, on_poll, mk);
	(void)sd_event_source_set_time_relative(mk->timer, POLL_USEC);
	return sd_event_source_set_enabled(mk->timer, SD_EVENT_ONESHOT);
}

/* Pages of our guests that KSM has merged by now; others merge theirs as long as they like. */
static uint64_t count_merged(const struct merge_ksm *mk, const struct ksm_counters *c)
{
	uint64_t sum = 0, merging, items;

	for (size_t i = 0; i < mk->n_members; i++) {
		int r = ksm_process_counts(mk->members[i]->process->proc_fd, &merging, &items);

		if (r == 0)
			sum += merging;
		else if (r != -ESRCH) /* Linux before 6.1: the host's counter must do */
			return c->pages_sharing;
	}
	return sum;
}

/*
 * Starting and stopping ksmd is work for a worker: the kernel (run_store() in mm/ksm.c) waits until
 * ksmd has done the batch that it is at, which at its low priority can take seconds on a host whose
 * processors are all busy.
 */
static void turn(struct merge_ksm *mk, enum merge_ksm_phase phase, void (*run)(struct work *w),
		 void (*done)(struct work *w))
{
	mk->stats.phase = phase;
	mk->turn = (struct ksm_switch){ .work = { .run = run, .done = done }, .mk = mk };
	if (work_submit(mk->pool, &mk->turn.work) < 0) {
		run(&mk->turn.work);
		done(&mk->turn.work);
	}
}

static void stop_run(struct work *w)
{
	struct ksm_switch *t = (struct ksm_switch *)w;

	t->error = ksm_stop(t->mk->ksm);
	FAULT_POINT("ksm-stopped");
}

static void stop_done(struct work *w)
{
	struct merge_ksm *mk = ((struct ksm_switch *)w)->mk;

	mk->rested = true;
	if (!mk->check.under_way)
		merge_ksm_verify(mk);
}

static void start_run(struct work *w)
{
	struct ksm_switch *t = (struct ksm_switch *)w;

	t->error = ksm_start(t->mk->ksm, t->mk->config.pages_to_scan, t->mk->config.sleep_msec);
	FAULT_POINT("ksm-running");
}

static void start_failed(struct work *w)
{
	struct ksm_switch *t = (struct ksm_switch *)w;

	merge_ksm_finish_round(t->mk, t->mk->error);
}

static void start_done(struct work *w)
{
	struct ksm_switch *t = (struct ksm_switch *)w;
	struct merge_ksm *mk = t->mk;

	mk->stats.phase = MERGE_KSM_RUN;
	mk->error = t->error;
	if (mk->error >= 0)
		mk->error = arm_poll(mk);
	if (mk->error < 0)
		turn(mk, MERGE_KSM_STOP, stop_run, start_failed);
}

static void start_ksmd(struct merge_ksm *mk)
{
	struct ksm_counters c;
	int r = ksm_read_counters(mk->ksm, &c);

	if (r < 0) {
		merge_ksm_finish_round(mk, r);
		return;
	}
	mk->started_usec = now_usec();
	mk->ksmd_nsec = ksm_cpu_nsec(mk->ksm);
	mk->paused = false;
	mk->converged = false;
	mk->full_scans = mk->marked_scan = mk->progress_scan = c.full_scans;
	mk->merged = mk->merged_last_poll = count_merged(mk, &c);
	mk->goal_pages = 0;
	for (size_t i = 0; i < mk->n_members; i++)
		mk->goal_pages += member_sharers(mk->members[i]);
	mk->stale = mk->merged > mk->goal_pages;
	for (size_t i = 0; i < mk->n_members; i++)
		mk->goal_pages += mk->jobs[i].plan.n_candidates;
	turn(mk, MERGE_KSM_START, start_run, start_done);
}

static uint64_t count_ranges(const struct member *m)
{
	uint64_t n = 0;

	for (size_t b = 0; b < m->n_blocks; b++)
		n += m->folded ? m->marks[b].n > 0 : m->marks[b].n;
	return n;
}

static void mark_done(struct work *w)
{
	struct ksm_job *job = (struct ksm_job *)w;
	struct merge_ksm *mk = job->mk;

	if (mk->kind == MERGE_KSM_MERGE && job->error == 0)
		job->m->folded = false;
	if (!merge_ksm_job_done(job))
		return;
	mk->stats.ranges = 0;
	for (size_t i = 0; i < mk->n_members; i++)
		mk->stats.ranges += count_ranges(mk->members[i]);
	if (mk->error < 0 || mk->kind == MERGE_KSM_FOLD)
		merge_ksm_finish_round(mk, mk->error);
	else if (mk->cut)
		merge_ksm_verify(mk);
	else
		start_ksmd(mk);
}

/* --- RUN ---------------------------------------------------------------------- */

/* ksmd's time counts against the budget; when that is used up ksmd sleeps until it is not. Unlike
 * starting and stopping, setting its pace waits for nothing. */
static void hold_to_budget(struct merge_ksm *mk)
{
	uint64_t nsec = ksm_cpu_nsec(mk->ksm), now = now_usec();
	bool pause;

	if (nsec > mk->ksmd_nsec) { /* 0 when it cannot be read */
		mk->stats.ksmd_cpu_nsec += nsec - mk->ksmd_nsec;
		budget_charge(mk->cpu, nsec - mk->ksmd_nsec, now);
		/* It works for all of them at once. */
		for (size_t i = 0; i < mk->n_members; i++)
			budget_charge(&mk->members[i]->cpu, (nsec - mk->ksmd_nsec) / mk->n_members, now);
		mk->ksmd_nsec = nsec;
	}
	pause = budget_wait_usec(mk->cpu, now) > 0;
	if (pause == mk->paused)
		return;
	if (ksm_set_pace(mk->ksm, mk->config.pages_to_scan, pause ? PAUSE_MSEC : mk->config.sleep_msec) >= 0)
		mk->paused = pause;
}

/* True when all is merged, or all has been tried and the last full scan brought nothing new. */
static bool is_converged(struct merge_ksm *mk, const struct ksm_counters *c)
{
	uint64_t merged = count_merged(mk, c);
	bool still = merged == mk->merged_last_poll && !mk->paused;

	mk->merged_last_poll = merged;
	if (merged >= mk->goal_pages &&
	    (!mk->stale || (still && c->full_scans - mk->marked_scan >= VISITED_SCANS)))
		return true;
	if (c->full_scans == mk->full_scans)
		return false;
	/* A scan that merged less than a thousandth more is not worth another. */
	if (merged > mk->merged + mk->merged / 1000)
		mk->progress_scan = c->full_scans;
	mk->full_scans = c->full_scans;
	mk->merged = merged;
	return c->full_scans - mk->marked_scan >= TRIED_SCANS && c->full_scans > mk->progress_scan;
}

static int on_poll(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	struct merge_ksm *mk = userdata;
	struct ksm_counters c;
	bool all_gone = true, over;

	hold_to_budget(mk);
	merge_ksm_check_again(mk);
	for (size_t i = 0; i < mk->n_members; i++)
		all_gone = all_gone && mk->members[i]->gone;
	over = all_gone || mk->cut || ksm_read_counters(mk->ksm, &c) < 0 ||
	       now_usec() - mk->started_usec > mk->config.round_max_usec;
	mk->converged = !over && is_converged(mk, &c);
	if (!over && !mk->converged && arm_poll(mk) >= 0)
		return 0;
	mk->check.stop = true;
	turn(mk, MERGE_KSM_STOP, stop_run, stop_done);
	return 0;
}

/* --- a round -------------------------------------------------------------------- */

static int prepare_round(struct merge_ksm *mk, struct member *const *members, size_t n_members)
{
	mk->members = calloc(n_members, sizeof(struct member *));
	mk->jobs = calloc(n_members, sizeof(*mk->jobs));
	if (!mk->members || !mk->jobs)
		return -ENOMEM;
	for (size_t i = 0; i < n_members; i++) {
		assert(!members[i]->busy);
		mk->members[i] = members[i];
		mk->jobs[i].mk = mk;
		mk->jobs[i].m = members[i];
	}
	mk->n_members = n_members;
	return 0;
}

void merge_ksm_cut(struct merge_ksm *mk, const struct member *m)
{
	for (size_t i = 0; i < mk->n_members; i++)
		if (mk->members[i] == m)
			mk->cut = mk->check.stop = true;
}

void merge_ksm_mark(struct merge_ksm *mk)
{
	int r = 0;

	for (size_t i = 0; r >= 0 && mk->kind == MERGE_KSM_MERGE && i < mk->n_members; i++)
		r = merge_ksm_plan(mk->ledger, mk->members[i], &mk->jobs[i].plan);
	if (r < 0) {
		merge_ksm_finish_round(mk, r);
		return;
	}
	mk->stats.phase = MERGE_KSM_MARK;
	mk->error = 0;
	merge_ksm_submit_jobs(mk, mark_run, mark_done);
}

int merge_ksm_round(struct merge_ksm *mk, struct domain *d, struct member *const *members,
		    size_t n_members, enum merge_ksm_kind kind, merge_ksm_done_fn *done, void *userdata)
{
	int r;

	if (mk->stats.phase != MERGE_KSM_IDLE || mk->members)
		return -EBUSY;
	mk->kind = kind;
	mk->cut = mk->rested = false;
	r = prepare_round(mk, members, n_members);
	if (r >= 0 && kind == MERGE_KSM_MERGE)
		r = merge_ksm_check(mk);
	if (r < 0) {
		free(mk->members);
		free(mk->jobs);
		mk->members = NULL;
		mk->jobs = NULL;
		mk->n_members = 0;
		return r;
	}
	for (size_t i = 0; i < n_members; i++) {
		members[i]->busy = true;
		(void)member_ref(members[i]);
	}
	mk->domain = d;
	mk->done = done;
	mk->userdata = userdata;
	mk->converged = kind == MERGE_KSM_AUDIT;
	if (kind == MERGE_KSM_MERGE)
		mk->stats.phase = MERGE_KSM_CHECK;
	else if (kind == MERGE_KSM_AUDIT)
		merge_ksm_verify(mk);
	else
		merge_ksm_mark(mk);
	return 0;
}
