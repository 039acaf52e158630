/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/estimate.h"

#include <stdatomic.h>

#include "common/util.h"
#include "daemon/memory.h"
#include "daemon/pagemap.h"
#include "daemon/scan.h"

#define PROGRESS_USEC (200 * USEC_PER_MSEC)
/* Pages hashed between two looks at the cancel flag. */
#define CHUNK_PAGES 4096U

struct guest_job {
	struct work work; /* must be first */
	struct estimate *e;
	size_t index;
	/* Owned by the worker while it runs. */
	struct process process;
	struct ram_block blocks[RAM_BLOCKS_MAX];
	size_t n_blocks;
	uint64_t *kept; /* sorted and distinct at the end */
	size_t n_kept, kept_size;
	struct scan_range ranges[256];
	uint32_t n_ranges, n_range_pages;
	struct scan_result *results;
};

struct estimate {
	struct work work; /* must be first: the final job */
	/* Immutable. */
	sd_event *event;
	struct work_pool *pool;
	struct fingerprint_seed seed;
	estimate_progress_fn *progress;
	estimate_done_fn *done;
	void *userdata;

	sd_event_source *timer;
	uint64_t started_usec;
	struct guest_job *jobs;
	size_t n_running, next_job;
	int error;
	struct estimate_result result;
	/* Shared with the workers. */
	_Atomic uint64_t done_pages, total_pages;
	_Atomic bool cancelled;
};

static void submit_more(struct estimate *e);

/* --- one guest, on a worker -------------------------------------------------------- */

