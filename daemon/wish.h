/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Wish: what policy wants for one guest, who may be believed about the guest, and which step
 * brings it nearer to the wish. Pure; enrolment.c acts on it.
 *
 * Who may be believed. Sharing tells guests of one trust domain something about each other's
 * memory, so a guest must not choose its domain by what it calls itself. Whoever may start a
 * process on this host can start QEMU with any -name and -uuid, and a QEMU that was taken over can
 * rewrite its command line. So the names of a guest count, for the match rules of [Policy] sections,
 * only when one of these vouches for it:
 *
 *   libvirt   it names the process's pid, and the process carries the domain's UUID
 *   client    root has named this very pid (memsharectl enroll)
 *   root      the process runs as root and nobody else may change its executable: what it
 *             says of itself root has written
 *
 * Of any other guest nothing is known but what its memory is made of. Sections without rules on
 * names still apply to it (also those of match-backing), but none puts it into a trust domain with
 * others: domain stays "self".
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "daemon/guest.h"
#include "daemon/libvirt-xml.h"
#include "daemon/policy.h"

enum wish_voucher {
	WISH_NOBODY,
	WISH_ROOT,
	WISH_CLIENT,
	WISH_LIBVIRT,
	WISH_VOUCHER_MAX,
};
const char *wish_voucher_to_string(enum wish_voucher v);
/* facts: libvirt's word, or NULL; runtime: what clients asked for. */
enum wish_voucher wish_voucher(const struct guest *g, const struct libvirt_facts *facts,
			       const struct policy *runtime);

/* The effective policy, with what must not be believed left out. */
void wish_resolve(const struct policy_section *sections, size_t n, const struct guest *g,
		  const struct libvirt_facts *facts, const struct policy *runtime, struct policy *ret);

/* Why engines do not serve the guest, from libvirt's facts and what its process shows: fills
 * g->engine_refusal. Its RAM blocks are judged by guest_judge_memory(). */
void wish_refuse_engines(struct guest *g, const struct libvirt_facts *facts);

/* Can the difference be applied to an enrolled guest in place (false), or must it leave and enter
 * again (true)? */
bool wish_must_reenter(const struct policy *now, const struct policy *wanted);

struct wish {
	const struct policy *policy;  /* effective */
	const struct policy *entered; /* with which it was enrolled; NULL when it is not */
	bool moved;	/* another engine would serve it now than the one that does */
	bool refused;	/* some reason forbids it now, whatever the policy says */
	bool held;	/* it must not be touched for now, but may stay enrolled */
	bool left_behind; /* what an earlier daemon did to it is still there, and is to be undone */
	bool resting;	/* it failed not long ago */
};

enum wish_step {
	WISH_NOTHING, /* it is as it should be, or cannot be otherwise */
	WISH_WAIT,    /* a worker must end first, or the time has not come */
	WISH_ENTER,
	WISH_CLEAR,   /* enter only to leave, which gives back what it shares */
	WISH_LEAVE,   /* perhaps to enter again */
	WISH_ADAPT,   /* the policy changes in place */
	WISH_GROW,    /* its memory is not what it was: more of it, as a rule */
	WISH_STEP_MAX,
};
enum wish_step wish_step(const struct guest *g, const struct wish *w);

/* How long a guest is left alone after so many failures in a row. */
uint64_t wish_backoff_usec(unsigned failures);
