/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/interface.h"
#include "tests/unit/unit.h"

static const char text[] = "# comment\n"
			   "interface a.b\n"
			   "type Color (red, green)\n"
			   "type Node (value: int, next: ?Node)\n"
			   "method Put(n: int, s: ?string, f: ?float, c: ?Color, o: ?object,\n"
			   "  list: ?[](x: bool), map: ?[string]int, node: ?Node) -> ()\n"
			   "method Get() -> (names: []string)\n"
			   "error Bad (why: string)\n";

static struct interface *parse(const char *t)
{
	struct interface *i = NULL;

	assert_int_equal(interface_parse(t, strlen(t), &i, NULL), 0);
	return i;
}

static void members(void **state _unused_)
{
	struct interface *i = parse(text);

	assert_string_equal(interface_name(i), "a.b");
	assert_string_equal(interface_method(i, 0), "Put");
	assert_string_equal(interface_method(i, 1), "Get");
	assert_null(interface_method(i, 2));
	assert_true(interface_has_method(i, "Get"));
	assert_false(interface_has_method(i, "Bad"));
	assert_true(interface_has_error(i, "Bad"));
	interface_free(i);
}

static void bad_texts(void **state _unused_)
{
	static const struct {
		const char *text;
		size_t line;
	} bad[] = {
		{ "", 1 },
		{ "interface", 1 },
		{ "interface a.b\nmethod M()", 2 },
		{ "interface a.b\nmethod M() -> ?()", 2 },
		{ "interface a.b\nmethod m() -> ()", 2 },
		{ "interface a.b\nmethod M() -> ()\n\nmethod M() -> ()", 4 },
		{ "interface a.b\nmethod M(a: int, a: int) -> ()", 2 },
		{ "interface a.b\nmethod M(a, b) -> ()", 2 },
		{ "interface a.b\ntype T (a, b: int)", 2 },
		{ "interface a.b\ntype T (a: int, b)", 2 },
		{ "interface a.b\ntype T (a: Missing)", 2 },
		{ "interface a.b\ntype T int", 2 },
		{ "interface a.b\nerror E (a: int", 2 },
		{ "interface a.b\nnonsense", 2 },
	};
	struct interface *i = NULL;
	size_t line;

	for (size_t n = 0; n < ARRAY_SIZE(bad); n++) {
		line = 0;
		assert_int_equal(interface_parse(bad[n].text, strlen(bad[n].text), &i, &line),
				 -EINVAL);
		assert_int_equal(line, bad[n].line);
	}
	assert_null(i);
}

static void depth_is_bounded(void **state _unused_)
{
	char deep[4096] = "interface a.b\nerror E (a: ";
	struct interface *i = NULL;

	while (strlen(deep) < 4000)
		strcat(deep, "[]");
	strcat(deep, "int)");
	assert_int_equal(interface_parse(deep, strlen(deep), &i, NULL), -E2BIG);
}

/* Checks a call of Put with these parameters; path NULL: expects it to fit. */
static void put(const struct interface *i, const char *json, const char *path,
		const char *problem)
{
	json_auto_t *p = json_loads(json, 0, NULL);
	struct interface_fault f = {};

	assert_non_null(p);
	assert_int_equal(interface_check_call(i, "Put", p, &f), path ? -EINVAL : 0);
	if (path) {
		assert_string_equal(f.path, path);
		assert_string_equal(f.problem, problem);
	}
}

static void calls(void **state _unused_)
{
	static const char type[] = "has the wrong type", missing[] = "is missing",
			  unknown[] = "is not known";
	struct interface *i = parse(text);

	put(i, "{\"n\":1}", NULL, NULL);
	put(i, "{\"n\":1,\"s\":null,\"c\":\"red\",\"f\":1,\"o\":{\"any\":[]}}", NULL, NULL);
	put(i, "{\"n\":1,\"list\":[{\"x\":true}],\"map\":{\"k\":2},"
	       "\"node\":{\"value\":1,\"next\":{\"value\":2}}}",
	    NULL, NULL);
	put(i, "{}", "n", missing);
	put(i, "{\"n\":null}", "n", missing);
	put(i, "{\"n\":\"1\"}", "n", type);
	put(i, "{\"n\":1.5}", "n", type);
	put(i, "{\"n\":true}", "n", type);
	put(i, "{\"n\":1,\"s\":[]}", "s", type);
	put(i, "{\"n\":1,\"c\":\"blue\"}", "c", type);
	put(i, "{\"n\":1,\"o\":[]}", "o", type);
	put(i, "{\"n\":1,\"list\":[{\"x\":true},{\"x\":1}]}", "list[1].x", type);
	put(i, "{\"n\":1,\"list\":[null]}", "list[0]", type);
	put(i, "{\"n\":1,\"list\":[{\"x\":true,\"y\":1}]}", "list[0].y", unknown);
	put(i, "{\"n\":1,\"map\":{\"k\":\"v\"}}", "map.k", type);
	put(i, "{\"n\":1,\"node\":{\"value\":1,\"next\":{}}}", "node.next.value", missing);
	put(i, "{\"n\":1,\"\\u00e4 z\":1}", "???z", unknown);
	interface_free(i);
}

static void replies_may_say_more(void **state _unused_)
{
	struct interface *i = parse(text);
	json_auto_t *good = json_pack("{s:[s], s:i}", "names", "a", "more", 1);
	json_auto_t *bad = json_pack("{s:[i]}", "names", 1);
	struct interface_fault f;

	assert_int_equal(interface_check_reply(i, "Get", good, &f), 0);
	assert_int_equal(interface_check_reply(i, "Get", bad, &f), -EINVAL);
	assert_string_equal(f.path, "names[0]");
	assert_int_equal(interface_check_reply(i, "No", good, &f), -ENOENT);
	assert_int_equal(interface_check_error(i, "Bad", good, &f), -EINVAL);
	assert_string_equal(f.path, "why");
	interface_free(i);
}

static void long_paths_are_cut(void **state _unused_)
{
	struct interface *i = parse(text);
	json_t *p = json_pack("{s:i}", "value", 1);
	json_auto_t *call = json_pack("{s:i}", "n", 1);
	struct interface_fault f;

	json_object_set_new(p, "bad", json_true());
	for (unsigned n = 0; n < 100; n++)
		p = json_pack("{s:i, s:o}", "value", 1, "next", p);
	json_object_set_new(call, "node", p);
	assert_int_equal(interface_check_call(i, "Put", call, &f), -EINVAL);
	assert_true(strlen(f.path) < sizeof(f.path));
	assert_non_null(strstr(f.path, ".next.bad"));
	interface_free(i);
}

static void ours(void **state _unused_)
{
	struct interface *i = parse(interface_text_memshared);

	assert_string_equal(interface_name(i), "io.memshared");
	/* The server answers with these by itself. */
	assert_true(interface_has_error(i, "Failed"));
	assert_true(interface_has_error(i, "PermissionDenied"));
	assert_true(interface_has_error(i, "Busy"));
	interface_free(i);
	i = parse(interface_text_service);
	assert_string_equal(interface_name(i), "org.varlink.service");
	interface_free(i);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(members),
		cmocka_unit_test(bad_texts),
		cmocka_unit_test(depth_is_bounded),
		cmocka_unit_test(calls),
		cmocka_unit_test(replies_may_say_more),
		cmocka_unit_test(long_paths_are_cut),
		cmocka_unit_test(ours),
	};

	return cmocka_run_group_tests_name("interface", tests, NULL, NULL);
}
