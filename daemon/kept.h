/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Kept: what must outlive the daemon about one enrolled guest, as a small file.
 *
 * An enrolled guest has lost QEMU's own MERGEABLE marks; only the daemon that took them knows
 * where they were. And a guest that was enrolled by hand is known to nobody else. So before a
 * guest is changed a file STATE/guests/PID-STARTTICKS says:
 *
 *   memshared-guest 1
 *   boot 01234567-...                   pid and start time mean nothing after a reboot
 *   policy domain NAME                  each field that clients asked for
 *   unmerged yes                        it is to share nothing until told to (or no such line)
 *   store 0123456789abcdef              label of a store that it may map (a line for each)
 *   ram 7f0000000000-7f0008000000 ...   RAM that we (and daemons before us) served
 *   mark 7f0000000000-7f0008000000 ...  where QEMU wants MERGEABLE
 *
 * It is there from before the first change until the guest has been given everything back or
 * has exited. A daemon that starts takes every guest that has one back in.
 *
 * Parsing is strict: root alone can write there, so what is not of this form is a broken file,
 * and the guest's marks as they are now count as QEMU's. Bounded: a file has at most
 * KEPT_BYTES_MAX, a directory as many files as there are guests; those of guests that are
 * no more go with the next kept_sweep().
 *
 * Any thread, one at a time for each guest.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "daemon/policy.h"
#include "daemon/process.h"
#include "daemon/range-set.h"
#include "daemon/store.h"

#define KEPT_BYTES_MAX (512U << 10)
/* Stores that a guest may map at a time: that of its domain, and those of former ones. */
#define KEPT_STORES_MAX 4U
#define KEPT_BOOT_BYTES 37U /* of /proc/sys/kernel/random/boot_id, NUL included */

struct kept {
	struct policy asked; /* at run time; the other layers are there again after a restart */
	bool unmerged; /* see unmerge.h */
	bool inherited; /* not in the file: an earlier daemon had kept something, good or broken */
	char stores[KEPT_STORES_MAX][STORE_LABEL_BYTES];
	unsigned n_stores;
	struct range_set ram;
	struct range_set marks;
};

/* All zeros is an empty one, that nobody asked for. */
void kept_done(struct kept *e);

/* Pure. -EINVAL: not of the form above; -ESTALE: of another boot; -ENOMEM. */
int kept_parse(const char *buf, size_t len, const char *boot, struct kept *ret);
/* Pure. The text in a fresh buffer. */
int kept_format(const struct kept *e, const char *boot, char **ret, size_t *ret_len);
/*
 * Pure. Completes e, which has this daemon's ram, with what is marked now and what an earlier
 * daemon noted (NULL: there was none). Marks outside the RAM that was served are QEMU's own (a
 * block that was plugged in since); inside, the earlier note alone counts: what is marked there
 * now may be ours. -ENOMEM, or -ENOSPC when there are too many ranges.
 */
int kept_inherit(struct kept *e, const struct kept *earlier,
		      const struct range_set *marked_now);

/* Makes STATE/guests if need be and opens it: a descriptor, or -errno. */
int kept_open_dir(const char *state_directory);
/* Which of QEMU's processes it is for goes by pid and start time. -ENOENT when there is none, else
 * as kept_parse(). */
int kept_load(int dir_fd, const struct process *p, struct kept *ret);
/* Whole or not at all. */
int kept_store(int dir_fd, const struct process *p, const struct kept *e);
/* Change only what was asked for; -ENOENT when there is none. */
int kept_set_asked(int dir_fd, const struct process *p, const struct policy *asked);
int kept_set_unmerged(int dir_fd, const struct process *p, bool unmerged);
/* The guest may map this store (NULL: none) and no other any more. */
int kept_set_store(int dir_fd, const struct process *p, const char *label);
/* One more store that the guest may map. -ENOSPC. */
int kept_add_store(struct kept *e, const char *label);
void kept_remove(int dir_fd, const struct process *p);

/* Of a guest that an earlier daemon had: a process, and a store that it may map. */
struct kept_store_user {
	pid_t pid;
	uint64_t start_ticks;
	char store[STORE_LABEL_BYTES]; /* "": what is kept cannot be read, so any store */
};
/* All of them, in an array of the caller's; when nobody writes there. */
int kept_store_users(int dir_fd, struct kept_store_user **ret, size_t *ret_n);
/* Removes the files of guests that are no more, and what was never finished. Returns how many are
 * left. */
unsigned kept_sweep(int dir_fd);
