/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/guest.h"

#include "tests/unit/unit.h"

/* The header's drawing, cell by cell. Negative: refused with this error. */
struct expected {
	enum guest_state from;
	enum guest_event event;
	int to;
};

#define F GUEST_FOUND
#define R GUEST_READY
#define X GUEST_REFUSED
#define E GUEST_ENTERING
#define N GUEST_ENROLLED
#define L GUEST_LEAVING
#define G GUEST_GONE

static const struct expected expected[] = {
	{ F, GUEST_LOOKED, R },		{ F, GUEST_LOOK_REFUSED, X },
	{ F, GUEST_ENROLL, -EAGAIN },	{ F, GUEST_ENTERED, -EPROTO },
	{ F, GUEST_ENTER_FAILED, -EPROTO }, { F, GUEST_UNENROLL, -EALREADY },
	{ F, GUEST_LEFT, -EPROTO },	{ F, GUEST_EXITED, G },
	{ R, GUEST_LOOKED, R },		{ R, GUEST_LOOK_REFUSED, X },
	{ R, GUEST_ENROLL, E },		{ R, GUEST_ENTERED, -EPROTO },
	{ R, GUEST_ENTER_FAILED, -EPROTO }, { R, GUEST_UNENROLL, -EALREADY },
	{ R, GUEST_LEFT, -EPROTO },	{ R, GUEST_EXITED, G },
	{ X, GUEST_LOOKED, R },		{ X, GUEST_LOOK_REFUSED, X },
	{ X, GUEST_ENROLL, -EPERM },	{ X, GUEST_ENTERED, -EPROTO },
	{ X, GUEST_ENTER_FAILED, -EPROTO }, { X, GUEST_UNENROLL, -EALREADY },
	{ X, GUEST_LEFT, -EPROTO },	{ X, GUEST_EXITED, G },
	{ E, GUEST_LOOKED, E },		{ E, GUEST_LOOK_REFUSED, L },
	{ E, GUEST_ENROLL, -EALREADY },	{ E, GUEST_ENTERED, N },
	{ E, GUEST_ENTER_FAILED, R },	{ E, GUEST_UNENROLL, L },
	{ E, GUEST_LEFT, -EPROTO },	{ E, GUEST_EXITED, G },
	{ N, GUEST_LOOKED, N },		{ N, GUEST_LOOK_REFUSED, L },
	{ N, GUEST_ENROLL, -EALREADY },	{ N, GUEST_ENTERED, -EPROTO },
	{ N, GUEST_ENTER_FAILED, -EPROTO }, { N, GUEST_UNENROLL, L },
	{ N, GUEST_LEFT, -EPROTO },	{ N, GUEST_EXITED, G },
	{ L, GUEST_LOOKED, L },		{ L, GUEST_LOOK_REFUSED, L },
	{ L, GUEST_ENROLL, -EBUSY },	{ L, GUEST_ENTERED, L },
	{ L, GUEST_ENTER_FAILED, R },	{ L, GUEST_UNENROLL, -EALREADY },
	{ L, GUEST_LEFT, R },		{ L, GUEST_EXITED, G },
	{ G, GUEST_LOOKED, G },		{ G, GUEST_LOOK_REFUSED, G },
	{ G, GUEST_ENROLL, -ESRCH },	{ G, GUEST_ENTERED, G },
	{ G, GUEST_ENTER_FAILED, G },	{ G, GUEST_UNENROLL, -ESRCH },
	{ G, GUEST_LEFT, G },		{ G, GUEST_EXITED, G },
};
static_assert(ARRAY_SIZE(expected) == GUEST_STATE_MAX * GUEST_EVENT_MAX, "each cell once");

static void transitions(void **state _unused_)
{
	bool seen[GUEST_STATE_MAX][GUEST_EVENT_MAX] = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
		const struct expected *x = &expected[i];
		enum guest_state to = GUEST_STATE_MAX;
		int r = guest_next_state(x->from, x->event, &to);

		assert_false(seen[x->from][x->event]);
		seen[x->from][x->event] = true;
		if (x->to < 0) {
			assert_int_equal(r, x->to);
			assert_int_equal(to, GUEST_STATE_MAX);
		} else {
			assert_int_equal(r, 0);
			assert_int_equal(to, x->to);
		}
	}
}

