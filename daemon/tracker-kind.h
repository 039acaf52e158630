/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What one kind of tracker is made of; for daemon/tracker*.c only. */
#pragma once

#include "daemon/tracker.h"

/* Every kind embeds this first. */
struct tracker {
	const struct tracker_ops *ops;
	const struct process *process;
};

/* As the functions of tracker.h; ranges are never empty. NULL: nothing to do. */
struct tracker_ops {
	enum tracker_kind kind;
	void (*free)(struct tracker *t, bool disarm);
	int (*arm)(struct tracker *t, hva start, uint64_t n_pages);
	void (*remapped)(struct tracker *t, hva start, uint64_t n_pages);
	int (*disarm)(struct tracker *t, hva start, uint64_t n_pages);
	int (*begin_pass)(struct tracker *t);
	int (*collect)(struct tracker *t, hva start, uint64_t n_pages, page_run_fn *fn,
		       void *userdata);
};

/* Each takes ownership of nothing but uffd, on success only. */
int tracker_wp_new(const struct process *p, int uffd, enum tracker_thp thp, struct tracker **ret);
int tracker_softdirty_new(const struct process *p, struct tracker **ret);
int tracker_rehash_new(const struct process *p, struct tracker **ret);
