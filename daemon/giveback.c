/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/giveback.h"

#include <fcntl.h>

#include "common/fault.h"
#include "common/util.h"
#include "daemon/cgroup.h"
#include "daemon/merge-ksm.h"
#include "daemon/pressure.h"
#include "daemon/remap-guest.h"

/* The largest piece: some tens of milliseconds. */
#define PIECE_MAX_PAGES (MIB(32) / PAGE_BYTES)
#define PIECE_MIN_PAGES (MIB(1) / PAGE_BYTES)
/* So many pieces a second at least, where the rate allows the least one. */
#define PIECES_PER_SEC 8U
/* What a device might still write to, or the guest wrote just then, is tried again after a pause, for
 * as long as it gets less, and so many times when it does not. */
#define STALLED_MAX 100U
#define STALLED_HOT 50U /* then it is no chance that the guest writes just to these */
#define STALLED_USEC (20 * USEC_PER_MSEC)
/* What the host keeps: a fiftieth of its memory, and 64 MiB at least. */
#define RESERVE_SHARE 50U
#define RESERVE_BYTES MIB(64)
/* What a guest's memory control group keeps. */
#define GROUP_RESERVE_BYTES MIB(16)

struct giveback {
	struct work work; /* must be first */
	struct giveback_env env;
	struct member *m;
	enum giveback_what what;
	giveback_done_fn *done;
	void *userdata;
	sd_event_source *timer;

	/* The worker's while a job runs. */
	struct remap_list *mapped;
	struct range_set marked;
	size_t mapped_at;	  /* run of mapped */
	uint64_t marked_at;	  /* address in marked */
	uint64_t ksm_pages;	  /* copies that the marked ranges take at most */
	uint64_t piece_pages;	  /* of the last piece */
	uint64_t left_pages;	  /* not given back when all was last gone over */
	unsigned stalled;	  /* times that it was gone over since that became less */
	bool complete;
	int error;
	char reason[GIVEBACK_REASON_MAX];
};

static void start_piece(struct giveback *g);

/* What the host must be left with. */
static int check_host(uint64_t need_bytes, char ret_reason[GIVEBACK_REASON_MAX])
{
	_cleanup_close_ int proc_fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct pressure_sample s;
	uint64_t reserve;
	int r = proc_fd < 0 ? -errno : pressure_read(proc_fd, &s);

	if (r < 0)
		return r;
	if (FAULT_ERRNO("giveback-memory") < 0)
		s.available_bytes = 0;
	reserve = MAX(s.total_bytes / RESERVE_SHARE, RESERVE_BYTES);
	if (need_bytes + reserve <= s.available_bytes)
		return 0;
	(void)snprintf(ret_reason, GIVEBACK_REASON_MAX,
		       "private copies need %llu MiB, and of %llu MiB available %llu MiB must stay: free some "
		       "memory first",
		       (unsigned long long)DIV_ROUND_UP(need_bytes, MIB(1)),
		       (unsigned long long)(s.available_bytes >> 20), (unsigned long long)(reserve >> 20));
	return -ENOMEM;
}

/* At its group's limit the kernel kills the guest, whatever the host has. */
static int check_groups(const struct process *p, uint64_t need_bytes, char ret_reason[GIVEBACK_REASON_MAX])
{
	struct cgroup_room room;

	if (cgroup_room_read(p->proc_fd, &room) < 0 || room.bytes == UINT64_MAX ||
	    need_bytes + GROUP_RESERVE_BYTES <= room.bytes)
		return 0;
	(void)snprintf(ret_reason, GIVEBACK_REASON_MAX,
		       "private copies need %llu MiB, and the memory control group %.100s has room for %llu MiB, "
		       "of which %llu MiB must stay: raise its limit first",
		       (unsigned long long)DIV_ROUND_UP(need_bytes, MIB(1)), room.path,
		       (unsigned long long)(room.bytes >> 20), (unsigned long long)(GROUP_RESERVE_BYTES >> 20));
	return -ENOMEM;
}

