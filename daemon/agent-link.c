/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Life cycle of a link to an agent.
 *
 * Whatever dies when, the ring tells what is in the guest (struct ring_agent, filled step by step),
 * and so does the kernel (the ring's mapping in /proc/PID/maps, the agent's thread in task/):
 *
 *   memshared-attach was killed   the ring of the attempt is at hand: if an agent runs it is
 *                                 made to exit, and what is mapped is removed
 *   the daemon was killed         a new daemon finds the ring's mapping: an agent that runs is
 *                                 adopted; if none does, what is mapped is removed
 *   the guest was killed          nothing is left
 */
#include "daemon/agent-link.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/fault.h"
#include "common/util.h"
#include "daemon/agent-private.h"
#include "daemon/attach-run.h"
#include "daemon/maps.h"
#include "daemon/ring-check.h"

_Static_assert(AGENT_REASON_MAX == ATTACH_REASON_MAX, "one buffer for both");

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif
#define RING_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
#define RING_PATH  "/memfd:" RING_MEMFD_NAME " (deleted)"

#define AGENT_HAS_ANOTHER "another memshared daemon is at work in it: stop that one"

/* The last batch of a daemon that died can be one that works on memory. */
#define ADOPT_USEC (30 * USEC_PER_SEC)
#define EXIT_USEC  (5 * USEC_PER_SEC)

_printf_(3, 4) static int refuse(char *ret_reason, int error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(ret_reason, AGENT_REASON_MAX, fmt, ap);
	va_end(ap);
	return error;
}

static void link_free(struct agent_link *a)
{
	if (!a)
		return;
	if (a->ring)
		(void)munmap(a->ring, RING_BYTES);
	close_fdp(&a->ring_fd);
	close_fdp(&a->lock_fd);
	close_fdp(&a->event_fd);
	close_fdp(&a->peer_fd);
	free(a);
}

static void link_freep(struct agent_link **a)
{
	link_free(*a);
}
#define _cleanup_link_ _cleanup_(link_freep)

static struct agent_link *link_new(const struct process *p)
{
	struct agent_link *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->process = p;
	a->ring_fd = -1;
	a->lock_fd = -1;
	a->peer_fd = -1;
	a->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return a;
}

static int link_map_ring(struct agent_link *a)
{
	void *p = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, a->ring_fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	a->ring = p;
	return 0;
}

/*
 * One daemon at a time: two that put batches into one ring would have the agent merge with the
 * one's store what the other had compared. The lock is the kernel's and ends with the daemon. It is
 * held by an open file of its own, since the ring's is the guest's, too, and lives as long as its
 * mapping. A guest that takes it itself only keeps itself out. -EBUSY when another has it.
 */
