/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Small things that every file uses: ownership macros, sizes, time.
 *
 * Ownership follows the rule of systemd's code: a variable marked _cleanup_ owns what it
 * holds; TAKE_PTR/TAKE_FD hand the ownership on and leave the variable empty.
 */
#pragma once

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(a)	    (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)	    ((a) < (b) ? (a) : (b))
#define MAX(a, b)	    ((a) > (b) ? (a) : (b))
#define DIV_ROUND_UP(n, d)  (((n) + (d)-1) / (d))
#define ALIGN_DOWN(n, a)    ((n) / (a) * (a))
#define ALIGN_UP(n, a)	    (DIV_ROUND_UP(n, a) * (a))
#define KIB(n)		    ((uint64_t)(n) << 10)
#define MIB(n)		    ((uint64_t)(n) << 20)
#define GIB(n)		    ((uint64_t)(n) << 30)
#define USEC_PER_SEC	    UINT64_C(1000000)
#define USEC_PER_MSEC	    UINT64_C(1000)
#define NSEC_PER_USEC	    UINT64_C(1000)
#define NSEC_PER_SEC	    UINT64_C(1000000000)

#define _cleanup_(f)	__attribute__((cleanup(f)))
#define _printf_(a, b)	__attribute__((format(printf, a, b)))
#define _warn_unused_	__attribute__((warn_unused_result))
#define _unused_	__attribute__((unused))
#define _noreturn_	__attribute__((noreturn))

#define TAKE_PTR(p)                                 \
	({                                          \
		__typeof__(p) *p_ = &(p);           \
		__typeof__(p) taken_ = *p_;         \
		*p_ = NULL;                         \
		taken_;                             \
	})

static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}
#define TAKE_FD(fd) take_fd(&(fd))

/* Closes *fd if it is one, and leaves -1 there; errno is kept. */
static inline void close_fdp(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;

		(void)close(*fd);
		errno = saved;
	}
	*fd = -1;
}

static inline void freep(void *p)
{
	free(*(void **)p);
}

static inline void fclosep(FILE **f)
{
	if (*f)
		(void)fclose(*f);
}

#define _cleanup_free_	_cleanup_(freep)
#define _cleanup_close_ _cleanup_(close_fdp)
#define _cleanup_fclose_ _cleanup_(fclosep)

static inline bool streq(const char *a, const char *b)
{
	return strcmp(a, b) == 0;
}

/* "" for NULL, so that a missing string can be printed. */
static inline const char *strempty(const char *s)
{
	return s ? s : "";
}

/* Microseconds of a clock; the clocks used here cannot fail on Linux. */
static inline uint64_t usec_of(clockid_t clock)
{
	struct timespec t;

	(void)clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * USEC_PER_SEC + (uint64_t)t.tv_nsec / NSEC_PER_USEC;
}

/* CPU time of the calling thread. */
static inline uint64_t thread_cpu_nsec(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

/* Monotonic time: every deadline and age in the daemon; never the wall clock. */
static inline uint64_t now_usec(void)
{
	return usec_of(CLOCK_MONOTONIC);
}
