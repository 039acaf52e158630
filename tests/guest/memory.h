/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory that the verifying guest checks: pages of a known content (content.h), what each must
 * hold now, and every way in which they are written. Each page is checked before it is written.
 *
 * One thread. What cannot go on ends the program (console_fail()).
 */
#pragma once

#include "content.h"

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct memory {
	struct content content; /* the caller's to fill in before memory_prepare() */
	struct page_state *pages;
	unsigned char *bytes;
	int disk_fd;			  /* or -1 */
	size_t cursor[CONTENT_CLASS_MAX]; /* where the next page of a class to write is sought */
	unsigned long errors, rewrites;
	uint64_t worst_usec; /* the longest single check since it was last reported */
};

/* The disk's first blocks get their known content, and stay as they are from then on. */
void memory_open_disk(struct memory *m);
void memory_prepare(struct memory *m);
/* Writes what every page must hold. */
void memory_fill(struct memory *m);
/* A page found wrong is reported, counted and put right. */
void memory_check_page(struct memory *m, size_t page);
void memory_check(struct memory *m);
/* The next page of its class, if there is one: a word, a whole page, and the rest of a run of disk pages, which
 * is replaced by other blocks. */
void memory_write_fast(struct memory *m);
void memory_write_slow(struct memory *m);
void memory_write_disk(struct memory *m);
/*
 * New content for a share of all pages. Which ones depends only on how many rewrites there
 * were before, so that guests given the same commands choose the same pages. Returns how many.
 */
size_t memory_rewrite(struct memory *m, unsigned int percent, bool scramble, bool runs);
/* The same content in other memory. What it leaves behind keeps its content until the kernel has another
 * use for it. */
void memory_move(struct memory *m);

static inline uint64_t now_nsec(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static inline uint64_t now_usec(void)
{
	return now_nsec() / 1000;
}
