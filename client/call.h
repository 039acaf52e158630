/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Calls to the daemon. One connection, one call at a time; blocks until the answer is there.
 * Replies are checked against the interface, so whoever prints one may rely on its types;
 * the numbers may be any.
 */
#pragma once

#include <stdbool.h>

#include <jansson.h>

struct link;

/* Connects; on failure complains and returns an exit status. */
int link_open(const char *path, struct link **ret);
void link_close(struct link *l);

/* Called for each reply that is not the last. */
typedef void progress_fn(json_t *parameters, void *userdata);

/*
 * Calls io.memshared.METHOD and returns STATUS_OK with the last reply's parameters, or complains
 * and returns another status. parameters is taken over; NULL for none. on_progress may be
 * NULL; else "more" is asked for.
 */
int link_call(struct link *l, const char *method, json_t *parameters, progress_fn *on_progress,
	      void *userdata, json_t **ret);
/* Opens, calls, closes. */
int call_once(const char *path, const char *method, json_t *parameters, json_t **ret);
