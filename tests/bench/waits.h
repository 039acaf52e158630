/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long single accesses of a thread took, told apart by what it did meanwhile.
 *
 *   blocked    it slept, until it was woken: for a frozen page, a lock of its address space, or a page to
 *              be read in
 *   queued     the rest of the same accesses: it could run, and others had the processors
 *   preempted  the scheduler took its processor away: what a busy machine does to everybody
 *   busy       neither: it worked (copying a page), or its virtual processor stood still
 *
 * Who sleeps until a lock's holder gets a processor is blocked, too. One thread at a time.
 */
#pragma once

#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "common/units.h"
#include "common/util.h"

#define WAITS_MIN_NSEC 2000U /* shorter ones are no waits */
#define WAITS_KEPT     1000000U

enum wait_class { WAIT_BLOCKED, WAIT_QUEUED, WAIT_PREEMPTED, WAIT_BUSY, WAIT_CLASS_MAX };

struct waits {
	uint64_t accesses;
	uint64_t n[WAIT_CLASS_MAX];
	uint32_t *usec[WAIT_CLASS_MAX]; /* the first WAITS_KEPT */
	long voluntary, involuntary;	/* switches up to now */
	uint64_t queued_nsec;		/* time without a processor, up to now */
	int schedstat;			/* of this thread; the last is left open */
};

static inline uint64_t waits_now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

/* How long this thread could have run and did not, ever. */
static inline uint64_t waits_queued_nsec(const struct waits *w)
{
	char line[96] = "", *end;
	ssize_t n = w->schedstat < 0 ? -1 : pread(w->schedstat, line, sizeof(line) - 1, 0);

	if (n <= 0)
		return 0;
	(void)strtoull(line, &end, 10); /* on the CPU */
	return strtoull(end, NULL, 10);
}

static inline void waits_add(struct waits *w, enum wait_class class, uint64_t nsec)
{
	if (w->n[class] < WAITS_KEPT)
		w->usec[class][w->n[class]] = (uint32_t)MIN(nsec / NSEC_PER_USEC, (uint64_t)UINT32_MAX);
	w->n[class]++;
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
	w->schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
	w->queued_nsec = waits_queued_nsec(w);
}

/* An access of the calling thread took so long. */
static inline void waits_note(struct waits *w, uint64_t nsec)
{
	struct rusage u;
	uint64_t queued;

	w->accesses++;
	if (nsec < WAITS_MIN_NSEC)
		return;
	(void)getrusage(RUSAGE_THREAD, &u);
	if (u.ru_nvcsw != w->voluntary) {
		queued = waits_queued_nsec(w) - w->queued_nsec;
		queued = MIN(queued, nsec);
		waits_add(w, WAIT_BLOCKED, nsec - queued);
		if (queued >= WAITS_MIN_NSEC)
			waits_add(w, WAIT_QUEUED, queued);
	} else {
		waits_add(w, u.ru_nivcsw != w->involuntary ? WAIT_PREEMPTED : WAIT_BUSY, nsec);
	}
	if (u.ru_nvcsw != w->voluntary || u.ru_nivcsw != w->involuntary)
		w->queued_nsec = waits_queued_nsec(w);
	w->voluntary = u.ru_nvcsw;
	w->involuntary = u.ru_nivcsw;
}

static inline int waits_compare(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* One line for each class: percentiles, and how many lasted less than 4, 8, 16 ... us. */
static inline void waits_print(struct waits *w)
{
	static const char *const names[WAIT_CLASS_MAX] = {"blocked", "queued", "preempted", "busy"};

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
