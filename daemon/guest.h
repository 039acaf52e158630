/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest: one running QEMU process, from the moment it is found until it is gone.
 *
 *                 look ok              enroll             entered
 *      FOUND -----------------> READY ---------> ENTERING ---------> ENROLLED
 *        |    <- look refused -  ^  ^               |                   | unenroll, refused
 *        |   /                   |  +-- failed -----+ unenroll          v
 *        +-> REFUSED -- look ok -+  +-- left ------------------------ LEAVING
 *
 *      any state -- exited or runs another program --> GONE
 *
 * What may be done in each state (guest_may()):
 *
 *   FOUND     The process is identified, its memory is not known. Its /proc files may be read;
 *             nothing of its memory.
 *   READY     Memory known and at least one block can be served. It may be read (estimate) and
 *             enrolled. Nothing of ours is in the process.
 *   REFUSED   reason says why no engine may have it: not ours to read except where the blocks
 *             are merely of a kind that no engine serves, and then only for the estimate. It is
 *             looked at again when something changes (memory, devices, policy).
 *   ENTERING  A worker attaches the agent and takes marks over. It must be waited for: no second
 *             job, and the guest is freed only when it has ended.
 *   ENROLLED  member is set: tracked and merged.
 *   LEAVING   A worker (entering that must be undone, or leaving) gives pages and marks back. No
 *             new merges. Memory may be read.
 *   GONE      The process has exited, or executed another program, which is as good as another
 *             process. Nothing is undone in it. Results of workers still come and change nothing;
 *             the guest is freed with its last reference.
 *
 * Exit can happen in every state, at any instruction; it is never an error. Its sign is the
 * pidfd (process_alive()), nothing else; -ESRCH from a call is only a hint to look there.
 *
 * A guest is known by pid and start time. Two sources may find the same one: libvirt's word for
 * name and UUID then replaces that of the command line, which a guest's owner may have written.
 *
 * Thread: the loop owns guests. A worker gets a reference and reads only process; memory belongs
 * to the loop and is exchanged when the worker's job is done.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "daemon/memory.h"
#include "daemon/policy.h"
#include "daemon/process.h"

enum guest_state {
	GUEST_FOUND,
	GUEST_READY,
	GUEST_REFUSED,
	GUEST_ENTERING,
	GUEST_ENROLLED,
	GUEST_LEAVING,
	GUEST_GONE,
	GUEST_STATE_MAX,
};
const char *guest_state_to_string(enum guest_state s);

enum guest_event {
	GUEST_LOOKED,	    /* its memory was looked at: it can be served */
	GUEST_LOOK_REFUSED, /* ... or it can't, or may not: a reason comes with it */
	GUEST_ENROLL,	    /* policy or a client wants it in */
	GUEST_ENTERED,	    /* the worker that attaches has succeeded */
	GUEST_ENTER_FAILED, /* ... or failed, and has undone what it did: a reason comes with it */
	GUEST_UNENROLL,	    /* policy or a client wants it out */
	GUEST_LEFT,	    /* everything was given back */
	GUEST_EXITED,	    /* pidfd says so, or process_check() says another program */
	GUEST_EVENT_MAX,
};
const char *guest_event_to_string(enum guest_event e);

/*
 * Pure: the state after the event. 0 (also where it stays the same), or why the event is refused:
 * -EALREADY it is so already, -EBUSY a worker must end first, -EPERM the guest is refused,
 * -EAGAIN its memory is not known yet, -ESRCH it is gone, -EPROTO an event that cannot happen in
 * this state (a bug of the caller).
 */
int guest_next_state(enum guest_state s, enum guest_event e, enum guest_state *ret);

enum guest_act {
	GUEST_MAY_READ,	  /* read guest memory (estimate, scan) */
	GUEST_MAY_INJECT, /* run code of ours in the process: the worker of this state only */
	GUEST_MAY_MERGE,
	GUEST_ACT_MAX,
};
bool guest_may(enum guest_state s, enum guest_act a);

