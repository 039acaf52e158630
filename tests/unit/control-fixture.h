/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A control server with methods of the tests' own, and clients on the same thread: each step
 * runs the loop until the answer is there or the deadline has passed.
 *
 * Its methods: Echo answers what it was sent; Keep keeps the call in fixture.kept; Forget
 * never answers; Break returns an error; Lie's reply does not fit the interface; Big answers n
 * bytes; Rooted is root's; Later is in the interface only.
 */
#pragma once

#include "daemon/control.h"
#include "tests/unit/unit.h"

#include <sys/socket.h>
#include <sys/un.h>

#define DEADLINE_USEC (20 * USEC_PER_SEC)

struct fixture {
	char dir[64], path[96];
	sd_event *event;
	struct control *control;
	struct control_call *kept;
	unsigned n_calls, n_cancelled;
};

/* For cmocka; tear_down() also sees that nothing is left in the directory. */
int set_up(void **state);
int tear_down(void **state);
/* What set_up() started the server with. */
struct control_config config_of(struct fixture *f);
/* Ends the server and starts another with this configuration. */
void restart(struct fixture *f, const struct control_config *config);

/* One turn of the loop, of 10 ms at most. */
void turn(struct fixture *f);
int connect_to(const char *path);
/* Sends all of it, running the server meanwhile; false when the server hung up. */
bool send_all(struct fixture *f, int fd, const char *buf, size_t len);
/* Sends a message with its NUL. */
void say(struct fixture *f, int fd, const char *text);
/* The next message into buf; false when the server hung up instead. */
bool hear(struct fixture *f, int fd, char *buf, size_t size);
void expect(struct fixture *f, int fd, const char *text);
void expect_hangup(struct fixture *f, int fd);
void ask(struct fixture *f, int fd, const char *question, const char *answer);
/* Runs the loop until the counter has this value. */
void await(struct fixture *f, const unsigned *counter, unsigned value);
void await_no_connection(struct fixture *f);

#define CALL(name)		"{\"method\":\"org.example.test." name "\"}"
#define CALL_WITH(name, params) "{\"method\":\"org.example.test." name "\",\"parameters\":" params "}"
#define SERVICE(name, params)                                                                 \
	"{\"method\":\"org.varlink.service." name "\",\"parameters\":" params "}"
#define INVALID(name)                                                                         \
	"{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"" \
	name "\"}}"
#define STILL_THERE(f, fd)                                            \
	ask(f, fd, CALL_WITH("Echo", "{\"text\":\"still there\"}"),   \
	    "{\"parameters\":{\"text\":\"still there\"}}")

#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
