/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/control-fixture.h"

static void service(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f->path);
	char buf[8192];

	ask(f, fd, SERVICE("GetInfo", "{}"),
	    "{\"parameters\":{\"vendor\":\"memshared\",\"product\":\"memshared\",\"version\":"
	    "\"1.2.3\",\"url\":\"https://memshared.io/\",\"interfaces\":"
	    "[\"org.varlink.service\",\"org.example.test\"]}}");
	say(f, fd, SERVICE("GetInterfaceDescription", "{\"interface\":\"org.example.test\"}"));
	assert_true(hear(f, fd, buf, sizeof(buf)));
	assert_non_null(strstr(buf, "method Echo(text: string)"));
	say(f, fd, SERVICE("GetInterfaceDescription", "{\"interface\":\"org.varlink.service\"}"));
	assert_true(hear(f, fd, buf, sizeof(buf)));
	assert_non_null(strstr(buf, "method GetInfo()"));
	ask(f, fd, SERVICE("GetInterfaceDescription", "{\"interface\":\"a.b\"}"),
	    "{\"error\":\"org.varlink.service.InterfaceNotFound\",\"parameters\":"
	    "{\"interface\":\"a.b\"}}");
	ask(f, fd, SERVICE("GetInterfaceDescription", "{}"), INVALID("interface"));
	ask(f, fd, SERVICE("Nothing", "{}"),
	    "{\"error\":\"org.varlink.service.MethodNotFound\",\"parameters\":"
	    "{\"method\":\"org.varlink.service.Nothing\"}}");
	(void)close(fd);
}

static void calls(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f->path);

	ask(f, fd, CALL_WITH("Echo", "{\"text\":\"hello\"}"),
	    "{\"parameters\":{\"text\":\"hello\"}}");
	ask(f, fd, "{\"method\":\"a.b.C\"}",
	    "{\"error\":\"org.varlink.service.InterfaceNotFound\",\"parameters\":"
	    "{\"interface\":\"a.b\"}}");
	ask(f, fd, CALL("Nothing"),
	    "{\"error\":\"org.varlink.service.MethodNotFound\",\"parameters\":"
	    "{\"method\":\"org.example.test.Nothing\"}}");
	ask(f, fd, CALL("Later"),
	    "{\"error\":\"org.varlink.service.MethodNotImplemented\",\"parameters\":"
	    "{\"method\":\"org.example.test.Later\"}}");
	ask(f, fd, CALL("Break"),
	    "{\"error\":\"org.example.test.Failed\",\"parameters\":{\"message\":"
	    "\"Break failed: No space left on device\",\"errno\":28}}");
	ask(f, fd, CALL("Forget"),
	    "{\"error\":\"org.example.test.Failed\",\"parameters\":{\"message\":"
	    "\"org.example.test.Forget was left without an answer\"}}");
	/* The check of replies catches what the interface does not allow. */
	ask(f, fd, CALL("Lie"),
	    "{\"error\":\"org.example.test.Failed\",\"parameters\":{\"message\":"
	    "\"Lie failed: Invalid argument\",\"errno\":22}}");
	(void)close(fd);
	await_no_connection(f);
}

static void wrong_types(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f->path);

	ask(f, fd, CALL("Echo"), INVALID("text"));
	ask(f, fd, CALL_WITH("Echo", "{\"text\":5}"), INVALID("text"));
	ask(f, fd, CALL_WITH("Echo", "{\"text\":\"a\",\"more\":1}"), INVALID("more"));
	ask(f, fd, CALL_WITH("Echo", "[]"), INVALID("method"));
	ask(f, fd, "{\"method\":5}", INVALID("method"));
	ask(f, fd, "{\"method\":\"no name\"}", INVALID("method"));
	ask(f, fd, "{\"method\":\"org.example.test.Echo\",\"upgrade\":true}", INVALID("upgrade"));
	STILL_THERE(f, fd);
	(void)close(fd);
}

static void answers_keep_their_order(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f->path);

	/* All at once; the second is kept, and the third must wait for it. */
	assert_true(send_all(f, fd,
			     CALL_WITH("Echo", "{\"text\":\"1\"}") "\0" CALL("Keep") "\0"
			     CALL_WITH("Echo", "{\"text\":\"3\"}"),
			     sizeof(CALL_WITH("Echo", "{\"text\":\"1\"}")) + sizeof(CALL("Keep")) +
			     sizeof(CALL_WITH("Echo", "{\"text\":\"3\"}"))));
	expect(f, fd, "{\"parameters\":{\"text\":\"1\"}}");
	await(f, &f->n_calls, 2);
	for (unsigned i = 0; i < 10; i++)
		turn(f);
	assert_int_equal(f->n_calls, 2);
	/* Not asked for: dropped. */
	assert_false(control_call_wants_more(f->kept));
	assert_int_equal(control_call_progress(f->kept, json_pack("{s:i}", "n", 1)), 0);
	assert_int_equal(control_call_reply(f->kept, json_pack("{s:i}", "n", 2)), 0);
	assert_int_equal(control_call_reply(f->kept, NULL), -EALREADY);
	assert_int_equal(control_call_fail(f->kept, "Busy", "no"), -EALREADY);
	expect(f, fd, "{\"parameters\":{\"n\":2}}");
	expect(f, fd, "{\"parameters\":{\"text\":\"3\"}}");
	(void)close(fd);
	assert_int_equal(f->n_cancelled, 0);
}

