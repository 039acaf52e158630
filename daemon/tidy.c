/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/tidy.h"

#include "common/util.h"
#include "daemon/agent-link.h"
#include "daemon/remap-guest.h"
#include "daemon/store.h"

/* Slots that are freed in one call, which the daemon's loop waits for: pages. */
#define DROP_MAX HUGE_PAGES

struct tidy {
	struct work work; /* must be first */
	struct ledger *ledger;
	struct domain *domain;
	bool whole;
	struct tidy_member {
		struct member *m;
		struct range_set left; /* where to look; not if whole */
		bool everywhere;	    /* too many places */
		bool reclaimed;		    /* all that could be */
		uint64_t agent_nsec;	    /* CPU time for it */
	} *members;
	size_t n_members;
	bool sweep;
	struct slot_map *orphans; /* slots without sharers; NULL: no new ones */
	struct slot_map *mapped;
	struct slot_map *unused; /* slots to free */
	/* Guests that may map the store, and how many of them live and are no members. */
	struct kept_store_user *users;
	size_t n_users;
	unsigned n_strangers;
	bool sure; /* every guest was looked at */
	struct tidy_result result;
	tidy_done_fn *done;
	void *userdata;
};

static bool is_member(const struct tidy *t, const struct kept_store_user *u)
{
	for (size_t i = 0; i < t->n_members; i++)
		if (t->members[i].m->process->pid == u->pid &&
		    t->members[i].m->process->start_ticks == u->start_ticks)
			return true;
	return false;
}

static int look_at_stranger(struct tidy *t, const struct process *p)
{
	uint32_t before = 0, after = 0;
	int was = agent_peek(p, &before), is, r;

	if (was < 0 && was != -ENOENT)
		return was;
	r = store_mark_mapped(t->domain->store, p, t->mapped);
	is = agent_peek(p, &after);
	return r < 0 ? r : is != was || after != before ? -EBUSY : 0;
}

static void look_at_strangers(struct tidy *t)
{
	for (size_t i = 0; i < t->n_users; i++) {
		struct process p;
		int r;

		if (is_member(t, &t->users[i]))
			continue;
		r = process_open(&p, t->users[i].pid);
		if (r == -ESRCH)
			continue;
		if (r >= 0 && p.start_ticks != t->users[i].start_ticks) {
			process_close(&p);
			continue;
		}
		t->n_strangers++;
		if (r >= 0) {
			r = look_at_stranger(t, &p);
			process_close(&p);
		}
		if (r < 0 && r != -ESRCH)
			t->sure = false;
	}
}

static void tidy_run(struct work *w)
{
	struct tidy *t = (struct tidy *)w;

	for (size_t i = 0; i < t->n_members; i++) {
		struct tidy_member *tm = &t->members[i];
		uint64_t before = agent_cpu_nsec(tm->m->agent), after;
		int64_t n = remap_reclaim(tm->m, tm->everywhere ? NULL : &tm->left, t->orphans,
					  &tm->reclaimed);

		/* 0 when the guest is gone. */
		after = agent_cpu_nsec(tm->m->agent);
		tm->agent_nsec = after > before ? after - before : 0;
		if (n > 0)
			t->result.reclaimed_pages += (uint64_t)n;
	}
	t->sure = t->sweep && !t->domain->store_lost;
	if (!t->sweep)
		return;
	for (size_t i = 0; i < t->n_members; i++)
		if (store_mark_mapped(t->domain->store, t->members[i].m->process, t->mapped) < 0)
			t->sure = false;
	look_at_strangers(t);
}

/* Candidates will map their record's slot: it is as good as mapped. */
static void mark_candidates(struct tidy *t)
{
	for (size_t i = 0; i < t->n_members; i++)
		for (size_t k = 0; k < t->members[i].m->n_blocks; k++) {
			const struct ledger_block *b = t->members[i].m->blocks[k];
			const uint8_t *states = ledger_states(t->ledger, b);

			for (uint32_t n = 0; (n = ledger_skip_unoffered(states, n, b->n_pages)) < b->n_pages; n++) {
				slot_id slot;

				if (LEDGER_STATE_OF(states[n]) != PAGE_STATE_CANDIDATE)
					continue;
				slot = stable_slot(t->domain->stable,
						   RECORD_ID(ledger_word(t->ledger, PAGE_ID(b->first.n + n))));
				if (!slot_id_is_none(slot))
					slot_map_set(t->mapped, slot, 1, true);
			}
		}
}

