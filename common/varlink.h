/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Varlink messages: one JSON object and a NUL byte each, over a Unix stream socket.
 *
 *   {"method": "io.memshared.Guests", "parameters": {...}, "more": true}        a call
 *   {"parameters": {...}, "continues": true}                                   a reply of several
 *   {"error": "io.memshared.NoSuchGuest", "parameters": {...}}                 an error
 *
 * Calls carry no number: answers come in the order of the calls. The framer cuts a stream of
 * bytes into messages and bounds what it holds; the parsers and builders are pure. Nothing
 * here does I/O or knows any interface. https://varlink.org has the protocol.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "common/util.h"

/* The longest call that a server of ours takes. */
#define VARLINK_CALL_MAX  MIB(1)
/* The longest reply that a client of ours takes. */
#define VARLINK_REPLY_MAX MIB(64)
/* Method names are "reverse.domain.name.Method"; anything longer is refused. */
#define VARLINK_NAME_MAX  256U

#define VARLINK_ERROR_INTERFACE_NOT_FOUND    "org.varlink.service.InterfaceNotFound"
#define VARLINK_ERROR_METHOD_NOT_FOUND	     "org.varlink.service.MethodNotFound"
#define VARLINK_ERROR_METHOD_NOT_IMPLEMENTED "org.varlink.service.MethodNotImplemented"
#define VARLINK_ERROR_INVALID_PARAMETER	     "org.varlink.service.InvalidParameter"
#define VARLINK_ERROR_PERMISSION_DENIED	     "org.varlink.service.PermissionDenied"
#define VARLINK_ERROR_EXPECTED_MORE	     "org.varlink.service.ExpectedMore"

/*
 * Framer. Embedded in its connection. Feed at most varlink_framer_room() bytes, take messages
 * until there is none, and so on. Memory held is at most max + 1 bytes, and little
 * when nothing is buffered.
 */
struct varlink_framer {
	char *buf;
	size_t start, end, size; /* unread bytes are buf[start..end) */
	size_t scanned;		 /* no NUL in buf[start..scanned) */
	size_t max;
};

void varlink_framer_init(struct varlink_framer *f, size_t max);
void varlink_framer_done(struct varlink_framer *f);
/* How many bytes fit now; 0 only while a message waits to be taken or one is too long. */
size_t varlink_framer_room(const struct varlink_framer *f);
/* 0, -ENOBUFS when len is more than the room, -ENOMEM (nothing was taken). */
int varlink_framer_feed(struct varlink_framer *f, const void *data, size_t len);
/* 1 and a message (without its NUL; valid until the next call on f), 0 when more bytes are needed,
 * -EMSGSIZE when the message is longer than max: the stream cannot be followed any more. */
int varlink_framer_next(struct varlink_framer *f, const char **ret, size_t *ret_len);
/* True when part of a message is held. */
bool varlink_framer_partial(const struct varlink_framer *f);

/* A call, as read from the wire. */
struct varlink_call {
	char interface[VARLINK_NAME_MAX]; /* "io.memshared" */
	char method[VARLINK_NAME_MAX];	  /* "Guests" */
	json_t *parameters;		  /* always an object, owned */
	bool more, oneway, upgrade;
};

/* 0; -EBADMSG not a JSON object or no call at all, -EINVAL a member has the wrong type or the
 * name is no method name, -ENOMEM. */
int varlink_call_parse(const char *buf, size_t len, struct varlink_call *ret);
void varlink_call_done(struct varlink_call *c);

/* An answer, as read from the wire. */
struct varlink_reply {
	json_t *parameters; /* always an object, owned */
	char *error;	    /* NULL when it is no error; owned */
	bool continues;
};

int varlink_reply_parse(const char *buf, size_t len, struct varlink_reply *ret);
void varlink_reply_done(struct varlink_reply *r);

/*
 * Builders: the whole message with its NUL, in a fresh buffer; *ret_len counts the NUL.
 * parameters may be NULL (an empty object) and is borrowed. 0, -ENOMEM, or -EINVAL when
 * parameters is no object.
 */
int varlink_call_build(const char *method, json_t *parameters, bool more, char **ret,
		       size_t *ret_len);
int varlink_reply_build(json_t *parameters, bool continues, char **ret, size_t *ret_len);
int varlink_error_build(const char *error, json_t *parameters, char **ret, size_t *ret_len);

/* Is name "a.b.C": an interface name, a dot, a name that starts with an upper-case letter? */
bool varlink_name_is_valid(const char *name);
