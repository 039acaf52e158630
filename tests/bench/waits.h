/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long single accesses of a thread took, told apart by what it did meanwhile.
 *
 *   blocked    it slept: for a frozen page, a lock of its address space, or a page to be read in
 *   preempted  the scheduler took its processor away: what a busy machine does to everybody
 *   busy       neither: it worked (copying a page), or its virtual processor stood still
 *
 * Time from being woken to running again is part of "blocked": a busy machine makes it long.
 * One thread at a time.
 */
#pragma once

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "common/units.h"
#include "common/util.h"

#define WAITS_MIN_NSEC 2000U /* shorter ones are no waits */
#define WAITS_KEPT     1000000U

enum wait_class { WAIT_BLOCKED, WAIT_PREEMPTED, WAIT_BUSY, WAIT_CLASS_MAX };

struct waits {
	uint64_t accesses;
	uint64_t n[WAIT_CLASS_MAX];
	uint32_t *usec[WAIT_CLASS_MAX]; /* the first WAITS_KEPT */
	long voluntary, involuntary;	/* switches up to now */
};

static inline uint64_t waits_now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

static inline void waits_reset(struct waits *w)
{
	struct rusage u;

	for (size_t i = 0; i < WAIT_CLASS_MAX; i++) {
		w->n[i] = 0;
		if (!w->usec[i])
			w->usec[i] = calloc(WAITS_KEPT, sizeof(uint32_t));
		if (!w->usec[i])
			abort();
	}
	w->accesses = 0;
	(void)getrusage(RUSAGE_THREAD, &u);
	w->voluntary = u.ru_nvcsw;
	w->involuntary = u.ru_nivcsw;
}

/* An access of the calling thread took so long. */
static inline void waits_note(struct waits *w, uint64_t nsec)
{
	enum wait_class class = WAIT_BUSY;
	struct rusage u;

	w->accesses++;
	if (nsec < WAITS_MIN_NSEC)
		return;
	(void)getrusage(RUSAGE_THREAD, &u);
	if (u.ru_nivcsw != w->involuntary)
		class = WAIT_PREEMPTED;
	else if (u.ru_nvcsw != w->voluntary)
		class = WAIT_BLOCKED;
	w->voluntary = u.ru_nvcsw;
	w->involuntary = u.ru_nivcsw;
	if (w->n[class] < WAITS_KEPT)
		w->usec[class][w->n[class]] = (uint32_t)MIN(nsec / NSEC_PER_USEC, (uint64_t)UINT32_MAX);
	w->n[class]++;
}

static inline int waits_compare(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* One line for each class: percentiles, and how many lasted less than 4, 8, 16 ... us. */
static inline void waits_print(struct waits *w)
{
	static const char *const names[WAIT_CLASS_MAX] = {"blocked", "preempted", "busy"};

	(void)printf("  %" PRIu64 " accesses; those of 2 us and more, in us:\n", w->accesses);
	for (size_t c = 0; c < WAIT_CLASS_MAX; c++) {
		size_t n = MIN(w->n[c], (uint64_t)WAITS_KEPT), i = 0;
		const uint32_t *v = w->usec[c];

		if (n == 0)
			continue;
		qsort(w->usec[c], n, sizeof(*v), waits_compare);
		(void)printf("  %-9s %7" PRIu64 "  p50 %u  p99 %u  p99.9 %u  p100 %u |", names[c], w->n[c],
			     v[n / 2], v[n * 99 / 100], v[n * 999 / 1000], v[n - 1]);
		for (uint32_t limit = 4; i < n; limit *= 2) {
			size_t from = i;

			while (i < n && v[i] < limit)
				i++;
			if (i > from)
				(void)printf(" <%u:%zu", limit, i - from);
		}
		(void)printf("\n");
	}
	(void)fflush(stdout);
}
