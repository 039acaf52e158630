/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * memshared-attach: plants the agent in a guest, or takes away what an agent left behind. Run by
 * the daemon; all ptrace of the project is in this program.
 *
 *   memshared-attach [--start=TICKS] [--exe=DEV:INODE] --ring=FD PID
 *   memshared-attach ... --check PID        tells whether the first would work, changes nothing
 *   memshared-attach ... --remove --ring=FD PID
 *
 * One line on stdout says what came of it, and the exit status the kind of it (enum exit_code):
 *
 *   attached tid=N thread=N peer=N denied=N attempts=N stopped_usec=N
 *   checked thread=N denied=N attempts=N stopped_usec=N
 *   removed attempts=N stopped_usec=N
 *   refused ERRNO REASON
 *
 * It is single threaded, locked in memory, and blocks all signals from the start: it lives for
 * a few seconds at most, and a signal that ended it while a thread is borrowed would give that
 * thread a wrong result. Only SIGKILL can; plant.c says what that does.
 */
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "common/fault.h"
#include "common/io.h"
#include "common/parse.h"
#include "common/units.h"
#include "common/util.h"
#include "daemon/attach/leftover.h"
#include "daemon/attach/needs.h"
#include "daemon/attach/plant.h"
#include "daemon/attach/target.h"
#include "daemon/attach/tracee.h"

/* A busy guest's threads sleep and wake all the time: how long to look for one that sleeps. */
#define SEARCH_USEC (2 * USEC_PER_SEC)
/* One thread's stop: microseconds, unless the machine is overloaded or the thread sleeps in a file
 * system. It is not harmed meanwhile. */
#define STOP_USEC USEC_PER_SEC
/* All borrowed calls together; they take some 50 us unless the guest's memory map is locked. */
#define CALLS_USEC USEC_PER_SEC
/* What is borrowed must be given back: the last deadline, and the longest. Whoever holds the guest's
 * memory map (khugepaged, ksmd) may have to wait long for a CPU at its priority; until then the
 * thread stands still in our call, and is harmed only if we go. */
#define RESTORE_USEC (30 * USEC_PER_SEC)
/* From the agent's last instruction to the end of its thread. */
#define EXIT_USEC (2 * USEC_PER_SEC)
#define ROUND_THREADS 8U
#define CODE_MAX_BYTES MIB(1)

enum exit_code {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,      /* this host: out of memory, image missing */
	EXIT_USAGE = 2,
	EXIT_BUSY = 3,	      /* try again later */
	EXIT_DENIED = 4,      /* not permitted */
	EXIT_UNSUPPORTED = 5, /* this guest cannot be attached to: filter, 32-bit */
	EXIT_GONE = 6,	      /* the guest ended */
	EXIT_EXISTS = 7,      /* it has an agent */
	EXIT_OTHER = 8,	      /* not the process that was meant */
};

enum mode {
	MODE_ATTACH,
	MODE_CHECK,
	MODE_REMOVE,
};

struct options {
	enum mode mode;
	bool suspend;
	pid_t pid;
	int ring_fd;
	struct target_identity identity;
};

struct attach {
	struct options options;
	struct target target;
	struct tracee tracee;
	struct plant plant;
	unsigned attempts;
	char reason[REASON_MAX];
};

static void usage(void)
{
	(void)fputs("usage: memshared-attach [--start=TICKS] [--exe=DEV:INODE] [--no-suspend] "
		    "{--ring=FD | --check | --remove --ring=FD} PID\n"
		    "run by memshared(8); --check tells whether an agent could be planted\n",
		    stderr);
}

static int parse_exe(const char *s, struct target_identity *ret)
{
	char dev[24];
	const char *colon = strchr(s, ':');
	uint64_t d, i;

	if (!colon || (size_t)(colon - s) >= sizeof(dev))
		return -EINVAL;
	memcpy(dev, s, (size_t)(colon - s));
	dev[colon - s] = '\0';
	if (parse_u64(dev, 0, UINT64_MAX, &d) < 0 || parse_u64(colon + 1, 1, UINT64_MAX, &i) < 0)
		return -EINVAL;
	ret->exe_dev = (dev_t)d;
	ret->exe_ino = (ino_t)i;
	return 0;
}

