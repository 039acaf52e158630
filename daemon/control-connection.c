/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One client: bytes in, calls one after the other, answers out.
 *
 * At any moment a connection does one of four things, and what it waits for follows from it:
 *
 *   reading     no call, nothing to send          waits for input
 *   ready       a whole call is buffered          waits for the walk
 *   calling     a call is in progress             waits for the method (and a hang-up)
 *   sending     answers wait to be read           waits for room in the socket
 *
 * (calling and sending may overlap). It reads only in the first state. So a client that sends
 * without reading fills its own socket and blocks itself, and what a connection holds is
 * bounded by one call and the answers to it. Answers are sent from the event handler and never
 * from where they are made; so no method meets a connection that dies under it.
 *
 * Calls that arrived together are started one per turn of the loop, so that no client keeps
 * the others, or the guests, waiting.
 */
#include "daemon/control-private.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include "common/log.h"

#define READ_BYTES KIB(16)

/* A message on its way out. */
struct chunk {
	struct chunk *next;
	char *buf;
	size_t len, sent;
};

struct connection {
	struct control *control;
	struct connection *next, **prev;
	sd_event_source *io, *stall;
	int fd;
	struct ucred peer;

	struct varlink_framer in;
	struct chunk *out, **out_tail;
	size_t out_bytes;
	struct control_call *call; /* in progress; not a reference */
	bool ready;  /* a whole call may be buffered: the walk looks */
	bool doomed;
};

uid_t connection_uid(const struct connection *n)
{
	return n->peer.uid;
}

struct connection *connection_next(const struct connection *n)
{
	return n->next;
}

size_t connection_queued(const struct connection *n)
{
	return n->out_bytes;
}

static void restart_clock(struct connection *n)
{
	if (sd_event_source_set_time_relative(n->stall, n->control->stall_usec) < 0)
		n->doomed = true;
}

/*
 * The clock runs while the client owes us something: to read, or the rest of a call. Reading
 * sets it back; sending does not, so a call must be whole in time however it drips in.
 */
static void update_clock(struct connection *n)
{
	bool owes = n->out || (!n->call && !n->ready && varlink_framer_partial(&n->in));
	bool runs = sd_event_source_get_enabled(n->stall, NULL) > 0;

	if (owes == runs)
		return;
	if (owes)
		restart_clock(n);
	if (sd_event_source_set_enabled(n->stall, owes ? SD_EVENT_ONESHOT : SD_EVENT_OFF) < 0)
		n->doomed = true;
}

/* Waits for what the state asks for. */
static void update(struct connection *n)
{
	uint32_t events = 0;

	if (n->out)
		events = EPOLLOUT;
	else if (!n->call && !n->ready)
		events = EPOLLIN;
	if (sd_event_source_set_io_events(n->io, events) < 0)
		n->doomed = true;
	update_clock(n);
	if (n->doomed || n->ready)
		control_want_walk(n->control);
}

/* Marks it to be freed by the next walk. */
static void doom(struct connection *n, const char *why)
{
	if (n->doomed)
		return;
	log_debug("control: dropping client (pid %d, uid %u): %s", (int)n->peer.pid,
		  (unsigned)n->peer.uid, why);
	n->doomed = true;
	n->control->counters.dropped++;
	control_want_walk(n->control);
}

void connection_abandon(struct connection *n)
{
	n->call = NULL;
	doom(n, "no memory for an answer");
}

void connection_call_ended(struct connection *n)
{
	n->call = NULL;
	update(n);
}

void connection_send(struct connection *n, char *buf, size_t len)
{
	struct chunk *c;

	if (n->doomed || len > CONTROL_QUEUE_MAX - n->out_bytes) {
		doom(n, "answers are not read");
		free(buf);
		return;
	}
	c = calloc(1, sizeof(*c));
	if (!c) {
		doom(n, "no memory for an answer");
		free(buf);
		return;
	}
	c->buf = buf;
	c->len = len;
	*n->out_tail = c;
	n->out_tail = &c->next;
	n->out_bytes += len;
	update(n);
}

/* Drops the first message. */
static void pop_chunk(struct connection *n)
{
	struct chunk *c = n->out;

	n->out = c->next;
	if (!n->out)
		n->out_tail = &n->out;
	n->out_bytes -= c->len - c->sent;
	free(c->buf);
	free(c);
}

/* 0 when all was sent or the socket is full; -errno when the client has gone. */
static int flush_out(struct connection *n)
{
	while (n->out) {
		struct chunk *c = n->out;
		ssize_t sent = send(n->fd, c->buf + c->sent, c->len - c->sent,
				    MSG_NOSIGNAL | MSG_DONTWAIT);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return errno == EAGAIN ? 0 : -errno;
		restart_clock(n);
		c->sent += (size_t)sent;
		n->out_bytes -= (size_t)sent;
		if (c->sent == c->len)
			pop_chunk(n);
	}
	return 0;
}

