/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/attach-run.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/parse.h"
#include "common/util.h"

/* The program's own deadlines add up to 34 s (daemon/attach/main.c); killing it while a thread
 * is borrowed would give that thread a wrong result, so this is for a program gone mad. */
#define RUN_USEC (45 * USEC_PER_SEC)
#define LINE_MAX_BYTES 512
/* The descriptor by which the program gets the ring. */
#define RING_FD_NUMBER 3
/* Sources of dup2 must not be its targets: keep them above those. */
#define FD_FLOOR 16

extern char **environ;

static bool take_key(const char *word, const char *key, uint64_t max, uint64_t *ret)
{
	size_t n = strlen(key);

	return strncmp(word, key, n) == 0 && word[n] == '=' &&
	       parse_u64(word + n + 1, 0, max, ret) == 0;
}

static int parse_words(char *words, struct attach_result *ret)
{
	struct attach_result a = { .tid = -1, .thread = -1, .peer = -1 };
	char *save = NULL;
	uint64_t v;

	for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
		if (take_key(w, "tid", INT32_MAX, &v))
			a.tid = (int32_t)v;
		else if (take_key(w, "thread", INT32_MAX, &v))
			a.thread = (int32_t)v;
		else if (take_key(w, "peer", INT32_MAX, &v))
			a.peer = (int32_t)v;
		else if (take_key(w, "denied", UINT32_MAX, &v))
			a.denied = (uint32_t)v;
		else if (take_key(w, "attempts", UINT32_MAX, &v))
			a.attempts = (uint32_t)v;
		else if (take_key(w, "stopped_usec", UINT64_MAX, &v))
			a.stopped_usec = v;
		else
			return -EPROTO;
	}
	*ret = a;
	return 0;
}

/* "refused 16 being traced by gdb (pid 123)" */
static int parse_refusal(const char *at, char *ret_reason)
{
	uint64_t error;
	size_t used, len = strlen(at);

	if (parse_u64_prefix(at, len, 10, &error, &used) < 0 || error == 0 || error > 4095 ||
	    at[used] != ' ')
		return -EPROTO;
	at += used + 1;
	process_copy_printable(ret_reason, ATTACH_REASON_MAX, at, strlen(at));
	return -(int)error;
}

int attach_line_parse(const char *line, struct attach_result *ret, char *ret_reason)
{
	static const char *const verbs[] = { "attached ", "checked ", "removed " };
	char copy[LINE_MAX_BYTES];

	if (strncmp(line, "refused ", 8) == 0)
		return parse_refusal(line + 8, ret_reason);
	if (strlen(line) >= sizeof(copy))
		return -EPROTO;
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (strncmp(line, verbs[i], strlen(verbs[i])) == 0) {
			strcpy(copy, line + strlen(verbs[i]));
			return parse_words(copy, ret);
		}
	return -EPROTO;
}

static int program_path(char *ret, size_t size)
{
	const char *dir = getenv("MEMSHARED_LIBEXECDIR");
	int n = snprintf(ret, size, "%s/memshared-attach", dir ? dir : LIBEXECDIR);

	return n > 0 && (size_t)n < size ? 0 : -ENAMETOOLONG;
}

static int spawn_with(const char *path, char **argv, int ring_fd, int out_fd, pid_t *ret)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int r;

	(void)sigemptyset(&none);
	(void)sigfillset(&all);
	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawnattr_init(&attr);
	r = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(&actions, out_fd, 1);
	if (r == 0 && ring_fd >= 0)
		r = posix_spawn_file_actions_adddup2(&actions, ring_fd, RING_FD_NUMBER);
	if (r == 0)
		r = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
							    POSIX_SPAWN_SETPGROUP);
	if (r == 0)
		r = posix_spawnattr_setsigmask(&attr, &none);
	if (r == 0)
		r = posix_spawnattr_setsigdefault(&attr, &all);
	if (r == 0)
		r = posix_spawn(ret, path, &actions, &attr, argv, environ);
	(void)posix_spawnattr_destroy(&attr);
	(void)posix_spawn_file_actions_destroy(&actions);
	return -r;
}

