/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/tidy.h"

#include "common/util.h"
#include "daemon/agent-link.h"
#include "daemon/remap-guest.h"
#include "daemon/store.h"

struct tidy {
	struct work work; /* must be first */
	struct ledger *ledger;
	struct domain *domain;
	struct member **members;
	size_t n_members;
	struct slot_map *mapped;
	/* Guests that may map the store, and how many of them live and are no members. */
	struct kept_store_user *users;
	size_t n_users;
	unsigned n_strangers;
	bool sure; /* every guest was looked at */
	uint64_t reclaimed_pages, freed_slots;
	tidy_done_fn *done;
	void *userdata;
};

static bool is_member(const struct tidy *t, const struct kept_store_user *u)
{
	for (size_t i = 0; i < t->n_members; i++)
		if (t->members[i]->process->pid == u->pid &&
		    t->members[i]->process->start_ticks == u->start_ticks)
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

	t->sure = !t->domain->store_lost;
	for (size_t i = 0; i < t->n_members; i++) {
		int64_t n = remap_reclaim(t->members[i]);

		if (n > 0)
			t->reclaimed_pages += (uint64_t)n;
	}
	for (size_t i = 0; i < t->n_members; i++)
		if (store_mark_mapped(t->domain->store, t->members[i]->process, t->mapped) < 0)
			t->sure = false;
	look_at_strangers(t);
}

/* Candidates will map their record's slot: it is as good as mapped. */
static void mark_candidates(struct tidy *t)
{
	for (size_t i = 0; i < t->n_members; i++)
		for (size_t k = 0; k < t->members[i]->n_blocks; k++) {
			const struct ledger_block *b = t->members[i]->blocks[k];
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

static void sweep_record(struct stable *s, record_id r, void *userdata)
{
	struct tidy *t = userdata;
	slot_id slot = stable_slot(s, r);

	if (stable_sharers(s, r) > 0 || (!slot_id_is_none(slot) && slot_map_is_used(t->mapped, slot)))
		return;
	/* A slot that cannot be punched out stays, and so does its record: it can serve again. */
	if (!slot_id_is_none(slot) && store_drop(t->domain->store, slot, 1) < 0)
		return;
	stable_free_record(s, r);
	t->freed_slots++;
}

static void mark_recorded(struct stable *s, record_id r, void *userdata)
{
	slot_id slot = stable_slot(s, r);

	if (!slot_id_is_none(slot))
		slot_map_set(userdata, slot, 1, true);
}

/* Slots of an earlier daemon that got no record (adopt.h). */
static void sweep_unrecorded(struct tidy *t)
{
	struct store *store = t->domain->store;
	uint64_t n;
	slot_id first;

	/* What is mapped, or has a record, stays. */
	stable_foreach(t->domain->stable, mark_recorded, t->mapped);
	for (uint64_t at = 0; (n = store_next_used(store, at, &first)) > 0; at = first.n + n)
		for (uint64_t i = 0; i < n; i++)
			if (!slot_map_is_used(t->mapped, SLOT_ID(first.n + i)) &&
			    store_drop(store, SLOT_ID(first.n + i), 1) == 0)
				t->freed_slots++;
}

static void tidy_free(struct tidy *t)
{
	slot_map_free(t->mapped);
	free(t->members);
	free(t->users);
	free(t);
}

static void tidy_done(struct work *w)
{
	struct tidy *t = (struct tidy *)w;

	if (t->sure) {
		mark_candidates(t);
		stable_foreach(t->domain->stable, sweep_record, t);
		if (t->domain->adopted)
			sweep_unrecorded(t);
	}
	t->domain->n_strangers = t->n_strangers;
	t->domain->strangers = t->n_strangers > 0;
	for (size_t i = 0; i < t->n_members; i++) {
		t->members[i]->counts.cpu_nsec += t->work.cpu_nsec / t->n_members;
		t->members[i]->busy = false;
	}
	t->done(t->domain, t->reclaimed_pages, t->freed_slots, t->userdata);
	for (size_t i = 0; i < t->n_members; i++)
		member_unref(t->members[i]);
	tidy_free(t);
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

int tidy_start(struct work_pool *pool, struct ledger *ledger, struct domain *d, struct member *const *members,
	       size_t n_members, const struct kept_store_user *users, size_t n_users, tidy_done_fn *done,
	       void *userdata)
{
	struct tidy *t = calloc(1, sizeof(*t));
	int r = -ENOMEM;

	if (!t)
		return -ENOMEM;
	*t = (struct tidy){
		.work = { .run = tidy_run, .done = tidy_done },
		.ledger = ledger,
		.domain = d,
		.members = calloc(n_members, sizeof(struct member *)),
		.n_members = n_members,
		.done = done,
		.userdata = userdata,
	};
	if (t->members)
		r = copy_users(t, users, n_users);
	if (r >= 0)
		r = slot_map_new(store_file_bytes(d->store) / PAGE_BYTES, &t->mapped);
	/* All of it before the worker may look. */
	for (size_t i = 0; i < n_members && r >= 0; i++)
		t->members[i] = members[i];
	if (r >= 0)
		r = work_submit(pool, &t->work);
	if (r < 0) {
		tidy_free(t);
		return r;
	}
	for (size_t i = 0; i < n_members; i++) {
		assert(!members[i]->busy);
		(void)member_ref(members[i]);
		members[i]->busy = true;
	}
	return 0;
}