enum guest_source {
	GUEST_SOURCE_PROC,    /* found by its process */
	GUEST_SOURCE_CLIENT,  /* named by pid over the control interface */
	GUEST_SOURCE_LIBVIRT, /* strongest: name and UUID are libvirt's */
	GUEST_SOURCE_MAX,
};
/* The word of the control interface: "proc", "client", "libvirt". */
const char *guest_source_to_string(enum guest_source s);

#define GUEST_NAME_BYTES   256U
#define GUEST_UUID_BYTES   37U
#define GUEST_REASON_BYTES 256U

struct enrolment;
struct member;
struct registry;

/* Where what forbids an engine is seen, each as of its last look. */
enum guest_shows {
	GUEST_SHOWS_OPEN,    /* descriptors that it holds (devices.h) */
	GUEST_SHOWS_STARTED, /* how it was started, and its memory */
	GUEST_SHOWS_MONITOR, /* what its monitor said when it was asked last */
	GUEST_SHOWS_MAX,
};

struct guest {
	/* Immutable after guest_new(): any thread that holds a reference. */
	struct process process;

	/* Owned by the loop. */
	enum guest_state state;
	enum guest_source source;
	char name[GUEST_NAME_BYTES]; /* printable bytes; "" when unknown */
	char uuid[GUEST_UUID_BYTES]; /* lower case; "" when unknown */
	char reason[GUEST_REASON_BYTES]; /* what the state needs to be explained; or "" */
	/* Why this engine does not serve the guest; "" when it would. AUTO: none does. */
	char engine_refusal[POLICY_ENGINE_MAX][GUEST_REASON_BYTES];
	struct guest_memory memory;
	/* What its process shows, as of the last look. */
	uint32_t shows[GUEST_SHOWS_MAX]; /* enum libvirt_flag, see below */
	uint64_t asked_usec; /* monotonic: when its monitor, which has told its devices once, was asked last */
	bool is_root;	     /* runs as root of this host */
	bool own_program;    /* others than root may change the executable */
	char claimed_uuid[GUEST_UUID_BYTES]; /* of its command line: proves nothing by itself */
	bool needs_uffd;     /* its monitor says: memory comes in, or a snapshot is set up */
	bool may_arrive;     /* started for an incoming migration, and no monitor says it is over */
	bool memory_changed; /* blocks came or went since it was enrolled */
	uint64_t since_usec; /* monotonic: when the state was entered */
	struct enrolment *enrolment; /* what is wished for it; enrolment.c's */
	struct member *member; /* from ENROLLED to the end of LEAVING; the manager's */
	unsigned refs;
	/* The registry's: its list, and what tells it that the process exited. */
	struct registry *registry;
	sd_event_source *exit_source;
	struct guest *next;
};

/* Takes the process over (it becomes PROCESS_INIT). -ENOMEM: it stays the caller's. */
int guest_new(struct process *process, enum guest_source source, struct guest **ret);
struct guest *guest_ref(struct guest *g);
/* NULL is fine. */
void guest_unref(struct guest *g);

/* The event happens to the guest: as guest_next_state(), and notes reason (NULL or "": none) when
 * it was accepted. A state that stays takes the new reason too. */
int guest_apply(struct guest *g, enum guest_event e, const char *reason);
/* Name and UUID as a source gives them; NULL: not known. Ignored when a stronger source has
 * spoken. What is not printable becomes '?'; a UUID of another form is dropped. True when
 * something changed. */
bool guest_identify(struct guest *g, enum guest_source source, const char *name, const char *uuid);
/* Copies a UUID in lower case: 8-4-4-4-12 hexadecimal digits and nothing else; else false. */
bool guest_copy_uuid(const char *uuid, char ret[GUEST_UUID_BYTES]);
/* enum libvirt_flag: all that was seen. */
uint32_t guest_shows(const struct guest *g);
bool guest_is(const struct guest *g, pid_t pid, uint64_t start_ticks);
/* What the blocks alone say: GUEST_LOOKED when one of them can be served; else
 * GUEST_LOOK_REFUSED, and the reason. */
enum guest_event guest_judge_memory(const struct guest_memory *m,
				    char ret_reason[GUEST_REASON_BYTES]);
