/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/unit.h"

#include "daemon/devices.h"
#include "daemon/wish.h"

static struct guest guest_in(enum guest_state s)
{
	struct guest g = { .state = s, .name = "a-1", .uuid = "11111111-2222-4333-8444-555555555555" };

	g.memory.n_blocks = 1;
	g.memory.blocks[0] = (struct ram_block){ .n_pages = 1024, .backing = BLOCK_ANONYMOUS };
	return g;
}

static void set(struct policy *p, enum policy_field f, const char *value)
{
	char reason[POLICY_REASON_MAX];

	assert_int_equal(policy_set(p, f, value, POLICY_SOURCE_SECTION, "test", reason), 0);
}

static struct policy default_with(enum policy_field f, const char *value)
{
	struct policy p;

	policy_init_default(&p);
	set(&p, POLICY_FIELD_ENABLED, "yes");
	set(&p, f, value);
	return p;
}

/* --- who may be believed ------------------------------------------------------------ */

static struct policy_section tenant(const char *match_name)
{
	struct policy_section s = { .name = "tenant" };

	(void)snprintf(s.match_name, sizeof(s.match_name), "%s", match_name);
	policy_init_empty(&s.policy);
	set(&s.policy, POLICY_FIELD_ENABLED, "yes");
	set(&s.policy, POLICY_FIELD_DOMAIN, "tenant-a");
	return s;
}

static struct policy resolve(const struct guest *g, const struct policy_section *s,
			     const struct libvirt_facts *facts, const struct policy *runtime)
{
	struct policy none, p;

	policy_init_empty(&none);
	wish_resolve(s, 1, g, facts, runtime ? runtime : &none, &p);
	return p;
}

static void a_name_alone_opens_nothing(void **state _unused_)
{
	struct guest g = guest_in(GUEST_READY);
	struct policy_section s = tenant("a-*");

	assert_int_equal(resolve(&g, &s, NULL, NULL).enabled, POLICY_NO);
	/* A root-owned program proves nothing either: anybody may start it with any name. */
	g.own_program = false;
	assert_int_equal(resolve(&g, &s, NULL, NULL).enabled, POLICY_NO);
	/* Nor does root running what others may change. */
	g.is_root = g.own_program = true;
	assert_int_equal(resolve(&g, &s, NULL, NULL).enabled, POLICY_NO);
}

static void sections_for_all_leave_strangers_alone(void **state _unused_)
{
	struct guest g = guest_in(GUEST_READY);
	struct policy_section s = tenant("");
	struct policy p = resolve(&g, &s, NULL, NULL);

	assert_int_equal(p.enabled, POLICY_YES);
	assert_string_equal(p.domain, POLICY_SELF);
	assert_non_null(strstr(p.origin[POLICY_FIELD_DOMAIN], "vouches"));
	(void)snprintf(s.match_backing, sizeof(s.match_backing), "anonymous");
	p = resolve(&g, &s, NULL, NULL);
	assert_int_equal(p.enabled, POLICY_YES);
	assert_string_equal(p.domain, POLICY_SELF);
}

static void root_libvirt_and_clients_vouch(void **state _unused_)
{
	struct guest g = guest_in(GUEST_READY);
	struct policy_section s = tenant("a-*");
	struct libvirt_facts facts = { .name = "a-1" };
	struct policy runtime;

	assert_string_equal(resolve(&g, &s, &facts, NULL).domain, "tenant-a");
	policy_init_empty(&runtime);
	set(&runtime, POLICY_FIELD_ENABLED, "no");
	assert_string_equal(resolve(&g, &s, NULL, &runtime).domain, POLICY_SELF);
	set(&runtime, POLICY_FIELD_ENABLED, "yes");
	assert_string_equal(resolve(&g, &s, NULL, &runtime).domain, "tenant-a");
	g.is_root = true;
	assert_string_equal(resolve(&g, &s, NULL, NULL).domain, "tenant-a");
	/* What libvirt calls it counts, not what it calls itself. */
	(void)snprintf(facts.name, sizeof(facts.name), "b-1");
	assert_string_equal(resolve(&g, &s, &facts, NULL).domain, POLICY_SELF);
}

/* --- refusals ------------------------------------------------------------------------- */

