/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/unit.h"

#include "daemon/slot-map.h"

static struct slot_map *make(uint64_t n)
{
	struct slot_map *m = NULL;

	assert_int_equal(slot_map_new(n, &m), 0);
	assert_int_equal(slot_map_size(m), n);
	assert_int_equal(slot_map_used(m), 0);
	return m;
}

static void runs_stay_together(void **state _unused_)
{
	struct slot_map *m = make(1000);
	slot_id a, b, c;

	assert_int_equal(slot_map_take(m, 16, SLOT_ID_NONE, 1000, &a), 16);
	assert_int_equal(slot_map_take(m, 16, SLOT_ID_NONE, 1000, &b), 16);
	assert_int_equal(b.n, a.n + 16);
	/* Behind a's last slot there is no room; behind b's there is. */
	assert_int_equal(slot_map_take(m, 4, SLOT_ID(b.n + 15), 1000, &c), 4);
	assert_int_equal(c.n, b.n + 16);
	assert_int_equal(slot_map_take(m, 4, SLOT_ID(a.n + 15), 1000, &c), 4);
	assert_int_equal(c.n, b.n + 20);
	assert_int_equal(slot_map_used(m), 40);
	slot_map_free(m);
}

static void lone_pages_fill_holes(void **state _unused_)
{
	struct slot_map *m = make(300);
	slot_id s;

	assert_int_equal(slot_map_take(m, 300, SLOT_ID_NONE, 300, &s), 300);
	slot_map_set(m, SLOT_ID(7), 1, false);
	slot_map_set(m, SLOT_ID(100), 50, false);
	assert_int_equal(slot_map_take(m, 1, SLOT_ID_NONE, 300, &s), 1);
	assert_int_equal(s.n, 7);
	/* No run is long enough: the longest. */
	slot_map_set(m, SLOT_ID(7), 1, false);
	assert_int_equal(slot_map_take(m, 64, SLOT_ID_NONE, 300, &s), 50);
	assert_int_equal(s.n, 100);
	assert_int_equal(slot_map_take(m, 2, SLOT_ID_NONE, 300, &s), 1);
	assert_int_equal(s.n, 7);
	assert_int_equal(slot_map_take(m, 1, SLOT_ID_NONE, 300, &s), -ENOSPC);
	slot_map_free(m);
}

static void limit_is_kept(void **state _unused_)
{
	struct slot_map *m = make(128);
	slot_id s;

	assert_int_equal(slot_map_take(m, 100, SLOT_ID_NONE, 70, &s), 70);
	assert_int_equal(slot_map_take(m, 1, SLOT_ID_NONE, 70, &s), -ENOSPC);
	assert_int_equal(slot_map_take(m, 1, SLOT_ID(69), 70, &s), -ENOSPC);
	assert_int_equal(slot_map_take(m, 1, SLOT_ID(127), 500, &s), 1);
	assert_int_equal(s.n, 70);
	slot_map_free(m);
}

static void grows(void **state _unused_)
{
	struct slot_map *m = make(0);
	slot_id s;

	assert_int_equal(slot_map_take(m, 1, SLOT_ID_NONE, 1, &s), -ENOSPC);
	assert_int_equal(slot_map_grow(m, 65), 0);
	assert_int_equal(slot_map_used(m), 0);
	assert_int_equal(slot_map_take(m, 65, SLOT_ID_NONE, 65, &s), 65);
	assert_int_equal(slot_map_grow(m, 200), 0);
	assert_int_equal(slot_map_used(m), 65);
	assert_int_equal(slot_map_next_run(m, 0, 1000, false, &s), 135);
	assert_int_equal(s.n, 65);
	assert_int_equal(slot_map_grow(m, 100), -EINVAL);
	assert_int_equal(slot_map_grow(m, SLOT_MAP_MAX + 1), -E2BIG);
	assert_false(slot_map_is_used(m, SLOT_ID(200)));
	slot_map_set(m, SLOT_ID(190), 1000, true);
	assert_int_equal(slot_map_used(m), 75);
	assert_int_equal(slot_map_next_run(m, 70, 1000, true, &s), 10);
	assert_int_equal(s.n, 190);
	assert_int_equal(slot_map_next_run(m, 70, 195, true, &s), 5);
	assert_int_equal(slot_map_next_run(m, 70, 190, true, &s), 0);
	assert_int_equal(slot_map_next_run(m, 200, 1000, true, &s), 0);
	slot_map_free(m);
}

/* Against a plain array, over many random operations. */
static void equals_model(void **state _unused_)
{
	enum { N = 517 };
	static bool model[N];
	struct slot_map *m = make(N);
	uint64_t x = 42, used = 0;

	for (unsigned round = 0; round < 20000; round++) {
		uint32_t n, at;
		slot_id s;
		int64_t got;

		x = x * 6364136223846793005U + 1442695040888963407U;
		n = (uint32_t)(x >> 33) % 40 + 1;
		at = (uint32_t)(x >> 40) % N;
		if (x >> 63) {
			got = slot_map_take(m, n, at % 3 ? SLOT_ID(at) : SLOT_ID_NONE, N, &s);
			assert_true(got == -ENOSPC ? used == N : got >= 1 && got <= n);
			for (int64_t i = 0; i < got; i++) {
				assert_false(model[s.n + i]);
				model[s.n + i] = true;
			}
			used += got > 0 ? (uint64_t)got : 0;
			/* Shorter than asked for only if there is no longer run of free slots. */
			for (uint32_t i = 0, len = 0; got > 0 && got < n && i < N; i++) {
				len = model[i] ? 0 : len + 1;
				assert_true(len <= got);
			}
		} else {
			slot_map_set(m, SLOT_ID(at), n, false);
			for (uint32_t i = at; i < MIN(at + n, (uint32_t)N); i++) {
				used -= model[i];
				model[i] = false;
			}
		}
		assert_int_equal(slot_map_used(m), used);
		assert_int_equal(slot_map_is_used(m, SLOT_ID(at)), model[at]);
	}
	slot_map_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(runs_stay_together), cmocka_unit_test(lone_pages_fill_holes),
		cmocka_unit_test(limit_is_kept),      cmocka_unit_test(grows),
		cmocka_unit_test(equals_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
