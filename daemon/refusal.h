/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What in a guest's process forbids engine remap, found by looking at the process itself:
 *
 *   - devices that reach guest memory by its frames (VFIO, vhost-vdpa, RDMA): a remapped page
 *     would be another frame than theirs
 *   - vhost-scsi, which holds pages for I/O by references that UFFDIO_MOVE does not mind
 *   - locked memory, a userfaultfd of somebody else
 *   - free page reporting, virtio-mem, and the like: the guest may expect zeros where
 *     MADV_DONTNEED on a merged page shows the slot again (engine zero has no slots)
 *   - direct I/O on a file system that does not pin its pages in a way that the kernel shows
 *
 * What libvirt knows comes on top (libvirt-xml.h). The command line is the guest's word about
 * itself; a guest that lies harms itself only.
 *
 * The table's parts are pure; refusal_of_remap() reads /proc/PID and is for a worker.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/policy.h"
#include "daemon/process.h"

#define REFUSAL_BYTES 192

/* Of engine remap, or zero, which is refused less. 0 when nothing speaks against it; -EPERM and the
 * reason, with what would change it. */
int refusal_of_remap(const struct process *p, enum policy_engine engine, char ret_reason[REFUSAL_BYTES]);

/* Does the process do direct I/O, or might it (O_DIRECT descriptors, io_uring, disks and SCSI devices that
 * take commands)? Then pages may be pinned for a device's writes at any time. 1, 0 or -errno. */
int refusal_direct_io(const struct process *p);

/* Pure. What the target of a link in /proc/PID/fd forbids; NULL: nothing. */
const char *refusal_of_descriptor(const char *target);
/* Pure. What an argument of QEMU's command line forbids to this engine; NULL: nothing. */
const char *refusal_of_argument(const char *argument, enum policy_engine engine);
/* Pure. Is direct I/O on a file system of this type (statfs) invisible to UFFDIO_MOVE? */
bool refusal_of_file_system(uint64_t type);
/* Pure. The flags line of /proc/PID/fdinfo/N says O_DIRECT, or there is none. */
bool refusal_is_direct(const char *buf, size_t len);
