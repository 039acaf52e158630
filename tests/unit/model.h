/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For tests that compare a structure with a simple model of it: random numbers that a seed
 * repeats, and what the process really takes from the kernel.
 */
#pragma once

#include <inttypes.h>

#include "common/units.h"
#include "common/util.h"

/* SplitMix64: every seed is a good one. */
static inline uint64_t mix64(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static inline uint64_t random_next(uint64_t *state)
{
	return mix64((*state)++);
}

/* Below n. */
static inline uint32_t random_below(uint64_t *state, uint32_t n)
{
	return (uint32_t)((random_next(state) >> 32) * n >> 32);
}

/* Every failure names the seed; MEMSHARED_SEED=N runs that one again. */
#define CHECK_SEED(seed, condition)                                                                \
	do {                                                                                       \
		if (!(condition))                                                                  \
			fail_msg("seed %" PRIu64 ": %s", (uint64_t)(seed), #condition);            \
	} while (0)

static inline void for_each_seed(uint64_t n, void (*fn)(uint64_t seed))
{
	const char *one = getenv("MEMSHARED_SEED");

	if (one)
		fn(strtoull(one, NULL, 0));
	for (uint64_t seed = 1; !one && seed <= n; seed++)
		fn(seed);
}

/* Sanitizers take memory of their own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED false
#endif

/* Bytes of memory and swap that the kernel has given to this process. */
static inline uint64_t process_bytes(void)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/smaps_rollup", "re");
	uint64_t kib, total = 0;
	char line[256];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "Rss: %" SCNu64, &kib) == 1 ||
		    sscanf(line, "Swap: %" SCNu64, &kib) == 1)
			total += kib;
	return total * 1024;
}
