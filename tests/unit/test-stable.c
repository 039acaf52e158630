/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/unit.h"

#include "common/fault.h"
#include "common/hashtree.h"
#include "daemon/stable.h"
#include "tests/unit/model.h"

/* --- random operations against a model ---------------------------------------------- */

/* A fingerprint has at most one record; with a mask on them, several contents have the same. */
#define N_CONTENTS 4000U

struct content {
	uint64_t fingerprint;
	slot_id slot;
	record_id record;
	uint32_t sharers;
	bool in, seen;
};

struct model {
	uint64_t seed, state, mask;
	struct content contents[N_CONTENTS];
	uint32_t n;
	uint64_t n_shared, n_sharers;
	struct stable *s;
};

static uint32_t count_high(const struct model *m, uint64_t fingerprint)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < N_CONTENTS; i++)
		n += m->contents[i].in && m->contents[i].fingerprint >> 32 == fingerprint >> 32;
	return n;
}

/* The content that has the record of this fingerprint, or NULL. */
static const struct content *owner_of(const struct model *m, uint64_t fingerprint)
{
	for (uint32_t i = 0; i < N_CONTENTS; i++)
		if (m->contents[i].in && m->contents[i].fingerprint == fingerprint)
			return &m->contents[i];
	return NULL;
}

static void model_insert(struct model *m, struct content *c, bool fault)
{
	const struct content *owner = owner_of(m, c->fingerprint);
	slot_id slot = SLOT_ID(random_next(&m->state));
	record_id r;
	int e, want = 0;

	if (owner)
		want = -EEXIST;
	else if (count_high(m, c->fingerprint) >= HASHTREE_HIGH_MAX)
		want = -EXFULL;
	fault_active = fault;
	e = stable_insert(m->s, c->fingerprint, slot, &r);
	fault_active = false;
	CHECK_SEED(m->seed, e == want || (fault && e == -ENOMEM));
	if (e == -EEXIST)
		CHECK_SEED(m->seed, r.n == owner->record.n);
	if (e < 0)
		return;
	c->in = true;
	c->slot = slot;
	c->record = r;
	c->sharers = 0;
	m->n++;
}

static void model_share(struct model *m, struct content *c, bool add)
{
	if (!c->in || (!add && c->sharers == 0))
		return;
	m->n_shared -= c->sharers > 0;
	m->n_sharers -= c->sharers;
	c->sharers += add ? 1 : -1U;
	CHECK_SEED(m->seed, c->sharers == (add ? stable_add_sharer(m->s, c->record)
					       : stable_drop_sharer(m->s, c->record)));
	m->n_shared += c->sharers > 0;
	m->n_sharers += c->sharers;
}

static void model_free(struct model *m, struct content *c)
{
	if (!c->in)
		return;
	while (c->sharers > 0)
		model_share(m, c, false);
	stable_free_record(m->s, c->record);
	c->in = false;
	m->n--;
}

static void model_find(struct model *m, const struct content *c)
{
	const struct content *owner = owner_of(m, c->fingerprint);
	record_id r;

	CHECK_SEED(m->seed, stable_find(m->s, c->fingerprint, &r) == (owner != NULL));
	if (!owner)
		return;
	CHECK_SEED(m->seed, r.n == owner->record.n);
	CHECK_SEED(m->seed, stable_slot(m->s, r).n == owner->slot.n);
	CHECK_SEED(m->seed, stable_sharers(m->s, r) == owner->sharers);
}

static void note_seen(struct stable *s, record_id r, void *userdata)
{
	struct model *m = userdata;

	for (uint32_t i = 0; i < N_CONTENTS; i++)
		if (m->contents[i].in && m->contents[i].record.n == r.n) {
			CHECK_SEED(m->seed, !m->contents[i].seen);
			m->contents[i].seen = true;
			/* Freeing within is allowed. */
			if (stable_sharers(s, r) == 0)
				model_free(m, &m->contents[i]);
			return;
		}
	fail_msg("seed %" PRIu64 ": a record that nobody made", m->seed);
}