static void more(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f->path);

	say(f, fd, "{\"method\":\"org.example.test.Keep\",\"more\":true}");
	await(f, &f->n_calls, 1);
	assert_true(control_call_wants_more(f->kept));
	assert_int_equal(control_call_progress(f->kept, json_pack("{s:i}", "n", 1)), 0);
	assert_int_equal(control_call_progress(f->kept, json_pack("{s:s}", "n", "x")), -EINVAL);
	expect(f, fd, "{\"parameters\":{\"n\":1},\"continues\":true}");
	/* Progress that is not read is dropped, not piled up. */
	for (unsigned i = 0; i < 100000; i++)
		assert_int_equal(control_call_progress(f->kept, json_pack("{s:i}", "n", 1)), 0);
	assert_int_equal(control_call_fail(f->kept, "Busy", "%s", "enough"), 0);
	for (bool over = false; !over;) {
		char buf[256];

		assert_true(hear(f, fd, buf, sizeof(buf)));
		over = !strstr(buf, "continues");
		if (over)
			assert_string_equal(buf, "{\"error\":\"org.example.test.Busy\","
						 "\"parameters\":{\"message\":\"enough\"}}");
	}
	STILL_THERE(f, fd);
	(void)close(fd);
}

static void client_leaves(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f->path);

	say(f, fd, CALL("Keep"));
	await(f, &f->n_calls, 1);
	assert_true(control_call_is_open(f->kept));
	assert_int_equal(control_call_uid(f->kept), getuid());
	assert_int_equal(control_call_pid(f->kept), getpid());
	(void)close(fd);
	await(f, &f->n_cancelled, 1);
	assert_false(control_call_is_open(f->kept));
	assert_int_equal(control_call_progress(f->kept, NULL), 0);
	assert_int_equal(control_call_reply(f->kept, NULL), 0);
	await_no_connection(f);
	assert_int_equal(f->n_cancelled, 1);
}

static void server_leaves(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f->path);

	say(f, fd, CALL("Keep"));
	await(f, &f->n_calls, 1);
	control_free(f->control);
	f->control = NULL;
	assert_int_equal(f->n_cancelled, 1);
	assert_int_equal(control_call_fail(f->kept, "Failed", "late"), 0);
	expect_hangup(f, fd);
	(void)close(fd);
}

static void half_closed_client_gets_its_answer(void **state)
{
	struct fixture *f = *state;
	int fd = connect_to(f->path);

	say(f, fd, CALL("Keep"));
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	await(f, &f->n_calls, 1);
	for (unsigned i = 0; i < 10; i++)
		turn(f);
	assert_int_equal(f->n_cancelled, 0);
	assert_int_equal(control_call_reply(f->kept, NULL), 0);
	expect(f, fd, "{\"parameters\":{}}");
	expect_hangup(f, fd);
	(void)close(fd);
}

static void oneway(void **state)
{
	static const char call[] =
		"{\"method\":\"org.example.test.Echo\",\"oneway\":true,"
		"\"parameters\":{\"text\":\"x\"}}";
	struct fixture *f = *state;
	int fd = connect_to(f->path);

	say(f, fd, call);
	STILL_THERE(f, fd);
	assert_int_equal(f->n_calls, 2);
	/* Several, and gone: all are done. */
	for (unsigned i = 0; i < 20; i++)
		assert_true(send(fd, call, sizeof(call), MSG_NOSIGNAL) == sizeof(call));
	(void)close(fd);
	await(f, &f->n_calls, 22);
	await_no_connection(f);
}

static void methods_must_be_in_the_interface(void **state)
{
	static const struct control_method unknown[] = { { .name = "Unknown" } };
	struct fixture *f = *state;
	struct control_config config = config_of(f);
	struct control *c = NULL;
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/other", f->dir);
	config.path = path;
	config.methods = unknown;
	config.n_methods = 1;
	assert_int_equal(control_new(f->event, &config, &c), -EINVAL);
	config.interface = "nonsense";
	config.n_methods = 0;
	assert_int_equal(control_new(f->event, &config, &c), -EINVAL);
	assert_null(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(service),
		test(calls),
		test(wrong_types),
		test(answers_keep_their_order),
		test(more),
		test(client_leaves),
		test(server_leaves),
		test(half_closed_client_gets_its_answer),
		test(oneway),
		test(methods_must_be_in_the_interface),
	};

	return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}
