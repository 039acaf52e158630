/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/turns.h"
#include "tests/unit/unit.h"

#define JOB	   7000U
#define AHEAD_MAX  20000U
#define BEHIND_MAX 100000U
#define N	   3

static struct turns all;
static struct turn turn[N];
static uint64_t used[N], now;

static int start(void **state _unused_)
{
	turns_init(&all, AHEAD_MAX, BEHIND_MAX);
	memset(used, 0, sizeof(used));
	now = 1000;
	for (unsigned i = 0; i < N; i++)
		turn[i] = (struct turn){ .weight = TURN_WEIGHT_DEFAULT };
	return 0;
}

/* Whoever may goes, each look; jobs of different length. */
static void compete(unsigned looks)
{
	for (unsigned k = 0; k < looks; k++, now += 100) {
		turns_note_shortage(&all, now);
		for (unsigned i = 0; i < N; i++) {
			uint64_t amount = JOB * (i + 1);

			if (!turn[i].in || turn[i].aside || turn_wait_usec(&turn[i], now) > 0)
				continue;
			turn_charge(&turn[i], amount);
			used[i] += amount;
		}
	}
}

static void assert_share(unsigned i, double share)
{
	double is = (double)used[i] / (double)(used[0] + used[1] + used[2]);

	if (is < share * 0.9 || is > share * 1.1)
		fail_msg("%u has %.3f of all, not %.3f", i, is, share);
}

static void shares_follow_weights(void **state _unused_)
{
	turn[0].weight = 50;
	turn[2].weight = 350;
	for (unsigned i = 0; i < N; i++)
		turn_begin(&all, &turn[i]);
	compete(3000);
	assert_share(0, 0.1);
	assert_share(1, 0.2);
	assert_share(2, 0.7);
	/* One changes in the middle of it. */
	memset(used, 0, sizeof(used));
	turn[2].weight = 50;
	compete(3000);
	assert_share(0, 0.25);
	assert_share(1, 0.5);
	assert_share(2, 0.25);
}

static void equal_weights_share_alike_whatever_their_jobs(void **state _unused_)
{
	for (unsigned i = 0; i < N; i++)
		turn_begin(&all, &turn[i]);
	compete(3000);
	for (unsigned i = 0; i < N; i++)
		assert_share(i, 1.0 / N);
}

static void who_rests_saves_up_little(void **state _unused_)
{
	turn_begin(&all, &turn[0]);
	turn_begin(&all, &turn[1]);
	compete(3000);
	turn_begin(&all, &turn[2]);
	memset(used, 0, sizeof(used));
	compete(3000);
	for (unsigned i = 0; i < N; i++)
		assert_share(i, 1.0 / N);
	/* Nor does who ends and begins again lose or win. */
	turn_end(&turn[2]);
	turn_end(&turn[2]);
	turn_begin(&all, &turn[2]);
	memset(used, 0, sizeof(used));
	compete(3000);
	for (unsigned i = 0; i < N; i++)
		assert_share(i, 1.0 / N);
}

/* As between two passes. */
static void short_rests_cost_nothing(void **state _unused_)
{
	turn[2].weight = 400;
	turn_begin(&all, &turn[0]);
	for (unsigned i = 0; i < 300; i++) {
		turn_begin(&all, &turn[2]);
		compete(10);
		turn_end(&turn[2]);
		compete(1);
	}
	assert_share(0, 0.2);
	assert_share(2, 0.8);
}

static void nobody_waits_without_need(void **state _unused_)
{
	/* Alone. */
	turn_begin(&all, &turn[0]);
	turns_note_shortage(&all, now);
	turn_charge(&turn[0], 1000 * AHEAD_MAX);
	assert_int_equal(turn_wait_usec(&turn[0], now), 0);
	/* The other cannot go. */
	turn_begin(&all, &turn[1]);
	turn[1].used = 0;
	turn[1].aside = true;
	assert_int_equal(turn_wait_usec(&turn[0], now), 0);
	turn[1].aside = false;
	assert_true(turn_wait_usec(&turn[0], now) > 0);
	/* There is enough. */
	now += 2 * USEC_PER_SEC;
	assert_int_equal(turn_wait_usec(&turn[0], now), 0);
	/* Not competing. */
	assert_int_equal(turn_wait_usec(&turn[2], now), 0);
}

static void one_that_hangs_holds_up_nobody_for_long(void **state _unused_)
{
	uint64_t begin = now, wait;

	turn_begin(&all, &turn[0]);
	turn_begin(&all, &turn[1]);
	turn_charge(&turn[0], 1000 * AHEAD_MAX);
	for (;;) {
		turns_note_shortage(&all, now);
		wait = turn_wait_usec(&turn[0], now);
		if (wait == 0)
			break;
		now += wait;
		assert_true(now - begin < 2 * TURN_WAIT_MAX_USEC);
	}
	assert_true(now - begin >= TURN_WAIT_MAX_USEC);
	/* Then it waits again. */
	assert_true(turn_wait_usec(&turn[0], now) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(shares_follow_weights, start),
		cmocka_unit_test_setup(equal_weights_share_alike_whatever_their_jobs, start),
		cmocka_unit_test_setup(who_rests_saves_up_little, start),
		cmocka_unit_test_setup(short_rests_cost_nothing, start),
		cmocka_unit_test_setup(nobody_waits_without_need, start),
		cmocka_unit_test_setup(one_that_hangs_holds_up_nobody_for_long, start),
	};

	return cmocka_run_group_tests_name("turns", tests, NULL, NULL);
}
