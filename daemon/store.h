/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The store of one trust domain: a memfd that holds the shared pages, one page a slot.
 *
 * Who may do what. The file belongs to root, mode 0400. The daemon writes it; guests get a
 * descriptor opened for reading, which they can map privately and cannot turn into one that
 * writes, by any way that tests/unit/test-store.c knows (a QEMU that runs as root could:
 * status says so). A store never changes the content of a slot that is in use, and holds no frame
 * that was ever a guest's: pages are copied into it.
 *
 * Life of a slot: free -> store_reserve() -> store_write() -> mapped by guests, written by
 * nobody -> store_drop(), allowed only once no guest has a mapping of it, not even one
 * whose page was copied since (MADV_DONTNEED there shows the slot again). Proof: every guest that
 * was ever handed this store was looked at with store_mark_mapped(), and no merge was under
 * way. Then the page is punched out of the file.
 *
 * Life of the file. It lives as long as somebody has it: our descriptor, systemd's copy
 * (store_keep()), or any guest's mapping. A new daemon gets it back by store_adopt() from
 * systemd or from store_find(); what is data in the file is in use then, and the caller
 * computes the fingerprints anew (store_next_used(), store_read()) or drops what no guest maps. A
 * store is known by its label, a hash of the domain's name, in the name of the file: so that it
 * never serves another domain, whatever the configuration says by then. A file that is not root's
 * own, read-only, sealed and unlinked is refused: no memory that a guest made becomes a store.
 *
 * Accounting. Pages are charged to the cgroup of the daemon, who writes them first, whoever maps
 * them; they are shmem and can be swapped out. Capacity bounds the pages in use, not the
 * file's size, which only grows (a mapping beyond the end would be SIGBUS).
 *
 * Errors: -ENOSPC the store is full (store_is_full() until slots are dropped or the capacity is
 * raised), -ENOMEM memory or the cgroup's limit is exhausted: writing is by pwrite, so that this
 * is an error and no SIGBUS.
 *
 * Owned by the daemon's loop; store_guest_fd(), store_read() and store_write() may be used from any
 * thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/units.h"
#include "daemon/maps.h"
#include "daemon/process.h"
#include "daemon/slot-map.h"

/* The file's name is this, a dash, and the label: "/memfd:memshared-store-LABEL (deleted)". */
#define STORE_MEMFD_NAME "memshared-store"
/* Descriptor name in systemd's store: this, a dash, and the label. */
#define STORE_FD_NAME "store"
#define STORE_FD_NAME_MAX 32
#define STORE_LABEL_BYTES 17

struct store;

int store_new(const char *domain, uint64_t capacity_pages, struct store **ret);
/* Takes over fd (closed on failure), which must be open for writing. -EPERM when it is not a
 * store of ours, -ENODEV when it is another domain's. */
int store_adopt(const char *domain, uint64_t capacity_pages, int fd, struct store **ret);
/* Opens this domain's store through a descriptor or a mapping that the guest has of it. -ENOENT. */
int store_find(const char *domain, const struct process *p, int *ret_fd);
/* Our side only: the file lives on in guests. */
void store_free(struct store *s);

/* Has systemd keep a copy of the descriptor: 1, 0 when there is no systemd to do so, or -errno. */
int store_keep(const struct store *s);
/* Has it drop the copy: when the domain is gone. */
int store_forget(const char *domain);
/* The name under which systemd hands it back. */
void store_fd_name(const char *domain, char ret[STORE_FD_NAME_MAX]);

/* For agent_send_fd(); borrowed. Never hand out any other descriptor of the store. */
int store_guest_fd(const struct store *s);
/* What RING_MAP_STORE is told; grows when the capacity is raised beyond it. */
uint64_t store_file_bytes(const struct store *s);
const char *store_label(const struct store *s);

uint64_t store_capacity_pages(const struct store *s);
/* May be less than is in use: nothing is added then. */
int store_set_capacity(struct store *s, uint64_t capacity_pages);
uint64_t store_used_pages(const struct store *s);
bool store_is_full(const struct store *s);

/* Up to n_pages slots in a row: behind `after` if there is room, see slot-map.h. Nobody else gets
 * them until they are released or dropped. Returns how many, at least one, or -errno; -ENOSPC. */
int64_t store_reserve(struct store *s, uint32_t n_pages, slot_id after, slot_id *ret_first);
/* Gives reserved slots back that no guest was told of; they may have been written. */
void store_release(struct store *s, slot_id first, uint32_t n_pages);
/* Copies pages into reserved slots, which no guest maps yet. Returns how many, from the first on, or
 * -errno; -ENOMEM. Without memory it takes as long as the kernel tries to make some. */
int64_t store_write(const struct store *s, slot_id first, const void *pages, uint32_t n_pages);
int store_read(const struct store *s, slot_id first, uint32_t n_pages, void *ret_pages);
/* Frees slots. On failure they stay in use. */
int store_drop(struct store *s, slot_id first, uint32_t n_pages);
bool store_is_used(const struct store *s, slot_id slot);
/* The next run of slots in use at or after `from`: its length, 0 for none. */
uint64_t store_next_used(const struct store *s, uint64_t from, slot_id *ret_first);

/* Which slots a mapping keeps in use: false for any mapping but a private one of this file. */
bool store_mapping_slots(const struct store *s, const struct mapping *m, slot_id *ret_first,
			 uint64_t *ret_n);
/* Marks in `mapped` all slots that the guest maps. After an error (but -ESRCH: it is gone and
 * maps nothing) it may map any slot: drop none. */
int store_mark_mapped(const struct store *s, const struct process *p, struct slot_map *mapped);
