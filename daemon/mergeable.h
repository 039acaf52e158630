/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which processes have memory that KSM may merge (madvise(MADV_MERGEABLE) or PR_SET_MEMORY_MERGE).
 *
 * KSM has one tree for the whole host: memory of a process outside the trust domain would be merged
 * with the domain's. So what cannot be found out counts against starting ksmd; only a process
 * that has gone counts for nothing.
 *
 * Linux 6.14 tells it by a line in ksm_stat. Older kernels tell it only by the flags of each mapping
 * in smaps, which is long where a process has many, and slow where it has much memory.
 *
 * Worker threads only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct mergeable_look {
	int proc_fd; /* /proc */
	/* Is this the process of the domain? */
	bool (*ours)(pid_t pid, void *userdata);
	void *userdata;
	/* Ends the look with -ECANCELED when it becomes true; NULL: nothing does. */
	const _Atomic bool *stop;
	uint64_t max_usec; /* for all of it; -ETIME when that is not enough */
	/* For looks while ksmd runs: by ksm_stat alone (Linux 6.1), passes over what ksmd has not come
	 * to yet, and so has merged nothing of. */
	bool quick;
};

/* 0: no other process has mergeable memory. -EPERM: one has; -errno: of one it is not known, or they
 * cannot be listed. Then the reason says which process and what is the remedy. -ECANCELED without. */
int mergeable_look(const struct mergeable_look *l, char *ret_reason, size_t size);

/* One process, by its directory in /proc: 1 it has, 0 it has not or has gone, -errno. */
int mergeable_process(const struct mergeable_look *l, int pid_fd);