static int parse_options(int argc, char **argv, struct options *ret)
{
	static const struct option longs[] = {
		{ "start", required_argument, NULL, 's' },
		{ "exe", required_argument, NULL, 'e' },
		{ "ring", required_argument, NULL, 'r' },
		{ "check", no_argument, NULL, 'c' },
		{ "remove", no_argument, NULL, 'R' },
		{ "no-suspend", no_argument, NULL, 'n' },
		{ 0 },
	};
	struct options o = { .mode = MODE_ATTACH, .suspend = true, .ring_fd = -1 };
	uint32_t v;
	int c, r = 0;

	while (r == 0 && (c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 's':
			r = parse_u64(optarg, 1, UINT64_MAX, &o.identity.start_ticks);
			break;
		case 'e':
			r = parse_exe(optarg, &o.identity);
			break;
		case 'r':
			r = parse_u32(optarg, 0, INT_MAX, &v);
			o.ring_fd = r == 0 ? (int)v : -1;
			break;
		case 'c':
			o.mode = MODE_CHECK;
			break;
		case 'R':
			o.mode = MODE_REMOVE;
			break;
		case 'n':
			o.suspend = false;
			break;
		default:
			r = -EINVAL;
		}
	}
	if (r < 0 || optind + 1 != argc || parse_u32(argv[optind], 1, INT_MAX, &v) < 0)
		return -EINVAL;
	if ((o.ring_fd < 0) != (o.mode == MODE_CHECK))
		return -EINVAL;
	o.pid = (pid_t)v;
	*ret = o;
	return 0;
}

static enum exit_code exit_code_of(int error)
{
	switch (error) {
	case -EBUSY:
	case -EAGAIN:
		return EXIT_BUSY;
	case -EPERM:
	case -EACCES:
		return EXIT_DENIED;
	case -EOPNOTSUPP:
		return EXIT_UNSUPPORTED;
	case -ESRCH:
		return EXIT_GONE;
	case -EEXIST:
		return EXIT_EXISTS;
	case -ESTALE:
		return EXIT_OTHER;
	default:
		return EXIT_FAILED;
	}
}

/* Sets the reason and gives back the error. */
_printf_(3, 4) static int refuse(struct attach *a, int error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(a->reason, sizeof(a->reason), fmt, ap);
	va_end(ap);
	return error;
}

static int open_ring(struct attach *a)
{
	struct stat st;
	void *p;

	if (fstat(a->options.ring_fd, &st) < 0 || st.st_size != RING_BYTES)
		return refuse(a, -EINVAL, "--ring is not a ring");
	/* No more than we use: all that we map is locked in memory, and what is in memory stays there for as
	 * long as there is a ring. */
	p = mmap(NULL, RING_HEADER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, a->options.ring_fd, 0);
	if (p == MAP_FAILED)
		return refuse(a, -errno, "cannot map the ring: %s", strerror(errno));
	a->plant.ring = p;
	a->plant.ring_fd = a->options.ring_fd;
	return 0;
}

/* The image runs inside guests: nobody but root (or who runs this) may be able to change it. */
static int open_code(struct attach *a)
{
	const char *dir = getenv("MEMSHARED_LIBEXECDIR");
	char path[PATH_MAX];
	struct stat st;
	int fd;

	(void)snprintf(path, sizeof(path), "%s/" LEFTOVER_CODE_NAME, dir ? dir : LIBEXECDIR);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return refuse(a, -errno, "cannot open %.100s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_size == 0 || (uint64_t)st.st_size > CODE_MAX_BYTES ||
	    (st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & (S_IWGRP | S_IWOTH))) {
		(void)close(fd);
		return refuse(a, -EINVAL, "%.100s is not a file that only root can write", path);
	}
	a->plant.code_fd = fd;
	a->plant.code_bytes = ALIGN_UP((uint64_t)st.st_size, PAGE_BYTES);
	return 0;
}

/* Everything that must not go wrong later: signals, memory, priority. */
static int harden(struct attach *a)
{
	const struct sched_param param = { .sched_priority = 1 };
	sigset_t all;

	/* Ignored by our parent, it would not wake us. */
	(void)signal(SIGCHLD, SIG_DFL);
	(void)sigfillset(&all);
	(void)sigprocmask(SIG_SETMASK, &all, NULL);
	/* A guest's thread waits for us: be scheduled before others. Only a wish. */
	if (sched_setscheduler(0, SCHED_FIFO, &param) < 0)
		(void)setpriority(PRIO_PROCESS, 0, -20);
	if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
		return refuse(a, -errno, "cannot lock memshared-attach in memory: %s",
			      strerror(errno));
	return 0;
}

/*
 * We and the thread take turns: on one processor each gets it when the other sleeps, on two each
 * waits for its own. On a busy machine that made the difference between 24 ms and 0.4 ms at the
 * 99th percentile. Only a wish: our cpuset may not have that processor.
 */
static void move_near(const struct attach *a, pid_t tid)
{
	unsigned cpu;
	cpu_set_t set;

	if (target_thread_cpu(&a->target, tid, &cpu) < 0 || cpu >= CPU_SETSIZE)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	(void)sched_setaffinity(0, sizeof(set), &set);
}