int giveback_check_memory(const struct process *p, uint64_t need_bytes, char ret_reason[GIVEBACK_REASON_MAX])
{
	int r = check_host(need_bytes, ret_reason);

	return r < 0 || !p ? r : check_groups(p, need_bytes, ret_reason);
}

/* --- worker ------------------------------------------------------------------------------- */

static enum remap_which which(const struct giveback *g)
{
	return g->what == GIVEBACK_FOREIGN ? REMAP_FOREIGN : REMAP_ALL;
}

static void look_run(struct work *w)
{
	struct giveback *g = (struct giveback *)w;
	uint64_t copies = 0;

	g->error = remap_list_new(g->m, which(g), &g->mapped, &copies);
	/* The rate is for what is marked: nothing but what may be shared. */
	if (g->error >= 0 && g->what != GIVEBACK_FOREIGN)
		g->error = merge_ksm_unfold(g->m);
	if (g->error >= 0 && g->what != GIVEBACK_FOREIGN)
		g->error = merge_ksm_marks(g->m, &g->marked);
	if (g->error >= 0 && copies + g->ksm_pages > 0)
		g->error = giveback_check_memory(g->m->process, (copies + g->ksm_pages) * PAGE_BYTES, g->reason);
	if (g->marked.n > 0)
		g->marked_at = g->marked.ranges[0].start;
}

static uint64_t piece_max(const struct giveback *g)
{
	uint64_t pages = g->env.rate->rate_per_sec / PIECES_PER_SEC / PAGE_BYTES;

	return MIN(MAX(pages, PIECE_MIN_PAGES), PIECE_MAX_PAGES);
}

/* Some of the ranges that are marked for KSM; 0 when there are no more. */
static int64_t marked_piece(struct giveback *g, uint64_t max_pages)
{
	for (size_t i = 0; i < g->marked.n; i++) {
		const struct range *range = &g->marked.ranges[i];
		uint64_t start = MAX(range->start, g->marked_at), end;
		int64_t r;

		if (start >= range->end)
			continue;
		end = MIN(range->end, start + max_pages * PAGE_BYTES);
		r = merge_ksm_unmark(g->m, start, end);
		g->marked_at = end;
		return r < 0 ? r : (int64_t)((end - start) / PAGE_BYTES);
	}
	return 0;
}

/* The page map has the last word. Mappings in which all is copied are reclaimed in time where they are
 * of the store that the guest stays with (tidy.h). */
static int verify(struct giveback *g)
{
	struct remap_list *now;
	uint64_t copies, left;
	int r = remap_list_new(g->m, which(g), &now, &copies);

	if (r < 0)
		return r;
	left = g->what == GIVEBACK_STAYING ? copies : remap_list_pages(now);
	remap_list_free(g->mapped);
	g->mapped = now;
	g->mapped_at = 0;
	g->complete = left == 0;
	g->stalled = left < g->left_pages ? 1 : g->stalled + 1;
	g->left_pages = left;
	if (g->complete || g->stalled <= STALLED_MAX)
		return 0;
	(void)snprintf(g->reason, sizeof(g->reason), "%llu of its pages could not be given back%s",
		       (unsigned long long)left,
		       g->m->pins_held ? ": it does direct I/O, and something on this host holds memory pinned "
					 "(memshared(8), Engine remap)"
				       : "");
	return -EBUSY;
}

static int64_t next_piece(struct giveback *g)
{
	uint64_t max = piece_max(g);
	int64_t n = giveback_check_memory(g->m->process, max * PAGE_BYTES, g->reason);

	if (n < 0)
		return n;
	FAULT_POINT("giveback-piece");
	n = remap_list_give_back(g->m, g->mapped, &g->mapped_at, max, g->stalled > STALLED_HOT);
	return n == 0 ? marked_piece(g, max) : n;
}

