/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Enrolment: which guests should be in, with what policy, and what is done about the difference.
 *
 * Each guest of the registry has one. Whatever may change the answer ends in enrolment_review(): the
 * guest was found or looks different, libvirt says something new of it, the configuration was
 * reloaded, a client asked, a step has ended. The review resolves the guest's policy, asks
 * wish_step() what to do, and does that one step; the end of the step brings the next review.
 *
 *   enter    a fresh look at the process (memory, devices, monitor), then enroll_start()
 *   leave    enroll_leave(), which un-merges first. A guest that changes its trust domain leaves
 *            and enters again, so nothing that it shared with the old one is left.
 *   adapt    enroll_adapt()
 *   clear    a guest that an earlier daemon served and this one is not to, because its policy has
 *            changed meanwhile, enters alone and leaves at once, which gives back what it shares.
 *            While libvirt has not said which guests it knows nobody can tell, and nothing is done.
 *
 * A guest that should be in and cannot is tried again after 5 s, then ever more rarely, down to
 * every 5 minutes; anything new about it starts over.
 *
 * A guest that an earlier daemon had in, and that is not wanted any more, enters once more to leave
 * properly; so does one that could not, with the same patience.
 *
 * A guest whose pages could not be given back when it left (no memory for private copies) may still
 * share with its former domain: until it has left that one properly it enters no other.
 *
 * Owned by the loop.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "daemon/domain.h"
#include "daemon/libvirt-xml.h"
#include "daemon/manager.h"
#include "daemon/policy.h"

struct enrolment {
	struct manager *mgr;
	struct libvirt_facts *facts; /* libvirt's word; NULL: it has none for this process */
	uint64_t facts_serial;	     /* of the event that brought them */
	bool listed;		     /* in the listing under way */
	bool held;		     /* its memory is still coming in: an incoming migration */
	bool was_in;		     /* once, also with an earlier daemon: so its memory had arrived */
	bool left_behind;	     /* something of that is in it still, while it is not enrolled */
	bool left_here;		     /* ... since it left with this daemon: libvirt need not be waited for */
	struct policy runtime;	     /* what clients asked for */
	bool unmerged;		     /* it is to share nothing for now: unmerge.h */
	bool runtime_until_facts;    /* it was written to libvirt, too, and is to come from there */
	struct policy policy;	     /* effective, as of the last review */
	struct policy entered;	     /* with which it was enrolled last */
	char tied_to[DOMAIN_NAME_MAX]; /* see above; "" */
	char reason[GUEST_REASON_BYTES]; /* why it is not as its policy says; "" */
	char not_grown[GUEST_REASON_BYTES]; /* why memory that was plugged in is not taken in; "" */
	bool looking;		     /* a look before entering is under way */
	uint64_t looked_usec;	     /* monotonic: when it was last looked at for that */
	unsigned failures;	     /* in a row */
	uint64_t retry_usec;	     /* monotonic: not before */
	sd_event_source *timer;
	/* A client that waits for the guest to settle. */
	enroll_done_fn *done;
	void *userdata;
	/* One that waits for its pages to be given back. */
	enroll_done_fn *unmerge_done;
	void *unmerge_userdata;
	struct policy before; /* its run-time policy, to go back to when the client is refused */
};

/* The registry's registry_changed_fn, userdata is the manager. */
void enrolment_guest_changed(struct guest *g, void *userdata);
/* All guests: the configuration has changed. */
void enrolment_review_all(struct manager *mgr);
void enrolment_review(struct guest *g);
/* Those that an earlier daemon served: libvirt has now said all it knows. */
void enrolment_review_left_behind(struct manager *mgr);
/* libvirt says this of the guest's process, which was verified; takes facts over. NULL: it says
 * nothing any more. held: its memory is still coming in. */
void enrolment_set_facts(struct guest *g, struct libvirt_facts *facts, bool held);
/* What clients asked for is being written to the guest's libvirt metadata: once libvirt says the
 * same, the run-time policy is forgotten. false: it could not be written. */
void enrolment_will_persist(struct guest *g, bool will);
/* Forgets all; nothing is done to guests. */
void enrolment_free_all(struct manager *mgr);
/* What the bookkeeping of all guests may take, in bytes; 0: not known yet. */
uint64_t enrolment_tree_memory_max(const struct manager *mgr);
/* What is set aside for those that are enrolled or entering. */
uint64_t enrolment_reserved_bytes(const struct manager *mgr);

/*
 * A client asks for this policy (enabled=yes and what it gave beyond). 0: done is called once,
 * when the guest is in or could not be let in, perhaps before this returns; in the latter case
 * what was asked is forgotten. -EBUSY: the guest is on its way in or out; -EALREADY: it is
 * enrolled just so; -EPERM: refused, ret_reason says why.
 */
int enrolment_ask(struct guest *g, const struct policy *asked, enroll_done_fn *done, void *userdata,
		  char ret_reason[GUEST_REASON_BYTES]);
/* A client wants its pages given back, while it stays. As above; -ENOENT: it is not enrolled;
 * -EALREADY: it shares nothing; it does again once it is asked for by enrolment_ask(). */
int enrolment_unmerge(struct guest *g, enroll_done_fn *done, void *userdata);
/* A client wants it out: forgets what clients asked for, and where weaker layers would still have
 * it in, forbids it. As above; -ENOENT: it is neither in nor wanted in. */
int enrolment_release(struct guest *g, enroll_done_fn *done, void *userdata);
