/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The sequence of borrowed calls that plants an agent, and the one that takes away what an agent
 * leaves behind.
 *
 * Both are used between tracee_borrow() and tracee_restore(), and allocate nothing.
 */
#pragma once

#include <stdint.h>
#include <sys/socket.h>

#include "daemon/agent/ring.h"
#include "daemon/attach/tracee.h"

/* What glibc's pthread_create passes: the only value that QEMU's seccomp filter lets through. */
#define PLANT_CLONE_FLAGS   0x3d0f00
#define PLANT_SOCKET_TYPE   (SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK)
#define PLANT_RECVMSG_FLAGS (MSG_DONTWAIT | MSG_CMSG_CLOEXEC)

struct plant {
	/* Filled by the caller. */
	struct tracee *tracee; /* borrowed */
	int pidfd;
	int ring_fd, code_fd;
	uint64_t code_bytes;	  /* of the mapping: whole pages */
	struct ring_header *ring; /* our mapping of ring_fd */
	uint32_t denied;	  /* enum ring_denied */
	uint64_t deadline_usec;
	/* Filled on the way; also on failure. */
	const char *step; /* what was being done: "socketpair" */
	struct ring_agent agent;
};

/* Before tracee_borrow() and after tracee_restore(): writes down in the ring which thread is
 * borrowed and what its signal mask is. */
void plant_note_thread(struct plant *p);
void plant_forget_thread(struct plant *p);
/*
 * 0: the agent runs, p->agent says where everything is. -errno: nothing is left in the guest,
 * unless the thread could not be made to run any more (-ESRCH: the guest died; -ETIMEDOUT).
 */
int plant_agent(struct plant *p);
/* Closes the descriptors and unmaps the ranges that p->agent names (0 and -1 for none), the ring
 * last, since it is by the ring that the rest is found. The first error, but goes on after it. */
int plant_remove(struct plant *p);
