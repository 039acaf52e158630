/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/policy.h"
#include "tests/unit/unit.h"

static struct policy policy;
static char reason[POLICY_REASON_MAX];

static int set(const char *field, const char *value)
{
	return policy_set_by_name(&policy, field, value, POLICY_SOURCE_RUNTIME, "test", reason);
}

static int start_empty(void **state _unused_)
{
	policy_init_empty(&policy);
	*reason = '\0';
	return 0;
}

static void default_is_opt_in_and_alone(void **state _unused_)
{
	policy_init_default(&policy);
	assert_int_equal(policy.enabled, POLICY_NO);
	assert_string_equal(policy.domain, "self");
	assert_int_equal(policy.min_age_usec, 30 * USEC_PER_SEC);
	assert_int_equal(policy.cpu_permille, 1000);
	assert_int_equal(policy.thp_split, 0);
	assert_true(policy.inject);
	assert_int_equal(policy.set, (1U << POLICY_FIELD_MAX) - 1);
}

/* What policy_format() prints, policy_set() takes, for every field. */
static void format_round_trips(void **state _unused_)
{
	static const char *const values[][2] = {
		{"enabled", "estimate"}, {"domain", "tenant-a"},   {"engine", "zero"},
		{"min-age", "250ms"},	 {"min-age", "0s"},	   {"min-age", "7us"},
		{"min-age", "2h"},	 {"min-age", "90s"},	   {"cpu", "0.5%"},
		{"cpu", "200%"},	 {"thp", "split:512"},	   {"thp", "keep"},
		{"inject", "no"},	 {"max-maps", "0"},
		{"cow-backoff", "168h"}, {"tracker", "softdirty"}, {"weight", "1"},
		{"weight", "10000"},
	};
	char text[POLICY_VALUE_MAX];
	enum policy_field f;

	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		assert_int_equal(set(values[i][0], values[i][1]), 0);
		assert_int_equal(policy_field_from_string(values[i][0], &f), 0);
		policy_format(&policy, f, text);
		assert_string_equal(text, values[i][1]);
	}
	policy_init_default(&policy);
	for (unsigned i = 0; i < POLICY_FIELD_MAX; i++) {
		policy_format(&policy, (enum policy_field)i, text);
		assert_int_equal(set(policy_field_to_string((enum policy_field)i), text), 0);
	}
}

static void bad_values_are_refused(void **state _unused_)
{
	static const char *const values[][2] = {
		{"enabled", "Yes"},
		{"enabled", ""},
		{"engine", "uksm"},
		{"min-age", "-1s"},
		{"min-age", "169h"},
		{"min-age", "30 s"},
		{"cpu", "0%"},
		{"cpu", "10"},
		{"cpu", "6400.1%"},
		{"thp", "split"},
		{"thp", "split:0"},
		{"thp", "split:513"},
		{"thp", "keep:1"},
		{"inject", "maybe"},
		{"weight", "0"},
		{"weight", "10001"},
		{"weight", "1.5"},
		{"max-maps", "1048577"},
		{"max-maps", "0x10"},
		{"cow-backoff", "forever"},
		{"tracker", "pml"},
		{"domain", ""},
		{"domain", "a b"},
		{"domain", "-a"},
		{"domain", "a/b"},
		{"domain", "self:x"},
		{"domain", "\xc3\xa4"},
		{"nonsense", "1"},
		{"", ""},
	};
	struct policy before;

	policy_init_default(&policy);
	before = policy;
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		*reason = '\0';
		assert_int_equal(set(values[i][0], values[i][1]), -EINVAL);
		assert_true(*reason);
		assert_memory_equal(&before, &policy, sizeof(before));
	}
	assert_int_equal(set("thp", "split:\n\x1b[31m"), -EINVAL);
	for (const char *c = reason; *c; c++)
		assert_true(*c >= ' ' && *c < 0x7f);
}

static void domain_names_are_bounded(void **state _unused_)
{
	char name[POLICY_DOMAIN_MAX + 2];

	memset(name, 'x', sizeof(name));
	name[POLICY_DOMAIN_MAX] = '\0';
	assert_true(policy_domain_valid(name));
	name[POLICY_DOMAIN_MAX] = 'x';
	name[POLICY_DOMAIN_MAX + 1] = '\0';
	assert_false(policy_domain_valid(name));
	assert_true(policy_domain_valid("self"));
	assert_true(policy_domain_valid("9.a_B-c"));
}

static struct policy_section section(const char *name_glob, const char *field, const char *value)
{
	struct policy_section s = {.name = "s"};

	(void)snprintf(s.match_name, sizeof(s.match_name), "%s", name_glob);
	assert_int_equal(policy_set_by_name(&s.policy, field, value, POLICY_SOURCE_SECTION,
					    "conf:1", reason),
			 0);
	return s;
}

