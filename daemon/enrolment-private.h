/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of enrolment share: enrolment.c (the review and its steps), enrolment-refuse.c (why
 * not), enrolment-client.c (what clients ask for). See enrolment.h. */
#pragma once

#include "common/log.h"
#include "daemon/enrolment.h"

struct log_guest enrolment_log(const struct guest *g);
/* Does anything keep the guest out under this policy? Then ret_reason says what. */
bool enrolment_refuses(const struct guest *g, const struct policy *p, char ret_reason[GUEST_REASON_BYTES]);
/* Would the bookkeeping for so many more pages pass TreeMemoryMax? */
bool enrolment_exceeds_memory(const struct manager *mgr, uint64_t n_pages,
			      char ret_reason[GUEST_REASON_BYTES]);
/* Tells the client who waits for an unmerge, if one does. */
void enrolment_settle_unmerge(struct guest *g, int r, const char *reason);
