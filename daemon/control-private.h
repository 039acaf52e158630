/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of the control server share: control.c (the server, and which method a call
 * is for), control-connection.c (bytes in and out), control-call.c (a call's life) and
 * control-socket.c (the listening socket). Nobody else includes this.
 *
 * Who points at whom: the server owns its connections; a connection points at the call in
 * progress, if any, and the call at its connection; whichever goes first clears both pointers.
 * A connection is freed only from its own event handlers, from the deferred walk and by
 * control_free(), never while one of its methods runs: whatever goes wrong elsewhere marks it
 * doomed and asks for the walk.
 */
#pragma once

#include "daemon/control.h"

#include <sys/socket.h>

#include "common/interface.h"

struct connection;

/* --- control-socket.c ------------------------------------------------------------------- */

/* A socket that we made, so that we can remove it. Embedded in the server. */
struct control_socket {
	char *path;	 /* NULL when systemd gave us the socket */
	char *lock_path;
	int lock_fd;	 /* flock held for as long as we listen on path */
	dev_t dev;	 /* of the socket, to remove only our own */
	ino_t ino;
	int fd;
};

/* As control_new(). */
int control_socket_open(struct control_socket *s, const char *path, mode_t mode);
/* Takes a listening socket over, on success only. */
int control_socket_adopt(struct control_socket *s, int fd);
void control_socket_close(struct control_socket *s);

/* --- control.c -------------------------------------------------------------------------- */

struct control {
	sd_event *event;
	struct control_socket socket;
	sd_event_source *listen_source, *pause_timer, *walk_source;

	const struct control_method *methods;
	size_t n_methods;
	void *userdata;
	char *version;
	const char *interface_text;
	struct interface *interface, *service;
	bool check_replies;
	uint64_t stall_usec;

	struct connection *connections; /* at most CONTROL_CONNECTIONS_MAX */
	struct control_counters counters;
};

/* Runs or refuses the call, which is answered, kept or failed when this returns. */
void control_dispatch(struct control *c, struct control_call *call);
/* Asks for a walk over all connections: to free the doomed and start waiting calls. */
void control_want_walk(struct control *c);

/* --- control-connection.c --------------------------------------------------------------- */

/* Takes fd over, also on failure. */
int connection_new(struct control *c, int fd, const struct ucred *peer);
void connection_free(struct connection *n);
struct connection *connection_next(const struct connection *n);
uid_t connection_uid(const struct connection *n);
/* Frees a doomed connection; starts the next call of another. */
void connection_walk(struct connection *n);
/* Queues a message, taking buf over. Dooms the connection when too much waits. */
void connection_send(struct connection *n, char *buf, size_t len);
size_t connection_queued(const struct connection *n);
/* The call in progress was answered. */
void connection_call_ended(struct connection *n);
/* The call in progress goes without an answer: the connection will be dropped. */
void connection_abandon(struct connection *n);

/* --- control-call.c --------------------------------------------------------------------- */

/* One reference, the caller's. Takes what is in parsed over, on success only. */
int control_call_new(struct control *c, struct connection *n, const struct ucred *peer,
		     struct varlink_call *parsed, struct control_call **ret);
const struct varlink_call *control_call_parsed(const struct control_call *call);
/* The client has gone: answers go nowhere from now on. */
void control_call_orphan(struct control_call *call);
bool control_call_is_answered(const struct control_call *call);
