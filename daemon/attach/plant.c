/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation. Six calls, each harmless by itself:
 *
 *   mmap        the private block: start block, buffers, stack
 *   socketpair  the agent's socket and the daemon's end
 *   recvmsg     the ring and the agent's image, which we send through that socket
 *   mmap        the image, from the installed file: security modules let QEMU execute a library
 *               file but not anonymous memory. Its descriptor is passed rather than its path
 *               opened, because QEMU may live in another mount namespace
 *   mmap        the ring
 *   clone       the agent, with the flags of pthread_create
 *
 * The first four are made with the instruction that the thread sleeps in. From then on the
 * image's own instruction is used (start.S): clone needs it, because the new thread starts
 * behind it, and it repairs the borrowed thread if we are killed. So what our death can do
 * (each point is a fault point, tests/integration/attach-faults.c):
 *
 *   before tracee_borrow()         nothing
 *   up to the mapping of the image the thread's poll returns our call's result once
 *   after that                     nothing; the agent runs, or not
 *
 * A daemon that lives then undoes the rest by the ring of the attempt (agent-link.c): it puts
 * the thread's signal mask back and removes what was mapped, up to two descriptors excepted if the
 * death fell between a call and our taking note of its result. If the daemon dies in the same
 * moment, its successor does that if the ring had been mapped; otherwise up to 128 KiB and
 * four descriptors stay, and one thread blocks signals.
 *
 * The window is tens of microseconds, once in a guest's life.
 *
 * The agent closes the descriptors of ring and image itself: two calls fewer in the window.
 */
#include "daemon/attach/plant.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "common/fault.h"
#include "common/util.h"
#include "daemon/agent/start.h"

/* From the kernel's <asm/errno.h>: results of calls, as the kernel gives them. */
#define CALL_FAILED(r) ((r) < 0 && (r) >= -4095)
/* Bytes of stack that stay unused on top: the ABI wants 16-byte alignment, and a little room. */
#define STACK_ROOM 64

/* The first two pages of the private block, as they stand in the guest. */
struct block {
	struct agent_start start;
	uint8_t pad[AGENT_BUFFER_OFFSET - sizeof(struct agent_start)];
	struct {
		int32_t sockets[2];
		struct msghdr msg;
		struct iovec iov;
		uint64_t data;
		struct {
			struct cmsghdr head;
			int32_t fds[2];
		} control;
	} buffer;
};
_Static_assert(offsetof(struct block, buffer) == AGENT_BUFFER_OFFSET, "start.h");
_Static_assert(sizeof(struct block) <= AGENT_PRIVATE_BYTES - AGENT_STACK_BYTES, "start.h");

/* Not on the stack: everything is locked in memory beforehand. */
static struct block block;

static uint64_t private_at(const struct plant *p, size_t offset)
{
	return p->agent.private_addr + offset;
}

/* Where a member of struct block is in the guest. */
#define AT(p, member) private_at(p, offsetof(struct block, member))

/* Copies to or from the private block; size bytes at the same offset of block and guest. */
static int copy_block(const struct plant *p, size_t offset, size_t size, bool to_guest)
{
	struct iovec here = { (uint8_t *)&block + offset, size };
	struct iovec there = { (void *)private_at(p, offset), size };
	ssize_t n = to_guest ? process_vm_writev(p->tracee->tid, &here, 1, &there, 1, 0)
			     : process_vm_readv(p->tracee->tid, &here, 1, &there, 1, 0);

	if (n < 0)
		return -errno;
	return (size_t)n == size ? 0 : -EFAULT;
}

#define PUSH(p, member) copy_block(p, offsetof(struct block, member), sizeof(block.member), true)
#define PULL(p, member) copy_block(p, offsetof(struct block, member), sizeof(block.member), false)

/* One borrowed call; its result, or -errno of the call or of ptrace. */
static int64_t call(struct plant *p, const char *step, int nr, uint64_t a, uint64_t b, uint64_t c,
		    uint64_t d, uint64_t e, uint64_t f)
{
	const uint64_t args[6] = { a, b, c, d, e, f };
	int64_t result;
	int r;

	p->step = step;
	r = tracee_call(p->tracee, 0, 0, nr, args, p->deadline_usec, &result);
	return r < 0 ? r : result;
}

/* The same with the image's instruction. */
static int64_t call_repaired(struct plant *p, const char *step, int nr, const uint64_t args[6])
{
	int64_t result;
	int r;

	p->step = step;
	r = tracee_call(p->tracee, p->agent.code_addr, p->agent.private_addr, nr, args,
			p->deadline_usec, &result);
	return r < 0 ? r : result;
}

/* What has been made so far, for whoever finds the ring after our death. */
static void publish(struct plant *p)
{
	p->ring->agent = p->agent;
}

