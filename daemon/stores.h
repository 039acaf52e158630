/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The stores of this host's trust domains across daemons: where a new daemon gets the one that an
 * earlier daemon made, and how it knows that it is that one.
 *
 * A store that guests map lives on without us, and what they share goes on in it. So a domain's store
 * is, in this order:
 *
 *   from systemd   the descriptor that the earlier daemon had kept there (store_keep())
 *   from a guest   opened again through the descriptor that the agent holds, or through a mapping,
 *                  of a guest that the earlier daemon had enrolled
 *   new
 *
 * What comes from either is not believed. It must be a sealed memfd of root's, unlinked, mode 0400,
 * with the domain's label in its name (store.h), and the very file that the earlier daemon noted
 * when it made it: STATE/stores/store-LABEL has the domain's name, the boot, the device, the inode and
 * the time of birth in nanoseconds. So not even a QEMU that runs as root can pass off a file of its
 * own as a store. What is in it is not believed either: see adopt.h.
 *
 * SIGKILL before the note is written: no guest has the store yet, it is gone with us. Before systemd
 * has it: it is found in guests. After stores_drop() has begun: nobody needs it any more, and what
 * is left of note and descriptor is dropped by the next daemon (stores_drop_unclaimed()).
 *
 * Owned by the loop.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "daemon/kept.h"
#include "daemon/store.h"

struct stores;

enum stores_origin {
	STORES_NEW,
	STORES_FROM_SYSTEMD,
	STORES_FROM_GUEST,
};

int stores_new(const char *state_directory, struct stores **ret);
void stores_free(struct stores *s);
/* A descriptor that systemd has kept; takes it over. */
void stores_inherit(struct stores *s, const char *fd_name, int fd);
/*
 * The store for what is called name: where it comes from (enum stores_origin), or -errno.
 * users: guests of earlier daemons, of which those that had this store are looked through. Once for
 * each name until stores_drop().
 */
int stores_get(struct stores *s, const char *name, uint64_t capacity_pages,
	       const struct kept_store_user *users, size_t n_users, struct store **ret);
/* Nobody needs the store of this name any more. */
void stores_drop(struct stores *s, const char *name);
/* What systemd kept and no domain has asked for is let go, and the notes of other stores are
 * removed: guests that come later get their pages back first. */
void stores_drop_unclaimed(struct stores *s);
