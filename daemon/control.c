/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "autoconf.h"

#include "daemon/control-private.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include "common/log.h"

/* Accepted in one turn of the loop, so that a flood of clients doesn't hold up the guests. */
#define ACCEPT_BATCH 16U
/* How long to leave new clients in the queue when descriptors or memory are out. */
#define ACCEPT_PAUSE_USEC USEC_PER_SEC

/* --- which method ----------------------------------------------------------------------- */

static const struct control_method *find_method(const struct control *c, const char *name)
{
	for (size_t i = 0; i < c->n_methods; i++)
		if (streq(c->methods[i].name, name))
			return &c->methods[i];
	return NULL;
}

/* Answers with an error whose only parameter is a string. */
static void refuse(struct control_call *call, const char *error, const char *name,
		   const char *value)
{
	(void)control_call_error(call, error, json_pack("{s:s}", name, value));
}

static void refuse_method(struct control_call *call, const char *error)
{
	const struct varlink_call *parsed = control_call_parsed(call);
	char name[2 * VARLINK_NAME_MAX];

	(void)snprintf(name, sizeof(name), "%s.%s", parsed->interface, parsed->method);
	refuse(call, error, "method", name);
}

static int get_info(const struct control *c, struct control_call *call)
{
	return control_call_reply(call, json_pack("{s:s, s:s, s:s, s:s, s:[s, s]}",
						  "vendor", PACKAGE_NAME,
						  "product", PACKAGE_NAME,
						  "version", c->version,
						  "url", PACKAGE_URL,
						  "interfaces", interface_name(c->service),
						  interface_name(c->interface)));
}

static int get_description(const struct control *c, struct control_call *call)
{
	json_t *parameters = control_call_parsed(call)->parameters;
	const char *name = json_string_value(json_object_get(parameters, "interface"));
	const char *text = NULL;

	if (streq(name, interface_name(c->interface)))
		text = c->interface_text;
	else if (streq(name, interface_name(c->service)))
		text = interface_text_service;
	if (text)
		return control_call_reply(call, json_pack("{s:s}", "description", text));
	refuse(call, VARLINK_ERROR_INTERFACE_NOT_FOUND, "interface", name);
	return 0;
}

/* Are the parameters as the interface says? Answers if not. */
static bool parameters_fit(struct control_call *call, const struct interface *i)
{
	const struct varlink_call *parsed = control_call_parsed(call);
	struct interface_fault fault;

	if (interface_check_call(i, parsed->method, parsed->parameters, &fault) == 0)
		return true;
	(void)control_call_invalid(call, fault.path);
	return false;
}

static int dispatch_service(struct control *c, struct control_call *call)
{
	const char *name = control_call_parsed(call)->method;

	if (!interface_has_method(c->service, name)) {
		refuse_method(call, VARLINK_ERROR_METHOD_NOT_FOUND);
		return 0;
	}
	if (!parameters_fit(call, c->service))
		return 0;
	return streq(name, "GetInfo") ? get_info(c, call) : get_description(c, call);
}

static int dispatch_method(struct control *c, struct control_call *call)
{
	const struct varlink_call *parsed = control_call_parsed(call);
	const struct control_method *m = find_method(c, parsed->method);

	if (!interface_has_method(c->interface, parsed->method)) {
		refuse_method(call, VARLINK_ERROR_METHOD_NOT_FOUND);
		return 0;
	}
	if (!m) {
		refuse_method(call, VARLINK_ERROR_METHOD_NOT_IMPLEMENTED);
		return 0;
	}
	if (m->privileged && control_call_uid(call) != 0)
		return control_call_fail(call, "PermissionDenied", "only root may call %s",
					 parsed->method);
	if (!parameters_fit(call, c->interface))
		return 0;
	return m->call(call, parsed->parameters, c->userdata);
}

void control_dispatch(struct control *c, struct control_call *call)
{
	const struct varlink_call *parsed = control_call_parsed(call);
	int r = 0;

	if (parsed->upgrade)
		r = control_call_invalid(call, "upgrade");
	else if (streq(parsed->interface, interface_name(c->service)))
		r = dispatch_service(c, call);
	else if (streq(parsed->interface, interface_name(c->interface)))
		r = dispatch_method(c, call);
	else
		refuse(call, VARLINK_ERROR_INTERFACE_NOT_FOUND, "interface", parsed->interface);
	if (r < 0 && !control_call_is_answered(call)) {
		char name[2 * VARLINK_NAME_MAX], message[640];

		(void)snprintf(name, sizeof(name), "%s.Failed", interface_name(c->interface));
		(void)snprintf(message, sizeof(message), "%s failed: %s", parsed->method,
			       strerror(-r));
		(void)control_call_error(call, name, json_pack("{s:s, s:i}", "message", message,
							       "errno", -r));
	}
}

/* --- the walk --------------------------------------------------------------------------- */

static int on_walk(sd_event_source *s _unused_, void *userdata)
{
	struct control *c = userdata;

	for (struct connection *n = c->connections, *next; n; n = next) {
		next = connection_next(n);
		connection_walk(n);
	}
	return 0;
}

void control_want_walk(struct control *c)
{
	(void)sd_event_source_set_enabled(c->walk_source, SD_EVENT_ONESHOT);
}

/* --- new clients ------------------------------------------------------------------------ */

