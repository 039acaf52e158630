/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <pthread.h>

#include "daemon/frames.h"
#include "tests/unit/unit.h"

#define N	5000U
#define THREADS 4U

static void counts_as_a_model_does(void **state _unused_)
{
	static unsigned model[N];
	struct frames f;
	uint64_t x = 1, shared = 0;

	assert_int_equal(frames_init(&f, N), 0);
	for (unsigned i = 0; i < N; i++) {
		uint64_t pfn;

		x = x * 6364136223846793005U + 1442695040888963407U;
		pfn = (x >> 33) % N;
		frames_count(&f, pfn);
		shared += ++model[pfn] == 2;
	}
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(frames_is_shared(&f, i), model[i] > 1);
	assert_int_equal(f.n_shared, shared);
	assert_false(frames_is_shared(&f, N));
	assert_false(frames_is_shared(&f, UINT64_MAX));
	frames_done(&f);
	frames_done(&f);
}

static void *count_even(void *userdata)
{
	for (unsigned i = 0; i < N; i += 2)
		frames_count(userdata, i);
	return NULL;
}

static void several_threads_count_at_once(void **state _unused_)
{
	pthread_t threads[THREADS];
	struct frames f;

	assert_int_equal(frames_init(&f, N), 0);
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, count_even, &f), 0);
	for (unsigned i = 0; i < THREADS; i++)
		(void)pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(frames_is_shared(&f, i), i % 2 == 0);
	assert_int_equal(f.n_shared, N / 2);
	frames_done(&f);
}

static void sparse_costs_no_memory(void **state _unused_)
{
	struct frames f;

	/* 16 TiB of addresses: 1 GiB of bits, of which a few pages are touched. */
	assert_int_equal(frames_init(&f, UINT64_C(1) << 32), 0);
	for (unsigned i = 0; i < 2; i++) {
		frames_count(&f, 7);
		frames_count(&f, UINT32_MAX);
	}
	assert_int_equal(f.n_shared, 2);
	frames_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_as_a_model_does),
		cmocka_unit_test(several_threads_count_at_once),
		cmocka_unit_test(sparse_costs_no_memory),
	};

	return cmocka_run_group_tests_name("frames", tests, NULL, NULL);
}
