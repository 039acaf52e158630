/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/unit.h"

#include <sys/resource.h>

#include "common/fault.h"
#include "common/hashtree-trie.h"
#include "common/hashtree.h"
#include "tests/unit/model.h"

/* --- the tree's own rules ------------------------------------------------------ */

struct tree_check {
	const struct hashtree *t;
	uint64_t n_entries;
	uint32_t n_objects[KIND_MAX];
};

static void check_leaf(struct tree_check *c, uint32_t leaf, uint32_t prefix, unsigned n_bits)
{
	unsigned n = leaf_count(c->t, leaf);

	c->n_objects[ref_kind(leaf)]++;
	c->n_entries += n;
	assert_true(n > 0);
	for (unsigned i = 0; i < leaf_capacity(leaf); i++) {
		uint32_t value = *entry_value(ref_at(c->t, leaf), i);

		assert_true((value == EMPTY) == (i >= n));
		if (i < n && n_bits > 0)
			assert_int_equal(c->t->key_of(value, c->t->userdata) >> (32 - n_bits),
					 prefix >> (32 - n_bits));
	}
}

static void check_slots(struct tree_check *c, uint32_t *slots, unsigned bits, uint32_t prefix,
			unsigned depth)
{
	for (unsigned i = 0; i < 1U << bits;) {
		struct block b = block_of(&(struct step){ slots, bits, i });
		uint32_t ref = slots[i], below = prefix | i << (32 - depth - bits);

		assert_int_equal(b.first, i);
		/* A node with one reference in all its slots should not be; the root may. */
		assert_true(depth == 0 || b.n < 1U << bits);
		if (is_node(ref)) {
			assert_int_equal(bits, LEVEL_BITS);
			assert_int_equal(b.n, 1);
			c->n_objects[ref_kind(ref)]++;
			check_slots(c, ref_at(c->t, ref), ref_kind(ref) - KIND_NODE_BASE, below,
				    depth + LEVEL_BITS);
		} else if (ref != KIND_NONE) {
			check_leaf(c, ref, below, depth + bits - (unsigned)__builtin_ctz(b.n));
		}
		i += b.n;
	}
}

/* Everything reachable once, in its place, and nothing else in the pools. */
static void check_tree(const struct hashtree *t)
{
	struct tree_check c = { .t = t };

	check_slots(&c, (uint32_t *)t->root, LEVEL_BITS, 0, 0);
	assert_int_equal(c.n_entries, hashtree_count(t));
	for (unsigned k = KIND_LEAF1; k < KIND_MAX; k++)
		assert_int_equal(c.n_objects[k], t->pools[k].n - t->pools[k].n_holes);
}

/* --- random operations against a model ---------------------------------------------- */

#define N_VALUES 3000U

/* Value v is in the tree under key[v], or not. */
struct model {
	uint64_t seed, state;
	uint64_t mask; /* of keys: the rest of their bits is zero */
	uint64_t key[N_VALUES];
	bool in[N_VALUES];
	uint8_t seen[N_VALUES];
	uint32_t n;
	struct hashtree *t;
};

static uint32_t model_key_of(uint32_t value, void *userdata)
{
	const struct model *m = userdata;

	/* Asked for nothing that is not in the tree. */
	CHECK_SEED(m->seed, value < N_VALUES && m->in[value]);
	return (uint32_t)(m->key[value] >> 32);
}

static uint32_t model_count(const struct model *m, uint64_t key, unsigned shift)
{
	uint32_t n = 0;

	for (uint32_t v = 0; v < N_VALUES; v++)
		n += m->in[v] && m->key[v] >> shift == key >> shift;
	return n;
}

static void model_insert(struct model *m, uint32_t v, bool fault)
{
	uint64_t key = m->in[v] ? m->key[v] : random_next(&m->state) & m->mask;
	int want = 0, r;

	if (m->in[v])
		want = -EEXIST;
	else if (model_count(m, key, 0) >= HASHTREE_EQUAL_MAX ||
		 model_count(m, key, 32) >= HASHTREE_HIGH_MAX)
		want = -EXFULL;
	m->key[v] = key;
	fault_active = fault;
	r = hashtree_insert(m->t, key, v);
	fault_active = false;
	CHECK_SEED(m->seed, r == want || (fault && r == -ENOMEM));
	m->in[v] = m->in[v] || r == 0;
	m->n += r == 0;
}

