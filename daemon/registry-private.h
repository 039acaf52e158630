/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A look at one process or at all: what registry.c, which owns the guests, has a worker find out
 * (registry-look.c).
 */
#pragma once

#include "daemon/discover-proc.h"
#include "daemon/registry.h"

struct known {
	pid_t pid;
	uint64_t start_ticks;
	bool again; /* devices may have been plugged in or out */
	uint32_t open; /* of shows */
};

struct look {
	struct work work; /* must be first */
	struct registry *reg; /* the loop's */
	struct discover_proc *scanner; /* of the timer's look; NULL: somebody asked for this one */
	pid_t pid; /* 0: all */
	registry_looked_fn *done;
	void *userdata;
	struct known *known; /* copied for the worker */
	size_t n_known;
	struct guest_memory memory; /* as known so far, of a look at one process */
	struct found {
		struct process process;
		struct proc_guest identity;
		struct guest_memory memory;
		int memory_error;
		uint32_t open, started, monitor; /* of shows */
		bool asked; /* its monitor, which may not have answered */
		bool answered, told; /* ... and what of its devices it said */
		bool needs_uffd, may_arrive;
	} *found;
	size_t n_found;
	int error;
	char reason[DISCOVER_REASON_BYTES];
	struct look *next;
};

/* Worker: reads /proc, and a monitor where somebody asked for this guest. Alters nothing but the look. */
void look_run(struct work *w);
