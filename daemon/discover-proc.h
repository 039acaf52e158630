/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Finds QEMU guests without libvirt: among the processes of the host.
 *
 * A process counts as a guest when its executable is called like a QEMU system emulator and its
 * command line is one that runs a guest. Whether it has guest memory is not asked here
 * (memory.h): a QEMU that is just starting has none yet.
 *
 * Nothing found here proves who the guest is. Whoever may start a process on this host can give a
 * program of his own QEMU's name and any -name and -uuid. So a name from here may choose what
 * weakens nobody (a CPU share), but must not by itself let a guest into a trust domain: look at
 * uid and own_program, or have libvirt's word.
 *
 * A guest in a container (pid, mount or user namespace of its own) is found like any other, under
 * the pid that it has for us. One whose files we may not read is left out.
 *
 * Cost: one readlink for each process (18 ms for 2000 of them), one small read for each QEMU; a
 * command line is read once in the life of a guest. The link is read each time, because a process
 * keeps pid and start time when it executes QEMU, and no other file is cheaper.
 *
 * Blocks only on /proc. The scanner belongs to one thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/qemu-cmdline.h"

#define DISCOVER_GUESTS_MAX   4096U
#define DISCOVER_REASON_BYTES 256U

struct proc_guest {
	pid_t pid;
	uint64_t start_ticks; /* with pid: compare to struct process */
	uid_t uid;	      /* effective */
	bool is_root;	      /* uid 0 of this host: such a QEMU could write to what it gets to read */
	bool own_program;     /* others than root may change the executable: it may be no QEMU */
	char exe[64];	      /* base name, printable */
	struct qemu_cmdline cmdline;
};

/* 0: taken. 1: not now, the next scan tells it again. A negative return ends the scan, which returns
 * it; this guest and those that were not told are told by the next one. */
typedef int discover_proc_fn(const struct proc_guest *g, void *userdata);

struct discover_proc;

int discover_proc_new(struct discover_proc **ret);
/* NULL is fine. */
void discover_proc_free(struct discover_proc *d);

/*
 * Calls fn for each guest that the scan before did not find; so the first scan tells all. proc_fd
 * is /proc. Returns the number of guests there are now, or -errno. Guests beyond
 * DISCOVER_GUESTS_MAX are not found. That a guest has gone is for its owner to learn (pidfd).
 */
int discover_proc_scan(struct discover_proc *d, int proc_fd, discover_proc_fn *fn, void *userdata);
/* Tells this guest again in the next scan, or all (pid 0). */
void discover_proc_forget(struct discover_proc *d, pid_t pid);

/*
 * Is this process a guest? 0, or why not, with a sentence for the administrator: -ESRCH no such
 * process, -ENOEXEC a kernel thread or zombie, -ENOMSG another program, or a QEMU without guest,
 * -EACCES/-EPERM not allowed to look.
 */
int discover_proc_pid(int proc_fd, pid_t pid, struct proc_guest *ret,
		      char ret_reason[DISCOVER_REASON_BYTES]);
