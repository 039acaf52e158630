/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/varlink.h"
#include "tests/unit/unit.h"

/* Expects this message next. */
static void expect(struct varlink_framer *f, const char *text)
{
	const char *m;
	size_t len;

	assert_int_equal(varlink_framer_next(f, &m, &len), 1);
	assert_int_equal(len, strlen(text));
	assert_memory_equal(m, text, len);
}

static void expect_none(struct varlink_framer *f)
{
	const char *m;
	size_t len;

	assert_int_equal(varlink_framer_next(f, &m, &len), 0);
}

static void framer_cuts_anywhere(void **state _unused_)
{
	static const char stream[] = "one\0\0three\0" "4\0";
	struct varlink_framer f;

	/* Every way to cut the stream in two gives the same messages. */
	for (size_t cut = 0; cut < sizeof(stream); cut++) {
		size_t n = 0;
		const char *m;
		size_t len;

		varlink_framer_init(&f, 5);
		for (size_t i = 0; i < sizeof(stream) - 1; i++) {
			if (i == cut)
				while (varlink_framer_next(&f, &m, &len) == 1)
					n++;
			if (varlink_framer_room(&f) == 0)
				while (varlink_framer_next(&f, &m, &len) == 1)
					n++;
			assert_int_equal(varlink_framer_feed(&f, &stream[i], 1), 0);
		}
		while (varlink_framer_next(&f, &m, &len) == 1)
			n++;
		assert_int_equal(n, 4);
		assert_false(varlink_framer_partial(&f));
		varlink_framer_done(&f);
	}
}

static void framer_bounds(void **state _unused_)
{
	struct varlink_framer f;
	const char *m;
	size_t len;

	varlink_framer_init(&f, 4);
	assert_int_equal(varlink_framer_room(&f), 5);
	assert_int_equal(varlink_framer_feed(&f, "123456", 6), -ENOBUFS);
	assert_int_equal(varlink_framer_feed(&f, "1234", 5), 0);
	assert_int_equal(varlink_framer_room(&f), 0);
	expect(&f, "1234");
	expect_none(&f);
	assert_int_equal(varlink_framer_feed(&f, "1234", 4), 0);
	expect_none(&f);
	assert_true(varlink_framer_partial(&f));
	assert_int_equal(varlink_framer_feed(&f, "5", 1), 0);
	assert_int_equal(varlink_framer_next(&f, &m, &len), -EMSGSIZE);
	assert_int_equal(varlink_framer_next(&f, &m, &len), -EMSGSIZE);
	varlink_framer_done(&f);
}

static void framer_gives_memory_back(void **state _unused_)
{
	static char big[MIB(1)];
	struct varlink_framer f;
	const char *m;
	size_t len;

	memset(big, 'x', sizeof(big));
	big[sizeof(big) - 1] = '\0';
	varlink_framer_init(&f, MIB(1));
	for (size_t at = 0; at < sizeof(big); at += 4096)
		assert_int_equal(varlink_framer_feed(&f, big + at, 4096), 0);
	assert_int_equal(varlink_framer_next(&f, &m, &len), 1);
	assert_int_equal(len, sizeof(big) - 1);
	expect_none(&f);
	assert_int_equal(f.size, 0);
	assert_int_equal(varlink_framer_feed(&f, "a", 2), 0);
	expect(&f, "a");
	varlink_framer_done(&f);
}

static int parse(const char *text, struct varlink_call *ret)
{
	return varlink_call_parse(text, strlen(text), ret);
}

static void calls(void **state _unused_)
{
	struct varlink_call c = {};

	assert_int_equal(parse("{\"method\":\"io.memshared.Guests\"}", &c), 0);
	assert_string_equal(c.interface, "io.memshared");
	assert_string_equal(c.method, "Guests");
	assert_true(json_is_object(c.parameters));
	assert_false(c.more || c.oneway || c.upgrade);
	varlink_call_done(&c);

	assert_int_equal(parse("{\"method\":\"a.b.C\",\"parameters\":{\"pid\":1},\"more\":true,"
			       "\"oneway\":null,\"upgrade\":false,\"other\":[]}",
			       &c),
			 0);
	assert_int_equal(json_integer_value(json_object_get(c.parameters, "pid")), 1);
	assert_true(c.more);
	assert_false(c.oneway || c.upgrade);
	varlink_call_done(&c);
}

