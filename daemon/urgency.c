/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/urgency.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/units.h"
#include "common/util.h"

#define PRIORITY      1U
#define NICE	      (-20)
#define RESET_ON_FORK 1U /* SCHED_FLAG_RESET_ON_FORK */
#define PERMIT_WAIT_USEC (100 * USEC_PER_MSEC)

/*
 * Where ordinary threads of a processor get nothing for a second, the kernel runs them for 50 ms at a stretch
 * (its fair server, and RT throttling before 6.12), whoever has what frozen. So after each batch they get a
 * part of the time that it took.
 */
#define REST_PART     8U
#define REST_USEC_MAX (2 * USEC_PER_MSEC)

static sem_t permits;
static uint64_t rest_until_usec; /* atomic */
static pthread_once_t permits_once = PTHREAD_ONCE_INIT;

static void permits_init(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	(void)sem_init(&permits, 0, cpus > 3 ? (unsigned)cpus / 2 : 1);
}

/* Others have one for at most URGENCY_USEC. */
static bool permit_take(void)
{
	struct timespec until;
	int r;

	(void)pthread_once(&permits_once, permits_init);
	(void)clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += PERMIT_WAIT_USEC * (long)NSEC_PER_USEC;
	until.tv_sec += until.tv_nsec / (long)NSEC_PER_SEC;
	until.tv_nsec %= (long)NSEC_PER_SEC;
	do
		r = sem_clockwait(&permits, CLOCK_MONOTONIC, &until);
	while (r < 0 && errno == EINTR);
	return r == 0;
}

/* Until the ordinary threads had their part. */
static void rest(void)
{
	uint64_t until = __atomic_load_n(&rest_until_usec, __ATOMIC_RELAXED), now = now_usec();
	struct timespec t = { .tv_nsec = (long)((until - now) * NSEC_PER_USEC) };

	if (until > now && until - now <= REST_USEC_MAX)
		(void)nanosleep(&t, NULL);
}

static int attr_get(int32_t tid, struct urgency_attr *ret)
{
	return syscall(SYS_sched_getattr, tid, ret, sizeof(*ret), 0) < 0 ? -errno : 0;
}

static int attr_set(int32_t tid, const struct urgency_attr *attr)
{
	return syscall(SYS_sched_setattr, tid, attr, 0) < 0 ? -errno : 0;
}

/* The calls take any thread of the host: it must be one of this guest's. The id could be given to
 * another only after the thread has ended and all other ids were in use once, not within microseconds. */
static bool is_thread_of(const struct process *p, int32_t tid)
{
	char path[32];

	(void)snprintf(path, sizeof(path), "task/%d", tid);
	return tid > 0 && faccessat(p->proc_fd, path, F_OK, 0) == 0;
}

static bool is_realtime(const struct urgency_attr *a)
{
	return a->policy == SCHED_FIFO || a->policy == SCHED_RR || a->policy == 6 /* SCHED_DEADLINE */;
}

/* What an agent of ours has, and hardly anything else. */
static bool is_ours(const struct urgency_attr *a)
{
	if (!(a->flags & RESET_ON_FORK))
		return false;
	return (a->policy == SCHED_FIFO && a->priority == PRIORITY) ||
	       (a->policy == SCHED_OTHER && a->nice == NICE);
}

/* The agent was cloned from a thread of QEMU's, whose priority it had. */
static struct urgency_attr attr_ordinary(const struct process *p)
{
	struct urgency_attr a;

	if (attr_get(p->pid, &a) < 0 || is_ours(&a))
		a = (struct urgency_attr){ .size = sizeof(a), .policy = SCHED_OTHER };
	return a;
}

/* Applies and looks whether it holds. */
static int apply(int32_t tid, uint32_t policy, uint32_t priority, int32_t nice)
{
	struct urgency_attr wanted = { .size = sizeof(wanted),
				       .policy = policy,
				       .flags = RESET_ON_FORK,
				       .nice = nice,
				       .priority = priority };
	struct urgency_attr got;
	int r = attr_set(tid, &wanted);

	if (r == 0)
		r = attr_get(tid, &got);
	if (r == 0 && (got.policy != policy || got.priority != priority || !is_ours(&got)))
		r = -EAGAIN;
	return r;
}

void urgency_begin(const struct process *p, int32_t tid, struct urgency *ret)
{
	struct urgency u = { .kind = URGENCY_NONE };

	u.error = is_thread_of(p, tid) ? attr_get(tid, &u.before) : -ESRCH;
	if (u.error == 0 && is_realtime(&u.before) && !is_ours(&u.before)) {
		u.kind = URGENCY_REALTIME;
		*ret = u;
		return;
	}
	if (u.error == 0 && is_ours(&u.before))
		u.before = attr_ordinary(p);
	if (u.error == 0) {
		u.permit = permit_take();
		if (u.permit)
			rest();
		u.since_usec = now_usec();
		u.error = u.permit ? FAULT_ERRNO("urgency-realtime") : -EBUSY;
	}
	/* A daemon killed from here to urgency_end() leaves the priority behind: see urgency.h. */
	if (u.error == 0)
		u.error = apply(tid, SCHED_FIFO, PRIORITY, 0);
	u.ours = u.permit;
	if (u.permit && u.error == 0)
		u.kind = URGENCY_REALTIME;
	else if (u.permit && apply(tid, SCHED_OTHER, 0, NICE) == 0)
		u.kind = URGENCY_NICE;
	FAULT_POINT("urgency-begun");
	*ret = u;
}

void urgency_end(const struct process *p, int32_t tid, struct urgency *u)
{
	if (u->ours && is_thread_of(p, tid))
		(void)attr_set(tid, &u->before);
	if (u->permit) {
		uint64_t now = now_usec(), part = (now - u->since_usec) / REST_PART;

		__atomic_store_n(&rest_until_usec, now + MIN(part, REST_USEC_MAX), __ATOMIC_RELAXED);
		(void)sem_post(&permits);
	}
	u->ours = u->permit = false;
}

void urgency_repair(const struct process *p, int32_t tid)
{
	struct urgency_attr a;

	if (!is_thread_of(p, tid) || attr_get(tid, &a) < 0 || !is_ours(&a))
		return;
	a = attr_ordinary(p);
	(void)attr_set(tid, &a);
}