/* What the states promise, whatever the table says. */
static void promises(void **state _unused_)
{
	for (unsigned s = 0; s < GUEST_STATE_MAX; s++) {
		enum guest_state to;

		/* Exit is never an error, and nothing comes back from it. */
		assert_int_equal(guest_next_state(s, GUEST_EXITED, &to), 0);
		assert_int_equal(to, GUEST_GONE);
		/* Only a state that injects can be left by a worker's result. */
		if (guest_next_state(s, GUEST_ENTER_FAILED, &to) == 0 && s != GUEST_GONE)
			assert_true(guest_may(s, GUEST_MAY_INJECT));
		for (unsigned e = 0; e < GUEST_EVENT_MAX; e++) {
			if (guest_next_state(s, e, &to) < 0)
				continue;
			/* Merging starts only by entering, and ends by leaving or exit. */
			if (to == GUEST_ENROLLED)
				assert_true(s == GUEST_ENTERING || s == GUEST_ENROLLED);
			if (s == GUEST_ENROLLED)
				assert_true(to == GUEST_ENROLLED || to == GUEST_LEAVING ||
					    to == GUEST_GONE);
		}
		assert_true(strlen(guest_state_to_string(s)) > 1);
	}
	assert_false(guest_may(GUEST_FOUND, GUEST_MAY_READ));
	assert_false(guest_may(GUEST_GONE, GUEST_MAY_READ));
	assert_false(guest_may(GUEST_READY, GUEST_MAY_INJECT));
	assert_false(guest_may(GUEST_LEAVING, GUEST_MAY_MERGE));
	assert_true(guest_may(GUEST_ENROLLED, GUEST_MAY_MERGE));
	assert_string_equal(guest_event_to_string(GUEST_EXITED), "exited");
	assert_string_equal(guest_source_to_string(GUEST_SOURCE_LIBVIRT), "libvirt");
}

static struct guest *new_guest(void)
{
	struct process p;
	struct guest *g = NULL;

	assert_int_equal(process_open(&p, getpid()), 0);
	assert_int_equal(guest_new(&p, GUEST_SOURCE_PROC, &g), 0);
	assert_int_equal(p.pidfd, -1);
	return g;
}

static void life(void **state _unused_)
{
	struct guest *g = new_guest();

	assert_int_equal(g->state, GUEST_FOUND);
	assert_true(guest_is(g, getpid(), g->process.start_ticks));
	assert_false(guest_is(g, getpid(), g->process.start_ticks + 1));
	assert_int_equal(guest_apply(g, GUEST_ENROLL, NULL), -EAGAIN);
	assert_int_equal(guest_apply(g, GUEST_LOOK_REFUSED, "because"), 0);
	assert_string_equal(g->reason, "because");
	/* A refused event changes nothing. */
	assert_int_equal(guest_apply(g, GUEST_ENROLL, "x"), -EPERM);
	assert_string_equal(g->reason, "because");
	assert_int_equal(guest_apply(g, GUEST_LOOKED, NULL), 0);
	assert_string_equal(g->reason, "");
	assert_int_equal(guest_apply(g, GUEST_ENROLL, NULL), 0);
	assert_int_equal(guest_apply(g, GUEST_EXITED, "exited"), 0);
	assert_int_equal(guest_apply(g, GUEST_ENTERED, NULL), 0);
	assert_int_equal(g->state, GUEST_GONE);
	assert_ptr_equal(guest_ref(g), g);
	guest_unref(g);
	guest_unref(g);
	guest_unref(NULL);
}

static void identity(void **state _unused_)
{
	static const char uuid[] = "C7A5FDBD-EDAF-9455-926A-D65C16DB1809";
	struct guest *g = new_guest();

	assert_true(guest_identify(g, GUEST_SOURCE_PROC, "a\nb", uuid));
	assert_string_equal(g->name, "a?b");
	assert_string_equal(g->uuid, "c7a5fdbd-edaf-9455-926a-d65c16db1809");
	assert_false(guest_identify(g, GUEST_SOURCE_PROC, "a\nb", uuid));
	assert_true(guest_identify(g, GUEST_SOURCE_LIBVIRT, "web1", "not-a-uuid"));
	assert_string_equal(g->name, "web1");
	assert_string_equal(g->uuid, "");
	assert_false(guest_identify(g, GUEST_SOURCE_PROC, "liar", uuid));
	assert_string_equal(g->name, "web1");
	assert_true(guest_identify(g, GUEST_SOURCE_LIBVIRT, NULL,
				   "c7a5fdbd-edaf-9455-926a-d65c16db18099"));
	assert_string_equal(g->uuid, "");
	guest_unref(g);
}

static void memory(void **state _unused_)
{
	_cleanup_free_ struct guest_memory *m = calloc(1, sizeof(*m));
	char reason[GUEST_REASON_BYTES];

	assert_int_equal(guest_judge_memory(m, reason), GUEST_LOOK_REFUSED);
	assert_true(strlen(reason) > 0);
	m->n_blocks = 2;
	(void)snprintf(m->blocks[0].refusal, sizeof(m->blocks[0].refusal), "shared");
	(void)snprintf(m->blocks[1].refusal, sizeof(m->blocks[1].refusal), "file");
	assert_int_equal(guest_judge_memory(m, reason), GUEST_LOOK_REFUSED);
	assert_string_equal(reason, "shared");
	m->blocks[1].refusal[0] = '\0';
	assert_int_equal(guest_judge_memory(m, reason), GUEST_LOOKED);
	assert_string_equal(reason, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(transitions), cmocka_unit_test(promises), cmocka_unit_test(life),
		cmocka_unit_test(identity),    cmocka_unit_test(memory),
	};

	return cmocka_run_group_tests_name("guest", tests, NULL, NULL);
}
