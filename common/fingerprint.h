/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The two hashes of a page. Neither ever decides that pages are equal: bytes are compared
 * before anything is replaced.
 *
 *   fingerprint  XXH3-64 keyed with a random secret of this run of the daemon (a guest that knew
 *                it could fill one bucket of the trees); tells candidates
 *   identity     SHA-256 of (domain key, page): the name of a shared page, stable across
 *                restarts of the daemon, different in each trust domain
 *
 * Pure; any thread. A thread that computed an identity keeps one libcrypto context (about 400
 * bytes) until it ends.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IDENTITY_BYTES	 32
#define DOMAIN_KEY_BYTES 32

/* XXH3 takes keys of at least 136 bytes; its own default has 192, more is never read. */
#define FINGERPRINT_SECRET_BYTES 192

struct identity {
	uint8_t bytes[IDENTITY_BYTES];
};

struct domain_key {
	uint8_t bytes[DOMAIN_KEY_BYTES];
};

struct fingerprint_seed {
	uint8_t secret[FINGERPRINT_SECRET_BYTES];
};

/* A fresh random seed from the kernel (getrandom cannot fail once the system is up). */
void fingerprint_seed_init(struct fingerprint_seed *ret);

/* page points at PAGE_BYTES bytes. */
uint64_t fingerprint_page(const struct fingerprint_seed *seed, const void *page);
bool page_is_zero(const void *page);
/* 0, or -ENOMEM/-EIO when libcrypto cannot. */
int identity_of_page(const struct domain_key *key, const void *page, struct identity *ret);
/* The key of a domain: SHA-256 of a per-host secret and the domain's name. */
int domain_key_derive(const uint8_t *secret, size_t secret_len, const char *domain,
		      struct domain_key *ret);
