/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/control-fixture.h"

#include <sys/stat.h>

static const char interface[] = "interface org.example.test\n"
				"method Echo(text: string) -> (text: string)\n"
				"method Keep(n: ?int) -> (n: ?int)\n"
				"method Forget() -> ()\n"
				"method Break() -> ()\n"
				"method Lie() -> (n: int)\n"
				"method Big(n: int) -> (text: string)\n"
				"method Rooted() -> ()\n"
				"method Later() -> ()\n"
				"error Failed (message: string, errno: ?int)\n"
				"error Busy (message: string)\n"
				"error PermissionDenied (message: string)\n";

static int method_echo(struct control_call *call, json_t *parameters, void *userdata)
{
	struct fixture *f = userdata;

	f->n_calls++;
	return control_call_reply(call, json_incref(parameters));
}

static void on_cancel(struct control_call *call, void *userdata)
{
	struct fixture *f = userdata;

	assert_ptr_equal(call, f->kept);
	f->n_cancelled++;
}

static int method_keep(struct control_call *call, json_t *parameters _unused_, void *userdata)
{
	struct fixture *f = userdata;

	assert_null(f->kept);
	f->n_calls++;
	f->kept = control_call_ref(call);
	control_call_on_cancel(call, on_cancel, f);
	return 0;
}

static int method_forget(struct control_call *call _unused_, json_t *parameters _unused_,
			 void *userdata _unused_)
{
	return 0;
}

static int method_break(struct control_call *call _unused_, json_t *parameters _unused_,
			void *userdata _unused_)
{
	return -ENOSPC;
}

static int method_lie(struct control_call *call, json_t *parameters _unused_,
		      void *userdata _unused_)
{
	return control_call_reply(call, json_pack("{s:s}", "n", "no number"));
}

static int method_big(struct control_call *call, json_t *parameters, void *userdata _unused_)
{
	size_t n = (size_t)json_integer_value(json_object_get(parameters, "n"));
	_cleanup_free_ char *text = malloc(n + 1);

	assert_non_null(text);
	memset(text, 'x', n);
	text[n] = '\0';
	return control_call_reply(call, json_pack("{s:s}", "text", text));
}

static int method_rooted(struct control_call *call, json_t *parameters _unused_,
			 void *userdata _unused_)
{
	return control_call_reply(call, NULL);
}

static const struct control_method methods[] = {
	{ "Echo", method_echo, false },	    { "Keep", method_keep, false },
	{ "Forget", method_forget, false }, { "Break", method_break, false },
	{ "Lie", method_lie, false },	    { "Big", method_big, false },
	{ "Rooted", method_rooted, true },
};

struct control_config config_of(struct fixture *f)
{
	return (struct control_config){ .path = f->path,
					.mode = 0666,
					.listen_fd = -1,
					.interface = interface,
					.methods = methods,
					.n_methods = ARRAY_SIZE(methods),
					.userdata = f,
					.version = "1.2.3",
					.check_replies = true };
}

int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct control_config config;

	assert_non_null(f);
	strcpy(f->dir, "/tmp/memshared-control-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(chmod(f->dir, 0755), 0);
	(void)snprintf(f->path, sizeof(f->path), "%s/socket", f->dir);
	assert_true(sd_event_new(&f->event) >= 0);
	config = config_of(f);
	assert_int_equal(control_new(f->event, &config, &f->control), 0);
	*state = f;
	return 0;
}

int tear_down(void **state)
{
	struct fixture *f = *state;

	control_free(f->control);
	control_call_unref(f->kept);
	sd_event_unref(f->event);
	/* Nothing is left in the directory. */
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
	return 0;
}

void restart(struct fixture *f, const struct control_config *config)
{
	control_free(f->control);
	f->control = NULL;
	assert_int_equal(control_new(f->event, config, &f->control), 0);
}

int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	strcpy(address.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

void turn(struct fixture *f)
{
	assert_true(sd_event_run(f->event, 10 * USEC_PER_MSEC) >= 0);
}

bool send_all(struct fixture *f, int fd, const char *buf, size_t len)
{
	uint64_t deadline = now_usec() + DEADLINE_USEC;

	while (len > 0) {
		ssize_t n = send(fd, buf, len, MSG_NOSIGNAL);

		assert_true(now_usec() < deadline);
		if (n < 0 && errno != EAGAIN)
			return false;
		if (n > 0) {
			buf += n;
			len -= (size_t)n;
		}
		turn(f);
	}
	return true;
}

void say(struct fixture *f, int fd, const char *text)
{
	assert_true(send_all(f, fd, text, strlen(text) + 1));
}

bool hear(struct fixture *f, int fd, char *buf, size_t size)
{
	uint64_t deadline = now_usec() + DEADLINE_USEC;
	size_t have = 0;

	for (;;) {
		ssize_t n;

		assert_true(have < size);
		n = recv(fd, buf + have, 1, 0);
		if (n == 0 || (n < 0 && errno == ECONNRESET))
			return false;
		if (n < 0) {
			assert_int_equal(errno, EAGAIN);
			assert_true(now_usec() < deadline);
			turn(f);
			continue;
		}
		if (buf[have++] == '\0')
			return true;
	}
}

void expect(struct fixture *f, int fd, const char *text)
{
	char buf[8192];

	assert_true(hear(f, fd, buf, sizeof(buf)));
	assert_string_equal(buf, text);
}

void expect_hangup(struct fixture *f, int fd)
{
	char buf[8192];

	assert_false(hear(f, fd, buf, sizeof(buf)));
}

void ask(struct fixture *f, int fd, const char *question, const char *answer)
{
	say(f, fd, question);
	expect(f, fd, answer);
}

void await(struct fixture *f, const unsigned *counter, unsigned value)
{
	uint64_t deadline = now_usec() + DEADLINE_USEC;

	while (*counter != value) {
		assert_true(now_usec() < deadline);
		turn(f);
	}
}

void await_no_connection(struct fixture *f)
{
	uint64_t deadline = now_usec() + DEADLINE_USEC;
	struct control_counters n;

	for (control_counters(f->control, &n); n.connections; control_counters(f->control, &n)) {
		assert_true(now_usec() < deadline);
		turn(f);
	}
}