/* Which bound a client of this user meets, or NULL. */
static const char *bound_met(const struct control *c, uid_t uid)
{
	size_t others = 0, same = 0;

	if (c->counters.connections >= CONTROL_CONNECTIONS_MAX)
		return "too many clients are connected";
	if (uid == 0)
		return NULL;
	for (struct connection *n = c->connections; n; n = connection_next(n)) {
		others += connection_uid(n) != 0;
		same += connection_uid(n) == uid;
	}
	if (others >= CONTROL_CONNECTIONS_OTHERS)
		return "too many clients of users other than root are connected";
	if (same >= CONTROL_CONNECTIONS_USER)
		return "too many clients of this user are connected";
	return NULL;
}

/* Says why, in one message that fits any socket's buffer, and closes. */
static void turn_away(struct control *c, int fd, const char *why)
{
	json_auto_t *p = json_pack("{s:s}", "message", why);
	_cleanup_free_ char *text = NULL;
	char error[VARLINK_NAME_MAX];
	size_t len;

	c->counters.refused++;
	(void)snprintf(error, sizeof(error), "%s.Busy", interface_name(c->interface));
	if (varlink_error_build(error, p, &text, &len) == 0)
		(void)!send(fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	(void)close(fd);
}

static int accept_one(struct control *c)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);
	const char *why;
	int r, fd = accept4(c->socket.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return -errno;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0) {
		r = -errno;
		(void)close(fd);
		return r;
	}
	why = bound_met(c, peer.uid);
	if (why) {
		turn_away(c, fd, why);
		return 0;
	}
	c->counters.accepted++;
	return connection_new(c, fd, &peer);
}

static int on_pause_over(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	struct control *c = userdata;

	return sd_event_source_set_enabled(c->listen_source, SD_EVENT_ON);
}

/* Out of descriptors or memory: the socket would stay readable and the loop spin. */
static int pause_accepting(struct control *c, int error)
{
	int r;

	LOG_RATELIMITED(LOG_WARNING, NULL, "control: can't take new clients for now: %s",
			strerror(-error));
	r = sd_event_source_set_enabled(c->listen_source, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_source_set_time_relative(c->pause_timer, ACCEPT_PAUSE_USEC);
	if (r >= 0)
		r = sd_event_source_set_enabled(c->pause_timer, SD_EVENT_ONESHOT);
	return r;
}

static int on_listen(sd_event_source *s _unused_, int fd _unused_, uint32_t revents _unused_,
		     void *userdata)
{
	struct control *c = userdata;

	for (unsigned i = 0; i < ACCEPT_BATCH; i++) {
		int r = accept_one(c);

		if (r == -EAGAIN)
			break;
		if (r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS)
			return pause_accepting(c, r);
		/* Anything else is that client's: gone before we looked. */
	}
	return 0;
}

/* --- the server ------------------------------------------------------------------------- */

static int parse_interfaces(struct control *c, const char *text)
{
	int r;

	c->interface_text = text ? text : interface_text_memshared;
	r = interface_parse(c->interface_text, strlen(c->interface_text), &c->interface, NULL);
	if (r < 0)
		return r;
	r = interface_parse(interface_text_service, strlen(interface_text_service), &c->service,
			    NULL);
	if (r < 0)
		return r;
	for (size_t i = 0; i < c->n_methods; i++)
		if (!interface_has_method(c->interface, c->methods[i].name))
			return -EINVAL;
	return 0;
}

static int add_sources(struct control *c)
{
	int r = sd_event_add_io(c->event, &c->listen_source, c->socket.fd, EPOLLIN, on_listen, c);

	if (r >= 0)
		r = sd_event_add_time_relative(c->event, &c->pause_timer, CLOCK_MONOTONIC, 0, 0,
					       on_pause_over, c);
	if (r >= 0)
		r = sd_event_source_set_enabled(c->pause_timer, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_add_defer(c->event, &c->walk_source, on_walk, c);
	return r;
}

int control_new(sd_event *event, const struct control_config *config, struct control **ret)
{
	struct control *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->socket.fd = c->socket.lock_fd = -1;
	c->event = sd_event_ref(event);
	c->methods = config->methods;
	c->n_methods = config->n_methods;
	c->userdata = config->userdata;
	c->check_replies = config->check_replies;
	c->stall_usec = config->stall_usec ? config->stall_usec : CONTROL_STALL_USEC;
	c->version = strdup(config->version ? config->version : PACKAGE_VERSION);
	r = c->version ? parse_interfaces(c, config->interface) : -ENOMEM;
	if (r == 0)
		r = config->listen_fd >= 0
			    ? control_socket_adopt(&c->socket, config->listen_fd)
			    : control_socket_open(&c->socket, config->path, config->mode);
	if (r == 0)
		r = add_sources(c);
	if (r < 0) {
		/* A socket that was passed stays the caller's on failure. */
		if (config->listen_fd >= 0)
			c->socket.fd = -1;
		control_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

void control_free(struct control *c)
{
	if (!c)
		return;
	while (c->connections)
		connection_free(c->connections);
	(void)sd_event_source_disable_unref(c->listen_source);
	(void)sd_event_source_disable_unref(c->pause_timer);
	(void)sd_event_source_disable_unref(c->walk_source);
	control_socket_close(&c->socket);
	interface_free(c->interface);
	interface_free(c->service);
	(void)sd_event_unref(c->event);
	free(c->version);
	free(c);
}

void control_counters(const struct control *c, struct control_counters *ret)
{
	*ret = c->counters;
}
