/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Nothing that a guest writes into the ring is believed unless an agent could have written it. */
#include "daemon/attach-run.h"
#include "daemon/ring-check.h"
#include "tests/unit/unit.h"

static void results(void **state _unused_)
{
	assert_int_equal(ring_result_check(RING_PING, 0, RING_VERSION), RING_VERSION);
	assert_int_equal(ring_result_check(RING_PING, 0, 0), -EPROTO);
	assert_int_equal(ring_result_check(RING_ADVISE, 7, 7), 7);
	assert_int_equal(ring_result_check(RING_ADVISE, 7, 8), -EPROTO);
	assert_int_equal(ring_result_check(RING_ADVISE, 7, -ENOMEM), -ENOMEM);
	assert_int_equal(ring_result_check(RING_ADVISE, 7, -4096), -EPROTO);
	assert_int_equal(ring_result_check(RING_ADVISE, 7, INT64_MIN), -EPROTO);
	assert_int_equal(ring_result_check(RING_MERGE, 3, 3), 3);
	assert_int_equal(ring_result_check(RING_MERGE, 3, INT64_MAX), -EPROTO);
	assert_int_equal(ring_result_check(RING_OPEN_UFFD, 0, 1000), 1000);
	assert_int_equal(ring_result_check(RING_OPEN_UFFD, 0, INT64_C(1) << 32), -EPROTO);
	assert_int_equal(ring_result_check(RING_CLOSE_FD, 0, 0), 0);
	assert_int_equal(ring_result_check(RING_CLOSE_FD, 0, 1), -EPROTO);
	assert_int_equal(ring_result_check(RING_EXIT, 0, 1), -EPROTO);
	assert_int_equal(ring_result_check((enum ring_op)4711, 0, -ENOSYS), -ENOSYS);
}

static void advice(void **state _unused_)
{
	struct ring_advise asked[3] = { { 1, 2, 3, 9 }, { 4, 5, 6, 9 }, { 7, 8, 9, 9 } };
	struct ring_advise got[3] = { { 0xbad, 0, 0, 0 }, { 0, 0, 0, -ENOMEM }, { 0, 0, 0, 0 } };

	assert_int_equal(ring_advise_check(asked, got, 3), 2);
	assert_int_equal(asked[0].addr, 1);
	assert_int_equal(asked[0].result, 0);
	assert_int_equal(asked[1].result, -ENOMEM);
	got[2].result = 1;
	got[0].result = -EPERM;
	assert_int_equal(ring_advise_check(asked, got, 3), -EPROTO);
	assert_int_equal(asked[0].result, 0);
}

static void runs(void **state _unused_)
{
	struct ring_run asked[2] = { { .addr = 1, .n_pages = 5 }, { .addr = 2, .n_pages = 1 } };
	struct ring_run got[2] = { { .n_pages = 99, .merged = 5 }, { .result = -EBUSY } };

	assert_int_equal(ring_runs_check(asked, got, 2), 5);
	assert_int_equal(asked[0].merged, 5);
	assert_int_equal(asked[0].n_pages, 5);
	assert_int_equal(asked[1].result, -EBUSY);
	got[1].merged = 2;
	got[0].merged = 1;
	assert_int_equal(ring_runs_check(asked, got, 2), -EPROTO);
	assert_int_equal(asked[0].merged, 5);
}

static void headers(void **state _unused_)
{
	struct ring_header h = { .magic = RING_MAGIC, .version = RING_VERSION };

	assert_int_equal(ring_header_check(&h), 0);
	h.published = 2;
	h.done = UINT32_MAX;
	assert_int_equal(ring_header_check(&h), 0);
	h.done = 3;
	assert_int_equal(ring_header_check(&h), -EPROTO);
	h.published = RING_BATCHES + 4;
	assert_int_equal(ring_header_check(&h), -EPROTO);
	h.version++;
	assert_int_equal(ring_header_check(&h), -EPROTONOSUPPORT);
	h.magic++;
	assert_int_equal(ring_header_check(&h), -EPROTO);
}

static void answers(void **state _unused_)
{
	static const char *const bad[] = { "",
					   "attached",
					   "attached tid",
					   "attached tid=",
					   "attached tid=-1",
					   "attached tid=99999999999",
					   "attached what=1",
					   "refused",
					   "refused 0 x",
					   "refused 4096 x",
					   "refused 5",
					   "refused x y" };
	char reason[ATTACH_REASON_MAX] = "unset";
	struct attach_result r = { .tid = 7 };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(attach_line_parse(bad[i], &r, reason), -EPROTO);
	assert_int_equal(r.tid, 7);
	assert_string_equal(reason, "unset");
	assert_int_equal(attach_line_parse("attached tid=12 thread=11 peer=4 denied=1 attempts=2 "
					   "stopped_usec=300", &r, reason), 0);
	assert_int_equal(r.tid, 12);
	assert_int_equal(r.thread, 11);
	assert_int_equal(r.peer, 4);
	assert_int_equal(r.denied, 1);
	assert_int_equal(r.attempts, 2);
	assert_int_equal(r.stopped_usec, 300);
	assert_int_equal(attach_line_parse("refused 16 it is\033 stopped", &r, reason), -EBUSY);
	assert_string_equal(reason, "it is? stopped");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(results), cmocka_unit_test(advice),  cmocka_unit_test(runs),
		cmocka_unit_test(headers), cmocka_unit_test(answers),
	};

	return cmocka_run_group_tests_name("ring-check", tests, NULL, NULL);
}