void plant_note_thread(struct plant *p)
{
	struct ring_agent *a = &p->ring->agent;

	p->agent.borrowed_tid = p->tracee->tid;
	p->agent.borrowed_sigmask = p->tracee->sigmask;
	a->borrowed_sigmask = p->agent.borrowed_sigmask;
	__atomic_store_n(&a->borrowed_tid, p->agent.borrowed_tid, __ATOMIC_RELEASE);
}

void plant_forget_thread(struct plant *p)
{
	p->agent.borrowed_tid = 0;
	__atomic_store_n(&p->ring->agent.borrowed_tid, 0, __ATOMIC_RELEASE);
}

/* How the thread goes on when start.S has to put it right. */
static void fill_start(const struct plant *p)
{
	const struct user_regs_struct *regs = &p->tracee->regs;
	bool by_restart_block = (int64_t)regs->rax == -516; /* -ERESTART_RESTARTBLOCK */

	block.start = (struct agent_start){
		.stack_top = private_at(p, AGENT_PRIVATE_BYTES - STACK_ROOM),
		.resume_ip = regs->rip - 2,
		.rax = by_restart_block ? SYS_restart_syscall : regs->orig_rax,
		.rdi = regs->rdi,
		.rsi = regs->rsi,
		.rdx = regs->rdx,
		.r10 = regs->r10,
		.r8 = regs->r8,
		.r9 = regs->r9,
		.r15 = regs->r15,
		.sigmask = p->tracee->sigmask,
	};
}

/* What recvmsg needs. */
static void fill_buffer(const struct plant *p)
{
	struct msghdr *m = &block.buffer.msg;

	m->msg_iov = (void *)AT(p, buffer.iov);
	m->msg_iovlen = 1;
	m->msg_control = (void *)AT(p, buffer.control);
	m->msg_controllen = sizeof(block.buffer.control);
	block.buffer.iov.iov_base = (void *)AT(p, buffer.data);
	block.buffer.iov.iov_len = sizeof(block.buffer.data);
}

static int make_private(struct plant *p)
{
	int64_t r = call(p, "mmap of the stack", SYS_mmap, 0, AGENT_PRIVATE_BYTES,
			 PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, UINT32_MAX, 0);

	if (CALL_FAILED(r))
		return (int)r;
	p->agent.private_addr = (uint64_t)r;
	p->agent.private_bytes = AGENT_PRIVATE_BYTES;
	publish(p);
	FAULT_POINT("attach-private");
	fill_start(p);
	fill_buffer(p);
	p->step = "writing its stack";
	return copy_block(p, 0, sizeof(block), true);
}

static int make_sockets(struct plant *p)
{
	int64_t r = call(p, "socketpair", SYS_socketpair, AF_UNIX, PLANT_SOCKET_TYPE, 0,
			 AT(p, buffer.sockets), 0, 0);

	if (CALL_FAILED(r))
		return (int)r;
	FAULT_POINT("attach-sockets");
	r = PULL(p, buffer.sockets);
	if (r < 0)
		return (int)r;
	p->agent.fds[RING_FD_SOCKET] = block.buffer.sockets[0];
	p->agent.fds[RING_FD_SOCKET_PEER] = block.buffer.sockets[1];
	publish(p);
	return 0;
}

