/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control server: Varlink calls on a Unix socket, handed to a table of methods.
 *
 * It knows connections, permissions and bounds, and nothing of guests. A method is a function
 * in a table; the interface text (conf/io.memshared.varlink, built in) says which parameters
 * it takes. Before a method runs, its caller was checked (privileged) and the parameters were
 * checked against the interface: every member has the type that is written there, required
 * ones are present, unknown ones are refused. So a method may read them without asking again,
 * and checks only values.
 *
 * Life of a call:
 *
 *   method.call() runs on the loop. It answers at once with control_call_reply() or
 *   control_call_error(), or keeps the call (control_call_ref()) and answers later: exactly one
 *   of these two ends a call. Before the end, control_call_progress() may send any number of
 *   replies marked "continues" to a caller that asked for "more".
 *   A call that is kept outlives its client: answers then go nowhere, and
 *   control_call_on_cancel() tells who wants to stop the work. A call whose last
 *   reference goes without an answer is answered io.memshared.Failed.
 *   A client's next call starts when the one before has been answered and the answer was sent.
 *
 * Who may call: root everything; other users only methods that are not privileged, and only
 * where the socket's mode lets them connect.
 *
 * Bounds: CONTROL_CONNECTIONS_MAX connections, of which users other than root get no more than
 * CONTROL_CONNECTIONS_OTHERS, and each of them CONTROL_CONNECTIONS_USER; calls of at most
 * VARLINK_CALL_MAX bytes (others: CONTROL_CALL_MAX_OTHERS); CONTROL_QUEUE_MAX bytes of unread
 * answers. A client that reads nothing for CONTROL_STALL_USEC while answers wait, or leaves a
 * call half sent for so long, is dropped. A client that closes its end cancels its call; one
 * that only stops sending (shutdown) still gets its answers.
 *
 * Thread: everything on the loop's.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include <jansson.h>
#include <systemd/sd-event.h>

#include "common/util.h"
#include "common/varlink.h"

#define CONTROL_CONNECTIONS_MAX	   64U
#define CONTROL_CONNECTIONS_OTHERS 48U
#define CONTROL_CONNECTIONS_USER   16U
#define CONTROL_CALL_MAX_OTHERS	   KIB(64)
#define CONTROL_QUEUE_MAX	   MIB(16)
/* Progress is dropped, not queued, while this much waits to be read. */
#define CONTROL_PROGRESS_QUEUE_MAX KIB(64)
#define CONTROL_STALL_USEC	   (30 * USEC_PER_SEC)

struct control;
struct control_call;

struct control_method {
	const char *name; /* without the interface: "Guests" */
	/*
	 * parameters is an object that fits the interface, borrowed for the call (json_incref()
	 * to keep it). 0 when the call was answered or kept; -errno to have it answered
	 * io.memshared.Failed (-ENOMEM and the like: what no sentence of the method's explains).
	 */
	int (*call)(struct control_call *call, json_t *parameters, void *userdata);
	bool privileged; /* root only */
};

struct control_config {
	/* Where to listen; the directory exists. A socket left behind by a dead daemon is
	 * replaced. Not used when listen_fd is given. */
	const char *path;
	mode_t mode; /* of the socket: 0660 */
	/* A listening socket from systemd (sd_listen_fds); -1 for none. Taken over on success. */
	int listen_fd;
	const char *interface; /* the text of the interface; NULL: interface_text_memshared */
	const struct control_method *methods; /* outlives the server */
	size_t n_methods;
	void *userdata; /* for the methods */
	const char *version; /* for GetInfo */
	uint64_t stall_usec; /* 0: CONTROL_STALL_USEC */
	bool check_replies;  /* answers are checked against the interface too (tests) */
};

/*
 * Starts to listen. -EADDRINUSE when another process answers on path, -EEXIST when something
 * that is no socket has its name, -ENAMETOOLONG, -EINVAL when listen_fd is no listening Unix
 * stream socket or a method of the table is not in the interface; otherwise as socket calls say.
 */
int control_new(sd_event *event, const struct control_config *config, struct control **ret);
/* Drops all connections (calls that are kept stay valid, and go nowhere), and removes the
 * socket unless systemd gave it. NULL is fine. */
void control_free(struct control *c);

struct control_counters {
	uint64_t connections;	   /* now */
	uint64_t accepted, refused; /* refused: over the bound */
	uint64_t calls, errors;	   /* errors: answered with one */
	uint64_t dropped;	   /* bad framing, too long, too slow */
};
void control_counters(const struct control *c, struct control_counters *ret);

struct control_call *control_call_ref(struct control_call *call);
/* Returns NULL. NULL is fine. */
struct control_call *control_call_unref(struct control_call *call);

/*
 * Answers. All take the parameters over (also on failure); NULL is an empty object. They return
 * 0 also when the client has gone; -ENOMEM; -EALREADY when the call has been answered.
 */
int control_call_reply(struct control_call *call, json_t *parameters);
/* error is a full name: "io.memshared.NoSuchGuest". */
int control_call_error(struct control_call *call, const char *error, json_t *parameters);
/* An error of io.memshared ("Busy", "Failed") whose only parameter is its message. */
int control_call_fail(struct control_call *call, const char *error, const char *fmt, ...)
	_printf_(3, 4);
/* "org.varlink.service.InvalidParameter": the value of this parameter is no good. */
int control_call_invalid(struct control_call *call, const char *parameter);
/* One of several replies. Does nothing when the caller did not ask for more or reads too
 * slowly (CONTROL_PROGRESS_QUEUE_MAX): meant for what the next one makes obsolete. */
int control_call_progress(struct control_call *call, json_t *parameters);

bool control_call_wants_more(const struct control_call *call);
/* False when the client has gone or the call was answered. */
bool control_call_is_open(const struct control_call *call);
/* Credentials of the client's process when it connected. */
uid_t control_call_uid(const struct control_call *call);
pid_t control_call_pid(const struct control_call *call);
/* fn runs at most once, when the client goes away before the answer; never after the
 * answer. A NULL fn takes it back. The call is still valid within fn, and may be unreffed. */
void control_call_on_cancel(struct control_call *call, void (*fn)(struct control_call *call,
								  void *userdata), void *userdata);

static inline void control_call_unrefp(struct control_call **call)
{
	*call = control_call_unref(*call);
}
#define _cleanup_call_ _cleanup_(control_call_unrefp)
