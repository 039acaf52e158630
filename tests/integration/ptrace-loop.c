/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ptrace-loop PID...: a debugger that cannot let go. Attaches to every thread of these processes,
 * stops them all, reads their registers, lets them go, and does so again and again until end of
 * file on stdin. Prints how many times it stopped a process, and how many threads in all.
 */
#include <dirent.h>
#include <poll.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "common/parse.h"
#include "common/units.h"
#include "common/util.h"

#define THREADS_MAX 256

static uint64_t stops, threads;

/* Seizes all threads that are there; those that are traced already or end just now are left out. */
static size_t seize_all(pid_t pid, pid_t tids[THREADS_MAX])
{
	char path[64];
	struct dirent *e;
	size_t n = 0;
	DIR *d;

	(void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	d = opendir(path);
	while (d && n < THREADS_MAX && (e = readdir(d))) {
		uint64_t tid;

		if (parse_u64(e->d_name, 1, INT32_MAX, &tid) < 0)
			continue;
		if (ptrace(PTRACE_SEIZE, (pid_t)tid, NULL, NULL) == 0)
			tids[n++] = (pid_t)tid;
	}
	if (d)
		(void)closedir(d);
	return n;
}

static void look(pid_t pid)
{
	pid_t tids[THREADS_MAX];
	size_t n = seize_all(pid, tids);

	for (size_t i = 0; i < n; i++)
		(void)ptrace(PTRACE_INTERRUPT, tids[i], NULL, NULL);
	for (size_t i = 0; i < n; i++) {
		struct user_regs_struct regs;
		int status, signal = 0;

		if (waitpid(tids[i], &status, __WALL) != tids[i] || !WIFSTOPPED(status))
			continue;
		(void)ptrace(PTRACE_GETREGS, tids[i], NULL, &regs);
		/* A signal of its own that came first is handed on. */
		if (status >> 16 != PTRACE_EVENT_STOP)
			signal = WSTOPSIG(status);
		(void)ptrace(PTRACE_DETACH, tids[i], NULL, (long)signal);
		threads++;
	}
	stops += n > 0;
}

int main(int argc, char **argv)
{
	struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };

	do
		for (int i = 1; i < argc; i++) {
			uint64_t pid;

			if (parse_u64(argv[i], 1, INT32_MAX, &pid) < 0)
				return EXIT_FAILURE;
			look((pid_t)pid);
		}
	while (poll(&in, 1, 5) == 0);
	(void)printf("%llu stops, %llu threads\n", (unsigned long long)stops, (unsigned long long)threads);
	return EXIT_SUCCESS;
}