/* Answers a message that is JSON but no proper call. */
static void refuse_message(struct connection *n)
{
	json_auto_t *p = json_pack("{s:s}", "parameter", "method");
	char *text;
	size_t len;

	n->control->counters.errors++;
	if (varlink_error_build(VARLINK_ERROR_INVALID_PARAMETER, p, &text, &len) < 0)
		doom(n, "no memory for an answer");
	else
		connection_send(n, text, len);
}

static void start_call(struct connection *n, const char *message, size_t len)
{
	struct varlink_call parsed = {};
	struct control_call *call = NULL;
	int r = varlink_call_parse(message, len, &parsed);

	n->control->counters.calls++;
	if (r == -EINVAL) {
		refuse_message(n);
		return;
	}
	if (r == 0)
		r = control_call_new(n->control, n, &n->peer, &parsed, &call);
	if (r < 0) {
		varlink_call_done(&parsed);
		doom(n, r == -EBADMSG ? "not a Varlink call" : "no memory for a call");
		return;
	}
	n->call = call;
	control_dispatch(n->control, call);
	(void)control_call_unref(call);
}

/* Starts the next call if it is there and its turn has come. */
static void advance(struct connection *n)
{
	const char *message;
	size_t len;
	int r;

	if (n->doomed || n->call || n->out)
		return;
	r = varlink_framer_next(&n->in, &message, &len);
	/* After one call there may be another. */
	n->ready = r > 0;
	if (r < 0)
		doom(n, "a call is too long");
	else if (r > 0)
		start_call(n, message, len);
	update(n);
}

void connection_walk(struct connection *n)
{
	if (n->doomed)
		connection_free(n);
	else
		advance(n);
}

/* 1 when the client has sent its last byte, 0 otherwise, -errno when it has gone. */
static int read_some(struct connection *n)
{
	char buf[READ_BYTES];
	ssize_t got = recv(n->fd, buf, MIN(sizeof(buf), varlink_framer_room(&n->in)),
			   MSG_DONTWAIT);

	if (got < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -errno;
	if (got == 0)
		return 1;
	return varlink_framer_feed(&n->in, buf, (size_t)got);
}

static int on_io(sd_event_source *s _unused_, int fd _unused_, uint32_t revents, void *userdata)
{
	struct connection *n = userdata;
	int r = 0;

	if (n->doomed) {
		connection_free(n);
		return 0;
	}
	if (revents & EPOLLOUT)
		r = flush_out(n);
	if (r == 0 && (revents & EPOLLIN))
		r = read_some(n);
	/* A hang-up waits for what was sent before it: calls that want no answer are done. */
	else if (r == 0 && (revents & (EPOLLHUP | EPOLLERR)) && (n->call || n->out || !n->ready))
		r = 1;
	if (r != 0) {
		connection_free(n);
		return 0;
	}
	advance(n);
	return 0;
}

static int on_stall(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	doom(userdata, "stalled");
	return 0;
}

void connection_free(struct connection *n)
{
	struct control_call *call = n->call;

	if (n->prev) {
		*n->prev = n->next;
		if (n->next)
			n->next->prev = n->prev;
		n->control->counters.connections--;
	}
	(void)sd_event_source_disable_unref(n->io);
	(void)sd_event_source_disable_unref(n->stall);
	while (n->out)
		pop_chunk(n);
	varlink_framer_done(&n->in);
	close_fdp(&n->fd);
	free(n);
	/* Last, because it may call out. */
	if (call)
		control_call_orphan(call);
}

int connection_new(struct control *c, int fd, const struct ucred *peer)
{
	struct connection *n = calloc(1, sizeof(*n));
	int r;

	if (!n) {
		(void)close(fd);
		return -ENOMEM;
	}
	n->control = c;
	n->fd = fd;
	n->peer = *peer;
	n->out_tail = &n->out;
	varlink_framer_init(&n->in, peer->uid == 0 ? VARLINK_CALL_MAX : CONTROL_CALL_MAX_OTHERS);
	r = sd_event_add_io(c->event, &n->io, fd, EPOLLIN, on_io, n);
	if (r >= 0)
		r = sd_event_add_time_relative(c->event, &n->stall, CLOCK_MONOTONIC,
					       c->stall_usec, 0, on_stall, n);
	if (r >= 0)
		r = sd_event_source_set_enabled(n->stall, SD_EVENT_OFF);
	if (r < 0) {
		connection_free(n);
		return r;
	}
	n->next = c->connections;
	n->prev = &c->connections;
	if (n->next)
		n->next->prev = &n->next;
	c->connections = n;
	c->counters.connections++;
	return 0;
}