static void engines_are_refused_by_either_source(void **state _unused_)
{
	struct guest g = guest_in(GUEST_READY);
	struct libvirt_facts facts = { .flags = LIBVIRT_PAGE_REPORTING };

	wish_refuse_engines(&g, NULL);
	for (unsigned e = 0; e < POLICY_ENGINE_MAX; e++)
		assert_string_equal(g.engine_refusal[e], "");
	wish_refuse_engines(&g, &facts);
	assert_non_null(strstr(g.engine_refusal[POLICY_ENGINE_REMAP], "free page reporting"));
	assert_string_equal(g.engine_refusal[POLICY_ENGINE_KSM], "");
	assert_string_equal(g.engine_refusal[POLICY_ENGINE_AUTO], "");
	g.shows[GUEST_SHOWS_OPEN] = devices_of_link("/dev/vfio/17");
	wish_refuse_engines(&g, &facts);
	for (unsigned e = 0; e < POLICY_ENGINE_MAX; e++)
		assert_true(*g.engine_refusal[e]);
	assert_non_null(strstr(g.engine_refusal[POLICY_ENGINE_KSM], "VFIO"));
}

static void each_refusal_says_what_would_change_it(void **state _unused_)
{
	for (uint32_t flag = 1; flag < LIBVIRT_FLAGS_END; flag <<= 1) {
		struct guest g = guest_in(GUEST_READY);
		struct libvirt_facts facts = { .flags = flag };
		const struct libvirt_refusal *why[LIBVIRT_REFUSALS_MAX];

		if (flag == LIBVIRT_NVDIMM)
			continue;
		assert_int_equal(libvirt_refusals(flag, why), 1);
		wish_refuse_engines(&g, &facts);
		for (unsigned e = POLICY_ENGINE_AUTO + 1; e < POLICY_ENGINE_MAX; e++) {
			if (!(why[0]->engines & 1U << e)) {
				assert_string_equal(g.engine_refusal[e], "");
				continue;
			}
			assert_ptr_equal(strstr(g.engine_refusal[e], why[0]->why), g.engine_refusal[e]);
			/* Whole. */
			assert_non_null(strstr(g.engine_refusal[e], why[0]->remedy));
			assert_int_equal(g.engine_refusal[e][strlen(g.engine_refusal[e]) - 1], ')');
		}
	}
}

/* --- steps ------------------------------------------------------------------------------ */

static enum wish_step step(enum guest_state s, const struct policy *wanted, const struct policy *entered,
			   struct wish w)
{
	struct guest g = guest_in(s);

	w.policy = wanted;
	w.entered = entered;
	return wish_step(&g, &w);
}

static void what_an_earlier_daemon_did_is_undone(void **state _unused_)
{
	struct policy no, yes = default_with(POLICY_FIELD_DOMAIN, "a");

	policy_init_default(&no);
	assert_int_equal(step(GUEST_READY, &no, NULL, (struct wish){ .left_behind = true }), WISH_CLEAR);
	assert_int_equal(step(GUEST_READY, &yes, NULL,
			      (struct wish){ .left_behind = true, .refused = true }), WISH_CLEAR);
	assert_int_equal(step(GUEST_READY, &yes, NULL, (struct wish){ .left_behind = true }), WISH_ENTER);
	assert_int_equal(step(GUEST_READY, &no, NULL,
			      (struct wish){ .left_behind = true, .resting = true }), WISH_WAIT);
	assert_int_equal(step(GUEST_READY, &no, NULL,
			      (struct wish){ .left_behind = true, .held = true }), WISH_WAIT);
	assert_int_equal(step(GUEST_GONE, &no, NULL, (struct wish){ .left_behind = true }), WISH_NOTHING);
}

