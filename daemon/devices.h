/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Devices that a guest's process holds open, by /proc/PID/fd: those that pin or encrypt its memory, those that
 * do I/O to it in a way that does not show, and whether it does direct I/O at all. What libvirt and QEMU
 * say of a guest comes on top (libvirt-xml.h, qemu-cmdline.h, qmp.h).
 *
 * A process that hides what it holds cheats only itself: its I/O may go to a page that is not its
 * memory any more.
 *
 * Any thread; bounded.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/process.h"

/* Descriptors looked at. A QEMU has some dozens, with many disks and queues some hundreds. */
#define DEVICES_FDS_MAX 16384U

/* enum libvirt_flag of all descriptors: LIBVIRT_UNSEEN when there are more. 0 or -errno. */
int devices_read(const struct process *p, uint32_t *ret);
/* Does the process do direct I/O, or might it (O_DIRECT descriptors, io_uring, disks and SCSI devices that
 * take commands)? Then pages may be pinned for a device's writes at any time. 1, 0 or -errno. */
int devices_direct_io(const struct process *p);
/* 1: it has a userfaultfd, 0: it has none, -errno. */
int devices_have_userfaultfd(const struct process *p);

/* Pure. enum libvirt_flag of what the link of one descriptor names, or 0. */
uint32_t devices_of_link(const char *link);
/* Pure. Is direct I/O on a file system of this type (statfs) invisible to UFFDIO_MOVE? */
bool devices_hide_io(uint64_t file_system);
/* Pure. The flags line of /proc/PID/fdinfo/N says O_DIRECT, or there is none. */
bool devices_is_direct(const char *buf, size_t len);
