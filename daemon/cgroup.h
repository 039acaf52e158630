/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory control groups of a process: how much more its groups' limits let it have.
 *
 * A page that is shared is charged to us, who wrote it first, or to one of the sharers; a page that
 * is given back is charged to the guest. At its group's limit (libvirt's hard_limit, a slice's
 * MemoryMax) the kernel kills, though the host has memory to spare: whoever makes private copies for
 * a guest asks here first. Documentation: admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst of the
 * kernel.
 *
 * What is in these files is the kernel's, the names in the paths are the administrator's. Any thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* A longer path of a group is not looked at. */
#define CGROUP_PATH_MAX 512

struct cgroup_room {
	uint64_t bytes; /* UINT64_MAX: no group has a limit, or none that we can see */
	char path[CGROUP_PATH_MAX]; /* of the group that allows least; "" without a limit */
};

/* proc_fd: /proc/PID. 0, or -errno: the process has gone. */
int cgroup_room_read(int proc_fd, struct cgroup_room *ret);
/* The same, where root_fd is a directory that holds sys: tests feed a copy. */
int cgroup_room_read_at(int root_fd, int proc_fd, struct cgroup_room *ret);

/* Pure. /proc/PID/cgroup: the path of the group that the memory controller of this version counts the
 * process in. 0; -ENOENT: there is none; -ENAMETOOLONG; -EINVAL: outside what we see ("/../"). */
int cgroup_parse_path(const char *text, unsigned version, char *ret, size_t size);
/* Pure. memory.stat: bytes of file pages that have not been used for long, which the kernel drops
 * before it kills; 0 when it does not say. */
uint64_t cgroup_parse_inactive(const char *text, unsigned version);