static void model_remove(struct model *m, uint32_t v, bool fault)
{
	int r;

	fault_active = fault;
	if (random_below(&m->state, 2) == 0)
		r = hashtree_remove(m->t, m->key[v], v);
	else
		r = hashtree_remove_high(m->t, (uint32_t)(m->key[v] >> 32), v);
	fault_active = false;
	CHECK_SEED(m->seed, r == (m->in[v] ? 0 : -ENOENT));
	m->n -= m->in[v];
	m->in[v] = false;
}

static void model_find(struct model *m, uint32_t v)
{
	uint32_t found[2 * HASHTREE_EQUAL_MAX];
	size_t n = hashtree_find(m->t, m->key[v], found, ARRAY_SIZE(found));
	bool has_v = false;

	CHECK_SEED(m->seed, n == model_count(m, m->key[v], 0));
	for (size_t i = 0; i < n; i++) {
		CHECK_SEED(m->seed, m->in[found[i]] && m->key[found[i]] == m->key[v]);
		has_v |= found[i] == v;
	}
	CHECK_SEED(m->seed, has_v == m->in[v]);
	CHECK_SEED(m->seed, hashtree_find(m->t, m->key[v], found, 1) == MIN(n, 1U));
}

static void note_seen(uint32_t value, void *userdata)
{
	struct model *m = userdata;

	CHECK_SEED(m->seed, value < N_VALUES);
	m->seen[value]++;
}

static void model_compare(struct model *m)
{
	CHECK_SEED(m->seed, hashtree_count(m->t) == m->n);
	check_tree(m->t);
	memset(m->seen, 0, sizeof(m->seen));
	hashtree_foreach(m->t, note_seen, m);
	for (uint32_t v = 0; v < N_VALUES; v++)
		CHECK_SEED(m->seed, m->seen[v] == m->in[v]);
}

static void run_model(uint64_t seed)
{
	/* Uniform; few upper halves; few lower halves; few keys; long equal beginnings. */
	static const uint64_t masks[] = {
		UINT64_MAX,
		UINT64_C(0x8000100100000000) | UINT32_MAX,
		UINT64_C(0xffffffff00000003),
		UINT64_C(0x0100040800000101),
		UINT64_C(0x0000003fffffffff),
		UINT64_C(0x0000fff000000001),
	};
	struct model *m = calloc(1, sizeof(*m));
	unsigned percent_insert = 60;

	assert_non_null(m);
	m->seed = m->state = seed;
	m->mask = masks[seed % ARRAY_SIZE(masks)];
	assert_int_equal(hashtree_new(model_key_of, m, &m->t), 0);
	for (unsigned op = 0; op < 20000; op++) {
		uint32_t v = random_below(&m->state, N_VALUES);
		bool fault = random_below(&m->state, 4) == 0;

		/* The tree grows and shrinks in turns. */
		if (op % 2500 == 0)
			percent_insert = percent_insert > 50 ? 15 : 85;
		if (random_below(&m->state, 100) < percent_insert)
			model_insert(m, v, fault);
		else
			model_remove(m, v, fault);
		if (op % 8 == 0)
			model_find(m, random_below(&m->state, N_VALUES));
		if (op % 500 == 0)
			model_compare(m);
	}
	for (uint32_t v = 0; v < N_VALUES; v++)
		model_remove(m, v, v % 2 == 0);
	model_compare(m);
	hashtree_free(m->t);
	free(m);
}

static void test_model(void **state _unused_)
{
	for_each_seed(48, run_model);
}

/* --- bounds -------------------------------------------------------------------- */

static uint32_t array_key_of(uint32_t value, void *userdata)
{
	return ((const uint32_t *)userdata)[value];
}

