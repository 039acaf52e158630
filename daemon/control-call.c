/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/control-private.h"

#include <sys/socket.h>

#include "common/log.h"

struct control_call {
	unsigned n_refs;
	/* NULL once the connection or the server has gone. */
	struct connection *connection;
	struct control *control;

	struct varlink_call parsed;
	struct ucred peer;
	bool answered;
	void (*cancel)(struct control_call *call, void *userdata);
	void *cancel_userdata;
};

int control_call_new(struct control *c, struct connection *n, const struct ucred *peer,
		     struct varlink_call *parsed, struct control_call **ret)
{
	struct control_call *call = calloc(1, sizeof(*call));

	if (!call)
		return -ENOMEM;
	call->n_refs = 1;
	call->control = c;
	call->connection = n;
	call->peer = *peer;
	call->parsed = *parsed;
	*parsed = (struct varlink_call){};
	*ret = call;
	return 0;
}

struct control_call *control_call_ref(struct control_call *call)
{
	assert(call->n_refs > 0);
	call->n_refs++;
	return call;
}

struct control_call *control_call_unref(struct control_call *call)
{
	if (!call)
		return NULL;
	assert(call->n_refs > 0);
	if (call->n_refs == 1 && !call->answered)
		(void)control_call_fail(call, "Failed", "%s.%s was left without an answer",
					call->parsed.interface, call->parsed.method);
	if (--call->n_refs > 0)
		return NULL;
	/* No memory even for that: the client must not wait, nor take a later answer for it. */
	if (!call->answered && call->connection)
		connection_abandon(call->connection);
	varlink_call_done(&call->parsed);
	free(call);
	return NULL;
}

const struct varlink_call *control_call_parsed(const struct control_call *call)
{
	return &call->parsed;
}

bool control_call_is_answered(const struct control_call *call)
{
	return call->answered;
}

bool control_call_wants_more(const struct control_call *call)
{
	return call->parsed.more && !call->parsed.oneway;
}

bool control_call_is_open(const struct control_call *call)
{
	return call->connection && !call->answered;
}

uid_t control_call_uid(const struct control_call *call)
{
	return call->peer.uid;
}

pid_t control_call_pid(const struct control_call *call)
{
	return call->peer.pid;
}

void control_call_on_cancel(struct control_call *call,
			    void (*fn)(struct control_call *call, void *userdata), void *userdata)
{
	call->cancel = fn;
	call->cancel_userdata = userdata;
}

void control_call_orphan(struct control_call *call)
{
	void (*cancel)(struct control_call *call, void *userdata) = call->cancel;

	call->connection = NULL;
	call->control = NULL;
	call->cancel = NULL;
	/* Who sent a call with "oneway" does not wait for it: that he leaves means nothing. */
	if (cancel && !call->answered && !call->parsed.oneway) {
		(void)control_call_ref(call);
		cancel(call, call->cancel_userdata);
		(void)control_call_unref(call);
	}
}

/* A reply that the interface does not allow is a bug of the method's; tests must see it. */
static int check_reply(const struct control_call *call, json_t *parameters)
{
	const struct control *c = call->control;
	struct interface_fault fault;
	int r = 0;

	if (!c->check_replies || !streq(call->parsed.interface, interface_name(c->interface)))
		return 0;
	r = interface_check_reply(c->interface, call->parsed.method, parameters, &fault);
	if (r == -EINVAL)
		log_error("reply of %s: %s %s", call->parsed.method, fault.path, fault.problem);
	return r;
}

/* Sends what a builder made. */
static void send_built(struct control_call *call, char *text, size_t len)
{
	if (call->connection && !call->parsed.oneway)
		connection_send(call->connection, text, len);
	else
		free(text);
}

/* The call is over, whether the answer could be built or not. */
static void end_call(struct control_call *call)
{
	call->answered = true;
	call->cancel = NULL;
	if (call->connection)
		connection_call_ended(call->connection);
}

int control_call_reply(struct control_call *call, json_t *parameters)
{
	json_auto_t *p = parameters ? parameters : json_object();
	char *text;
	size_t len;
	int r;

	if (call->answered)
		return -EALREADY;
	if (!call->connection) {
		end_call(call);
		return 0;
	}
	r = p ? check_reply(call, p) : -ENOMEM;
	if (r == 0)
		r = varlink_reply_build(p, false, &text, &len);
	if (r < 0)
		return r;
	send_built(call, text, len);
	end_call(call);
	return 0;
}

int control_call_error(struct control_call *call, const char *error, json_t *parameters)
{
	json_auto_t *p = parameters;
	char *text;
	size_t len;
	int r;

	if (call->answered)
		return -EALREADY;
	if (call->control)
		call->control->counters.errors++;
	r = varlink_error_build(error, p, &text, &len);
	if (r < 0)
		return r;
	send_built(call, text, len);
	end_call(call);
	return 0;
}

int control_call_fail(struct control_call *call, const char *error, const char *fmt, ...)
{
	char name[VARLINK_NAME_MAX], message[512];
	va_list ap;
	json_t *p;

	va_start(ap, fmt);
	(void)vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	if (!call->control) {
		/* Nobody is there to be told, and the interface's name may be gone too. */
		if (call->answered)
			return -EALREADY;
		end_call(call);
		return 0;
	}
	(void)snprintf(name, sizeof(name), "%s.%s", interface_name(call->control->interface),
		       error);
	/* A message that is cut or quotes a name from outside may be no UTF-8: plain ASCII then. */
	p = json_pack("{s:s}", "message", message);
	if (!p) {
		for (char *c = message; *c; c++)
			if ((unsigned char)*c >= 0x80)
				*c = '?';
		p = json_pack("{s:s}", "message", message);
	}
	return control_call_error(call, name, p);
}

int control_call_invalid(struct control_call *call, const char *parameter)
{
	return control_call_error(call, VARLINK_ERROR_INVALID_PARAMETER,
				  json_pack("{s:s}", "parameter", parameter));
}

int control_call_progress(struct control_call *call, json_t *parameters)
{
	json_auto_t *p = parameters ? parameters : json_object();
	char *text;
	size_t len;
	int r;

	if (call->answered)
		return -EALREADY;
	if (!call->connection || !control_call_wants_more(call) ||
	    connection_queued(call->connection) >= CONTROL_PROGRESS_QUEUE_MAX)
		return 0;
	r = p ? check_reply(call, p) : -ENOMEM;
	if (r == 0)
		r = varlink_reply_build(p, true, &text, &len);
	if (r < 0)
		return r;
	send_built(call, text, len);
	return 0;
}