/* Asks all filters of the stopped thread about all calls. */
static int ask_filters(struct attach *a)
{
	static struct sock_filter program[BPF_MAXINSNS];
	struct needs needs;
	int n;

	needs_init(&needs);
	for (unsigned i = 0; (n = tracee_read_filter(&a->tracee, i, program)) >= 0; i++)
		needs_ask(&needs, program, (size_t)n);
	if (n != -ENOENT)
		return refuse(a, n == -ESRCH ? n : -EOPNOTSUPP,
			      "its seccomp filter cannot be read: %s%s", strerror(-n),
			      n == -EACCES ? " (is memshared under a seccomp filter itself?)" : "");
	return needs_judge(&needs, a->tracee.suspended, &a->plant.denied, a->reason,
			   sizeof(a->reason));
}

/* What needs to be known of a thread that has just been stopped; nothing is changed yet. */
static int check_stopped(struct attach *a, const struct thread_status *s)
{
	int r = process_check(&a->target.process);

	if (r < 0)
		return refuse(a, r, "%s", r == -ESTALE ? "it runs another executable now" :
							 "it has exited");
	if (s->seccomp == SECCOMP_MODE_STRICT)
		return refuse(a, -EOPNOTSUPP, "it is in seccomp's strict mode");
	a->plant.denied = 0;
	return s->seccomp == SECCOMP_MODE_FILTER ? ask_filters(a) : 0;
}

/* With the thread stopped at a point where it may be borrowed. */
static int borrow(struct attach *a)
{
	struct plant *p = &a->plant;
	int r, restored;

	p->tracee = &a->tracee;
	/* What an earlier memshared-attach, killed since, took for its time. */
	if (p->agent.borrowed_tid == a->tracee.tid && a->tracee.sigmask == TRACEE_SIGMASK_ALL)
		a->tracee.sigmask = p->agent.borrowed_sigmask;
	plant_note_thread(p);
	r = tracee_borrow(&a->tracee);
	p->pidfd = a->target.process.pidfd;
	p->deadline_usec = now_usec() + CALLS_USEC;
	p->step = "borrowing a thread";
	if (r == 0)
		r = a->options.mode == MODE_REMOVE ? plant_remove(p) : plant_agent(p);
	restored = tracee_restore(&a->tracee, now_usec() + RESTORE_USEC);
	if (r == -ESRCH || restored == -ESRCH)
		return refuse(a, -ESRCH, "it ended meanwhile");
	if (restored < 0)
		return refuse(a, restored, "thread %d could not be given back after %s: %s",
			      a->tracee.tid, p->step, strerror(-restored));
	plant_forget_thread(p);
	if (r < 0)
		return refuse(a, r, "%s failed in it: %s", p->step, strerror(-r));
	return 0;
}

/* One thread. -EAGAIN: not this one, not now. */
static int try_thread(struct attach *a, pid_t tid)
{
	struct tracee *t = &a->tracee;
	struct thread_status s;
	int64_t nr;
	int r = target_check_thread(&a->target, tid, &s, a->reason);

	if (r < 0)
		return r == -ESRCH ? -EAGAIN : r;
	move_near(a, tid);
	r = tracee_seize(t, tid, a->options.suspend && s.seccomp != 0);
	/* EPERM is also what ptrace says of a thread that just exits, or has got a tracer. */
	if (r == -EPERM && target_check_thread(&a->target, tid, NULL, a->reason) < 0)
		return -EAGAIN;
	if (r < 0)
		return r == -ESRCH ? -EAGAIN :
				     refuse(a, r, "ptrace of thread %d: %s", tid, strerror(-r));
	a->attempts++;
	FAULT_POINT(t->removing ? "remove-seized" : "attach-seized");
	/* Seizing is by number: this is what makes sure that the thread is one of the guest's.
	 * And it may have moved on: one that waits in epoll would see a spurious EINTR. */
	if (!target_has_thread(&a->target, tid) || !target_thread_sleeps(&a->target, tid, &nr)) {
		/* Only what is stopped can be detached; left traced it would be worse off. */
		(void)tracee_stop(t, now_usec() + STOP_USEC);
		tracee_detach(t);
		return -EAGAIN;
	}
	r = tracee_stop(t, now_usec() + STOP_USEC);
	if (r == 0)
		r = check_stopped(a, &s);
	if (r == 0 && a->options.mode != MODE_CHECK)
		r = borrow(a);
	if (!t->borrowed)
		tracee_detach(t);
	/* A thread that does not stop stays seized until we end: look no further. */
	return r == -ETIMEDOUT && !t->borrowed ?
		       refuse(a, -EBUSY, "thread %d does not stop", tid) :
		       r;
}