static void stronger_layers_win(void **state _unused_)
{
	const struct policy_section sections[] = {
		section("", "enabled", "estimate"),
		section("web*", "domain", "a"),
		section("*1", "domain", "b"),
		section("db*", "enabled", "yes"),
	};
	const struct policy_subject who = {.name = "web1"};
	struct policy metadata, runtime, p;

	policy_init_empty(&metadata);
	policy_init_empty(&runtime);
	policy_resolve(sections, ARRAY_SIZE(sections), &who, NULL, NULL, &p);
	assert_int_equal(p.enabled, POLICY_ESTIMATE);
	assert_string_equal(p.domain, "b");
	assert_int_equal(p.source[POLICY_FIELD_DOMAIN], POLICY_SOURCE_SECTION);
	assert_string_equal(p.origin[POLICY_FIELD_DOMAIN], "conf:1");
	assert_int_equal(p.source[POLICY_FIELD_CPU], POLICY_SOURCE_DEFAULT);

	assert_int_equal(policy_set_by_name(&metadata, "enabled", "yes", POLICY_SOURCE_METADATA,
					    "metadata", reason),
			 0);
	assert_int_equal(policy_set_by_name(&metadata, "domain", "c", POLICY_SOURCE_METADATA,
					    "metadata", reason),
			 0);
	assert_int_equal(policy_set_by_name(&runtime, "domain", "d", POLICY_SOURCE_RUNTIME,
					    "memsharectl", reason),
			 0);
	policy_resolve(sections, ARRAY_SIZE(sections), &who, &metadata, &runtime, &p);
	assert_int_equal(p.enabled, POLICY_YES);
	assert_string_equal(p.domain, "d");
	assert_int_equal(p.source[POLICY_FIELD_DOMAIN], POLICY_SOURCE_RUNTIME);

	policy_unset(&runtime, POLICY_FIELD_DOMAIN);
	policy_resolve(sections, ARRAY_SIZE(sections), &who, &metadata, &runtime, &p);
	assert_string_equal(p.domain, "c");
}

static void malformed_layer_enrols_nothing(void **state _unused_)
{
	const struct policy_section all = section("", "enabled", "yes");
	const struct policy_subject who = {.name = "web1"};
	struct policy metadata, p;

	policy_refuse(&metadata, POLICY_SOURCE_METADATA, "metadata: no such field \"enable\"");
	policy_resolve(&all, 1, &who, &metadata, NULL, &p);
	assert_int_equal(p.enabled, POLICY_NO);
	assert_non_null(strstr(p.origin[POLICY_FIELD_ENABLED], "enable"));
}

static void rules_match(void **state _unused_)
{
	static const char *const items[] = {"{urn:x}project@id=7", "{urn:x}owner=me"};
	const struct policy_subject who = {
		.name = "web1",
		.uuid = "6695eb01-f6a4-8304-79aa-97f2502e193f",
		.title = "the web",
		.backing = "anonymous",
		.metadata = items,
		.n_metadata = 2,
	};
	const struct policy_subject unknown = {0};
	struct policy_section s = {.match_uuid = "6695EB01-F6A4-8304-79AA-97F2502E193F"};

	assert_true(policy_section_matches(&s, &who));
	assert_false(policy_section_matches(&s, &unknown));
	s = (struct policy_section){.match_title = "*web", .match_backing = "anonymous"};
	assert_true(policy_section_matches(&s, &who));
	strcpy(s.match_backing, "hugetlb");
	assert_false(policy_section_matches(&s, &who));
	s = (struct policy_section){.match_metadata = "*project@id=7"};
	assert_true(policy_section_matches(&s, &who));
	assert_false(policy_section_matches(&s, &unknown));
	s = (struct policy_section){.match_name = "*"};
	assert_false(policy_section_matches(&s, &unknown));
	s = (struct policy_section){0};
	assert_true(policy_section_matches(&s, &unknown));
}

static void json_tells_value_and_origin(void **state _unused_)
{
	json_t *list, *first;

	assert_int_equal(policy_set(&policy, POLICY_FIELD_DOMAIN, "a", POLICY_SOURCE_METADATA,
				    "bytes \xff\n", reason),
			 0);
	list = policy_to_json(&policy);
	assert_int_equal(json_array_size(list), 1);
	first = json_array_get(list, 0);
	assert_string_equal(json_string_value(json_object_get(first, "field")), "domain");
	assert_string_equal(json_string_value(json_object_get(first, "value")), "a");
	assert_string_equal(json_string_value(json_object_get(first, "source")), "metadata");
	assert_string_equal(json_string_value(json_object_get(first, "origin")), "bytes ??");
	json_decref(list);
}

static void equal_looks_at_values_only(void **state _unused_)
{
	struct policy a, b;

	policy_init_default(&a);
	policy_init_default(&b);
	strcpy(b.origin[0], "elsewhere");
	assert_true(policy_equal(&a, &b));
	b.max_maps++;
	assert_false(policy_equal(&a, &b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(default_is_opt_in_and_alone, start_empty),
		cmocka_unit_test_setup(format_round_trips, start_empty),
		cmocka_unit_test_setup(bad_values_are_refused, start_empty),
		cmocka_unit_test(domain_names_are_bounded),
		cmocka_unit_test(stronger_layers_win),
		cmocka_unit_test(malformed_layer_enrols_nothing),
		cmocka_unit_test(rules_match),
		cmocka_unit_test_setup(json_tells_value_and_origin, start_empty),
		cmocka_unit_test(equal_looks_at_values_only),
	};

	return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
