/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fingerprint of a page: XXH3-64 keyed with a random secret (a guest that knew it could fill one bucket
 * of the trees). It tells candidates and never decides that pages are equal: bytes are
 * compared before anything is replaced.
 *
 * Pure; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* XXH3 takes keys of at least 136 bytes; its own default has 192, more is never read. */
#define FINGERPRINT_SECRET_BYTES 192

struct fingerprint_seed {
	uint8_t secret[FINGERPRINT_SECRET_BYTES];
};

/* A fresh random seed from the kernel (getrandom cannot fail once the system is up). */
void fingerprint_seed_init(struct fingerprint_seed *ret);

/* page points at PAGE_BYTES bytes. */
uint64_t fingerprint_page(const struct fingerprint_seed *seed, const void *page);
bool page_is_zero(const void *page);
