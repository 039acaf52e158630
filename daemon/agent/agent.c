/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent: one thread of ours inside QEMU that carries out what the daemon puts in the ring.
 *
 * Theory of operation. The image is freestanding and position independent, has no data that is
 * written and calls nothing of the process it lives in. memshared-attach maps it, a stack and the
 * ring, and clones the thread, which blocks no resource of QEMU's: all signals are blocked, no
 * lock is ever taken. Whatever the agent must remember from one batch to the next is in the
 * ring's struct ring_agent, where the next daemon finds it; local variables live for one batch.
 *
 * The ring can be written by QEMU too. That gives QEMU no power that it lacks: every call here is
 * made with QEMU's own rights in QEMU's own address space. Bounds are checked all the same,
 * so that a bug in the daemon is an error code and not a wild access.
 *
 * The thread ends by EXIT only. When the daemon is gone it sleeps in futex on `published`.
 */
#include <linux/fcntl.h>
#include <linux/futex.h>
#include <linux/ioctl.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/userfaultfd.h>

#include "daemon/agent/ring.h"
#include "daemon/agent/start.h"
#include "daemon/agent/syscall.h"
#include "daemon/agent/transaction.h"

_Noreturn void agent_main(struct agent_start *start);

/* From the kernel's <asm-generic/errno.h>; libc's errno.h is not for freestanding code. */
enum {
	E_PERM = 1,
	E_AGAIN = 11,
	E_EXIST = 17,
	E_NODEV = 19,
	E_INVAL = 22,
	E_NOSYS = 38,
};

/* From <linux/socket.h>, which is not exported. */
enum {
	SOL_SOCKET_ = 1,
	SCM_RIGHTS_ = 1,
	MSG_DONTWAIT_ = 0x40,
	MSG_CMSG_CLOEXEC_ = 0x40000000,
};

/* Messages that RECEIVE_FD drops in search of its own; a socket queues fewer. */
#define FD_MESSAGES_MAX 512

/* Advice that neither loses a page's content nor changes what a page reads as. */
static int advice_is_harmless(int advice)
{
	switch (advice) {
	case MADV_NORMAL:
	case MADV_WILLNEED:
	case MADV_MERGEABLE:
	case MADV_UNMERGEABLE:
	case MADV_HUGEPAGE:
	case MADV_NOHUGEPAGE:
	case MADV_COLD:
	case MADV_PAGEOUT:
	case MADV_COLLAPSE:
		return 1;
	default:
		return 0;
	}
}

/* One madvise for each entry, its result beside it. */
static int64_t op_advise(struct ring_advise *v, uint32_t n)
{
	int64_t done = 0;

	if (n > RING_ADVISE_MAX)
		return -E_INVAL;
	for (uint32_t i = 0; i < n; i++) {
		int advice = v[i].advice;
		long r = -E_INVAL;

		if (advice_is_harmless(advice))
			r = sys_madvise(v[i].addr, v[i].bytes, advice);
		v[i].result = (int32_t)r;
		done += r == 0;
	}
	return done;
}

static void fd_close(struct ring_agent *a, uint32_t role)
{
	int fd = a->fds[role];

	a->fds[role] = -1;
	if (fd >= 0)
		(void)sys_close(fd);
}

/* Takes one message: its tag, and the descriptor that came with it or -1. 0 or -errno. */
static long fd_take_message(int socket, uint32_t *ret_tag, int *ret_fd)
{
	struct {
		struct sys_cmsghdr head;
		int32_t fd;
		int32_t pad;
	} control = {.fd = -1};
	uint32_t tag = 0;
	struct sys_iovec iov = {&tag, sizeof(tag)};
	struct sys_msghdr m = {
		.iov = &iov,
		.iov_len = 1,
		.control = &control,
		.control_len = sizeof(control),
	};
	long r = sys_recvmsg(socket, &m, MSG_DONTWAIT_ | MSG_CMSG_CLOEXEC_);
	int has_fd = m.control_len >= sizeof(control.head) + sizeof(control.fd) &&
		     control.head.level == SOL_SOCKET_ && control.head.type == SCM_RIGHTS_;

	if (r < 0)
		return r;
	*ret_tag = r == sizeof(tag) ? tag : 0;
	*ret_fd = has_fd ? control.fd : -1;
	return r == 0 && !has_fd ? -E_AGAIN : 0; /* an empty message: the peer was closed */
}

static int64_t op_receive_fd(struct ring_agent *a, uint64_t arg)
{
	uint32_t role = RING_FD_ROLE(arg);

	if (role >= RING_FD_MAX || role == RING_FD_SOCKET || role == RING_FD_SOCKET_PEER)
		return -E_INVAL;
	for (uint32_t i = 0; i < FD_MESSAGES_MAX; i++) {
		uint32_t tag;
		int fd;
		long r = fd_take_message(a->fds[RING_FD_SOCKET], &tag, &fd);

		if (r < 0)
			return r;
		if (fd >= 0 && tag == RING_FD_TAG(arg)) {
			fd_close(a, role);
			if (role == RING_FD_STORE)
				transaction_unmap_store(a);
			a->fds[role] = fd;
			return fd;
		}
		if (fd >= 0)
			(void)sys_close(fd);
	}
	return -E_AGAIN;
}

