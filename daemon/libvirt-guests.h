/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What libvirt says, brought to the guests that it means.
 *
 * libvirt names a domain's process by pid. The pid is looked at by the registry, and only when that
 * process carries the domain's UUID does it get libvirt's name, metadata and facts (enrolment.h). A
 * domain whose process is not found, or is another's, is left alone until libvirt names it again.
 *
 * Owned by the loop.
 */
#pragma once

#include <stdbool.h>

#include "daemon/discover-libvirt.h"
#include "daemon/guest.h"

struct libvirt_guests;
struct manager;

/* A libvirt that is not there is no error: it is asked again and again. */
int libvirt_guests_new(struct manager *mgr, const char *uri, struct libvirt_guests **ret);
/* Calls that wait for an answer get -ECANCELED. NULL is fine. */
void libvirt_guests_free(struct libvirt_guests *lg);

/* Writes what p sets into the guest's libvirt metadata, beside what is there; NULL: takes the
 * element out. -EOPNOTSUPP: libvirt does not know this guest; else as discover_libvirt_set_policy(). */
int libvirt_guests_persist(struct libvirt_guests *lg, const struct guest *g, const struct policy *p,
			   discover_libvirt_reply_fn *fn, void *userdata);
/* Has it said all it knows, so that a guest without its word is none of its domains? */
bool libvirt_guests_settled(const struct libvirt_guests *lg);
/* Why there is no connection, or "" when there is one. */
const char *libvirt_guests_trouble(const struct libvirt_guests *lg);
