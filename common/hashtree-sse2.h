/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Comparing the eight words of half a cache line at once (SSE2: every x86-64 has it). Not only
 * for the few nanoseconds: without a branch for each word, the processor goes on to the next
 * look-up while this one waits for memory.
 */
#pragma once

#include <emmintrin.h>
#include <stdint.h>

/* Bit i is set where words[i] == x. */
static inline uint32_t words_match(const uint32_t words[8], uint32_t x)
{
	__m128i want = _mm_set1_epi32((int)x);
	__m128i a = _mm_cmpeq_epi32(_mm_loadu_si128((const __m128i *)words), want);
	__m128i b = _mm_cmpeq_epi32(_mm_loadu_si128((const __m128i *)(words + 4)), want);

	/* Each comparison is a word of ones or zeros, which survives the narrowing to a byte. */
	a = _mm_packs_epi32(a, b);
	return (uint32_t)_mm_movemask_epi8(_mm_packs_epi16(a, a)) & 0xff;
}
