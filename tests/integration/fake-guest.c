/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fake-guest: a process of QEMU's shape that notices what is done to it.
 *
 *   fake-guest [--idle] [--uid=N] [--deny=NR:VERDICT[:ARG:VALUE]]
 *
 * Threads sleep in ppoll, poll, futex, nanosleep, read and epoll_wait, are woken at their time or
 * by another thread, and count what should never happen: an EINTR, an early or empty wake-up,
 * bytes out of order. One thread never sleeps; it rewrites and checks memory that is marked as
 * QEMU marks guest RAM. With --idle all threads sleep in ppoll for ever.
 *
 * --uid drops all rights. --deny installs a seccomp filter on all threads: VERDICT is the
 * SECCOMP_RET_ value in hex; ARG:VALUE narrows it to calls whose argument has this value (32 bits).
 *
 * It says "ready RAM-ADDRESS RAM-BYTES" and then answers each line on stdin with
 * "rounds=N eintr=N wrong=N", until end of file.
 */
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "common/parse.h"
#include "common/util.h"

#define RAM_BYTES  MIB(16)
#define TICK_NSEC  3000000 /* how long each sleeper sleeps */
#define NAP_NSEC   200000  /* the waker's pace */

static _Atomic uint64_t rounds, eintrs, wrongs;
static uint64_t *ram;
static uint32_t futex_word;
static int read_pipe[2], poll_pipe[2];

static uint64_t now_nsec(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

static void expect(bool right, const char *what)
{
	if (right)
		return;
	if (errno == EINTR)
		eintrs++;
	else
		wrongs++;
	(void)fprintf(stderr, "fake-guest: %s (errno %d)\n", what, errno);
}

/* A sleep with a time-out must end with it, and not before. */
static void expect_timeout(int r, int wanted, uint64_t began, const char *what)
{
	expect(r == wanted, what);
	expect(now_nsec() - began >= TICK_NSEC, what);
	rounds++;
}

static void *sleep_in_ppoll(void *arg _unused_)
{
	struct pollfd pfd = { .fd = poll_pipe[0], .events = POLLPRI };
	const struct timespec ts = { .tv_nsec = TICK_NSEC };
	sigset_t mask;

	(void)sigemptyset(&mask);
	for (;;) {
		uint64_t began = now_nsec();

		errno = 0;
		pfd.revents = 0;
		expect_timeout(ppoll(&pfd, 1, &ts, &mask), 0, began, "ppoll");
	}
	return NULL;
}

static void *sleep_in_poll(void *arg _unused_)
{
	struct pollfd pfd = { .fd = poll_pipe[0], .events = POLLPRI };

	for (;;) {
		uint64_t began = now_nsec();

		errno = 0;
		expect_timeout(poll(&pfd, 1, TICK_NSEC / 1000000), 0, began, "poll");
	}
	return NULL;
}

static void *sleep_in_nanosleep(void *arg _unused_)
{
	const struct timespec ts = { .tv_nsec = TICK_NSEC };

	for (;;) {
		uint64_t began = now_nsec();

		errno = 0;
		expect_timeout(nanosleep(&ts, NULL), 0, began, "nanosleep");
	}
	return NULL;
}

static void *sleep_in_futex(void *arg _unused_)
{
	static uint32_t never;
	const struct timespec ts = { .tv_nsec = TICK_NSEC };

	for (;;) {
		uint64_t began = now_nsec();
		long r;

		errno = 0;
		r = syscall(SYS_futex, &never, FUTEX_WAIT_PRIVATE, 0, &ts, NULL, 0);
		expect_timeout(r < 0 && errno == ETIMEDOUT, 1, began, "futex");
	}
	return NULL;
}

/* Like a mutex: woken by the busy thread, which changes the word first. */
static void *sleep_for_waker(void *arg _unused_)
{
	for (;;) {
		uint32_t seen = __atomic_load_n(&futex_word, __ATOMIC_ACQUIRE);
		long r;

		errno = 0;
		r = syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
		expect(r == 0 || errno == EAGAIN, "futex without time-out");
		rounds++;
	}
	return NULL;
}

static void *sleep_in_read(void *arg _unused_)
{
	for (uint64_t wanted = 0;; wanted++) {
		uint64_t got = 0;
		ssize_t n;

		errno = 0;
		n = read(read_pipe[0], &got, sizeof(got));
		expect(n == sizeof(got) && got == wanted, "read");
		wanted = got;
		rounds++;
	}
	return NULL;
}

/* The one that must never be touched: it would see an EINTR. */
static void *sleep_in_epoll(void *arg _unused_)
{
	struct epoll_event event = { .events = EPOLLPRI };
	int fd = epoll_create1(EPOLL_CLOEXEC);

	(void)epoll_ctl(fd, EPOLL_CTL_ADD, poll_pipe[0], &event);
	for (;;) {
		errno = 0;
		expect(epoll_wait(fd, &event, 1, TICK_NSEC / 1000000) == 0, "epoll_wait");
		rounds++;
	}
	return NULL;
}

static void *wake_others(void *arg _unused_)
{
	const struct timespec nap = { .tv_nsec = NAP_NSEC };

	for (uint64_t n = 0;; n++) {
		__atomic_fetch_add(&futex_word, 1, __ATOMIC_RELEASE);
		(void)syscall(SYS_futex, &futex_word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
		expect(write(read_pipe[1], &n, sizeof(n)) == sizeof(n), "write");
		(void)nanosleep(&nap, NULL);
	}
	return NULL;
}

static void *work(void *arg _unused_)
{
	size_t n = RAM_BYTES / sizeof(*ram);

	for (uint64_t round = 1;; round++) {
		for (size_t i = 0; i < n; i += 64)
			ram[i] = round * i;
		for (size_t i = 0; i < n; i += 64)
			if (ram[i] != round * i)
				wrongs++;
		rounds++;
	}
	return NULL;
}

/* Threads that have left libc's start-up code, whose calls a filter may deny. */
static _Atomic unsigned n_started;

static void *sleep_for_ever(void *arg _unused_)
{
	n_started++;
	expect(ppoll(NULL, 0, NULL, NULL) < 0, "ppoll for ever");
	return NULL;
}

static void start(void *(*fn)(void *))
{
	pthread_attr_t attr;
	pthread_t thread;

	(void)pthread_attr_init(&attr);
	/* QEMU's threads block all signals. */
	if (pthread_create(&thread, &attr, fn, NULL) != 0)
		abort();
	(void)pthread_attr_destroy(&attr);
}

static void make_ram(void)
{
	ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ram == MAP_FAILED)
		abort();
	(void)madvise(ram, RAM_BYTES, MADV_HUGEPAGE);
	(void)madvise(ram, RAM_BYTES, MADV_DONTFORK);
	memset(ram, 1, RAM_BYTES);
}

static void drop_rights(const char *uid)
{
	uint32_t id;

	if (parse_u32(uid, 1, UINT32_MAX - 1, &id) < 0 || setgroups(0, NULL) < 0 ||
	    setresgid(id, id, id) < 0 || setresuid(id, id, id) < 0)
		abort();
	(void)prctl(PR_SET_DUMPABLE, 0);
}

static uint32_t take_hex(char **save)
{
	const char *word = strtok_r(NULL, ":", save);
	uint64_t v;
	size_t used;

	if (!word || parse_u64_prefix(word, strlen(word), 16, &v, &used) < 0 || word[used])
		abort();
	return (uint32_t)v;
}

/* NR:VERDICT[:ARG:VALUE], all in hex. */
static void install_filter(char *spec)
{
	char prefixed[64], *save = NULL;
	uint32_t nr, verdict, arg = 0, value = 0;
	bool narrowed;

	(void)snprintf(prefixed, sizeof(prefixed), "x:%s", spec);
	(void)strtok_r(prefixed, ":", &save);
	nr = take_hex(&save);
	verdict = take_hex(&save);
	narrowed = save && *save;
	if (narrowed) {
		arg = take_hex(&save);
		value = take_hex(&save);
	}
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, narrowed ? 3 : 1),
		narrowed ? (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
					(uint32_t)offsetof(struct seccomp_data, args) + arg * 8) :
			   (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, verdict),
		narrowed ? (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1) :
			   (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, verdict),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { ARRAY_SIZE(code), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0)
		abort();
}

