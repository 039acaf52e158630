/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Batches: published one at a time, waited for by the eventfd that the agent writes, or, as long
 * as it has none, by futex on the ring's `done`.
 *
 * The guest can wake us as often as it likes; after WAKES_MAX wakes for nothing the eventfd is
 * no longer listened to, and `done` is looked at once a millisecond until the deadline.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "common/fault.h"
#include "common/io.h"
#include "common/kernel-abi.h"
#include "common/parse.h"
#include "common/util.h"
#include "daemon/agent-private.h"
#include "daemon/agent/start.h"
#include "daemon/ring-check.h"

/* Batches that only look or hand over; the agent answers in tens of microseconds, or when QEMU's
 * threads leave it a processor. */
#define CALL_USEC (5 * USEC_PER_SEC)
/* Batches that work on memory: breaking up merged memory copies it, some GiB a second. */
#define WORK_USEC (30 * USEC_PER_SEC)
/* For one that is late already. */
#define LATE_USEC (100 * USEC_PER_MSEC)
#define WAKES_MAX 64U
#define SLICE_MSEC 1

static uint32_t load(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* Sleeps a while, at most until the word changes. -ESRCH when the guest has ended. */
static int wait_slice(struct agent_link *a, const uint32_t *word, uint32_t seen, bool listen,
		      uint64_t left_usec)
{
	struct pollfd fds[2] = {
		{ .fd = a->process->pidfd, .events = POLLIN },
		{ .fd = listen ? a->event_fd : -1, .events = POLLIN },
	};
	struct timespec slice = { .tv_nsec = SLICE_MSEC * 1000000 };
	int timeout_msec = listen ? (int)(left_usec / USEC_PER_MSEC) + 1 : 0;
	uint64_t count;

	if (!listen)
		(void)syscall(SYS_futex, word, FUTEX_WAIT, seen, &slice, NULL, 0);
	if (poll(fds, 2, timeout_msec) < 0 && errno != EINTR)
		return -errno;
	if (fds[0].revents)
		return -ESRCH;
	if (fds[1].revents && read(a->event_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		return -errno;
	return 0;
}

/* Waits until *word is (or is not, with negate) value. */
static int wait_for_word(struct agent_link *a, const uint32_t *word, uint32_t value, bool listen,
			 uint64_t timeout_usec)
{
	uint64_t deadline = now_usec() + timeout_usec;

	for (unsigned wakes = 0;; wakes++) {
		uint64_t now = now_usec();
		uint32_t seen = load(word);
		int r;

		if (seen == value)
			return 0;
		if (now >= deadline)
			return -ETIMEDOUT;
		r = wait_slice(a, word, seen, listen && wakes < WAKES_MAX, deadline - now);
		if (r < 0)
			return r;
		/* A guest that clears wakes by the million must not keep a processor busy. */
		if (!listen && wakes > WAKES_MAX)
			(void)poll(NULL, 0, SLICE_MSEC);
	}
}

int agent_wait_done(struct agent_link *a, uint64_t timeout_usec)
{
	return wait_for_word(a, &a->ring->done, a->published, a->has_event, timeout_usec);
}

int agent_wait_exit(struct agent_link *a, uint64_t timeout_usec)
{
	return wait_for_word(a, &a->ring->exit_word, 0, false, timeout_usec);
}

static uint8_t *payload(struct agent_link *a, uint32_t number)
{
	return ring_payload(a->ring, number);
}

uint8_t *agent_payload_next(struct agent_link *a)
{
	return payload(a, a->published);
}

uint8_t *agent_payload_last(struct agent_link *a)
{
	return payload(a, a->published - 1);
}

/* Operations that make the guest wait. */
static bool op_freezes(enum ring_op op)
{
	return op == RING_MERGE || op == RING_RECLAIM;
}

/* Waits for the batch, in which the agent is urgent for so long and no longer. */
static int wait_urgently(struct agent_link *a, uint64_t timeout_usec)
{
	int r = agent_wait_done(a, MIN(timeout_usec, URGENCY_USEC));

	urgency_end(a->process, a->tid, &a->urgency);
	return r == -ETIMEDOUT ? agent_wait_done(a, timeout_usec) : r;
}

bool agent_is_idle(const struct agent_link *a)
{
	return load(&a->ring->done) == a->published;
}

/* What came of the last batch, r: of waiting for it. */
static int64_t batch_result(struct agent_link *a, int r)
{
	const struct ring_batch *b = &a->ring->batches[(a->published - 1) % RING_BATCHES];
	int64_t result;

	a->late = r == -ETIMEDOUT;
	a->broken = r < 0 && !a->late;
	if (r < 0)
		return r;
	result = ring_result_check(a->op, a->n, __atomic_load_n(&b->result, __ATOMIC_RELAXED));
	a->broken = result == -EPROTO;
	return result;
}

int64_t agent_batch(struct agent_link *a, enum ring_op op, uint32_t n, uint64_t arg,
		    uint64_t timeout_usec)
{
	struct ring_batch *b = &a->ring->batches[a->published % RING_BATCHES];

	if (a->broken)
		return -EPIPE;
	if (a->late && !agent_is_idle(a))
		return -ETIMEDOUT;
	if (op_freezes(op))
		urgency_begin(a->process, a->tid, &a->urgency);
	*b = (struct ring_batch){ .op = op, .n = n, .arg = arg };
	a->op = op;
	a->n = n;
	a->published++;
	__atomic_store_n(&a->ring->published, a->published, __ATOMIC_RELEASE);
	(void)syscall(SYS_futex, &a->ring->published, FUTEX_WAKE, 1, NULL, NULL, 0);
	return batch_result(a, op_freezes(op) ? wait_urgently(a, timeout_usec)
					      : agent_wait_done(a, timeout_usec));
}

int64_t agent_call(struct agent_link *a, enum ring_op op, uint32_t n, uint64_t arg, void *data,
		   uint32_t payload_bytes)
{
	int64_t r;

	if (payload_bytes > RING_PAYLOAD_BYTES)
		return -E2BIG;
	if (payload_bytes > 0)
		memcpy(agent_payload_next(a), data, payload_bytes);
	r = agent_batch(a, op, n, arg, FAULT_ERRNO("agent-impatient") < 0 ? USEC_PER_SEC : WORK_USEC);
	if (!a->broken && !a->late && payload_bytes > 0)
		memcpy(data, agent_payload_last(a), payload_bytes);
	return r;
}

int64_t agent_call_late(struct agent_link *a, void *data, uint32_t payload_bytes)
{
	int64_t r = a->broken ? -EPIPE : batch_result(a, agent_wait_done(a, LATE_USEC));

	if (!a->broken && !a->late && payload_bytes > 0)
		memcpy(data, agent_payload_last(a), payload_bytes);
	return r;
}

int agent_ping(struct agent_link *a)
{
	int64_t r = agent_batch(a, RING_PING, 0, 0, CALL_USEC);

	return r < 0 ? (int)r : 0;
}

/* Up to RING_ADVISE_MAX entries. */
static int64_t advise_some(struct agent_link *a, struct ring_advise *v, uint32_t n)
{
	_cleanup_free_ struct ring_advise *got = calloc(n, sizeof(*got));
	int64_t r;

	if (!got)
		return -ENOMEM;
	memcpy(got, v, n * sizeof(*got));
	r = agent_call(a, RING_ADVISE, n, 0, got, (uint32_t)(n * sizeof(*got)));
	if (r < 0)
		return r;
	r = ring_advise_check(v, got, n);
	a->broken = a->broken || r < 0;
	return r;
}

int64_t agent_advise(struct agent_link *a, struct ring_advise *v, uint32_t n)
{
	int64_t ok = 0;

	for (uint32_t at = 0; at < n;) {
		uint32_t some = MIN(n - at, (uint32_t)RING_ADVISE_MAX);
		int64_t r = advise_some(a, v + at, some);

		if (r < 0)
			return r;
		ok += r;
		at += some;
	}
	return ok;
}

static int send_fd(int socket, uint32_t tag, int fd)
{
	union {
		struct cmsghdr head;
		uint8_t bytes[CMSG_SPACE(sizeof(int))];
	} control = { .head = {
			      .cmsg_len = CMSG_LEN(sizeof(int)),
			      .cmsg_level = SOL_SOCKET,
			      .cmsg_type = SCM_RIGHTS,
		      } };
	struct iovec iov = { &tag, sizeof(tag) };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control.bytes),
	};

	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	return sendmsg(socket, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int agent_send_fd(struct agent_link *a, enum ring_fd role, int fd)
{
	int64_t r;

	if (a->broken)
		return -EPIPE;
	a->tag++;
	r = send_fd(a->peer_fd, a->tag, fd);
	if (r == 0)
		r = agent_batch(a, RING_RECEIVE_FD, 0, RING_FD_ARG(role, a->tag), CALL_USEC);
	return r < 0 ? (int)r : 0;
}

static int close_role(struct agent_link *a, enum ring_fd role)
{
	return (int)agent_batch(a, RING_CLOSE_FD, 0, role, CALL_USEC);
}

/* The device is in the guest no longer than it takes: whoever has it can make userfaultfds that
 * stop the kernel's own accesses. */
static int64_t open_uffd_by_device(struct agent_link *a)
{
	_cleanup_close_ int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int64_t fd;
	int r;

	if (device < 0)
		return -errno;
	r = agent_send_fd(a, RING_FD_UFFD_DEVICE, device);
	if (r < 0)
		return r;
	fd = agent_batch(a, RING_OPEN_UFFD, 0, RING_UFFD_KERNEL, CALL_USEC);
	r = close_role(a, RING_FD_UFFD_DEVICE);
	return fd >= 0 && r < 0 ? r : fd;
}

/* Whether the descriptor that the guest named is what it should be. */
static bool is_userfaultfd(int fd)
{
	static const char wanted[] = "anon_inode:[userfaultfd]";
	char path[32], link[sizeof(wanted) + 1];
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, link, sizeof(link));
	return n == sizeof(wanted) - 1 && memcmp(link, wanted, sizeof(wanted) - 1) == 0;
}

int agent_open_uffd(struct agent_link *a, bool kernel_faults)
{
	_cleanup_close_ int fd = -1;
	int64_t theirs = -EPERM;

	if (!kernel_faults)
		theirs = agent_batch(a, RING_OPEN_UFFD, 0, RING_UFFD_USER, CALL_USEC);
	/* The guest's filter may deny userfaultfd(2), and not the device's ioctl. */
	if (theirs == -EPERM || theirs == -ENOSYS)
		theirs = open_uffd_by_device(a);
	if (theirs < 0)
		return (int)theirs;
	fd = (int)syscall(SYS_pidfd_getfd, a->process->pidfd, (int)theirs, 0);
	if (fd < 0) {
		int r = -errno;

		(void)agent_close_uffd(a);
		return r;
	}
	if (!is_userfaultfd(fd)) {
		a->broken = true;
		return -EPROTO;
	}
	return TAKE_FD(fd);
}

int agent_close_uffd(struct agent_link *a)
{
	return close_role(a, RING_FD_UFFD);
}

const struct urgency *agent_urgency(const struct agent_link *a)
{
	return &a->urgency;
}

uint64_t agent_cpu_nsec(const struct agent_link *a)
{
	char path[48], line[96];
	uint64_t nsec;
	size_t used;

	(void)snprintf(path, sizeof(path), "task/%d/schedstat", a->tid);
	if (io_read_line(a->process->proc_fd, path, line, sizeof(line)) < 0 ||
	    parse_u64_prefix(line, strlen(line), 10, &nsec, &used) < 0)
		return 0;
	return nsec;
}

uint64_t agent_memory_bytes(const struct agent_link *a)
{
	uint64_t private_addr = __atomic_load_n(&a->ring->agent.private_addr, __ATOMIC_RELAXED);
	uint64_t stack[AGENT_PRIVATE_BYTES / PAGE_BYTES] = { 0 }, n = 0;
	uint8_t ring[RING_BYTES / PAGE_BYTES] = { 0 };

	/* Wherever the guest says that its stack is: that many pages are the most that it can make of it. */
	if (pread(a->process->pagemap_fd, stack, sizeof(stack),
		  (off_t)(private_addr / PAGE_BYTES * sizeof(*stack))) < 0)
		memset(stack, 0, sizeof(stack));
	for (size_t i = 0; i < ARRAY_SIZE(stack); i++)
		n += (stack[i] & PAGEMAP_ENTRY_PRESENT) != 0;
	if (mincore(a->ring, RING_BYTES, ring) == 0)
		for (size_t i = 0; i < ARRAY_SIZE(ring); i++)
			n += ring[i] & 1;
	return n * PAGE_BYTES;
}
