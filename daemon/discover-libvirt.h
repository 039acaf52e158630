/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guests as libvirt knows them: a connection that is made and made again by itself, the running
 * domains, and what happens to them. No call here blocks: libvirt has two threads of its own,
 * and hands what it says to the daemon's loop by a bounded queue and an eventfd.
 *
 * Life cycle: discover_libvirt_new() -> events -> discover_libvirt_free(). One at a time in a
 * process (libvirt's event loop is the process's).
 *
 * After each (re)connection, and whenever events had to be dropped because too many came at
 * once, the whole state is told again: LIBVIRT_LISTING, a LIBVIRT_DOMAIN for each running domain,
 * LIBVIRT_LISTED. A guest that was not named in between does not run any more as far as
 * libvirt knows; anything else may have happened to the others meanwhile.
 *
 * While there is no connection guests run on and what was said of them stays true: the process
 * (pidfd) says when one ends.
 *
 * Works the same with libvirtd and virtqemud; any other driver's domains have pid 0.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#include "daemon/libvirt-xml.h"

/* Bounds: what was heard and not asked about yet; what was not taken by the loop yet (the
 * worker waits then); enrolments under way. */
#define LIBVIRT_NOTES_MAX    1024U
#define LIBVIRT_EVENTS_MAX   256U
#define LIBVIRT_REQUESTS_MAX 64U

enum libvirt_event_kind {
	LIBVIRT_LISTING, /* see above */
	LIBVIRT_LISTED,
	LIBVIRT_DISCONNECTED, /* detail: why; told once, then tried again by itself */
	LIBVIRT_DOMAIN,	      /* runs; is new or changed: facts, pid, detail; value is 1 while its
			       * memory is still coming in (incoming migration) */
	LIBVIRT_STOPPED, /* detail: "destroyed", "shutdown", "crashed", "migrated", "saved" ... */
	LIBVIRT_PAUSED,	 /* detail: "paused", "migrated", "snapshot", "postcopy" ... */
	LIBVIRT_RESUMED,
	LIBVIRT_REBOOTED,
	LIBVIRT_MIGRATING, /* value: which pass over the memory; also for save and snapshots */
	LIBVIRT_JOB_DONE,  /* detail: "migration", "save", "snapshot", "dump", "backup" ... */
	LIBVIRT_DEVICES,   /* detail: "added ALIAS", "removed ALIAS"; LIBVIRT_DOMAIN follows */
	LIBVIRT_BALLOON,   /* value: bytes that the guest has now */
	LIBVIRT_EVENT_MAX,
};
const char *libvirt_event_to_string(enum libvirt_event_kind k);

struct libvirt_event {
	enum libvirt_event_kind kind;
	char uuid[37];		     /* "" for those about no domain */
	pid_t pid;		     /* of LIBVIRT_DOMAIN; 0 when no process is known */
	struct libvirt_facts *facts; /* of LIBVIRT_DOMAIN; the receiver may TAKE_PTR it */
	uint64_t value;
	char detail[128]; /* printable ASCII */
};

struct discover_libvirt;

/* Called on the loop's thread; must not free the discover_libvirt. */
typedef void discover_libvirt_fn(struct libvirt_event *e, void *userdata);

/* 0, -EBUSY when there is one already, -ENOMEM ... A libvirt that is not there is no error. */
int discover_libvirt_new(sd_event *event, const char *uri, discover_libvirt_fn *fn, void *userdata,
			 struct discover_libvirt **ret);
/* Ends the threads and waits at most a second for a call to libvirt under way; what hangs
 * longer is left to end by itself. Open requests are answered with -ECANCELED. NULL is fine. */
void discover_libvirt_free(struct discover_libvirt *d);

/* r: 0, -ESRCH no such domain, -ENOTCONN, -EPERM, -EIO libvirt refused (reason: its words),
 * -ECANCELED. */
typedef void discover_libvirt_reply_fn(int r, const char *reason, void *userdata);
/* Writes what p sets as the domain's <policy> element, now and for its later starts; NULL
 * removes the element. The change then arrives as LIBVIRT_DOMAIN. 0, or -EBUSY: too many. */
int discover_libvirt_set_policy(struct discover_libvirt *d, const char *uuid,
				const struct policy *p, discover_libvirt_reply_fn *fn,
				void *userdata);
/* Asks for LIBVIRT_DOMAIN again, with this detail. */
#define LIBVIRT_REFRESHED "asked"
void discover_libvirt_refresh(struct discover_libvirt *d, const char *uuid);

struct discover_libvirt_stats {
	bool connected;
	uint64_t connections, listings, dropped_notes;
};
void discover_libvirt_stats(struct discover_libvirt *d, struct discover_libvirt_stats *ret);
