/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/tidy.h"

#include "common/util.h"
#include "daemon/remap-guest.h"
#include "daemon/store.h"

struct tidy {
	struct work work; /* must be first */
	struct ledger *ledger;
	struct domain *domain;
	struct member **members;
	size_t n_members;
	struct slot_map *mapped;
	bool sure; /* every guest was looked at */
	uint64_t reclaimed_pages, freed_slots;
	tidy_done_fn *done;
	void *userdata;
};

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
}

/* Candidates will map their record's slot: it is as good as mapped. */
static void mark_candidates(struct tidy *t)
{
	for (size_t i = 0; i < t->n_members; i++)
		for (size_t k = 0; k < t->members[i]->n_blocks; k++) {
			const struct ledger_block *b = t->members[i]->blocks[k];
			const uint8_t *states = ledger_states(t->ledger, b);

			for (uint32_t n = 0; n < b->n_pages; n++) {
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

static void tidy_done(struct work *w)
{
	struct tidy *t = (struct tidy *)w;

	if (t->sure) {
		mark_candidates(t);
		stable_foreach(t->domain->stable, sweep_record, t);
	}
	for (size_t i = 0; i < t->n_members; i++) {
		t->members[i]->counts.cpu_nsec += t->work.cpu_nsec / t->n_members;
		t->members[i]->busy = false;
	}
	t->done(t->domain, t->reclaimed_pages, t->freed_slots, t->userdata);
	for (size_t i = 0; i < t->n_members; i++)
		member_unref(t->members[i]);
	slot_map_free(t->mapped);
	free(t->members);
	free(t);
}

int tidy_start(struct work_pool *pool, struct ledger *ledger, struct domain *d, struct member *const *members,
	       size_t n_members, tidy_done_fn *done, void *userdata)
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
		r = slot_map_new(store_file_bytes(d->store) / PAGE_BYTES, &t->mapped);
	/* All of it before the worker may look. */
	for (size_t i = 0; i < n_members && r >= 0; i++)
		t->members[i] = members[i];
	if (r >= 0)
		r = work_submit(pool, &t->work);
	if (r < 0) {
		slot_map_free(t->mapped);
		free(t->members);
		free(t);
		return r;
	}
	for (size_t i = 0; i < n_members; i++) {
		assert(!members[i]->busy);
		(void)member_ref(members[i]);
		members[i]->busy = true;
	}
	return 0;
}