static void model_sweep(struct model *m)
{
	uint32_t n = m->n, n_seen = 0;

	CHECK_SEED(m->seed, stable_records(m->s) == m->n);
	CHECK_SEED(m->seed, stable_shared(m->s) == m->n_shared);
	CHECK_SEED(m->seed, stable_sharers_total(m->s) == m->n_sharers);
	for (uint32_t i = 0; i < N_CONTENTS; i++)
		m->contents[i].seen = false;
	stable_foreach(m->s, note_seen, m);
	for (uint32_t i = 0; i < N_CONTENTS; i++)
		n_seen += m->contents[i].seen;
	CHECK_SEED(m->seed, n_seen == n);
	CHECK_SEED(m->seed, stable_records(m->s) == stable_shared(m->s));
}

static void run_model(uint64_t seed)
{
	static const uint64_t masks[] = {
		UINT64_MAX,
		UINT64_C(0xff00000000000003),
		UINT64_C(0x00000003000000ff),
		UINT64_C(0x0000007f00000000),
	};
	struct model *m = calloc(1, sizeof(*m));

	assert_non_null(m);
	m->seed = m->state = seed;
	m->mask = masks[seed % ARRAY_SIZE(masks)];
	assert_int_equal(stable_new(&m->s), 0);
	for (uint32_t i = 0; i < N_CONTENTS; i++)
		m->contents[i].fingerprint = random_next(&m->state) & m->mask;
	for (unsigned op = 0; op < 30000; op++) {
		struct content *c = &m->contents[random_below(&m->state, N_CONTENTS)];
		unsigned what = random_below(&m->state, 16);

		if (what < 6)
			model_insert(m, c, what == 0);
		else if (what < 12)
			model_share(m, c, what < 10);
		else if (what < 14)
			model_free(m, c);
		else
			model_find(m, c);
		if (op % 7500 == 7499)
			model_sweep(m);
	}
	for (uint32_t i = 0; i < N_CONTENTS; i++)
		model_free(m, &m->contents[i]);
	CHECK_SEED(m->seed, stable_records(m->s) == 0);
	stable_free(m->s);
	free(m);
}

static void test_model(void **state _unused_)
{
	for_each_seed(12, run_model);
}

/* --- memory --------------------------------------------------------------------- */

static uint64_t insert_many(struct stable *s, record_id *records, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(stable_insert(s, mix64(~(uint64_t)i), SLOT_ID(i), &records[i]), 0);
		(void)stable_add_sharer(s, records[i]);
		(void)stable_add_sharer(s, records[i]);
	}
	return stable_bytes(s);
}

/*
 * The budget: at most 24 bytes for each shared page and 8 for each sharer (the four of the
 * ledger's word are all that a sharer costs), as the kernel counts memory.
 */
static void test_memory(void **state _unused_)
{
	enum { N = 4000000 };
	record_id *records = malloc(N * sizeof(*records));
	uint64_t before, real, own;
	struct stable *s;

	assert_non_null(records);
	memset(records, 0xff, N * sizeof(*records));
	before = process_bytes();
	assert_int_equal(stable_new(&s), 0);
	own = insert_many(s, records, N);
	real = process_bytes() - before;
	print_message("%.2f bytes a shared page, by its own account %.2f\n", (double)real / N,
		      (double)own / N);
	assert_true(own <= 24 * (uint64_t)N);
	if (!SANITIZED) {
		assert_true(real <= 24 * (uint64_t)N);
		assert_true(real < own + own / 50 && own < real + real / 50);
	}

	/* Guests leave in the order they came, but for a few pages that others hold. */
	for (uint32_t i = 0; i < N; i++) {
		if (i % 50000 == 0)
			continue;
		(void)stable_drop_sharer(s, records[i]);
		(void)stable_drop_sharer(s, records[i]);
		stable_free_record(s, records[i]);
	}
	own = stable_bytes(s);
	print_message("after most went %.1f MiB, by its own account %.1f\n",
		      (double)(process_bytes() - before) / MIB(1), (double)own / MIB(1));
	assert_int_equal(stable_records(s), N / 50000);
	assert_true(own < MIB(5));
	if (!SANITIZED)
		assert_true(process_bytes() - before < own + MIB(1));
	stable_free(s);
	stable_free(NULL);
	free(records);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model),
		cmocka_unit_test(test_memory),
	};

	if (setenv("MEMSHARED_FAULT", "hashtree-alloc:ENOMEM,stable-alloc:ENOMEM:3", 1) < 0 ||
	    fault_init() < 0)
		return 99;
	fault_active = false;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
