/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/call.h"

#include <sys/socket.h>
#include <sys/un.h>

#include "client/client.h"
#include "client/print.h"
#include "client/progress.h"
#include "common/interface.h"
#include "common/io.h"
#include "common/varlink.h"

struct link {
	int fd;
	struct varlink_framer in;
	struct interface *interface;
};

static void complain_connect(const char *path, int error)
{
	switch (error) {
	case ENOENT:
	case ECONNREFUSED:
		complain("memshared is not running: nobody listens on %s "
			 "(systemctl start memshared)", path);
		break;
	case EACCES:
	case EPERM:
		complain("no permission to use %s: be root, or see SocketMode in "
			 "memshared.conf(5)", path);
		break;
	default:
		complain("can't connect to %s: %s", path, strerror(error));
		break;
	}
}

int link_open(const char *path, struct link **ret)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct link *l;

	if (strlen(path) >= sizeof(address.sun_path)) {
		complain("the socket's path is too long: %s", path);
		return STATUS_USAGE;
	}
	strcpy(address.sun_path, path);
	l = must(calloc(1, sizeof(*l)));
	varlink_framer_init(&l->in, VARLINK_REPLY_MAX);
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (l->fd < 0 || connect(l->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		complain_connect(path, errno);
		link_close(l);
		return STATUS_UNREACHABLE;
	}
	if (interface_parse(interface_text_memshared, strlen(interface_text_memshared),
			    &l->interface, NULL) < 0)
		must(NULL);
	*ret = l;
	return STATUS_OK;
}

void link_close(struct link *l)
{
	if (!l)
		return;
	varlink_framer_done(&l->in);
	interface_free(l->interface);
	close_fdp(&l->fd);
	free(l);
}

/* Sends all, whether or not the daemon still listens: it may have said why it doesn't. */
static void send_all(int fd, const char *buf, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, buf, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return;
		buf += n;
		len -= (size_t)n;
	}
}

/* The next message; 0 or -errno, -EPIPE when the daemon hung up. */
static int receive(struct link *l, const char **ret, size_t *ret_len)
{
	char buf[65536];

	for (;;) {
		int r = varlink_framer_next(&l->in, ret, ret_len);
		ssize_t n;

		if (r != 0)
			return r < 0 ? r : 0;
		n = recv(l->fd, buf, MIN(sizeof(buf), varlink_framer_room(&l->in)), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 && errno != ECONNRESET ? -errno : -EPIPE;
		r = varlink_framer_feed(&l->in, buf, (size_t)n);
		if (r < 0)
			return r;
	}
}

/* The member as a string that may be printed, or NULL. */
static char *get_text(json_t *o, const char *name)
{
	const char *s = json_string_value(json_object_get(o, name));

	return s ? printable(s) : NULL;
}

static void complain_error(const char *method, const struct varlink_reply *reply)
{
	_cleanup_free_ char *message = get_text(reply->parameters, "message");
	_cleanup_free_ char *remedy = get_text(reply->parameters, "remedy");
	_cleanup_free_ char *parameter = get_text(reply->parameters, "parameter");

	if (message && remedy)
		complain("%s (%s)", message, remedy);
	else if (message)
		complain("%s", message);
	else if (streq(reply->error, VARLINK_ERROR_METHOD_NOT_FOUND) ||
		 streq(reply->error, VARLINK_ERROR_METHOD_NOT_IMPLEMENTED) ||
		 streq(reply->error, VARLINK_ERROR_INTERFACE_NOT_FOUND))
		complain("this daemon does not know %s: is it of another version?", method);
	else if (parameter)
		complain("the daemon does not accept %s of %s", parameter, method);
	else
		complain("%s failed: %s", method, reply->error);
}

/* Is the reply as the interface says? Progress and results both. */
static int check_reply(struct link *l, const char *method, json_t *parameters)
{
	struct interface_fault fault;
	_cleanup_free_ char *path = NULL;

	if (interface_check_reply(l->interface, method, parameters, &fault) == 0)
		return STATUS_OK;
	path = printable(fault.path);
	complain("the daemon's answer to %s can't be understood: %s %s", method, path,
		 fault.problem);
	return STATUS_FAILED;
}

/* One reply; STATUS_OK with *ret_more telling whether others follow. */
static int take_reply(struct link *l, const char *method, struct varlink_reply *ret)
{
	const char *message;
	size_t len;
	int r = receive(l, &message, &len);

	if (r == 0)
		r = varlink_reply_parse(message, len, ret);
	if (r == 0)
		return STATUS_OK;
	progress_clear();
	if (r == -EPIPE)
		complain("the daemon ended the connection without an answer to %s", method);
	else
		complain("the daemon's answer to %s can't be read: %s", method, strerror(-r));
	return STATUS_FAILED;
}

static int finish(struct link *l, const char *method, struct varlink_reply *reply, json_t **ret)
{
	int status = STATUS_FAILED;

	progress_clear();
	if (reply->error)
		complain_error(method, reply);
	else
		status = check_reply(l, method, reply->parameters);
	if (status == STATUS_OK)
		*ret = json_incref(reply->parameters);
	varlink_reply_done(reply);
	return status;
}

int link_call(struct link *l, const char *method, json_t *parameters, progress_fn *on_progress,
	      void *userdata, json_t **ret)
{
	json_auto_t *owned = parameters;
	struct varlink_reply reply;
	_cleanup_free_ char *text = NULL;
	char name[128];
	size_t len;
	int status;

	(void)snprintf(name, sizeof(name), "io.memshared.%s", method);
	if (varlink_call_build(name, owned, on_progress != NULL, &text, &len) < 0)
		must(NULL);
	send_all(l->fd, text, len);
	for (;;) {
		status = take_reply(l, method, &reply);
		if (status != STATUS_OK)
			return status;
		if (!reply.continues || reply.error)
			return finish(l, method, &reply, ret);
		status = check_reply(l, method, reply.parameters);
		if (status == STATUS_OK && on_progress)
			on_progress(reply.parameters, userdata);
		varlink_reply_done(&reply);
		if (status != STATUS_OK)
			return status;
	}
}

int call_once(const char *path, const char *method, json_t *parameters, json_t **ret)
{
	struct link *l = NULL;
	int status = link_open(path, &l);

	if (status == STATUS_OK)
		status = link_call(l, method, parameters, NULL, NULL, ret);
	else
		json_decref(parameters);
	link_close(l);
	return status;
}