static int64_t op_close_fd(struct ring_agent *a, uint64_t role)
{
	/* The sockets are how the next daemon hands descriptors over: they stay until EXIT. */
	if (role >= RING_FD_MAX || role == RING_FD_SOCKET || role == RING_FD_SOCKET_PEER)
		return -E_INVAL;
	fd_close(a, (uint32_t)role);
	return 0;
}

static int64_t op_open_uffd(struct ring_agent *a, uint64_t kind)
{
	int device = a->fds[RING_FD_UFFD_DEVICE];
	long fd;

	if (a->fds[RING_FD_UFFD] >= 0)
		return -E_EXIST;
	if (kind == RING_UFFD_KERNEL) {
		if (device < 0)
			return -E_NODEV;
		fd = sys_ioctl(device, USERFAULTFD_IOC_NEW, (void *)(O_CLOEXEC | O_NONBLOCK));
	} else if (kind == RING_UFFD_USER) {
		if (a->denied & RING_DENIED_USERFAULTFD)
			return -E_PERM;
		fd = sys_userfaultfd(O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	} else {
		return -E_INVAL;
	}
	if (fd >= 0) {
		a->fds[RING_FD_UFFD] = (int32_t)fd;
		a->uffd_kind = (uint32_t)kind;
	}
	return fd;
}

/* All but the thread itself, its stack, its code and the ring: --remove takes those. */
static int64_t op_exit(struct ring_agent *a)
{
	for (uint32_t role = 0; role < RING_FD_MAX; role++)
		if (role != RING_FD_EVENT) /* still to be written, for this batch */
			fd_close(a, role);
	transaction_release(a);
	return 0;
}

static int64_t dispatch(struct ring_header *h, uint32_t number, uint32_t op)
{
	struct ring_batch *b = &h->batches[number % RING_BATCHES];
	void *payload = ring_payload(h, number);
	uint32_t n = b->n;

	switch (op) {
	case RING_PING:
		return RING_VERSION;
	case RING_ADVISE:
		return op_advise(payload, n);
	case RING_RECEIVE_FD:
		return op_receive_fd(&h->agent, b->arg);
	case RING_CLOSE_FD:
		return op_close_fd(&h->agent, b->arg);
	case RING_OPEN_UFFD:
		return op_open_uffd(&h->agent, b->arg);
	case RING_MAP_STORE:
		return transaction_map_store(&h->agent, b->arg);
	case RING_MERGE:
	case RING_UNMERGE:
	case RING_PROTECT:
	case RING_RECLAIM:
		return transaction_run(&h->agent, op, payload, n);
	case RING_EXIT:
		return op_exit(&h->agent);
	default:
		return -E_NOSYS;
	}
}

/* Sleeps until the daemon has published more than `done` batches, and no more than there is room
 * for: any other number is a mistake, and what it would have us do is done already, or stale. */
static void wait_for_batch(struct ring_header *h, uint32_t done)
{
	uint32_t published;

	while ((published = __atomic_load_n(&h->published, __ATOMIC_ACQUIRE)) == done ||
	       published - done > RING_BATCHES)
		(void)sys_futex(&h->published, FUTEX_WAIT, published);
}

static void signal_done(struct ring_header *h)
{
	static const uint64_t one = 1;
	int fd = h->agent.fds[RING_FD_EVENT];

	(void)sys_futex(&h->done, FUTEX_WAKE, INT32_MAX);
	if (fd >= 0)
		(void)sys_write(fd, &one, sizeof(one));
}

static void take_over(struct ring_agent *a)
{
	static const char name[] = "memshared";

	fd_close(a, RING_FD_RING);
	fd_close(a, RING_FD_CODE);
	if (!(a->denied & RING_DENIED_SET_NAME))
		(void)sys_prctl(PR_SET_NAME, (unsigned long)name);
}

_Noreturn void agent_main(struct agent_start *start)
{
	struct ring_header *h = (void *)start->ring_addr;

	take_over(&h->agent);
	for (;;) {
		uint32_t done = __atomic_load_n(&h->done, __ATOMIC_RELAXED);
		struct ring_batch *b = &h->batches[done % RING_BATCHES];
		uint32_t op;

		wait_for_batch(h, done);
		op = b->op;
		b->result = dispatch(h, done, op);
		__atomic_store_n(&h->done, done + 1, __ATOMIC_RELEASE);
		signal_done(h);
		if (op != RING_EXIT)
			continue;
		fd_close(&h->agent, RING_FD_EVENT);
		sys_exit(0); /* the kernel clears exit_word and wakes who waits on it */
	}
}
