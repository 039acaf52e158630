/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/unit.h"

#include "daemon/unstable.h"
#include "tests/unit/model.h"

/* What the ledger keeps of a page. */
struct pages {
	uint32_t *words;
	uint8_t *states;
};
#define LEDGER_BYTES (sizeof(uint32_t) + sizeof(uint8_t))

static uint32_t word_of(uint32_t page, void *userdata)
{
	return ((const struct pages *)userdata)->words[page];
}

static void pages_init(struct pages *p, uint32_t n)
{
	p->words = malloc(n * sizeof(*p->words));
	p->states = malloc(n * sizeof(*p->states));
	assert_non_null(p->words);
	assert_non_null(p->states);
	/* Not zero, or the compiler would make it a calloc() that takes no memory. */
	memset(p->words, 0x11, n * sizeof(*p->words));
	memset(p->states, 0x11, n * sizeof(*p->states));
}

static void pages_done(struct pages *p)
{
	free(p->words);
	free(p->states);
}

static int insert(struct unstable *u, struct pages *p, uint32_t page, uint64_t fingerprint)
{
	p->words[page] = (uint32_t)(fingerprint >> 32);
	return unstable_insert(u, fingerprint, PAGE_ID(page));
}

static void test_find_and_remove(void **state _unused_)
{
	const uint64_t fp = UINT64_C(0x123456789abcdef0);
	page_id found[3];
	struct pages p;
	struct unstable *u;

	pages_init(&p, 100);
	assert_int_equal(unstable_new(word_of, &p, &u), 0);
	assert_int_equal(unstable_find(u, fp, found, 3), 0);
	assert_int_equal(insert(u, &p, 5, fp), 0);
	assert_int_equal(insert(u, &p, 5, fp), -EEXIST);
	assert_int_equal(unstable_insert(u, fp, PAGE_ID_NONE), -EINVAL);
	assert_int_equal(insert(u, &p, 6, fp ^ 1), 0);
	assert_int_equal(insert(u, &p, 7, fp ^ UINT64_C(1) << 63), 0);
	assert_int_equal(unstable_find(u, fp, found, 3), 1);
	assert_int_equal(found[0].n, 5);
	assert_int_equal(unstable_remove(u, (uint32_t)(fp >> 32), PAGE_ID(6)), 0);
	assert_int_equal(unstable_remove(u, (uint32_t)(fp >> 32), PAGE_ID(6)), -ENOENT);
	assert_int_equal(unstable_remove(u, (uint32_t)(fp >> 32), PAGE_ID(7)), -ENOENT);
	assert_int_equal(unstable_count(u), 2);

	/* A guest full of one pattern. */
	for (uint32_t i = 10; i < 10 + HASHTREE_EQUAL_MAX - 1; i++)
		assert_int_equal(insert(u, &p, i, fp), 0);
	assert_int_equal(insert(u, &p, 99, fp), -EXFULL);
	assert_int_equal(unstable_find(u, fp, found, 3), 3);
	unstable_free(u);
	unstable_free(NULL);
	pages_done(&p);
}

/*
 * The budget: at most 16 bytes for each page scanned, the ledger's five included, as the kernel
 * counts memory. And our own figure, which policy and status go by, is right within 2 %.
 */
static void test_memory(void **state _unused_)
{
	enum { N = 4000000 };
	uint64_t before, with_ledger, all, own;
	struct pages p;
	struct unstable *u;
	double reported, real;

	before = process_bytes();
	pages_init(&p, N);
	with_ledger = process_bytes();
	assert_int_equal(unstable_new(word_of, &p, &u), 0);
	for (uint32_t i = 0; i < N; i++) {
		assert_int_equal(insert(u, &p, i, mix64(i)), 0);
		/* At every size, not only the last: how full leaves are comes in waves. */
		if (i > 100000 && i % 10000 == 0)
			assert_true(unstable_bytes(u) + LEDGER_BYTES * i <= 16 * (uint64_t)i);
	}
	all = process_bytes();
	own = unstable_bytes(u);
	real = (double)(all - with_ledger);
	reported = (double)own;
	print_message("%.2f bytes a page, ledger included; tree %.2f, by its own account %.2f\n",
		      (double)(all - before) / N, real / N, reported / N);
	assert_true(own + LEDGER_BYTES * N <= 15 * (uint64_t)N);
	if (!SANITIZED) {
		assert_true(all - before <= 16 * (uint64_t)N);
		assert_true(reported > real * 0.98 && reported < real * 1.02);
	}
	unstable_free(u);
	pages_done(&p);
}

/* Pages are written and scanned again, for long: the budget still holds, and so does the account.
 */
static void test_memory_after_churn(void **state _unused_)
{
	enum { N = 1000000, ROUNDS = 3 };
	uint64_t before, random = 1, real, own;
	struct pages p;
	struct unstable *u;

	pages_init(&p, N);
	before = process_bytes();
	assert_int_equal(unstable_new(word_of, &p, &u), 0);
	for (uint32_t i = 0; i < N; i++)
		assert_int_equal(insert(u, &p, i, random_next(&random)), 0);
	for (uint32_t i = 0; i < ROUNDS * N; i++) {
		uint32_t page = random_below(&random, N);

		assert_int_equal(unstable_remove(u, p.words[page], PAGE_ID(page)), 0);
		assert_int_equal(insert(u, &p, page, random_next(&random)), 0);
	}
	real = process_bytes() - before;
	own = unstable_bytes(u);
	print_message("after churn %.2f bytes an entry, by its own account %.2f\n",
		      (double)real / N, (double)own / N);
	assert_true((double)own <= 10.7 * N);
	if (!SANITIZED)
		assert_true(real < own + own / 50 && own < real + real / 50);

	/* Most guests go: what is left may cost a little more, but not much. */
	for (uint32_t i = 0; i < N; i++)
		if (i % 16 != 0)
			assert_int_equal(unstable_remove(u, p.words[i], PAGE_ID(i)), 0);
	print_message("after 15 of 16 went %.2f bytes an entry\n",
		      (double)unstable_bytes(u) / (N / 16));
	assert_true(unstable_bytes(u) <= 16 * (uint64_t)(N / 16));
	if (!SANITIZED)
		assert_true(process_bytes() - before <= 16 * (uint64_t)(N / 16) + MIB(1));
	unstable_free(u);
	pages_done(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_find_and_remove),
		cmocka_unit_test(test_memory),
		cmocka_unit_test(test_memory_after_churn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
