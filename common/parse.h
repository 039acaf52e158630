/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Strict parsing of numbers that come from outside. All functions are pure; they take the
 * whole string (no leading or trailing blanks), return 0 or -EINVAL (not a number of this
 * form) or -ERANGE (outside the limits), and write the result only on success.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *ret);
int parse_u32(const char *s, uint32_t min, uint32_t max, uint32_t *ret);
/* A number at the start of a buffer of len bytes that need not end in NUL; base 10 or 16.
 * *ret_used says how many bytes it took (at least one). */
int parse_u64_prefix(const char *buf, size_t len, unsigned base, uint64_t *ret, size_t *ret_used);
/* 4096, 64K, 1M, 2G, 1T: powers of 1024. */
int parse_bytes(const char *s, uint64_t min, uint64_t max, uint64_t *ret_bytes);
/* 30s, 5m, 2h, 250ms, 100us; a bare number is seconds. */
int parse_usec(const char *s, uint64_t min, uint64_t max, uint64_t *ret_usec);
/* 10% or 0.5%; the result is in thousandths: 10% is 100. More than 100% is allowed up to max. */
int parse_permille(const char *s, uint32_t min, uint32_t max, uint32_t *ret_permille);
/* yes/no, true/false, on/off, 1/0 */
int parse_bool(const char *s, bool *ret);