static void bad_calls(void **state _unused_)
{
	static const struct {
		const char *text;
		int error;
	} bad[] = {
		{ "", -EBADMSG },
		{ "[]", -EBADMSG },
		{ "{}", -EBADMSG },
		{ "{\"method\":\"a.b.C\"", -EBADMSG },
		{ "{\"method\":\"a.b.C\"} x", -EBADMSG },
		{ "{\"method\":\"a.b.C\",\"method\":\"a.b.D\"}", -EBADMSG },
		{ "{\"method\":\"a.b.\\u0000C\"}", -EBADMSG },
		{ "{\"method\":\"\xff\"}", -EBADMSG },
		{ "{\"method\":1}", -EINVAL },
		{ "{\"method\":null}", -EINVAL },
		{ "{\"method\":\"Guests\"}", -EINVAL },
		{ "{\"method\":\"a.b.C\",\"parameters\":[]}", -EINVAL },
		{ "{\"method\":\"a.b.C\",\"more\":1}", -EINVAL },
		{ "{\"method\":\"a.b.C\",\"oneway\":\"true\"}", -EINVAL },
		{ "{\"method\":\"a.b.C\",\"upgrade\":{}}", -EINVAL },
	};
	struct varlink_call c = {};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse(bad[i].text, &c), bad[i].error);
	assert_null(c.parameters);
}

static void deep_nesting_is_refused(void **state _unused_)
{
	static char deep[100000];
	struct varlink_call c;

	memset(deep, '[', sizeof(deep));
	assert_int_equal(varlink_call_parse(deep, sizeof(deep), &c), -EBADMSG);
}

static void names(void **state _unused_)
{
	static const char *const good[] = { "a.b.C", "io.memshared.GetInfo", "a-b.c1.D2" };
	static const char *const bad[] = { "",	    "C",      "a.C",   "a.b.c",	  "a..b.C",
					   "1a.b.C", "a.b.C-", "a.-b.C", "a.b.C d", ".a.b.C",
					   "a.b." };
	char longest[VARLINK_NAME_MAX + 1];

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(varlink_name_is_valid(good[i]));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(varlink_name_is_valid(bad[i]));
	memset(longest, 'a', sizeof(longest));
	longest[VARLINK_NAME_MAX] = '\0';
	memcpy(longest, "a.b.C", 5);
	assert_false(varlink_name_is_valid(longest));
}

static void replies(void **state _unused_)
{
	struct varlink_reply r = {};
	static const char *const bad[] = { "{\"error\":1}", "{\"error\":\"x\"}",
					   "{\"parameters\":1}", "{\"continues\":1}" };

	assert_int_equal(varlink_reply_parse("{}", 2, &r), 0);
	assert_null(r.error);
	assert_false(r.continues);
	assert_int_equal(json_object_size(r.parameters), 0);
	varlink_reply_done(&r);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(varlink_reply_parse(bad[i], strlen(bad[i]), &r), -EINVAL);
}

static void what_is_built_can_be_parsed(void **state _unused_)
{
	json_auto_t *p = json_pack("{s:i}", "pid", 7);
	struct varlink_reply r;
	struct varlink_call c;
	char *text;
	size_t len;

	assert_int_equal(varlink_call_build("a.b.C", p, true, &text, &len), 0);
	assert_int_equal(text[len - 1], 0);
	assert_int_equal(varlink_call_parse(text, len - 1, &c), 0);
	assert_true(c.more && json_equal(c.parameters, p));
	varlink_call_done(&c);
	free(text);

	assert_int_equal(varlink_reply_build(p, true, &text, &len), 0);
	assert_int_equal(varlink_reply_parse(text, len - 1, &r), 0);
	assert_true(r.continues && !r.error && json_equal(r.parameters, p));
	varlink_reply_done(&r);
	free(text);

	assert_int_equal(varlink_reply_build(NULL, false, &text, &len), 0);
	assert_string_equal(text, "{\"parameters\":{}}");
	free(text);

	assert_int_equal(varlink_error_build("a.b.C", p, &text, &len), 0);
	assert_int_equal(varlink_reply_parse(text, len - 1, &r), 0);
	assert_string_equal(r.error, "a.b.C");
	varlink_reply_done(&r);
	free(text);

	assert_int_equal(varlink_reply_build(json_object_get(p, "pid"), false, &text, &len),
			 -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(framer_cuts_anywhere),
		cmocka_unit_test(framer_bounds),
		cmocka_unit_test(framer_gives_memory_back),
		cmocka_unit_test(calls),
		cmocka_unit_test(bad_calls),
		cmocka_unit_test(deep_nesting_is_refused),
		cmocka_unit_test(names),
		cmocka_unit_test(replies),
		cmocka_unit_test(what_is_built_can_be_parsed),
	};

	return cmocka_run_group_tests_name("varlink", tests, NULL, NULL);
}