/* Of which no guest has a mapping, nor will have one. */
static void mark_unused(struct stable *s, record_id r, void *userdata)
{
	struct tidy *t = userdata;
	slot_id slot = stable_slot(s, r);

	if (stable_sharers(s, r) == 0 && !slot_id_is_none(slot) && !slot_map_is_used(t->mapped, slot))
		slot_map_set(t->unused, slot, 1, true);
}

static void mark_recorded(struct stable *s, record_id r, void *userdata)
{
	slot_id slot = stable_slot(s, r);

	if (!slot_id_is_none(slot))
		slot_map_set(userdata, slot, 1, true);
}

/* Slots of an earlier daemon that got no record (adopt.h): all that are not mapped either are unused. */
static void mark_unrecorded(struct tidy *t)
{
	struct store *store = t->domain->store;
	uint64_t n;
	slot_id first;

	stable_foreach(t->domain->stable, mark_recorded, t->mapped);
	for (uint64_t at = 0; (n = store_next_used(store, at, &first)) > 0; at = first.n + n)
		for (uint64_t i = 0; i < n; i++)
			if (!slot_map_is_used(t->mapped, SLOT_ID(first.n + i)))
				slot_map_set(t->unused, SLOT_ID(first.n + i), 1, true);
}

static void free_unused(struct stable *s, record_id r, void *userdata)
{
	struct tidy *t = userdata;
	slot_id slot = stable_slot(s, r);

	if (stable_sharers(s, r) == 0 && (slot_id_is_none(slot) || slot_map_is_used(t->unused, slot)))
		stable_free_record(s, r);
}

static void sweep(struct tidy *t)
{
	struct store *store = t->domain->store;
	slot_id first;
	uint64_t n;

	stable_foreach(t->domain->stable, mark_unused, t);
	if (t->domain->adopted)
		mark_unrecorded(t);
	for (uint64_t at = 0; (n = slot_map_next_run(t->unused, at, UINT64_MAX, true, &first)) > 0;
	     at = first.n + n) {
		n = MIN(n, (uint64_t)DROP_MAX);
		/* Slots that cannot be punched out stay, and so do their records: they can serve again. */
		if (store_drop(store, first, (uint32_t)n) < 0)
			slot_map_set(t->unused, first, n, false);
		else
			t->result.freed_slots += n;
	}
	stable_foreach(t->domain->stable, free_unused, t);
}

static void tidy_free(struct tidy *t)
{
	slot_map_free(t->orphans);
	slot_map_free(t->mapped);
	slot_map_free(t->unused);
	for (size_t i = 0; t->members && i < t->n_members; i++)
		range_set_done(&t->members[i].left);
	free(t->members);
	free(t->users);
	free(t);
}

/* What could not be reclaimed (pinned) is looked at again the next time. */
static void note_again(const struct tidy_member *tm)
{
	for (size_t i = 0; i < tm->left.n; i++)
		for (size_t k = 0; k < tm->m->n_blocks; k++) {
			struct ledger_block *b = tm->m->blocks[k];
			uint64_t end = MIN(tm->left.ranges[i].end, hva_add_pages(b->start, b->n_pages).addr);

			for (uint64_t at = MAX(tm->left.ranges[i].start, b->start.addr); at < end;
			     at += LEDGER_LEFT_PAGES * PAGE_BYTES)
				ledger_note_left(b, ledger_id(b, HVA(at)));
		}
}

static uint64_t count_orphans(const struct stable *s)
{
	return stable_records(s) - stable_shared(s);
}

static void tidy_done(struct work *w)
{
	struct tidy *t = (struct tidy *)w;
	uint64_t start = thread_cpu_nsec(), own;

	/* Who came in meanwhile may have candidates, and slots reserved. */
	t->sure = t->sure && t->domain->n_members == t->n_members;
	for (size_t i = 0; i < t->n_members; i++)
		t->sure = t->sure && (t->members[i].m->gone || member_agent_is_idle(t->members[i].m));
	if (t->sure) {
		mark_candidates(t);
		sweep(t);
	}
	if (t->sweep)
		t->domain->orphans_left = count_orphans(t->domain->stable);
	t->domain->untidy |= t->sweep && !t->sure;
	if (t->sweep) {
		t->domain->n_strangers = t->n_strangers;
		t->domain->strangers = t->n_strangers > 0;
	}
	own = t->work.cpu_nsec + thread_cpu_nsec() - start;
	t->result.cpu_nsec = own;
	for (size_t i = 0; i < t->n_members; i++) {
		uint64_t nsec = t->members[i].agent_nsec + own / t->n_members;

		t->result.agents_nsec += t->members[i].agent_nsec;
		t->result.cpu_nsec += t->members[i].agent_nsec;
		if (!t->members[i].reclaimed) {
			note_again(&t->members[i]);
			t->domain->untidy = true;
		}
		t->members[i].m->counts.cpu_nsec += nsec;
		budget_charge(&t->members[i].m->cpu, nsec, now_usec());
		t->members[i].m->busy = false;
	}
	t->done(t->domain, &t->result, t->userdata);
	for (size_t i = 0; i < t->n_members; i++)
		member_unref(t->members[i].m);
	tidy_free(t);
}