static void start_threads(bool idle)
{
	static void *(*const busy_threads[])(void *) = {
		sleep_in_ppoll,	 sleep_in_poll,	  sleep_in_nanosleep, sleep_in_futex,
		sleep_for_waker, sleep_in_read,	  sleep_in_epoll,     wake_others,
		work,
	};

	if (pipe2(read_pipe, O_CLOEXEC) < 0 || pipe2(poll_pipe, O_CLOEXEC) < 0)
		abort();
	for (size_t i = 0; i < ARRAY_SIZE(busy_threads); i++)
		start(idle ? sleep_for_ever : busy_threads[i]);
	while (idle && n_started < ARRAY_SIZE(busy_threads))
		(void)usleep(1000);
}

/* As QEMU's main loop: everything is waited for in ppoll. */
static void main_loop(void)
{
	struct pollfd pfd = { .fd = STDIN_FILENO, .events = POLLIN };
	char buf[64], answer[128];
	int n;

	for (;;) {
		errno = 0;
		pfd.revents = 0;
		n = ppoll(&pfd, 1, NULL, NULL);
		expect(n == 1 && pfd.revents != 0, "ppoll of main");
		if (n != 1 || pfd.revents == 0)
			continue;
		if (read(STDIN_FILENO, buf, sizeof(buf)) <= 0)
			return;
		n = snprintf(answer, sizeof(answer),
			     "rounds=%" PRIu64 " eintr=%" PRIu64 " wrong=%" PRIu64 "\n", rounds,
			     eintrs, wrongs);
		expect(write(STDOUT_FILENO, answer, (size_t)n) == n, "answer");
	}
}

int main(int argc, char **argv)
{
	const char *uid = NULL;
	char *deny = NULL;
	bool idle = false;

	for (int i = 1; i < argc; i++) {
		if (streq(argv[i], "--idle"))
			idle = true;
		else if (strncmp(argv[i], "--uid=", 6) == 0)
			uid = argv[i] + 6;
		else if (strncmp(argv[i], "--deny=", 7) == 0)
			deny = argv[i] + 7;
		else
			return 2;
	}
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	make_ram();
	if (uid)
		drop_rights(uid);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	start_threads(idle);
	(void)printf("ready %p %zu\n", (void *)ram, (size_t)RAM_BYTES);
	(void)fflush(stdout);
	if (deny)
		install_filter(deny);
	main_loop();
	return 0;
}
