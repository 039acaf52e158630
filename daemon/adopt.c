/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/adopt.h"

#include "common/fault.h"
#include "common/log.h"
#include "common/util.h"
#include "daemon/remap-guest.h"
#include "daemon/store.h"

/* Read and hashed in one job: a millisecond or two. */
#define PIECE_PAGES 512U

struct adopt {
	struct work work; /* must be first */
	const struct pass_env *env;
	struct domain *d;
	adopt_done_fn *done;
	void *userdata;
	sd_event_source *timer;
	uint64_t at; /* slots before it are done */
	uint64_t n_adopted;

	/* The piece; the worker's while the job runs. */
	slot_id first;
	uint32_t n;
	uint8_t *pages;
	uint64_t *fingerprints;
	bool readable;
};

static void start_piece(struct adopt *a);

static void finish(struct adopt *a)
{
	(void)sd_event_source_disable_unref(a->timer);
	a->done(a->d, a->n_adopted, a->userdata);
	free(a->pages);
	free(a->fingerprints);
	free(a);
}

static void piece_run(struct work *w)
{
	struct adopt *a = (struct adopt *)w;

	a->readable = store_read(a->d->store, a->first, a->n, a->pages) == 0;
	FAULT_POINT("adopt-piece");
	for (uint32_t i = 0; a->readable && i < a->n; i++)
		a->fingerprints[i] = fingerprint_page(&a->d->seed, a->pages + (size_t)i * PAGE_BYTES);
}

static void piece_done(struct work *w)
{
	struct adopt *a = (struct adopt *)w;
	uint64_t start = thread_cpu_nsec();
	record_id record;

	/* What gets no record is not joined by others, and freed when nobody maps it. */
	for (uint32_t i = 0; a->readable && i < a->n; i++)
		if (stable_insert(a->d->stable, a->fingerprints[i], SLOT_ID(a->first.n + i), &record) == 0)
			a->n_adopted++;
	a->at = a->first.n + a->n;
	budget_charge(a->env->cpu, w->cpu_nsec + thread_cpu_nsec() - start, now_usec());
	start_piece(a);
}

static int on_budget(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	start_piece(userdata);
	return 0;
}

static int wait_usec(struct adopt *a, uint64_t usec)
{
	int r;

	if (!a->timer)
		return sd_event_add_time_relative(a->env->event, &a->timer, CLOCK_MONOTONIC, usec, 1000,
						  on_budget, a);
	r = sd_event_source_set_time_relative(a->timer, usec);
	return r < 0 ? r : sd_event_source_set_enabled(a->timer, SD_EVENT_ONESHOT);
}

static void start_piece(struct adopt *a)
{
	uint64_t wait = budget_wait_usec(a->env->cpu, now_usec()), n;
	int r;

	n = *a->env->stopping ? 0 : store_next_used(a->d->store, a->at, &a->first);
	if (n == 0) {
		finish(a);
		return;
	}
	a->n = (uint32_t)MIN(n, (uint64_t)PIECE_PAGES);
	if (wait > 0) {
		r = wait_usec(a, MIN(wait, USEC_PER_SEC));
	} else {
		a->work = (struct work){ .run = piece_run, .done = piece_done };
		r = work_submit(a->env->pool, &a->work);
		if (r == -EAGAIN) /* the queue is full: its jobs end */
			r = wait_usec(a, 100 * USEC_PER_MSEC);
	}
	if (r < 0) {
		log_warning("domain %s: not all shared pages of the earlier daemon are known: %s",
			    a->d->name, strerror(-r));
		finish(a);
	}
}

int adopt_start(const struct pass_env *env, struct domain *d, adopt_done_fn *done, void *userdata)
{
	struct adopt *a = calloc(1, sizeof(*a));
	int r = -ENOMEM;

	if (!a)
		return -ENOMEM;
	*a = (struct adopt){ .env = env, .d = d, .done = done, .userdata = userdata };
	a->pages = malloc((size_t)PIECE_PAGES * PAGE_BYTES);
	a->fingerprints = calloc(PIECE_PAGES, sizeof(*a->fingerprints));
	if (a->pages && a->fingerprints)
		r = wait_usec(a, 0);
	if (r < 0) {
		free(a->pages);
		free(a->fingerprints);
		free(a);
		return r;
	}
	return 0;
}

/* --- members --------------------------------------------------------------------------- */

/* The record of each slot, plus one; 0: none. */
struct slots {
	uint32_t *record;
	uint64_t n;
};

static void note_record(struct stable *s, record_id r, void *userdata)
{
	struct slots *slots = userdata;
	slot_id slot = stable_slot(s, r);

	if (!slot_id_is_none(slot) && slot.n < slots->n)
		slots->record[slot.n] = r.n + 1;
}

static void count_run(struct ledger *l, struct member *m, const struct ring_run *run,
		      const struct slots *slots)
{
	for (size_t i = 0; i < m->n_blocks; i++) {
		struct ledger_block *b = m->blocks[i];
		uint64_t start = MAX(run->addr, b->start.addr);
		uint64_t end = MIN(run->addr + run->n_pages * PAGE_BYTES,
				   hva_add_pages(b->start, b->n_pages).addr);

		for (uint64_t at = start; at < end; at += PAGE_BYTES) {
			uint64_t slot = run->slot + (at - run->addr) / PAGE_BYTES;
			page_id page = ledger_id(b, HVA(at));

			if (ledger_state(l, page) == PAGE_STATE_ABSENT && slot < slots->n)
				domain_merged(m->domain, b, page,
					      RECORD_ID(slots->record[slot] ? slots->record[slot] - 1
									    : UINT32_MAX));
		}
	}
}

int adopt_member(struct ledger *l, struct member *m)
{
	struct remap_list *found = TAKE_PTR(m->found);
	struct slots slots = { .n = store_file_bytes(m->domain->store) / PAGE_BYTES };
	const struct ring_run *runs;
	size_t n;

	if (!found)
		return 0;
	runs = remap_list_runs(found, &n, &m->n_maps);
	/* Only what is written of it takes memory. */
	slots.record = n > 0 ? calloc(slots.n, sizeof(*slots.record)) : NULL;
	if (n > 0 && slots.record) {
		stable_foreach(m->domain->stable, note_record, &slots);
		for (size_t i = 0; i < n; i++)
			count_run(l, m, &runs[i], &slots);
	}
	remap_list_free(found);
	if (n > 0 && !slots.record)
		return -ENOMEM;
	free(slots.record);
	return 0;
}
