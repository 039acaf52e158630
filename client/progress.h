/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A progress bar on stderr, if that is a terminal; else nothing at all. */
#pragma once

#include <jansson.h>

/* A progress_fn (call.h): draws the member "progress" of a reply; userdata is the bar's label. */
void progress_draw(json_t *parameters, void *userdata);
/* Removes the bar, if one is there, before anything else is printed. */
void progress_clear(void);
