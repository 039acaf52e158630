/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A range of a process cut into spans by what is mapped there: nothing, private anonymous
 * memory, or something else. Neighbouring mappings of one kind are one span.
 *
 * Asked with PROCMAP_QUERY (Linux 6.11), which costs only for the mappings within the range,
 * else read from /proc/PID/maps. The process may map and unmap meanwhile: a span is what was
 * there when it was asked for. Any thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "daemon/process.h"

enum span_kind {
	SPAN_HOLE,
	SPAN_ANONYMOUS, /* private, writable, no file */
	SPAN_OTHER,	/* file or shmem, or read-only */
};

struct span {
	uint64_t start, end;
	enum span_kind kind;
};

/* The spans of [start, end) in order, without a gap. Owned by whoever read it. */
struct span_list {
	uint64_t start, end;
	struct span *spans;
	size_t n;
	/* What is to be read again: one bit for each SPAN_PART_BYTES from start on; NULL: nothing. */
	uint64_t *stale;
};
#define SPAN_PART_BYTES (UINT64_C(2) << 20)

#define SPAN_LIST_EMPTY   { .spans = NULL }

/* 0, or -errno: -ESRCH when the process is gone. On failure *ret is untouched. */
int span_list_read(const struct process *p, hva start, uint64_t n_pages, struct span_list *ret);
/* What is mapped in [start, end) has changed: the next refresh reads that part of the list, if it has
 * one, again. 0 or -ENOMEM. */
int span_list_note_change(struct span_list *l, uint64_t start, uint64_t end);
/* Brings the list up to date where changes were noted. 0, or -errno: the list is as it was. */
int span_list_refresh(const struct process *p, struct span_list *l);
/* Also on an empty list, and twice. */
void span_list_done(struct span_list *l);
/* The index of the span that addr lies in; addr must lie in the list. */
size_t span_list_find(const struct span_list *l, uint64_t addr);
