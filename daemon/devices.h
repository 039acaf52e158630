/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Devices, and the like, that a guest's process holds open and that pin or encrypt its memory, for guests of
 * which libvirt says nothing (and as a second opinion on the others): /proc/PID/fd.
 *
 * A process that hides what it holds cheats only itself: a pinned page is not merged, or gets a
 * copy, whatever is said here. Any thread; bounded.
 */
#pragma once

#include <stdint.h>

#include "daemon/process.h"

/* Descriptors looked at, of more. */
#define DEVICES_FDS_MAX 16384U

/* enum libvirt_flag of what the link of one descriptor names, or 0. Pure. */
uint32_t devices_of_link(const char *link);
/* Of all descriptors. 0 or -errno. */
int devices_read(const struct process *p, uint32_t *ret);
/* 1: it has a userfaultfd, 0: it has none, -errno. */
int devices_have_userfaultfd(const struct process *p);