/* A million keys with sixteen upper halves: refused beyond the bound, quickly, in little memory. */
static void test_degenerate(void **state _unused_)
{
	enum { N = 1000000, HALVES = 16 };
	_cleanup_free_ uint32_t *highs = calloc(N, sizeof(*highs));
	uint64_t start = now_usec(), n_refused = 0;
	struct hashtree *t;

	assert_non_null(highs);
	assert_int_equal(hashtree_new(array_key_of, highs, &t), 0);
	for (uint32_t i = 0; i < N; i++) {
		int r;

		/* The halves differ in their last bits: as deep as the trie can get. */
		highs[i] = 0xabcdef00 | (uint32_t)(mix64(i) % HALVES);
		r = hashtree_insert(t, (uint64_t)highs[i] << 32 | (uint32_t)mix64(i), i);
		assert_true(r == 0 || r == -EXFULL);
		n_refused += r < 0;
	}
	check_tree(t);
	assert_int_equal(hashtree_count(t), HALVES * HASHTREE_HIGH_MAX);
	assert_int_equal(n_refused, N - HALVES * HASHTREE_HIGH_MAX);
	assert_true(hashtree_bytes(t) < KIB(64));
	/* 0.1 s; a list to be walked would take hours. */
	assert_true(now_usec() - start < 20 * USEC_PER_SEC);
	hashtree_free(t);
}

/* Near the most memory that an entry can cost, whoever chooses the keys: a leaf that just split
 * at the end of a chain of nodes, and leaves of one entry beside the chain at every bit. */
static void test_worst_case(void **state _unused_)
{
	enum { GROUPS = 4096, EQUAL = 32, BITS = 20, PER_GROUP = EQUAL + BITS };
	_cleanup_free_ uint32_t *highs = calloc(GROUPS * PER_GROUP, sizeof(*highs));
	struct hashtree *t;

	assert_non_null(highs);
	assert_int_equal(hashtree_new(array_key_of, highs, &t), 0);
	for (uint32_t i = 0; i < GROUPS * PER_GROUP; i++) {
		uint32_t nth = i % PER_GROUP;

		highs[i] = i / PER_GROUP << BITS | (nth < EQUAL ? 0 : 1U << (nth - EQUAL));
		assert_int_equal(hashtree_insert(t, (uint64_t)highs[i] << 32 | i, i), 0);
	}
	check_tree(t);
	assert_true(hashtree_bytes(t) < 64 * hashtree_count(t));
	print_message("worst case: %.1f bytes an entry\n",
		      (double)hashtree_bytes(t) / (double)hashtree_count(t));
	hashtree_free(t);
}

static void test_edges(void **state _unused_)
{
	uint32_t highs[2] = { 7, 7 }, found[2];
	struct hashtree *t;

	assert_int_equal(hashtree_new(array_key_of, highs, &t), 0);
	assert_int_equal(hashtree_find(t, 7, found, 2), 0);
	assert_int_equal(hashtree_remove_high(t, 7, 0), -ENOENT);
	assert_int_equal(hashtree_insert(t, 7, UINT32_MAX), -EINVAL);
	assert_int_equal(hashtree_remove_high(t, 7, UINT32_MAX), -ENOENT);
	/* Zeros are a key, and what an empty place holds. */
	highs[0] = 0;
	assert_int_equal(hashtree_find(t, 0, found, 2), 0);
	assert_int_equal(hashtree_insert(t, 0, 0), 0);
	assert_int_equal(hashtree_find(t, 0, found, 2), 1);
	assert_int_equal(hashtree_find(t, 0, found, 0), 0);
	assert_int_equal(hashtree_remove(t, 1, 0), -ENOENT);
	assert_int_equal(hashtree_remove(t, 0, 1), -ENOENT);
	assert_int_equal(hashtree_remove(t, UINT64_C(1) << 32, 0), -ENOENT);
	assert_int_equal(hashtree_remove_high(t, 1, 0), -ENOENT);
	assert_int_equal(hashtree_remove(t, 0, 0), 0);
	assert_int_equal(hashtree_count(t), 0);
	hashtree_free(t);
	hashtree_free(NULL);
}

