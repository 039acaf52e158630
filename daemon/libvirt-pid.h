/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which process is a libvirt domain's QEMU.
 *
 * libvirtd writes NAME.pid into a directory of its own; where that file is, it decides, and the
 * process must also carry the domain's UUID on its command line (the pid may be stale). Where
 * it is not (other drivers, containers) all of /proc is searched for the UUID, and only
 * a single match counts: a QEMU that a guest has taken over can rewrite its own command line,
 * and must not pass for another domain.
 *
 * The answer is a pid of this moment; the caller opens it by process_open() and then asks
 * libvirt_pid_matches() once more.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Where the driver of this URI keeps its pid files; false when that is not known. */
bool libvirt_run_dir(const char *uri, char *ret, size_t size);
/* proc_fd: /proc. run_dir may be NULL. 0, -ESRCH, or -ENOTUNIQ when several processes match. */
int libvirt_find_pid(int proc_fd, const char *run_dir, const char *name, const char *uuid,
		     pid_t *ret);
/* Does the process say "-uuid UUID"? dir_fd: /proc/PID. */
bool libvirt_pid_matches(int dir_fd, const char *uuid);
/* Pure: the same of the content of a cmdline file. */
bool libvirt_cmdline_matches(const char *buf, size_t len, const char *uuid);
