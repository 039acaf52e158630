/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Shared by the two halves of discover-libvirt: the loop's (discover-libvirt.c), and libvirt's
 * threads (discover-libvirt-worker.c). Nobody else includes it.
 *
 * Three threads:
 *
 *   loop      the daemon's: takes events and replies out, puts requests in
 *   libvirt   runs libvirt's event loop, always ready to answer keepalives; its callbacks only
 *             leave notes (a domain's UUID and what happened)
 *   worker    makes the calls that block: connects, lists, asks for the XML that a note is
 *             about, writes metadata; turns notes into events, in order
 *
 * Too many notes: they are all dropped and a new listing is made in their stead. Too many events:
 * the worker waits for the loop. So memory is bounded and nothing is lost for good.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "daemon/discover-libvirt.h"

/* Kinds of libvirt's events that we ask for. */
#define LIBVIRT_CALLBACKS 9

struct note {
	enum libvirt_event_kind kind;
	char uuid[37];
	uint64_t value;
	char detail[128];
};

/* A request's answer finds its way by id: the loop alone knows whom to call. */
struct request {
	uint64_t id;
	char uuid[37];
	char *xml; /* NULL removes */
	int result;
	char reason[128];
	struct request *next;
};

/* Lives until the loop and the worker have both let go of it. */
struct libvirt_link {
	/* Immutable */
	char uri[256];
	int event_fd; /* rung when events or replies wait */

	pthread_mutex_t lock;
	pthread_cond_t wake; /* for the worker; also "worker has ended" for the loop */
	/* Under lock */
	unsigned refs;
	bool stop;    /* the loop has let go */
	bool ended;   /* the worker has let go */
	bool lost;    /* the connection broke */
	bool list;    /* a listing is wanted */
	struct note *notes; /* ring of LIBVIRT_NOTES_MAX */
	unsigned note_head, n_notes;
	struct libvirt_event *events; /* ring of LIBVIRT_EVENTS_MAX */
	unsigned event_head, n_events;
	struct request *requests, *replies;
	struct discover_libvirt_stats stats;

	/* The worker's */
	void *conn;    /* virConnectPtr */
	int callback_ids[LIBVIRT_CALLBACKS];
	char run_dir[128]; /* "" when not known */
	int proc_fd;
	bool told_disconnected;
	pthread_t libvirt_thread;
	int libvirt_timer; /* wakes libvirt's loop */
	_Atomic bool libvirt_stop;
};

void *libvirt_worker(void *link);
void link_unref(struct libvirt_link *l);
