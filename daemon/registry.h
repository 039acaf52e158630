/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The registry: all guests that run on this host, found by a look at /proc every few seconds, by
 * pid when a client names one, and by libvirt.
 *
 * A look is done by a worker (it opens processes and reads their memory maps) and brings guests
 * that were not known; a guest goes when its pidfd says that it exited. At most
 * REGISTRY_GUESTS_MAX are kept. A look at one process also brings a known guest up to date: its
 * memory, its devices, and, where it has a monitor that nobody uses, which blocks QEMU says are RAM.
 *
 * Devices come and go without anybody telling: those that enrolled guests, and guests that were refused for
 * theirs, hold open are read in every look, and their monitors asked every minute.
 *
 * Looks at one process are many when libvirt lists its domains: LOOKS_AT_ONCE are under way, the
 * others wait for their turn.
 *
 * Owned by the loop.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#include "daemon/guest.h"
#include "daemon/work.h"

#define REGISTRY_GUESTS_MAX 4096U
/* How often /proc is looked at by itself. */
#define REGISTRY_LOOK_USEC (10 * USEC_PER_SEC)

struct registry;

/* Waiting for their turn; more are refused with -EAGAIN. */
#define REGISTRY_WAITING_MAX 8192U

/* A guest was found (GUEST_READY or GUEST_REFUSED), looks different than before, or has exited
 * (GUEST_GONE; it is freed after this unless somebody holds a reference). */
typedef void registry_changed_fn(struct guest *g, void *userdata);
/* A look that was asked for is over. r: 0, -ESRCH, -ENOEXEC (no QEMU guest), ...; reason in words. */
typedef void registry_looked_fn(struct guest *g, int r, const char *reason, void *userdata);

int registry_new(sd_event *event, struct work_pool *pool, registry_changed_fn *changed,
		 void *userdata, struct registry **ret);
/* Before the pool is freed: what waits for its turn is answered -ECANCELED, nothing new starts. */
void registry_stop(struct registry *reg);
void registry_free(struct registry *reg);
struct guest *registry_find(const struct registry *reg, pid_t pid);
/* The list, linked by next. */
struct guest *registry_guests(const struct registry *reg);
/* Looks at one process; done is called once, later, with the guest (known or new) or why not. */
int registry_look_at(struct registry *reg, pid_t pid, registry_looked_fn *done, void *userdata);
/* Looks at all of /proc; done gets no guest. */
int registry_look(struct registry *reg, registry_looked_fn *done, void *userdata);
