/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The manager: owns the members and their domains, starts passes and merge rounds, lets guests
 * in and out. Everything on the loop's thread; what waits is done by workers.
 *
 *   manager.c         set-up
 *   manager-schedule.c  what is due: passes, rounds, tidying
 *   manager-domain.c  domains, with their stores
 *   enrolment.c       which guests should be in, and what is done about the difference
 *   enroll.c          a guest enters (attach, tracker, ledger)
 *   enroll-leave.c    a guest leaves (un-merge, detach)
 *   grow.c            memory that was plugged into a guest is taken in
 *   unmerge.c         a guest gets its pages back and stays
 *   yield.c           a guest is left alone while QEMU uses userfaultfd itself
 *   foreign.c         a guest gets back what it shared before it came here
 *   libvirt-guests.c  what libvirt says, brought to the guests that it means
 *   methods.c         the control interface's methods
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "daemon/budget.h"
#include "daemon/config.h"
#include "daemon/domain.h"
#include "daemon/giveback.h"
#include "daemon/ksm.h"
#include "daemon/ledger.h"
#include "daemon/member.h"
#include "daemon/merge-ksm.h"
#include "daemon/merge-remap.h"
#include "daemon/pass.h"
#include "daemon/policy.h"
#include "daemon/pressure.h"
#include "daemon/registry.h"
#include "daemon/work.h"

/* Guests that can be enrolled at a time. */
#define MEMBERS_MAX 1024U

struct manager {
	/* Immutable after manager_new(). */
	sd_event *event;
	struct work_pool *pool;
	struct ledger *ledger;
	uint64_t started_usec;

	struct config *config;
	struct ksm ksm;
	bool ksm_there;
	struct merge_ksm *merge_ksm;
	struct merge_remap_stats remap_stats;
	struct budget cpu, reads, giveback_rate;
	struct turns turns; /* of passes */
	struct giveback_env giveback;
	struct pass_env pass_env;
	struct registry *registry;
	struct libvirt_guests *libvirt; /* NULL: switched off */
	struct stores *stores;
	/* Guests that may map a store without being members of its domain: those of earlier daemons,
	 * as of our start, and those that left and could not give everything back. */
	struct kept_store_user *store_users;
	size_t n_store_users;
	sd_event_source *stores_timer;
	struct domain *domains;
	struct member *members;
	unsigned n_members, n_entering;
	struct pressure pressure;
	sd_event_source *pressure_timer;
	sd_event_source *timer;
	bool stopping;
	int guests_fd; /* what is kept about guests: kept.h */
	char round_refusal[192]; /* why the last round could not start; "" when it did */
	char ksm_reason[192]; /* why engine ksm cannot work; "" when it can */
};

#define MANAGER_REASON_MAX 384

/* Takes the configuration over. On failure ret_reason says what could not be done. */
int manager_new(sd_event *event, struct config *config, struct manager **ret,
		char ret_reason[MANAGER_REASON_MAX]);
/* Stops ksmd, puts the host's KSM settings back; the agents stay in the guests for the next
 * daemon, merged pages stay merged. */
void manager_free(struct manager *mgr);
/* Puts a new configuration in force and takes it over. */
void manager_reconfigure(struct manager *mgr, struct config *config);

/* A store that systemd has kept for an earlier daemon; takes fd over. Before the loop runs. */
void manager_inherit(struct manager *mgr, const char *fd_name, int fd);
/* One more member for the domain of this name; made, with its store, which may be that of an earlier
 * daemon, when it is not there. -EXDEV when its members are served by another engine. */
int manager_enter_domain(struct manager *mgr, const char *name, const char *store_name,
			 enum policy_engine engine, struct domain **ret);
/* The member that has just entered is known to its domain: what it shares already is counted. */
void manager_entered_domain(struct manager *mgr, struct member *m);
/* StoreMax has changed. */
void manager_bound_stores(struct manager *mgr);
/* One member less; the domain goes with its last one. NULL is fine. */
void manager_leave_domain(struct manager *mgr, struct domain *d);
/* This member leaves, and may map its domain's store all the same. */
void manager_note_stranger(struct manager *mgr, const struct member *m);
/* Starts what is due. Called whenever something that was waited for is over. */
void manager_schedule(struct manager *mgr);
/* When a domain whose store is in order now is next tidied as a whole (monotonic). */
uint64_t manager_next_whole_tidy(const struct manager *mgr, uint64_t now);
/* pressure = auto, and memory is plentiful: nothing is read or merged. */
bool manager_is_resting(const struct manager *mgr);
/* What our own bookkeeping takes: trees, ledger, KSM's metadata. Part of the overhead (accounting.h), and what
 * TreeMemoryMax bounds. */
uint64_t manager_overhead_bytes(const struct manager *mgr);

/* --- enroll.c, enroll-leave.c ------------------------------------------------ */

/* reason says why r < 0, in a sentence. */
typedef void enroll_done_fn(struct guest *g, int r, const char *reason, void *userdata);

/* The engine that serves a guest with this policy: AUTO is decided. */
enum policy_engine enroll_engine(const struct manager *mgr, const struct policy *p);
/* Lets a guest in with this policy. As guest_next_state() for GUEST_ENROLL, -ENOSPC, -ENOMEM, or
 * 0: then done is called once, later. */
int enroll_start(struct manager *mgr, struct guest *g, const struct policy *policy,
		 enroll_done_fn *done, void *userdata);
/* Un-merges the guest's pages, takes the agent out. done is called once, later; the
 * member is gone then, also when r < 0 says that something of ours had to stay in it. -EBUSY: it
 * yields (yield.h), which is being ended. */
int enroll_leave(struct manager *mgr, struct member *m, enroll_done_fn *done, void *userdata);
/* Another policy for a guest that stays in; only what wish_must_reenter() allows may differ. It is in
 * force at once, also in the middle of a pass: no job reads it. */
void enroll_adapt(struct manager *mgr, struct member *m, const struct policy *policy);
/* The process has exited: nothing to undo. */
void enroll_lost(struct manager *mgr, struct member *m);
/* The trees and the counts forget all pages of the guest, which stays enrolled. */
void enroll_forget_pages(struct manager *mgr, struct member *m);
/* The same, and the ledger forgets its blocks. */
void enroll_drop_blocks(struct manager *mgr, struct member *m);
/* Called when a member that is gone is not busy any more. */
void enroll_finish_leaving(struct manager *mgr, struct member *m);