/* The places at which to look in m. */
static void take_left(struct tidy *t, struct tidy_member *tm, struct member *m)
{
	tm->m = m;
	/* That tracker sees no writes to shared pages. */
	tm->everywhere = t->whole || tracker_kind(m->tracker) == TRACKER_REHASH;
	for (size_t i = 0; i < m->n_blocks; i++)
		if (ledger_take_left(m->blocks[i], &tm->left) < 0)
			tm->everywhere = true;
}

/* Those that the last sweep had to leave are not looked at again before the next whole round. */
static bool sweep_is_worth_it(const struct domain *d)
{
	uint64_t orphans = count_orphans(d->stable), new = orphans - MIN(orphans, d->orphans_left);

	return new > 0 && (new >= stable_records(d->stable) / TIDY_ORPHANS || new >= TIDY_CALM * d->moved);
}

static void mark_orphan(struct stable *s, record_id r, void *userdata)
{
	slot_id slot = stable_slot(s, r);

	if (stable_sharers(s, r) == 0 && !slot_id_is_none(slot))
		slot_map_set(userdata, slot, 1, true);
}

static int find_orphans(struct tidy *t)
{
	uint64_t n = count_orphans(t->domain->stable);
	int r;

	if (n == 0 || (n <= t->domain->orphans_left && !t->whole))
		return 0;
	r = slot_map_new(store_file_bytes(t->domain->store) / PAGE_BYTES, &t->orphans);
	if (r >= 0)
		stable_foreach(t->domain->stable, mark_orphan, t->orphans);
	return r;
}

/* Those who may map the store of d. */
static int copy_users(struct tidy *t, const struct kept_store_user *users, size_t n)
{
	if (!t->domain->strangers)
		return 0;
	t->users = calloc(MAX(n, (size_t)1), sizeof(*users));
	if (!t->users)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		if (!*users[i].store || streq(users[i].store, store_label(t->domain->store)))
			t->users[t->n_users++] = users[i];
	return 0;
}

int tidy_start(struct work_pool *pool, struct ledger *ledger, struct domain *d, bool whole,
	       struct member *const *members, size_t n_members, const struct kept_store_user *users,
	       size_t n_users, tidy_done_fn *done, void *userdata)
{
	struct tidy *t = calloc(1, sizeof(*t));
	int r = -ENOMEM;

	if (!t)
		return -ENOMEM;
	*t = (struct tidy){
		.work = { .run = tidy_run, .done = tidy_done },
		.ledger = ledger,
		.domain = d,
		/* Who strangers are, and what they map, only a look at all of it tells. */
		.whole = whole || d->strangers,
		.sweep = whole || d->strangers || sweep_is_worth_it(d),
		.members = calloc(n_members, sizeof(*t->members)),
		.n_members = n_members,
		.done = done,
		.userdata = userdata,
	};
	if (t->members)
		r = copy_users(t, users, n_users);
	if (r >= 0)
		r = slot_map_new(store_file_bytes(d->store) / PAGE_BYTES, &t->mapped);
	if (r >= 0)
		r = slot_map_new(store_file_bytes(d->store) / PAGE_BYTES, &t->unused);
	if (r >= 0)
		r = find_orphans(t);
	/* All of it before the worker may look. */
	for (size_t i = 0; i < n_members && r >= 0; i++)
		take_left(t, &t->members[i], members[i]);
	if (r >= 0)
		r = work_submit(pool, &t->work);
	if (r < 0) {
		for (size_t i = 0; t->members && i < n_members; i++)
			note_again(&t->members[i]);
		tidy_free(t);
		return r;
	}
	d->unswept = !t->sweep && count_orphans(d->stable) > d->orphans_left;
	d->moved = 0;
	for (size_t i = 0; i < n_members; i++) {
		assert(!members[i]->busy);
		(void)member_ref(members[i]);
		members[i]->busy = true;
	}
	return 0;
}