/* Threads to try. A thread that was never given back goes first, for half of the time alone. */
static size_t find_threads(const struct attach *a, bool early, pid_t *ret, size_t max)
{
	pid_t owed = a->plant.agent.borrowed_tid;
	int64_t nr;

	if (owed > 0 && early && target_has_thread(&a->target, owed)) {
		*ret = owed;
		return target_thread_sleeps(&a->target, owed, &nr);
	}
	return target_find_threads(&a->target, ret, max);
}

/* Threads in turn, for as long as there is time. */
static int try_threads(struct attach *a)
{
	uint64_t deadline = now_usec() + SEARCH_USEC, pause_usec = USEC_PER_MSEC;
	pid_t tids[ROUND_THREADS];

	for (;;) {
		size_t n;
		int r = target_check(&a->target, a->reason);

		if (r < 0)
			return r;
		n = find_threads(a, now_usec() < deadline - SEARCH_USEC / 2, tids,
				 ARRAY_SIZE(tids));
		for (size_t i = 0; i < n; i++) {
			r = try_thread(a, tids[i]);
			if (r != -EAGAIN)
				return r;
		}
		if (now_usec() + pause_usec > deadline)
			return refuse(a, -EBUSY, "no thread sleeps in a restartable system call");
		(void)usleep((useconds_t)pause_usec);
		pause_usec = MIN(pause_usec * 2, 64 * USEC_PER_MSEC);
	}
}

/* Waits until the threads that the ring names as the agent have ended. */
static int wait_for_exit(struct attach *a, const struct ring_agent *agent)
{
	uint64_t deadline = now_usec() + EXIT_USEC;
	const int32_t tids[] = { agent->tid, (int32_t)a->plant.ring->exit_word };

	for (size_t i = 0; i < ARRAY_SIZE(tids); i++)
		while (tids[i] > 0 && target_has_thread(&a->target, tids[i])) {
			if (now_usec() > deadline)
				return refuse(a, -EBUSY, "its agent still runs");
			(void)usleep(1000);
		}
	return 0;
}

static int prepare(struct attach *a)
{
	int r = target_open(&a->target, a->options.pid, &a->options.identity, a->reason);

	if (r == 0)
		r = target_check(&a->target, a->reason);
	if (r == 0 && a->options.ring_fd >= 0)
		r = open_ring(a);
	if (r < 0)
		return r;
	if (a->options.mode == MODE_REMOVE) {
		a->plant.agent = a->plant.ring->agent;
		r = wait_for_exit(a, &a->plant.agent);
		if (r == 0)
			r = leftover_check(&a->target, &a->plant.agent);
	} else {
		r = open_code(a);
		if (r < 0)
			return r;
		r = leftover_find_ring(&a->target);
		if (r > 0)
			return refuse(a, -EEXIST, "it has an agent already");
	}
	if (r < 0 && !*a->reason)
		return refuse(a, r, "cannot read its mappings: %s", strerror(-r));
	return r;
}

static void report(const struct attach *a, int r)
{
	const struct tracee *t = &a->tracee;
	const struct ring_agent *agent = &a->plant.agent;

	if (r < 0)
		(void)printf("refused %d %s", -r, a->reason);
	else if (a->options.mode == MODE_CHECK)
		(void)printf("checked thread=%d denied=%u", t->tid, a->plant.denied);
	else if (a->options.mode == MODE_REMOVE)
		(void)printf("removed thread=%d", t->tid);
	else
		(void)printf("attached tid=%d thread=%d peer=%d denied=%u", agent->tid, t->tid,
			     agent->fds[RING_FD_SOCKET_PEER], agent->denied);
	if (r == 0)
		(void)printf(" attempts=%u stopped_usec=%llu", a->attempts,
			     (unsigned long long)t->stopped_usec);
	(void)printf("\n");
	(void)fflush(stdout);
}

int main(int argc, char **argv)
{
	static struct attach a;
	int r;

	if (fault_init() < 0 || parse_options(argc, argv, &a.options) < 0) {
		usage();
		return EXIT_USAGE;
	}
	a.plant.code_fd = -1;
	a.tracee.removing = a.options.mode == MODE_REMOVE;
	r = prepare(&a);
	if (r == 0)
		r = harden(&a);
	if (r == 0)
		r = try_threads(&a);
	/* Whatever failed: if it has ended that is why. */
	if (r < 0 && a.target.process.pid > 0 && !process_alive(&a.target.process))
		r = refuse(&a, -ESRCH, "it has exited");
	report(&a, r);
	return (int)(r < 0 ? exit_code_of(r) : EXIT_DONE);
}