static int spawn(const struct process *p, enum attach_mode mode, int ring_fd, int out_fd,
		 pid_t *ret)
{
	_cleanup_close_ int out = fcntl(out_fd, F_DUPFD_CLOEXEC, FD_FLOOR);
	_cleanup_close_ int ring = ring_fd < 0 ? -1 : fcntl(ring_fd, F_DUPFD_CLOEXEC, FD_FLOOR);
	char path[PATH_MAX], start[48], exe[64], pid[16], ring_arg[] = "--ring=3";
	char remove_arg[] = "--remove", check_arg[] = "--check";
	char *argv[8] = { path, start, exe };
	size_t n = 3;
	int r = program_path(path, sizeof(path));

	if (r < 0)
		return r;
	if (out < 0 || (ring < 0 && ring_fd >= 0))
		return -errno;
	(void)snprintf(start, sizeof(start), "--start=%" PRIu64, p->start_ticks);
	(void)snprintf(exe, sizeof(exe), "--exe=%ju:%ju", (uintmax_t)p->exe_dev,
		       (uintmax_t)p->exe_ino);
	(void)snprintf(pid, sizeof(pid), "%d", p->pid);
	if (mode == ATTACH_REMOVE)
		argv[n++] = remove_arg;
	if (mode == ATTACH_CHECK)
		argv[n++] = check_arg;
	if (ring >= 0)
		argv[n++] = ring_arg;
	argv[n] = pid;
	return spawn_with(path, argv, ring, out, ret);
}

/* Reads the one line until end of file, into a NUL-terminated buffer. 0, -ETIMEDOUT, -errno. */
static int read_answer(int fd, char *line, size_t size)
{
	uint64_t deadline = now_usec() + RUN_USEC;
	size_t have = 0;

	for (;;) {
		struct pollfd pfd = { .fd = fd, .events = POLLIN };
		uint64_t now = now_usec();
		ssize_t n;

		if (now >= deadline)
			return -ETIMEDOUT;
		n = poll(&pfd, 1, (int)((deadline - now) / USEC_PER_MSEC) + 1);
		if (n <= 0)
			continue;
		n = read(fd, line + have, size - 1 - have);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			have += (size_t)n;
		if (n == 0 || have == size - 1)
			break;
	}
	line[have] = '\0';
	line[strcspn(line, "\n")] = '\0';
	return 0;
}

/* The program's end; it has closed its output or is past its deadline. */
static void reap(pid_t pid, bool hung)
{
	int status;

	if (hung)
		(void)kill(pid, SIGKILL); /* our child and not reaped: the pid is its own */
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
}

int attach_run(const struct process *p, enum attach_mode mode, int ring_fd,
	       struct attach_result *ret, char *ret_reason)
{
	char line[LINE_MAX_BYTES] = "";
	int pipe_fds[2], r;
	pid_t pid;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return -errno;
	r = spawn(p, mode, ring_fd, pipe_fds[1], &pid);
	(void)close(pipe_fds[1]);
	if (r < 0) {
		char path[100] = "memshared-attach";

		(void)program_path(path, sizeof(path));
		(void)snprintf(ret_reason, ATTACH_REASON_MAX, "cannot run %s: %s", path, strerror(-r));
		(void)close(pipe_fds[0]);
		return r;
	}
	r = read_answer(pipe_fds[0], line, sizeof(line));
	(void)close(pipe_fds[0]);
	reap(pid, r < 0);
	if (r == 0 && *line)
		r = attach_line_parse(line, ret, ret_reason);
	else
		r = -EIO;
	if (r == -EIO || r == -EPROTO)
		(void)snprintf(ret_reason, ATTACH_REASON_MAX, "memshared-attach gave no answer");
	return r == -EPROTO ? -EIO : r;
}