/* No memory at all, for real: the tree stays what it was, and can still be emptied. */
static void test_exhausted(void **state _unused_)
{
	enum { N = 400000 };
	uint64_t random = 1, n_in = 0, n_refused = 0;
	struct rlimit old, tight = { KIB(1), KIB(1) };
	struct hashtree *t;
	uint32_t *highs;

	if (SANITIZED) {
		print_message("skipped: a sanitizer needs address space for itself\n");
		skip();
	}
	highs = calloc(N, sizeof(*highs));
	assert_non_null(highs);
	assert_int_equal(hashtree_new(array_key_of, highs, &t), 0);
	for (uint32_t i = 0; i < N / 2; i++, n_in++) {
		highs[i] = (uint32_t)(mix64(i) >> 32) | 1;
		assert_int_equal(hashtree_insert(t, (uint64_t)highs[i] << 32, i), 0);
	}
	assert_int_equal(getrlimit(RLIMIT_AS, &old), 0);
	tight.rlim_max = old.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_AS, &tight), 0);
	/* First more and more, then less and less; zero for those that are not in. */
	for (uint32_t op = 0; op < 8 * N; op++) {
		uint32_t i = random_below(&random, N);
		bool insert = op / 1000 % 3 < (op < 4 * N ? 2 : 1);

		if (insert && highs[i] == 0) {
			int r;

			highs[i] = (uint32_t)(random_next(&random) >> 32) | 1;
			r = hashtree_insert(t, (uint64_t)highs[i] << 32, i);
			if (r < 0)
				highs[i] = 0;
			n_in += r == 0;
			n_refused += r == -ENOMEM;
		} else if (!insert && highs[i] != 0) {
			n_in -= hashtree_remove_high(t, highs[i], i) == 0;
			highs[i] = 0;
		}
		if (hashtree_count(t) != n_in)
			break;
	}
	assert_int_equal(setrlimit(RLIMIT_AS, &old), 0);
	assert_int_equal(hashtree_count(t), n_in);
	assert_true(n_refused > 0);
	check_tree(t);
	for (uint32_t i = 0; i < N; i++)
		assert_true(highs[i] == 0 || hashtree_remove_high(t, highs[i], i) == 0);
	assert_int_equal(hashtree_count(t), 0);
	check_tree(t);
	hashtree_free(t);
	free(highs);
}

/* Memory follows the number of entries, at every size on the way up and down. */
static void test_memory_follows(void **state _unused_)
{
	enum { N = 1200000, STEP = 10000 };
	_cleanup_free_ uint32_t *highs = calloc(N, sizeof(*highs));
	struct hashtree *t;
	uint32_t n;

	assert_non_null(highs);
	assert_int_equal(hashtree_new(array_key_of, highs, &t), 0);
	for (uint32_t i = 0; i < N; i++) {
		highs[i] = (uint32_t)(mix64(i) >> 32);
		assert_int_equal(hashtree_insert(t, mix64(i), i), 0);
		if ((i + 1) % STEP == 0)
			assert_true(2 * hashtree_bytes(t) <= 21 * ((uint64_t)i + 1) + KIB(128));
	}
	check_tree(t);
	for (n = N; n > 0; n--) {
		uint32_t i = (uint32_t)((uint64_t)(n - 1) * 700001 % N);

		assert_int_equal(hashtree_remove_high(t, highs[i], i), 0);
		if (n % STEP == 0)
			assert_true(hashtree_bytes(t) <= 13 * n + KIB(256));
	}
	check_tree(t);
	assert_int_equal(hashtree_count(t), 0);
	assert_true(hashtree_bytes(t) <= KIB(256));
	hashtree_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_model),	   cmocka_unit_test(test_degenerate),
		cmocka_unit_test(test_worst_case), cmocka_unit_test(test_edges),
		cmocka_unit_test(test_exhausted),  cmocka_unit_test(test_memory_follows),
	};

	/* Whether it acts is up to the tests, operation by operation. */
	if (setenv("MEMSHARED_FAULT", "hashtree-alloc:ENOMEM", 1) < 0 || fault_init() < 0)
		return 99;
	fault_active = false;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
