/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/discover-proc.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/parse.h"
#include "common/util.h"
#include "daemon/process.h"

/* A guest that was told, or a QEMU that is none, so that its command line is not read again. */
struct known {
	pid_t pid;
	uint64_t start_ticks;
	bool is_guest;
	bool seen; /* in the scan that runs */
};

struct discover_proc {
	struct known *known;
	size_t n, size;
};

/* --- one process -------------------------------------------------------------------------- */

_printf_(3, 4) static int fail(char reason[DISCOVER_REASON_BYTES], int r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(reason, DISCOVER_REASON_BYTES, fmt, ap);
	va_end(ap);
	return r;
}

/* Who could have put another program there, or change it. */
static int read_owner(int dir_fd, struct proc_guest *g)
{
	struct stat exe;

	if (fstatat(dir_fd, "exe", &exe, 0) < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	g->own_program = exe.st_uid != 0 || exe.st_mode & S_IWOTH ||
			 (exe.st_mode & S_IWGRP && exe.st_gid != 0);
	return 0;
}

static int read_uid(int dir_fd, struct proc_guest *g)
{
	_cleanup_free_ char *buf = NULL;
	size_t len;
	int r = io_read_file(dir_fd, "status", MIB(1), &buf, &len);

	if (r == 0)
		r = process_parse_uid(buf, len, &g->uid);
	g->is_root = g->uid == 0;
	return r;
}

static int read_cmdline(int dir_fd, struct proc_guest *g, const char **ret_reason)
{
	_cleanup_free_ char *buf = NULL;
	size_t len;
	int r = io_read_file(dir_fd, "cmdline", QEMU_CMDLINE_MAX_BYTES, &buf, &len);

	if (r < 0) {
		*ret_reason = "its command line cannot be read";
		return r;
	}
	return qemu_parse_cmdline(buf, len, &g->cmdline, ret_reason);
}

/* What is known of a process called like QEMU, besides exe and stat. */
static int read_guest(int dir_fd, struct proc_guest *g, const char **ret_reason)
{
	int r = read_owner(dir_fd, g);

	*ret_reason = "its files in /proc cannot be read";
	if (r == 0)
		r = read_uid(dir_fd, g);
	if (r == 0)
		r = read_cmdline(dir_fd, g, ret_reason);
	return r == -ENOENT || r == -ENODATA ? -ESRCH : r;
}

static int open_process(int proc_fd, pid_t pid)
{
	char name[16];
	int fd;

	(void)snprintf(name, sizeof(name), "%d", pid);
	fd = openat(proc_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd >= 0 ? fd : errno == ENOENT ? -ESRCH : -errno;
}

int discover_proc_pid(int proc_fd, pid_t pid, struct proc_guest *ret,
		      char ret_reason[DISCOVER_REASON_BYTES])
{
	_cleanup_close_ int dir_fd = pid > 0 ? open_process(proc_fd, pid) : -ESRCH;
	struct proc_guest g = { .pid = pid };
	struct process_stat stat;
	const char *why;
	int r = dir_fd;

	if (r >= 0)
		r = process_read_stat(dir_fd, &stat);
	if (r == -ESRCH)
		return fail(ret_reason, r, "there is no process %d", pid);
	if (r < 0)
		return fail(ret_reason, r, "process %d cannot be looked at: %s", pid, strerror(-r));
	/* A thread has a directory, too, but is listed under its process. */
	if (stat.pid != pid)
		return fail(ret_reason, -ESRCH, "there is no process %d", pid);
	g.start_ticks = stat.start_ticks;
	r = process_read_exe(dir_fd, "exe", g.exe, sizeof(g.exe));
	if (r == -ENOEXEC)
		return fail(ret_reason, r, "process %d is a kernel thread or has exited", pid);
	if (r < 0)
		return fail(ret_reason, r, "process %d cannot be looked at: %s", pid, strerror(-r));
	if (!qemu_is_program(g.exe))
		return fail(ret_reason, -ENOMSG, "process %d runs %s, not QEMU", pid, g.exe);
	r = read_guest(dir_fd, &g, &why);
	if (r == -ESRCH)
		return fail(ret_reason, r, "process %d has exited", pid);
	if (r < 0)
		return fail(ret_reason, r, "process %d (%s) is no guest: %s", pid, g.exe, why);
	*ret = g;
	return 0;
}

/* --- all processes ------------------------------------------------------------------------ */

int discover_proc_new(struct discover_proc **ret)
{
	struct discover_proc *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	*ret = d;
	return 0;
}

void discover_proc_free(struct discover_proc *d)
{
	if (!d)
		return;
	free(d->known);
	free(d);
}

/* Few: the guests of one host. */
static struct known *find_known(struct discover_proc *d, pid_t pid, uint64_t start_ticks)
{
	for (size_t i = 0; i < d->n; i++)
		if (d->known[i].pid == pid && d->known[i].start_ticks == start_ticks)
			return &d->known[i];
	return NULL;
}

static int add_known(struct discover_proc *d, const struct proc_guest *g, bool is_guest)
{
	if (d->n == DISCOVER_GUESTS_MAX)
		return -ENOSPC;
	if (d->n == d->size) {
		size_t size = d->size ? 2 * d->size : 64;
		struct known *grown = reallocarray(d->known, size, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		d->known = grown;
		d->size = size;
	}
	d->known[d->n++] = (struct known){ .pid = g->pid, .start_ticks = g->start_ticks,
					   .is_guest = is_guest, .seen = true };
	return 0;
}

/* Drops those that the scan did not meet; returns how many of the rest are guests. */
static int drop_unseen(struct discover_proc *d)
{
	size_t kept = 0;
	int n_guests = 0;

	for (size_t i = 0; i < d->n; i++) {
		if (!d->known[i].seen)
			continue;
		d->known[i].seen = false;
		n_guests += d->known[i].is_guest;
		d->known[kept++] = d->known[i];
	}
	d->n = kept;
	return n_guests;
}

/* A process called like QEMU. What cannot be read now is tried again in the next scan: it exits,
 * or has not begun. */
static int look(struct discover_proc *d, int proc_fd, struct proc_guest *g, discover_proc_fn *fn,
		void *userdata)
{
	_cleanup_close_ int dir_fd = open_process(proc_fd, g->pid);
	struct process_stat stat;
	struct known *known;
	const char *why;
	int r;

	if (dir_fd < 0 || process_read_stat(dir_fd, &stat) < 0)
		return 0;
	g->start_ticks = stat.start_ticks;
	known = find_known(d, g->pid, g->start_ticks);
	if (known) {
		known->seen = true;
		return 0;
	}
	r = read_guest(dir_fd, g, &why);
	if (r < 0 && r != -ENOMSG)
		return r == -ENOMEM ? r : 0;
	if (add_known(d, g, r == 0) < 0 || r < 0)
		return 0;
	r = fn(g, userdata);
	if (r != 0)
		d->n--;
	return MIN(r, 0);
}

static int scan_entry(struct discover_proc *d, int proc_fd, const char *name, discover_proc_fn *fn,
		      void *userdata)
{
	struct proc_guest g = { 0 };
	char link[32];
	uint32_t pid;

	if (name[0] < '1' || name[0] > '9' || parse_u32(name, 1, INT_MAX, &pid) < 0)
		return 0;
	g.pid = (pid_t)pid;
	(void)snprintf(link, sizeof(link), "%u/exe", pid);
	if (process_read_exe(proc_fd, link, g.exe, sizeof(g.exe)) < 0 || !qemu_is_program(g.exe))
		return 0;
	return look(d, proc_fd, &g, fn, userdata);
}

int discover_proc_scan(struct discover_proc *d, int proc_fd, discover_proc_fn *fn, void *userdata)
{
	_cleanup_close_ int fd = openat(proc_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const struct dirent *e;
	DIR *dir;
	int r = 0;

	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir)
		return -errno;
	(void)TAKE_FD(fd);
	for (size_t i = 0; i < d->n; i++)
		d->known[i].seen = false;
	while (r >= 0) {
		errno = 0;
		e = readdir(dir);
		if (!e) {
			r = -errno;
			break;
		}
		r = scan_entry(d, proc_fd, e->d_name, fn, userdata);
	}
	(void)closedir(dir);
	return r < 0 ? r : drop_unseen(d);
}

void discover_proc_forget(struct discover_proc *d, pid_t pid)
{
	size_t kept = 0;

	for (size_t i = 0; i < d->n; i++)
		if (pid != 0 && d->known[i].pid != pid)
			d->known[kept++] = d->known[i];
	d->n = kept;
}
