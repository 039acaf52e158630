/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/integration/attach-fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/io.h"

#define SNAPSHOT_MAX MIB(8)

extern char **environ;

static const char *build_dir(void)
{
	const char *dir = getenv("MEMSHARED_BUILDDIR");

	return dir ? dir : ".";
}

void attach_tests_begin(void)
{
	if (geteuid() != 0) {
		(void)printf("1..0 # SKIP borrowing threads of others needs root\n");
		exit(0);
	}
	(void)setenv("MEMSHARED_LIBEXECDIR", build_dir(), 0);
	(void)signal(SIGPIPE, SIG_IGN);
}

/* One line from the guest, without newline. */
static bool read_answer(struct fake_guest *g, char *line, size_t size)
{
	uint64_t deadline = now_usec() + WAIT_USEC;
	size_t have = 0;

	while (have < size - 1) {
		struct pollfd pfd = { .fd = g->out, .events = POLLIN };

		if (now_usec() > deadline)
			return false;
		if (poll(&pfd, 1, 100) <= 0)
			continue;
		if (read(g->out, line + have, 1) != 1)
			return false;
		if (line[have] == '\n')
			break;
		have++;
	}
	line[have] = '\0';
	return true;
}

static void spawn_guest(struct fake_guest *g, const char *arg1, const char *arg2)
{
	char path[PATH_MAX], a1[64] = "", a2[64] = "", *argv[4] = { path };
	posix_spawn_file_actions_t actions;
	int in[2], out[2], n = 1;

	(void)snprintf(path, sizeof(path), "%s/tests/integration/fake-guest", build_dir());
	if (arg1)
		argv[n++] = a1;
	if (arg2)
		argv[n++] = a2;
	(void)snprintf(a1, sizeof(a1), "%s", strempty(arg1));
	(void)snprintf(a2, sizeof(a2), "%s", strempty(arg2));
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawn_file_actions_adddup2(&actions, in[0], 0);
	(void)posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	assert_int_equal(posix_spawn(&g->pid, path, &actions, NULL, argv, environ), 0);
	(void)posix_spawn_file_actions_destroy(&actions);
	(void)close(in[0]);
	(void)close(out[1]);
	g->in = in[1];
	g->out = out[0];
}

static int is_number(const struct dirent *e)
{
	return e->d_name[0] >= '0' && e->d_name[0] <= '9';
}

static bool read_call(const char *path, int64_t *ret_nr)
{
	char line[256];

	return io_read_line(AT_FDCWD, path, line, sizeof(line)) == 0 &&
	       sscanf(line, "%" SCNd64 " 0x", ret_nr) == 1 && *ret_nr >= 0;
}

static bool sleeps_in_ppoll(pid_t pid, const char *tid)
{
	char path[64];
	int64_t nr;

	(void)snprintf(path, sizeof(path), "/proc/%d/task/%.16s/syscall", pid, tid);
	return read_call(path, &nr) && nr == SYS_ppoll;
}

bool sleeps_in_call(pid_t pid, int64_t *ret_nr)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	return read_call(path, ret_nr);
}

/* Whether the main thread (all: every thread) has come to its ppoll. */
static bool has_come_to_rest(pid_t pid, bool all)
{
	struct dirent **names = NULL;
	bool rest = true;
	char path[64];
	int n;

	(void)snprintf(path, sizeof(path), "/proc/%d/task", pid);
	n = scandir(path, &names, is_number, versionsort);
	for (int i = 0; i < n; i++) {
		/* The first thread is not the first of them where numbers have begun anew. */
		rest &= (!all && atoi(names[i]->d_name) != pid) || sleeps_in_ppoll(pid, names[i]->d_name);
		free(names[i]);
	}
	free(names);
	return n > 0 && rest;
}

static bool is_filtered(pid_t pid)
{
	_cleanup_free_ char *buf = NULL;
	char path[64];
	size_t len;

	(void)snprintf(path, sizeof(path), "/proc/%d/status", pid);
	return io_read_file(AT_FDCWD, path, MIB(1), &buf, &len) == 0 &&
	       strstr(buf, "\nSeccomp:\t2");
}

static bool is_arg(const char *arg, const char *wanted)
{
	return arg && strncmp(arg, wanted, strlen(wanted)) == 0;
}

void fake_guest_start(struct fake_guest *g, const char *arg1, const char *arg2)
{
	bool filtered = is_arg(arg1, "--deny") || is_arg(arg2, "--deny");
	char line[128];

	*g = (struct fake_guest){ .in = -1, .out = -1, .process = PROCESS_INIT };
	spawn_guest(g, arg1, arg2);
	assert_true(read_answer(g, line, sizeof(line)));
	assert_int_equal(sscanf(line, "ready 0x%" SCNx64 " %" SCNu64, &g->ram, &g->ram_bytes), 2);
	wait_until(has_come_to_rest(g->pid, is_arg(arg1, "--idle")) &&
		   (!filtered || is_filtered(g->pid)));
	assert_int_equal(process_open(&g->process, g->pid), 0);
}

void fake_guest_stop(struct fake_guest *g)
{
	if (g->pid <= 0)
		return;
	(void)kill(g->pid, SIGKILL);
	(void)waitpid(g->pid, NULL, 0);
	close_fdp(&g->in);
	close_fdp(&g->out);
	process_close(&g->process);
	g->pid = 0;
}