static int link_lock(struct agent_link *a)
{
	char path[32];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", a->ring_fd);
	a->lock_fd = open(path, O_RDWR | O_CLOEXEC);
	if (a->lock_fd < 0)
		return -errno;
	if (flock(a->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	return 0;
}

/* A ring of our own making: of a size that nobody can change, so that no access to it faults. */
static int link_make_ring(struct agent_link *a)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int r;

	a->ring_fd = memfd_create(RING_MEMFD_NAME, flags | MFD_NOEXEC_SEAL);
	if (a->ring_fd < 0 && errno == EINVAL)
		a->ring_fd = memfd_create(RING_MEMFD_NAME, flags);
	if (a->ring_fd < 0 || ftruncate(a->ring_fd, RING_BYTES) < 0 ||
	    fcntl(a->ring_fd, F_ADD_SEALS, RING_SEALS) < 0)
		return -errno;
	r = link_lock(a);
	if (r == 0)
		r = link_map_ring(a);
	if (r < 0)
		return r;
	a->ring->magic = RING_MAGIC;
	a->ring->version = RING_VERSION;
	for (unsigned i = 0; i < RING_FD_MAX; i++)
		a->ring->agent.fds[i] = -1;
	return 0;
}

/* The guest chose the descriptor: it must be a socket that sends messages, and nothing else. */
static int link_take_peer(struct agent_link *a, int theirs)
{
	int domain = 0, type = 0;
	socklen_t len = sizeof(int);

	a->peer_fd = (int)syscall(SYS_pidfd_getfd, a->process->pidfd, theirs, 0);
	if (a->peer_fd < 0)
		return -errno;
	if (getsockopt(a->peer_fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 ||
	    getsockopt(a->peer_fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || domain != AF_UNIX ||
	    type != SOCK_SEQPACKET)
		return -EPROTO;
	return 0;
}

/* From a running agent with its peer taken to a usable link. */
static int link_greet(struct agent_link *a)
{
	int r;

	if (a->event_fd < 0)
		return -EMFILE;
	r = agent_send_fd(a, RING_FD_EVENT, a->event_fd);
	if (r < 0)
		return r;
	a->has_event = true;
	return agent_ping(a);
}

/* Whether a thread of the guest has this id. The kernel's word, not the ring's. */
static bool thread_exists(const struct process *p, int32_t tid)
{
	char path[32];

	(void)snprintf(path, sizeof(path), "task/%d", tid);
	return tid > 0 && faccessat(p->proc_fd, path, F_OK, 0) == 0;
}

/* EXIT, and the end of the agent's thread. */
static int link_stop_agent(struct agent_link *a)
{
	int r = (int)agent_batch(a, RING_EXIT, 0, 0, EXIT_USEC);

	FAULT_POINT("agent-exit");
	return r < 0 ? r : agent_wait_exit(a, EXIT_USEC);
}

/* Removes what an agent that has ended left in the guest. */
static int link_remove(struct agent_link *a, char *ret_reason)
{
	struct attach_result result;
	int r = attach_run(a->process, ATTACH_REMOVE, a->ring_fd, &result, ret_reason);

	/* It was killed: a second one goes on from where the first was. */
	if (r == -EIO)
		r = attach_run(a->process, ATTACH_REMOVE, a->ring_fd, &result, ret_reason);
	return r;
}

/* After a failure on the way: the guest as it was, as far as can be. Reasons are not wanted, the
 * failure has one. */
static void link_undo(struct agent_link *a)
{
	char reason[AGENT_REASON_MAX];

	if (!process_alive(a->process))
		return;
	if (thread_exists(a->process, (int32_t)a->ring->exit_word) && link_stop_agent(a) < 0)
		return;
	(void)link_remove(a, reason);
}

static int count_ring(const struct mapping *m, void *userdata)
{
	*(unsigned *)userdata += m->flags & VMF_SHARED && streq(m->name, RING_PATH) &&
				 m->n_pages == RING_BYTES / PAGE_BYTES;
	return 0;
}

/* Two daemons can have planted at the same moment. The later one sees both rings, and goes: -EBUSY.
 * -ESRCH: there is none, the process is exiting (its memory goes before its files). */
static int link_is_alone(const struct agent_link *a)
{
	unsigned n = 0;
	int r = maps_read(a->process->proc_fd, "maps", count_ring, &n);

	return r < 0 ? r : n == 0 ? -ESRCH : n == 1 ? 0 : -EBUSY;
}

int agent_attach(const struct process *p, char *ret_reason, struct agent_link **ret)
{
	_cleanup_link_ struct agent_link *a = link_new(p);
	struct attach_result result;
	int r, alone;

	if (!a)
		return refuse(ret_reason, -ENOMEM, "out of memory");
	r = link_make_ring(a);
	if (r < 0)
		return refuse(ret_reason, r, "cannot make a ring: %s", strerror(-r));
	r = attach_run(p, ATTACH_PLANT, a->ring_fd, &result, ret_reason);
	FAULT_POINT("agent-planted");
	if (r == -EIO) {
		link_undo(a);
		return r;
	}
	if (r < 0)
		return r;
	a->tid = result.tid;
	a->stopped_usec = result.stopped_usec;
	r = link_take_peer(a, result.peer);
	if (r == 0)
		r = link_greet(a);
	FAULT_POINT("agent-greeted");
	alone = link_is_alone(a);
	if (alone == -ESRCH)
		return refuse(ret_reason, -ESRCH, "the process has exited");
	if (r == 0 && alone < 0) {
		link_undo(a);
		return refuse(ret_reason, alone, alone == -EBUSY ? AGENT_HAS_ANOTHER : "its mappings cannot be read");
	}
	if (r < 0) {
		link_undo(a);
		return refuse(ret_reason, r, "the agent does not answer: %s", strerror(-r));
	}
	*ret = TAKE_PTR(a);
	return 0;
}

/* --- adoption ------------------------------------------------------------------------------ */

struct ring_search {
	uint64_t start, end;
};

static int find_ring(const struct mapping *m, void *userdata)
{
	struct ring_search *s = userdata;

	if (!(m->flags & VMF_SHARED) || !streq(m->name, RING_PATH) ||
	    m->n_pages != RING_BYTES / PAGE_BYTES)
		return 0;
	s->start = m->start.addr;
	s->end = mapping_end(m).addr;
	return -EEXIST; /* ends the reading */
}

/* Opens the ring that the guest has mapped. It must be one whose size cannot change: an access
 * past the end of a file that shrank would kill the daemon. */
static int link_open_ring(struct agent_link *a)
{
	struct ring_search s;
	struct ring_header copy;
	struct stat st;
	char path[64];
	int r = maps_read(a->process->proc_fd, "maps", find_ring, &s), seals;

	if (r != -EEXIST)
		return r < 0 ? r : -ENOENT;
	(void)snprintf(path, sizeof(path), "map_files/%" PRIx64 "-%" PRIx64, s.start, s.end);
	a->ring_fd = openat(a->process->proc_fd, path,
			    O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (a->ring_fd < 0)
		return -errno;
	seals = fcntl(a->ring_fd, F_GET_SEALS);
	if (seals < 0 || (seals & RING_SEALS) != RING_SEALS || fstat(a->ring_fd, &st) < 0 ||
	    st.st_size != RING_BYTES)
		return -EPROTO;
	r = link_lock(a);
	if (r == 0)
		r = link_map_ring(a);
	if (r < 0)
		return r;
	memcpy(&copy, a->ring, sizeof(copy));
	return ring_header_check(&copy);
}

/* The agent of a ring that was found: alive, its last batch done. */
static int link_resume(struct agent_link *a)
{
	int r;

	a->published = __atomic_load_n(&a->ring->published, __ATOMIC_ACQUIRE);
	/* Tags of an earlier daemon may still be in the socket: start far from them. */
	a->tag = (uint32_t)now_usec();
	r = agent_wait_done(a, ADOPT_USEC);
	urgency_repair(a->process, a->tid);
	if (r < 0)
		return r;
	r = link_take_peer(a, __atomic_load_n(&a->ring->agent.fds[RING_FD_SOCKET_PEER],
					      __ATOMIC_RELAXED));
	return r < 0 ? r : link_greet(a);
}

int agent_adopt(const struct process *p, char *ret_reason, struct agent_link **ret)
{
	_cleanup_link_ struct agent_link *a = link_new(p);
	int r;

	if (!a)
		return refuse(ret_reason, -ENOMEM, "out of memory");
	r = link_open_ring(a);
	if (r == -ENOENT)
		return refuse(ret_reason, r, "no agent");
	if (r == -EPROTONOSUPPORT)
		return refuse(ret_reason, r, "its agent is of another version of memshared");
	if (r == -EBUSY)
		return refuse(ret_reason, r, AGENT_HAS_ANOTHER);
	if (r < 0)
		return refuse(ret_reason, r, "its ring cannot be used: %s", strerror(-r));
	a->tid = (int32_t)__atomic_load_n(&a->ring->exit_word, __ATOMIC_RELAXED);
	if (!thread_exists(p, a->tid)) {
		r = link_remove(a, ret_reason);
		return r < 0 ? r : refuse(ret_reason, -ENOENT, "no agent");
	}
	r = link_resume(a);
	FAULT_POINT("agent-adopted");
	if (r < 0)
		return refuse(ret_reason, r, "its agent does not answer: %s", strerror(-r));
	*ret = TAKE_PTR(a);
	return 0;
}

int agent_peek(const struct process *p, uint32_t *ret_done)
{
	_cleanup_link_ struct agent_link *a = link_new(p);
	uint32_t published, done;
	int r = a ? link_open_ring(a) : -ENOMEM;

	if (r < 0)
		return r;
	published = __atomic_load_n(&a->ring->published, __ATOMIC_ACQUIRE);
	done = __atomic_load_n(&a->ring->done, __ATOMIC_ACQUIRE);
	if (published != done)
		return -EBUSY;
	*ret_done = done;
	return 0;
}

/* --- end ----------------------------------------------------------------------------------- */

int agent_detach(struct agent_link *link, char *ret_reason)
{
	_cleanup_link_ struct agent_link *a = link;
	int r = link_stop_agent(a);

	if (r == -ESRCH)
		return refuse(ret_reason, r, "it ended");
	if (r < 0)
		return refuse(ret_reason, r, "its agent does not exit: %s", strerror(-r));
	return link_remove(a, ret_reason);
}

void agent_leave(struct agent_link *a)
{
	link_free(a);
}

const struct process *agent_process(const struct agent_link *a)
{
	return a->process;
}

uint64_t agent_stopped_usec(const struct agent_link *a)
{
	return a->stopped_usec;
}
