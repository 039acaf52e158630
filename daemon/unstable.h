/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unstable tree of one trust domain: pages seen once and not written since, by fingerprint.
 *
 * It can be wrong at any time (a guest writes whenever it likes); an entry is dropped when the
 * tracker says that its page was written. Unlike KSM's it is not rebuilt every pass.
 *
 * The upper half of each page's fingerprint lives in the ledger's word of the page
 * (ledger.h), which the tree reads through key_of; so an entry costs 8 bytes here (9 to 10 with
 * the tree around it) and 4 there. The word is written before the page is inserted, and stays
 * until it is removed: inserting and removing any page may ask for that of any other.
 * Owned by the daemon's loop.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/hashtree.h"
#include "common/units.h"

struct unstable;

int unstable_new(hashtree_key_fn *key_of, void *userdata, struct unstable **ret);
void unstable_free(struct unstable *u);
/* As hashtree_insert: 0, -EEXIST, -ENOMEM, -EINVAL for PAGE_ID_NONE, or -EXFULL when so many
 * pages have this fingerprint that one more is of no use. */
int unstable_insert(struct unstable *u, uint64_t fingerprint, page_id page);
/* The page was written or went away; fingerprint_high is the ledger's word. 0 or -ENOENT. */
int unstable_remove(struct unstable *u, uint32_t fingerprint_high, page_id page);
/* Up to max pages with this fingerprint; whether they are equal only their bytes tell. */
size_t unstable_find(const struct unstable *u, uint64_t fingerprint, page_id *ret, size_t max);
void unstable_prefetch(const struct unstable *u, uint64_t fingerprint);
uint64_t unstable_count(const struct unstable *u);
uint64_t unstable_bytes(const struct unstable *u);
