/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the daemon says of itself and its guests, as the JSON of io.memshared: Status, Guests, Policy.
 * Each returns a new object (the caller's), or NULL when memory ran out. Owned by the loop.
 */
#pragma once

#include <jansson.h>

#include "daemon/accounting.h"
#include "daemon/manager.h"

json_t *report_status(const struct manager *mgr);
/* Enrolled guests, and those that run on this host and are not. */
json_t *report_guests(const struct manager *mgr);
json_t *report_guest(const struct manager *mgr, const struct guest *g);
json_t *report_policy(const struct guest *g);