static int keep(struct guest_job *j, uint64_t fingerprint)
{
	if (fingerprint % j->e->result.sampled != 0)
		return 0;
	if (j->n_kept == j->kept_size) {
		size_t size = j->kept_size ? j->kept_size * 2 : 65536;
		uint64_t *grown = reallocarray(j->kept, size, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		j->kept = grown;
		j->kept_size = size;
	}
	j->kept[j->n_kept++] = fingerprint;
	return 0;
}

static int flush(struct guest_job *j)
{
	struct estimate_guest *g = &j->e->result.guests[j->index];
	int64_t n;

	if (atomic_load_explicit(&j->e->cancelled, memory_order_relaxed))
		return -ECANCELED;
	if (j->n_ranges == 0)
		return 0;
	n = scan_pages(&j->process, &j->e->seed, j->ranges, j->n_ranges, j->results);
	if (n < 0)
		return (int)n;
	for (uint32_t i = 0; i < j->n_range_pages; i++) {
		int r = 0;

		if (j->results[i].kind == SCAN_GONE)
			g->skipped_pages++;
		else if (j->results[i].kind == SCAN_ZEROS)
			g->zero_pages++;
		else
			r = keep(j, j->results[i].fingerprint);
		if (r < 0)
			return r;
	}
	atomic_fetch_add_explicit(&j->e->done_pages, j->n_range_pages, memory_order_relaxed);
	j->n_ranges = 0;
	j->n_range_pages = 0;
	return 0;
}

static int on_run(const struct page_run *run, void *userdata)
{
	struct guest_job *j = userdata;
	uint64_t at = 0;

	if (!(run->bits & PAGE_PRESENT) || run->bits & PAGE_ZERO)
		return 0;
	j->e->result.guests[j->index].present_pages += run->n_pages;
	while (at < run->n_pages) {
		uint32_t n = (uint32_t)MIN(run->n_pages - at, (uint64_t)(CHUNK_PAGES - j->n_range_pages));
		int r;

		j->ranges[j->n_ranges++] = (struct scan_range){ hva_add_pages(run->start, at), n };
		j->n_range_pages += n;
		at += n;
		if (j->n_range_pages < CHUNK_PAGES && j->n_ranges < ARRAY_SIZE(j->ranges))
			continue;
		r = flush(j);
		if (r < 0)
			return r;
	}
	return 0;
}

static int count_present(const struct page_run *run, void *userdata)
{
	uint64_t *n = userdata;

	if (run->bits & PAGE_PRESENT && !(run->bits & PAGE_ZERO))
		*n += run->n_pages;
	return 0;
}

/* Least significant digit first, 16 bits a digit: four passes over two arrays. */
static int sort_fingerprints(uint64_t *v, size_t n)
{
	_cleanup_free_ uint64_t *other = calloc(MAX(n, (size_t)1), sizeof(*other));
	_cleanup_free_ size_t *starts = calloc(65536, sizeof(*starts));
	uint64_t *from = v, *to = other;

	if (!other || !starts)
		return -ENOMEM;
	for (unsigned shift = 0; shift < 64; shift += 16) {
		uint64_t *swap = from;
		size_t sum = 0;

		memset(starts, 0, 65536 * sizeof(*starts));
		for (size_t i = 0; i < n; i++)
			starts[from[i] >> shift & 0xffff]++;
		for (size_t d = 0; d < 65536; d++) {
			size_t count = starts[d];

			starts[d] = sum;
			sum += count;
		}
		for (size_t i = 0; i < n; i++)
			to[starts[from[i] >> shift & 0xffff]++] = from[i];
		from = to;
		to = swap;
	}
	return 0; /* an even number of passes ends in v */
}

static size_t make_distinct(uint64_t *v, size_t n)
{
	size_t k = 0;

	for (size_t i = 0; i < n; i++)
		if (k == 0 || v[k - 1] != v[i])
			v[k++] = v[i];
	return k;
}

static int estimate_one(struct guest_job *j)
{
	struct estimate_guest *g = &j->e->result.guests[j->index];
	size_t n;
	int r = 0;

	j->results = calloc(CHUNK_PAGES, sizeof(*j->results));
	if (!j->results)
		return -ENOMEM;
	for (size_t i = 0; i < j->n_blocks && r >= 0; i++)
		r = pagemap_walk(&j->process, j->blocks[i].start, j->blocks[i].n_pages, 0, on_run, j);
	if (r >= 0)
		r = flush(j);
	if (r >= 0)
		r = sort_fingerprints(j->kept, j->n_kept);
	if (r < 0)
		return r;
	n = j->n_kept;
	j->n_kept = make_distinct(j->kept, n);
	g->within_pages = (n - j->n_kept) * j->e->result.sampled;
	return process_alive(&j->process) ? 0 : -ESRCH;
}

static void read_run(struct work *w)
{
	struct guest_job *j = (struct guest_job *)w;
	struct estimate_guest *g = &j->e->result.guests[j->index];
	int r = g->gone ? 0 : estimate_one(j);

	free(j->results);
	j->results = NULL;
	if (r == 0)
		return;
	if (r == -ENOMEM || r == -ECANCELED)
		j->e->error = r; /* any job's; read when all are done */
	g->gone = true;
	(void)snprintf(g->reason, sizeof(g->reason), "%s",
		       r == -ESRCH ? "it has exited" : strerror(-r));
}

/* First round of jobs: who is there, and how much is there to read. */
static void open_run(struct work *w)
{
	struct guest_job *j = (struct guest_job *)w;
	struct estimate_guest *g = &j->e->result.guests[j->index];
	uint64_t present = 0;
	int r = process_open(&j->process, g->pid);

	if (r >= 0)
		r = memory_find_blocks(&j->process, j->blocks, &j->n_blocks);
	for (size_t i = 0; i < j->n_blocks && r >= 0; i++) {
		g->ram_pages += j->blocks[i].n_pages;
		r = pagemap_walk(&j->process, j->blocks[i].start, j->blocks[i].n_pages, 0, count_present,
				 &present);
	}
	atomic_fetch_add_explicit(&j->e->total_pages, present, memory_order_relaxed);
	if (r >= 0)
		return;
	g->gone = true;
	(void)snprintf(g->reason, sizeof(g->reason), "%s",
		       r == -ESRCH ? "it has exited" : strerror(-r));
}

/* --- all guests together ------------------------------------------------------------- */

static uint64_t count_common(const struct guest_job *a, const struct guest_job *b)
{
	uint64_t n = 0;

	for (size_t i = 0, k = 0; i < a->n_kept && k < b->n_kept;) {
		if (a->kept[i] < b->kept[k]) {
			i++;
		} else if (a->kept[i] > b->kept[k]) {
			k++;
		} else {
			n++;
			i++;
			k++;
		}
	}
	return n;
}

/* What the group's guests hold in common: the sum of their distinct pages less the distinct
 * pages of all of them. */
static int estimate_group(struct estimate *e, struct estimate_group *group)
{
	_cleanup_free_ uint64_t *all = NULL;
	size_t n = 0, at = 0;
	int r;

	for (size_t i = 0; i < group->n_guests; i++)
		n += e->jobs[group->guests[i]].n_kept;
	all = calloc(MAX(n, (size_t)1), sizeof(*all));
	if (!all)
		return -ENOMEM;
	for (size_t i = 0; i < group->n_guests; i++) {
		const struct guest_job *j = &e->jobs[group->guests[i]];
		const struct estimate_guest *g = &e->result.guests[j->index];

		if (g->gone)
			continue;
		if (j->n_kept)
			memcpy(all + at, j->kept, j->n_kept * sizeof(*all));
		at += j->n_kept;
		group->present_pages += g->present_pages;
		group->zero_pages += g->zero_pages;
		group->within_pages += g->within_pages;
	}
	r = sort_fingerprints(all, at);
	if (r >= 0)
		group->cross_pages = (at - make_distinct(all, at)) * e->result.sampled;
	return r;
}

static void sum_run(struct work *w)
{
	struct estimate *e = (struct estimate *)w;
	struct estimate_result *res = &e->result;

	for (size_t i = 0; i < res->n_guests && e->error == 0; i++)
		for (size_t k = i + 1; k < res->n_guests; k++) {
			uint64_t n = res->guests[i].gone || res->guests[k].gone
					     ? 0
					     : count_common(&e->jobs[i], &e->jobs[k]);

			res->pairs[i * res->n_guests + k] = n * res->sampled;
			res->pairs[k * res->n_guests + i] = n * res->sampled;
		}
	for (size_t i = 0; i < res->n_groups && e->error == 0; i++)
		e->error = estimate_group(e, &res->groups[i]);
}

static void estimate_free(struct estimate *e)
{
	if (!e)
		return;
	for (size_t i = 0; e->jobs && i < e->result.n_guests; i++) {
		process_close(&e->jobs[i].process);
		free(e->jobs[i].kept);
	}
	(void)sd_event_source_unref(e->timer);
	free(e->jobs);
	free(e->result.guests);
	free(e->result.pairs);
	free(e);
}

static void sum_done(struct work *w)
{
	struct estimate *e = (struct estimate *)w;

	e->result.elapsed_usec = now_usec() - e->started_usec;
	e->result.read_pages = atomic_load(&e->done_pages);
	if (atomic_load(&e->cancelled))
		e->error = -ECANCELED;
	e->done(&e->result, e->error, e->userdata);
	estimate_free(e);
}

/* --- the loop's part -------------------------------------------------------------------- */

static void submit_sum(struct estimate *e)
{
	e->work = (struct work){ .run = sum_run, .done = sum_done };
	if (work_submit(e->pool, &e->work) < 0) {
		e->error = -EAGAIN;
		sum_done(&e->work);
	}
}

static void read_done(struct work *w)
{
	struct estimate *e = ((struct guest_job *)w)->e;

	if (--e->n_running == 0 && e->next_job == e->result.n_guests)
		submit_sum(e);
	else
		submit_more(e);
}

static void open_done(struct work *w)
{
	struct estimate *e = ((struct guest_job *)w)->e;

	if (--e->n_running > 0 || e->next_job < e->result.n_guests) {
		submit_more(e);
		return;
	}
	/* All are open: the sizes are known, reading can start. */
	e->result.sampled = (uint32_t)(atomic_load(&e->total_pages) / ESTIMATE_KEPT_MAX + 1);
	e->next_job = 0;
	for (size_t i = 0; i < e->result.n_guests; i++)
		e->jobs[i].work = (struct work){ .run = read_run, .done = read_done };
	submit_more(e);
}

/* A few jobs at a time: the queue is everybody's. */
static void submit_more(struct estimate *e)
{
	while (e->next_job < e->result.n_guests && e->n_running < 4) {
		if (work_submit(e->pool, &e->jobs[e->next_job].work) < 0)
			break;
		e->next_job++;
		e->n_running++;
	}
	/* Nothing of ours is under way that would bring us back here. */
	if (e->n_running == 0 && e->next_job < e->result.n_guests) {
		e->error = -EAGAIN;
		e->next_job = e->result.n_guests;
		sum_done(&e->work);
	}
}

static int on_progress(sd_event_source *s, uint64_t usec _unused_, void *userdata)
{
	struct estimate *e = userdata;

	e->progress(atomic_load(&e->done_pages), atomic_load(&e->total_pages), e->userdata);
	(void)sd_event_source_set_time_relative(s, PROGRESS_USEC);
	(void)sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
	return 0;
}

int estimate_start(sd_event *event, struct work_pool *pool, const pid_t *pids, size_t n,
		   struct estimate_group *groups, size_t n_groups, estimate_progress_fn *progress,
		   estimate_done_fn *done, void *userdata, struct estimate **ret)
{
	struct estimate *e;
	int r = 0;

	if (n == 0 || n > ESTIMATE_GUESTS_MAX)
		return -EINVAL;
	e = calloc(1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	e->event = event;
	e->pool = pool;
	fingerprint_seed_init(&e->seed);
	e->progress = progress;
	e->done = done;
	e->userdata = userdata;
	e->started_usec = now_usec();
	e->result = (struct estimate_result){
		.guests = calloc(n, sizeof(struct estimate_guest)),
		.n_guests = n,
		.pairs = calloc(n * n, sizeof(uint64_t)),
		.groups = groups,
		.n_groups = n_groups,
		.sampled = 1,
	};
	e->jobs = calloc(n, sizeof(*e->jobs));
	if (!e->result.guests || !e->result.pairs || !e->jobs)
		r = -ENOMEM;
	for (size_t i = 0; r >= 0 && i < n; i++) {
		e->result.guests[i].pid = pids[i];
		e->jobs[i].work = (struct work){ .run = open_run, .done = open_done };
		e->jobs[i].e = e;
		e->jobs[i].index = i;
		e->jobs[i].process = (struct process){ .pidfd = -1, .proc_fd = -1, .pagemap_fd = -1 };
	}
	if (r >= 0 && progress)
		r = sd_event_add_time_relative(event, &e->timer, CLOCK_MONOTONIC, PROGRESS_USEC, 10000,
					       on_progress, e);
	if (r >= 0)
		r = work_pending(pool) < WORK_QUEUE_MAX ? 0 : -EAGAIN;
	if (r < 0) {
		estimate_free(e);
		return r;
	}
	*ret = e;
	submit_more(e);
	return 0;
}

void estimate_cancel(struct estimate *e)
{
	atomic_store_explicit(&e->cancelled, true, memory_order_relaxed);
}