bool fake_guest_ask(struct fake_guest *g, struct guest_counters *ret)
{
	char line[128];

	if (write(g->in, "?\n", 2) != 2 || !read_answer(g, line, sizeof(line)))
		return false;
	return sscanf(line, "rounds=%" SCNu64 " eintr=%" SCNu64 " wrong=%" SCNu64, &ret->rounds,
		      &ret->eintr, &ret->wrong) == 3;
}

void fake_guest_let_work(struct fake_guest *g, uint64_t more_rounds)
{
	struct guest_counters begin, now;

	assert_true(fake_guest_ask(g, &begin));
	wait_until(fake_guest_ask(g, &now) && now.rounds >= begin.rounds + more_rounds);
}

/* --- snapshots ------------------------------------------------------------------------------- */

static void append(char *text, const char *fmt, ...) _printf_(2, 3);
static void append(char *text, const char *fmt, ...)
{
	size_t have = strlen(text);
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text + have, SNAPSHOT_MAX - have, fmt, ap);
	va_end(ap);
}

static void append_fd(char *text, const char *dir, const char *name)
{
	char path[128], link[PATH_MAX];
	ssize_t n;

	(void)snprintf(path, sizeof(path), "%s/%.16s", dir, name);
	n = readlink(path, link, sizeof(link) - 1);
	if (n >= 0)
		append(text, "fd %s %.*s\n", name, (int)n, link);
}

/* The thread's name and blocked signals. */
static void append_task(char *text, const char *dir, const char *name)
{
	_cleanup_free_ char *buf = NULL;
	char path[128], *blocked;
	size_t len;

	(void)snprintf(path, sizeof(path), "%s/%.16s/status", dir, name);
	if (io_read_file(AT_FDCWD, path, MIB(1), &buf, &len) < 0)
		return;
	blocked = strstr(buf, "SigBlk:");
	append(text, "task %s %.*s %.24s\n", name, (int)strcspn(buf, "\n"), buf, strempty(blocked));
}

static void append_directory(char *text, pid_t pid, const char *what,
			     void (*fn)(char *text, const char *dir, const char *name))
{
	struct dirent **names = NULL;
	char path[64];
	int n;

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", pid, what);
	n = scandir(path, &names, is_number, versionsort);
	for (int i = 0; i < n; i++) {
		fn(text, path, names[i]->d_name);
		free(names[i]);
	}
	free(names);
}

char *process_snapshot(pid_t pid)
{
	_cleanup_free_ char *maps = NULL;
	char path[64], *text = calloc(1, SNAPSHOT_MAX);
	size_t len;

	assert_non_null(text);
	(void)snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	if (io_read_file(AT_FDCWD, path, SNAPSHOT_MAX / 2, &maps, &len) == 0)
		append(text, "%s", maps);
	append_directory(text, pid, "fd", append_fd);
	append_directory(text, pid, "task", append_task);
	return text;
}

/* Prints the lines of a that b lacks. */
static void print_missing(const char *a, const char *b, char mark)
{
	_cleanup_free_ char *copy = strdup(a);
	char *save = NULL;

	for (char *l = strtok_r(copy, "\n", &save); l; l = strtok_r(NULL, "\n", &save))
		if (!strstr(b, l))
			print_message("%c %s\n", mark, l);
}

/* Takes the masks out of a snapshot. */
static void strip_masks(char *snapshot)
{
	for (char *at = snapshot; (at = strstr(at, "SigBlk:\t")); at++)
		memset(at, '-', MIN(strlen(at), sizeof("SigBlk:\t") - 1 + 16));
}

bool is_unchanged_but_masks(pid_t pid, const char *before, bool say)
{
	_cleanup_free_ char *after = process_snapshot(pid), *stripped = strdup(before);

	strip_masks(stripped);
	strip_masks(after);
	if (streq(stripped, after))
		return true;
	if (say) {
		print_missing(stripped, after, '-');
		print_missing(after, stripped, '+');
	}
	return false;
}

void assert_unchanged_but_masks(pid_t pid, const char *before)
{
	if (!is_unchanged_but_masks(pid, before, true))
		fail_msg("process %d is not as it was", pid);
}

void assert_unchanged(pid_t pid, const char *before)
{
	_cleanup_free_ char *after = process_snapshot(pid);

	if (streq(before, after))
		return;
	print_missing(before, after, '-');
	print_missing(after, before, '+');
	fail_msg("process %d is not as it was", pid);
}

/* --- numbers --------------------------------------------------------------------------------- */

void samples_add(struct samples *s, uint64_t value)
{
	if (s->n < ARRAY_SIZE(s->values))
		s->values[s->n++] = value;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

uint64_t samples_report(struct samples *s, const char *what)
{
	if (s->n == 0)
		return 0;
	qsort(s->values, s->n, sizeof(s->values[0]), compare);
	print_message("# %s: median %" PRIu64 ", 99 %% %" PRIu64 ", max %" PRIu64 " of %zu\n", what,
		      s->values[s->n / 2], s->values[s->n * 99 / 100], s->values[s->n - 1], s->n);
	return s->values[s->n / 2];
}