/* Puts ring and image into the socket, from our side. */
static int send_files(struct plant *p)
{
	_cleanup_close_ int peer = -1;
	union {
		struct cmsghdr head;
		uint8_t bytes[CMSG_SPACE(2 * sizeof(int))];
	} control = { .head = {
			      .cmsg_len = CMSG_LEN(2 * sizeof(int)),
			      .cmsg_level = SOL_SOCKET,
			      .cmsg_type = SCM_RIGHTS,
		      } };
	uint64_t data = 0;
	struct iovec iov = { &data, sizeof(data) };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control.bytes),
	};
	const int fds[2] = { p->ring_fd, p->code_fd };

	p->step = "pidfd_getfd";
	peer = (int)syscall(SYS_pidfd_getfd, p->pidfd, p->agent.fds[RING_FD_SOCKET_PEER], 0);
	if (peer < 0)
		return -errno;
	memcpy(CMSG_DATA(&control.head), fds, sizeof(fds));
	p->step = "sendmsg";
	return sendmsg(peer, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int receive_files(struct plant *p)
{
	int64_t r = call(p, "recvmsg", SYS_recvmsg, (uint32_t)p->agent.fds[RING_FD_SOCKET],
			 AT(p, buffer.msg), PLANT_RECVMSG_FLAGS, 0, 0, 0);

	if (CALL_FAILED(r))
		return (int)r;
	FAULT_POINT("attach-received");
	r = copy_block(p, AGENT_BUFFER_OFFSET, sizeof(block.buffer), false);
	if (r < 0)
		return (int)r;
	/* A security module, or a full descriptor table, may have left something out. */
	if (block.buffer.msg.msg_controllen >= CMSG_LEN(sizeof(int)))
		p->agent.fds[RING_FD_RING] = block.buffer.control.fds[0];
	if (block.buffer.msg.msg_controllen >= CMSG_LEN(2 * sizeof(int)))
		p->agent.fds[RING_FD_CODE] = block.buffer.control.fds[1];
	publish(p);
	return p->agent.fds[RING_FD_CODE] < 0 ? -EMFILE : 0;
}

static int map_code(struct plant *p)
{
	int64_t r = call(p, "mmap of the agent's code", SYS_mmap, 0, p->code_bytes,
			 PROT_READ | PROT_EXEC, MAP_PRIVATE, (uint32_t)p->agent.fds[RING_FD_CODE],
			 0);

	if (CALL_FAILED(r))
		return (int)r;
	p->agent.code_addr = (uint64_t)r;
	p->agent.code_bytes = p->code_bytes;
	publish(p);
	FAULT_POINT("attach-code");
	return 0;
}

static int map_ring(struct plant *p)
{
	const uint64_t args[6] = { 0, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
				   (uint32_t)p->agent.fds[RING_FD_RING], 0 };
	int64_t r = call_repaired(p, "mmap of the ring", SYS_mmap, args);

	if (CALL_FAILED(r))
		return (int)r;
	p->agent.ring_addr = (uint64_t)r;
	publish(p);
	FAULT_POINT("attach-ring");
	block.start.ring_addr = p->agent.ring_addr;
	return PUSH(p, start.ring_addr);
}

static int start_agent(struct plant *p)
{
	uint64_t word = p->agent.ring_addr + offsetof(struct ring_header, exit_word);
	const uint64_t args[6] = { PLANT_CLONE_FLAGS, block.start.stack_top, word, word,
				   p->agent.private_addr, 0 };
	/* If we die here: the agent starts (exit_word names it) or not, the thread is repaired. */
	int64_t r = call_repaired(p, "clone", SYS_clone, args);

	if (CALL_FAILED(r))
		return (int)r;
	FAULT_POINT("attach-cloned");
	/* From here on struct ring_agent is the agent's. */
	p->agent.tid = (int32_t)r;
	p->agent.fds[RING_FD_RING] = -1;
	p->agent.fds[RING_FD_CODE] = -1;
	__atomic_store_n(&p->ring->agent.tid, p->agent.tid, __ATOMIC_RELEASE);
	return 0;
}

int plant_agent(struct plant *p)
{
	const char *failed;
	int r;

	p->agent.denied = p->denied;
	for (unsigned i = 0; i < RING_FD_MAX; i++)
		p->agent.fds[i] = -1;
	publish(p);
	r = make_private(p);
	if (r == 0)
		r = make_sockets(p);
	if (r == 0)
		r = send_files(p);
	if (r == 0)
		r = receive_files(p);
	if (r == 0)
		r = map_code(p);
	if (r == 0)
		r = map_ring(p);
	if (r == 0)
		r = start_agent(p);
	if (r == 0 || r == -ESRCH || !p->tracee->stopped)
		return r;
	failed = p->step;
	(void)plant_remove(p);
	p->step = failed;
	publish(p);
	return r;
}

static int unmap(struct plant *p, const char *step, uint64_t *addr, uint64_t bytes)
{
	int64_t r = 0;

	if (*addr)
		r = call(p, step, SYS_munmap, *addr, bytes, 0, 0, 0, 0);
	FAULT_POINT("remove-unmapped");
	if (CALL_FAILED(r))
		return (int)r;
	*addr = 0;
	return 0;
}

static int close_one(struct plant *p, int32_t *fd)
{
	int64_t r = 0;

	if (*fd >= 0)
		r = call(p, "close", SYS_close, (uint32_t)*fd, 0, 0, 0, 0, 0);
	*fd = -1;
	return CALL_FAILED(r) && r != -EBADF ? (int)r : 0;
}

static int remove_one(struct plant *p, unsigned i)
{
	struct ring_agent *a = &p->agent;

	if (i < RING_FD_MAX)
		return close_one(p, &a->fds[i]);
	switch (i - RING_FD_MAX) {
	case 0:
		return unmap(p, "munmap of the code", &a->code_addr, a->code_bytes);
	case 1:
		return unmap(p, "munmap of the stack", &a->private_addr, a->private_bytes);
	default:
		return unmap(p, "munmap of the ring", &a->ring_addr, RING_BYTES);
	}
}

int plant_remove(struct plant *p)
{
	const char *failed = NULL;
	int first = 0;

	for (unsigned i = 0; i < RING_FD_MAX + 3 && p->tracee->stopped; i++) {
		int r = remove_one(p, i);

		if (r < 0 && first == 0) {
			first = r;
			failed = p->step;
		}
		if (r == -ESRCH)
			break;
	}
	if (failed)
		p->step = failed;
	return first;
}