static void piece_run(struct work *w)
{
	struct giveback *g = (struct giveback *)w;
	int64_t n = next_piece(g);

	g->piece_pages = n > 0 ? (uint64_t)n : 0;
	g->error = n == 0 ? verify(g) : (int)MIN(n, (int64_t)0);
	/* Mappings were replaced. */
	for (size_t i = 0; g->what != GIVEBACK_LEAVING && i < g->m->n_blocks && (g->complete || g->error < 0); i++)
		(void)tracker_arm(g->m->tracker, g->m->blocks[i]->start, g->m->blocks[i]->n_pages);
}

/* --- loop --------------------------------------------------------------------------------- */

static void finish(struct giveback *g, int r)
{
	struct member *m = g->m;

	if (r < 0 && !*g->reason)
		(void)snprintf(g->reason, sizeof(g->reason), "%s", strerror(-r));
	(void)sd_event_source_disable_unref(g->timer);
	m->busy = false;
	g->done(m, r, g->reason, g->userdata);
	member_unref(m);
	remap_list_free(g->mapped);
	range_set_done(&g->marked);
	free(g);
}

static int on_rate(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	start_piece(userdata);
	return 0;
}

static int wait_for_rate(struct giveback *g, uint64_t usec)
{
	int r;

	/* No longer than a second at a time, so that a raised rate is noticed. */
	usec = MIN(usec, USEC_PER_SEC);
	if (!g->timer)
		return sd_event_add_time_relative(g->env.event, &g->timer, CLOCK_MONOTONIC, usec, 1000,
						  on_rate, g);
	r = sd_event_source_set_time_relative(g->timer, usec);
	return r < 0 ? r : sd_event_source_set_enabled(g->timer, SD_EVENT_ONESHOT);
}

static void pause_before_round(struct giveback *g)
{
	int r = wait_for_rate(g, STALLED_USEC);

	if (r < 0)
		finish(g, r);
}

static void job_done(struct work *w)
{
	struct giveback *g = (struct giveback *)w;

	g->m->counts.cpu_nsec += w->cpu_nsec;
	budget_charge(g->env.rate, g->piece_pages * PAGE_BYTES, now_usec());
	if (g->error < 0 || g->complete)
		finish(g, g->error);
	else if (g->stalled > 0 && g->mapped_at == 0)
		pause_before_round(g);
	else
		start_piece(g);
}

static void start_piece(struct giveback *g)
{
	uint64_t wait = budget_wait_usec(g->env.rate, now_usec());
	int r;

	if (*g->env.stopping || (g->m->gone && g->what != GIVEBACK_LEAVING)) {
		finish(g, -ECANCELED);
		return;
	}
	if (wait > 0) {
		r = wait_for_rate(g, wait);
	} else {
		g->work = (struct work){ .run = piece_run, .done = job_done };
		r = work_submit(g->env.pool, &g->work);
	}
	/* The queue is full: its jobs end. */
	if (r == -EAGAIN)
		r = wait_for_rate(g, USEC_PER_SEC / PIECES_PER_SEC);
	if (r < 0)
		finish(g, r);
}

int giveback_start(const struct giveback_env *env, struct member *m, enum giveback_what what,
		   giveback_done_fn *done, void *userdata)
{
	struct giveback *g = calloc(1, sizeof(*g));
	int r;

	assert(!m->busy);
	if (!g)
		return -ENOMEM;
	*g = (struct giveback){
		.work = { .run = look_run, .done = job_done },
		.env = *env,
		.m = m,
		.what = what,
		.left_pages = UINT64_MAX,
		.done = done,
		.userdata = userdata,
	};
	if (m->policy.engine == POLICY_ENGINE_KSM && what != GIVEBACK_FOREIGN)
		g->ksm_pages = member_sharers(m);
	r = work_submit(env->pool, &g->work);
	if (r < 0) {
		free(g);
		return r;
	}
	m->busy = true;
	(void)member_ref(m);
	return 0;
}