static void guests_enter_and_leave(void **state _unused_)
{
	struct policy yes = default_with(POLICY_FIELD_DOMAIN, "a"), no;
	struct wish plain = { 0 }, refused = { .refused = true }, held = { .held = true };
	struct wish resting = { .resting = true };

	policy_init_default(&no);
	assert_int_equal(step(GUEST_READY, &no, NULL, plain), WISH_NOTHING);
	assert_int_equal(step(GUEST_READY, &yes, NULL, plain), WISH_ENTER);
	/* It is looked at again first: memory may have come. */
	assert_int_equal(step(GUEST_REFUSED, &yes, NULL, plain), WISH_ENTER);
	assert_int_equal(step(GUEST_READY, &yes, NULL, refused), WISH_NOTHING);
	assert_int_equal(step(GUEST_READY, &yes, NULL, held), WISH_WAIT);
	assert_int_equal(step(GUEST_READY, &yes, NULL, resting), WISH_WAIT);
	assert_int_equal(step(GUEST_ENROLLED, &yes, &yes, plain), WISH_NOTHING);
	assert_int_equal(step(GUEST_ENROLLED, &no, &yes, plain), WISH_LEAVE);
	assert_int_equal(step(GUEST_ENROLLED, &yes, &yes, refused), WISH_LEAVE);
	assert_int_equal(step(GUEST_ENROLLED, &no, &yes, held), WISH_LEAVE);
	assert_int_equal(step(GUEST_ENROLLED, &yes, &yes, held), WISH_WAIT);
	assert_int_equal(step(GUEST_ENROLLED, &yes, &yes, resting), WISH_NOTHING);
	for (enum guest_state s = 0; s < GUEST_STATE_MAX; s++)
		if (s == GUEST_ENTERING || s == GUEST_LEAVING)
			assert_int_equal(step(s, &no, &yes, plain), WISH_WAIT);
	assert_int_equal(step(GUEST_GONE, &yes, &yes, plain), WISH_NOTHING);
	set(&yes, POLICY_FIELD_ENABLED, "estimate");
	assert_int_equal(step(GUEST_READY, &yes, NULL, plain), WISH_NOTHING);
	assert_int_equal(step(GUEST_ENROLLED, &yes, &yes, plain), WISH_LEAVE);
}

static void a_change_is_adapted_or_entered_anew(void **state _unused_)
{
	static const struct {
		enum policy_field field;
		const char *value;
		enum wish_step step;
	} cases[] = {
		{ POLICY_FIELD_DOMAIN, "b", WISH_LEAVE },
		{ POLICY_FIELD_ENGINE, "remap", WISH_LEAVE },
		{ POLICY_FIELD_TRACKER, "rehash", WISH_LEAVE },
		{ POLICY_FIELD_INJECT, "no", WISH_LEAVE },
		{ POLICY_FIELD_THP, "split:8", WISH_LEAVE },
		{ POLICY_FIELD_MIN_AGE, "1s", WISH_ADAPT },
		{ POLICY_FIELD_MAX_MAPS, "5", WISH_ADAPT },
		{ POLICY_FIELD_COW_BACKOFF, "1s", WISH_ADAPT },
		{ POLICY_FIELD_CPU, "1%", WISH_ADAPT },
	};
	struct policy now = default_with(POLICY_FIELD_DOMAIN, "a");
	struct wish plain = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct policy wanted = now;

		set(&wanted, cases[i].field, cases[i].value);
		assert_int_equal(step(GUEST_ENROLLED, &wanted, &now, plain), cases[i].step);
	}
}

static void changed_memory_is_taken_in(void **state _unused_)
{
	struct guest g = guest_in(GUEST_ENROLLED);
	struct policy yes = default_with(POLICY_FIELD_DOMAIN, "a");
	struct wish w = { .policy = &yes, .entered = &yes };

	g.memory_changed = true;
	assert_int_equal(wish_step(&g, &w), WISH_GROW);
	w.moved = true;
	assert_int_equal(wish_step(&g, &w), WISH_LEAVE);
	w.moved = false;
	w.held = true;
	assert_int_equal(wish_step(&g, &w), WISH_WAIT);
	w.held = g.memory_changed = false;
	assert_int_equal(wish_step(&g, &w), WISH_NOTHING);
	w.moved = true;
	assert_int_equal(wish_step(&g, &w), WISH_LEAVE);
}

static void backoff_grows_to_a_bound(void **state _unused_)
{
	uint64_t last = 0;

	assert_int_equal(wish_backoff_usec(0), 0);
	for (unsigned i = 1; i < 100; i++) {
		uint64_t usec = wish_backoff_usec(i);

		assert_true(usec >= last && usec > 0 && usec <= 300 * USEC_PER_SEC);
		last = usec;
	}
	assert_int_equal(wish_backoff_usec(UINT32_MAX), 300 * USEC_PER_SEC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_name_alone_opens_nothing),
		cmocka_unit_test(sections_for_all_leave_strangers_alone),
		cmocka_unit_test(root_libvirt_and_clients_vouch),
		cmocka_unit_test(engines_are_refused_by_either_source),
		cmocka_unit_test(each_refusal_says_what_would_change_it),
		cmocka_unit_test(what_an_earlier_daemon_did_is_undone),
		cmocka_unit_test(guests_enter_and_leave),
		cmocka_unit_test(a_change_is_adapted_or_entered_anew),
		cmocka_unit_test(changed_memory_is_taken_in),
		cmocka_unit_test(backoff_grows_to_a_bound),
	};

	return cmocka_run_group_tests_name("wish", tests, NULL, NULL);
}
