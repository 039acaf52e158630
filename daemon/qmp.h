/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's monitor (QMP): what it tells about a guest, and how to switch a backend's merging.
 *
 * For worker threads only: every call blocks, at most until its deadline. One thread at a time
 * may use a connection. The daemon's loop never calls any of this but qmp_close().
 *
 * A QMP socket serves one client at a time. While libvirt (or anybody) holds it, a connection is
 * accepted by the kernel and no greeting comes: the deadline ends that with -EBUSY and the reason.
 * Keep a connection only as long as the questions take, for the same reason.
 *
 * The path comes from the guest's command line, so whoever started the guest chose it; as root
 * we could be led to any socket. Therefore: it is looked up in the guest's own root directory;
 * nothing is sent before a QMP greeting came; and the process that listens must be the guest
 * (SO_PEERCRED), else -EPERM, so that no guest can make us talk to another one's monitor.
 *
 * Answers are hostile: at most QMP_ANSWER_MAX bytes each and QMP_EVENTS_MAX events before it,
 * any other form than expected is -EPROTO. After any failure but -EREMOTEIO and -EOPNOTSUPP
 * the connection is of no use: calls say -EPIPE, only qmp_close() is left.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/process.h"

#define QMP_ANSWER_MAX	(1U << 20)
#define QMP_EVENTS_MAX	1000U
#define QMP_REASON_MAX	256U
#define QMP_MEMDEVS_MAX 256U
#define QMP_ID_BYTES	64U
#define QMP_BALLOONS_MAX 8U /* QEMU allows one */

/* One memory backend, from query-memdev. */
struct qmp_memdev {
	char id[QMP_ID_BYTES]; /* printable bytes only; "" when it has none, or one too long */
	uint64_t size_bytes;
	bool merge, dump, prealloc;
	bool share; /* false also where QEMU is too old to say (before 6.1) */
};

struct qmp_identity {
	char name[256]; /* printable bytes only, "" when it has none */
	char uuid[37];	/* "" for none (QEMU says all zeros then) */
};

struct qmp_status {
	char status[32]; /* QEMU's word: running, paused, inmigrate, postmigrate, ... */
	bool running;
};

/* What of migration matters here: both kinds take userfaultfd for themselves. */
struct qmp_migration {
	char status[32]; /* QEMU's word: none, setup, active, postcopy-active, completed, ... */
	bool active;	 /* under way: from setup until it is completed, failed or cancelled */
	bool postcopy_ram, background_snapshot; /* the capabilities are switched on */
};

struct qmp_version {
	unsigned major, minor, micro;
};

struct qmp;

/*
 * Connects, reads the greeting and leaves negotiation mode. timeout_usec holds for this, and
 * again for each later call. reason explains each failure in a sentence: -ENOENT no such
 * socket, -ECONNREFUSED nobody listens, -EBUSY another client holds it, -EPERM it is not
 * the guest's, -EPROTO not QMP, -ESRCH the guest is gone, ...
 */
int qmp_open(const struct process *p, const char *path, uint64_t timeout_usec,
	     char reason[QMP_REASON_MAX], struct qmp **ret);
/* NULL is fine. */
void qmp_close(struct qmp *q);
struct qmp_version qmp_version(const struct qmp *q);

/*
 * Any command. arguments may be NULL; the reference is taken over. *ret is what stands under
 * "return", of any type, owned by the caller; ret may be NULL. -EOPNOTSUPP this QEMU does not
 * have the command, -EREMOTEIO it refused (reason: its words), -ETIMEDOUT, -EPIPE it hung up,
 * -EPROTO, -ESRCH.
 */
int qmp_call(struct qmp *q, const char *command, json_t *arguments, char reason[QMP_REASON_MAX],
	     json_t **ret);

int qmp_query_memdevs(struct qmp *q, char reason[QMP_REASON_MAX],
		      struct qmp_memdev ret[QMP_MEMDEVS_MAX], size_t *ret_n);
/* What the guest has at its start and what is plugged in now. -EOPNOTSUPP before QEMU 2.11. */
int qmp_query_ram(struct qmp *q, char reason[QMP_REASON_MAX], uint64_t *ret_bytes);
int qmp_query_identity(struct qmp *q, char reason[QMP_REASON_MAX], struct qmp_identity *ret);
int qmp_query_status(struct qmp *q, char reason[QMP_REASON_MAX], struct qmp_status *ret);
int qmp_query_migration(struct qmp *q, char reason[QMP_REASON_MAX], struct qmp_migration *ret);

/* enum libvirt_flag of its devices, those that were plugged in included. */
int qmp_query_devices(struct qmp *q, char reason[QMP_REASON_MAX], uint32_t *ret);

/* The ids of the memory backends under /objects. */
int qmp_list_backends(struct qmp *q, char reason[QMP_REASON_MAX],
		      char ret[QMP_MEMDEVS_MAX][QMP_ID_BYTES], size_t *ret_n);
/* Is this backend MERGEABLE; and make it so, or not. -EINVAL for an id that cannot be one. */
int qmp_get_merge(struct qmp *q, const char *id, char reason[QMP_REASON_MAX], bool *ret);
int qmp_set_merge(struct qmp *q, const char *id, bool merge, char reason[QMP_REASON_MAX]);

/* --- pure parsers (qmp-parse.c) ----------------------------------------------------------- */

/* Finds the end of the first JSON object in a stream, whatever its line breaks. */
struct qmp_framer {
	size_t at; /* how far it has looked */
	unsigned depth;
	bool in_string, escaped;
};
/* buf holds len bytes so far, the first `at` of which were seen before. Returns the length of
 * the message (blanks before it included), 0 when more is needed, -EPROTO when it is no object. */
int64_t qmp_frame(struct qmp_framer *f, const char *buf, size_t len);

enum qmp_kind {
	QMP_GREETING,
	QMP_RETURN,
	QMP_ERROR,
	QMP_EVENT,
	QMP_KIND_MAX,
};

struct qmp_message {
	enum qmp_kind kind;
	int64_t id;   /* -1: none */
	json_t *body; /* "return", "error" or "QMP"; the event's name; owned */
};
/* 0, -EPROTO or -ENOMEM. */
int qmp_parse_message(const char *buf, size_t len, struct qmp_message *ret);
void qmp_message_done(struct qmp_message *m);

/* Each takes what stands under "return" and gives 0 or -EPROTO. */
int qmp_parse_memdevs(const json_t *j, struct qmp_memdev ret[QMP_MEMDEVS_MAX], size_t *ret_n);
int qmp_parse_ram(const json_t *j, uint64_t *ret_bytes);
int qmp_parse_name(const json_t *j, struct qmp_identity *ret);
int qmp_parse_uuid(const json_t *j, struct qmp_identity *ret);
int qmp_parse_status(const json_t *j, struct qmp_status *ret);
int qmp_parse_migrate(const json_t *j, struct qmp_migration *ret);
int qmp_parse_capabilities(const json_t *j, struct qmp_migration *ret);
int qmp_parse_backends(const json_t *j, char ret[QMP_MEMDEVS_MAX][QMP_ID_BYTES], size_t *ret_n);
/* A list of devices: adds what their types mean to *flags, and gives the names of balloons, of which it depends. */
int qmp_parse_devices(const json_t *j, uint32_t *flags, char ret_balloons[QMP_BALLOONS_MAX][QMP_ID_BYTES],
		      size_t *ret_n);
int qmp_parse_greeting(const json_t *j, struct qmp_version *ret);
/* Letters, digits and . - _ : what QEMU allows in an id. */
bool qmp_id_valid(const char *id);
