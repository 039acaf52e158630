/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/fingerprint-avx2.h"

#include <immintrin.h>

#include "common/units.h"

/* The build is for plain x86-64; these functions alone are not. */
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#define XXH_VECTOR 2 /* XXH_AVX2, whose name the header defines too late to be used here */
#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t fingerprint_page_avx2(const struct fingerprint_seed *seed, const void *page)
{
	return XXH3_64bits_withSecret(page, PAGE_BYTES, seed->secret, sizeof(seed->secret));
}

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
