/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/process.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "common/io.h"
#include "common/parse.h"
#include "common/util.h"

/* A stat line is 52 numbers and a name of at most 64 bytes; status is some 60 short lines, of
 * which Groups: may be long (65536 groups of 11 bytes). */
#define STAT_MAX_BYTES	 KIB(8)
#define STATUS_MAX_BYTES MIB(1)

void process_copy_printable(char *to, size_t size, const char *from, size_t len)
{
	size_t n = MIN(len, size - 1);

	assert(size > 0);
	for (size_t i = 0; i < n; i++)
		to[i] = from[i] >= ' ' && from[i] <= '~' ? from[i] : '?';
	to[n] = '\0';
}

/* Skips one blank and reads a decimal number, which may be negative when ret is NULL. */
static const char *next_field(const char *at, const char *end, uint64_t *ret)
{
	uint64_t v;
	size_t used;

	if (at >= end || *at != ' ')
		return NULL;
	at++;
	if (!ret && at < end && *at == '-')
		at++;
	if (parse_u64_prefix(at, (size_t)(end - at), 10, &v, &used) < 0)
		return NULL;
	if (ret)
		*ret = v;
	return at + used;
}

int process_parse_stat(const char *buf, size_t len, struct process_stat *ret)
{
	const char *end = buf + len, *at;
	uint64_t pid, ppid, start;
	size_t used;
	char state;

	if (parse_u64_prefix(buf, len, 10, &pid, &used) < 0 || pid > INT_MAX)
		return -EINVAL;
	at = memrchr(buf, ')', len);
	if (!at || len - used < 2 || memcmp(buf + used, " (", 2) != 0)
		return -EINVAL;
	at++;
	if (end - at < 2 || at[0] != ' ')
		return -EINVAL;
	state = at[1];
	if (state < 'A' || state > 'z')
		return -EINVAL;
	at = next_field(at + 2, end, &ppid);
	/* Fields 5 (process group) to 21; some of them are signed. */
	for (unsigned field = 5; at && field <= 21; field++)
		at = next_field(at, end, NULL);
	if (at)
		at = next_field(at, end, &start);
	if (!at || ppid > INT_MAX)
		return -EINVAL;
	*ret = (struct process_stat){
		.pid = (pid_t)pid,
		.ppid = (pid_t)ppid,
		.state = state,
		.start_ticks = start,
	};
	return 0;
}

int process_parse_uid(const char *buf, size_t len, uid_t *ret)
{
	static const char key[] = "\nUid:\t";
	const char *end = buf + len;
	/* The kernel escapes newlines in Name:, so that this cannot match inside a name. */
	const char *at = memmem(buf, len, key, sizeof(key) - 1);
	uint64_t real, effective;
	size_t used;

	if (!at)
		return -EINVAL;
	at += sizeof(key) - 1;
	if (parse_u64_prefix(at, (size_t)(end - at), 10, &real, &used) < 0)
		return -EINVAL;
	at += used;
	if (at >= end || *at != '\t')
		return -EINVAL;
	at++;
	if (parse_u64_prefix(at, (size_t)(end - at), 10, &effective, &used) < 0)
		return -EINVAL;
	if (effective > UINT32_MAX)
		return -EINVAL;
	*ret = (uid_t)effective;
	return 0;
}

/* A file of a process that exited is gone, or there but not readable. */
static int gone(int r)
{
	return r == -ENOENT || r == -ENODATA ? -ESRCH : r;
}

int process_read_stat(int proc_dir_fd, struct process_stat *ret)
{
	_cleanup_free_ char *buf = NULL;
	size_t len;
	int r = io_read_file(proc_dir_fd, "stat", STAT_MAX_BYTES, &buf, &len);

	if (r < 0)
		return gone(r);
	return process_parse_stat(buf, len, ret);
}

int process_read_exe(int dir_fd, const char *link, char *ret, size_t size)
{
	static const char deleted[] = " (deleted)";
	char path[PATH_MAX];
	ssize_t n = readlinkat(dir_fd, link, path, sizeof(path));
	const char *base;
	size_t len;

	if (n < 0)
		return errno == ENOENT ? -ENOEXEC : -errno;
	len = (size_t)n;
	if (len > sizeof(deleted) - 1 &&
	    memcmp(path + len - (sizeof(deleted) - 1), deleted, sizeof(deleted) - 1) == 0)
		len -= sizeof(deleted) - 1;
	base = memrchr(path, '/', len);
	base = base ? base + 1 : path;
	process_copy_printable(ret, size, base, len - (size_t)(base - path));
	return 0;
}

static int read_uid(struct process *p)
{
	_cleanup_free_ char *buf = NULL;
	size_t len;
	/* Not the owner of /proc/PID: that is root where the process is not dumpable. */
	int r = io_read_file(p->proc_fd, "status", STATUS_MAX_BYTES, &buf, &len);

	if (r < 0)
		return gone(r);
	return process_parse_uid(buf, len, &p->uid);
}

static int read_identity(struct process *p)
{
	struct process_stat stat;
	struct stat exe;
	int r = process_read_stat(p->proc_fd, &stat);

	if (r < 0)
		return r;
	if (stat.state == 'Z' || stat.state == 'X')
		return -ENOEXEC;
	p->start_ticks = stat.start_ticks;
	r = read_uid(p);
	if (r < 0)
		return r;
	r = process_read_exe(p->proc_fd, "exe", p->exe, sizeof(p->exe));
	if (r < 0)
		return r;
	if (fstatat(p->proc_fd, "exe", &exe, 0) < 0)
		return errno == ENOENT ? -ENOEXEC : -errno;
	p->exe_dev = exe.st_dev;
	p->exe_ino = exe.st_ino;
	p->pagemap_fd = openat(p->proc_fd, "pagemap", O_RDONLY | O_CLOEXEC);
	return p->pagemap_fd < 0 ? gone(-errno) : 0;
}

static int open_descriptors(struct process *p)
{
	char path[32];

	p->pidfd = (int)syscall(SYS_pidfd_open, p->pid, 0);
	if (p->pidfd < 0) /* ENOENT, EINVAL: a thread's id, not a process's */
		return errno == ENOENT || errno == EINVAL ? -ESRCH : -errno;
	(void)snprintf(path, sizeof(path), "/proc/%d", p->pid);
	p->proc_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return p->proc_fd < 0 ? gone(-errno) : 0;
}

int process_open(struct process *p, pid_t pid)
{
	struct process new = PROCESS_INIT;
	int r;

	*p = new;
	if (pid <= 0)
		return -ESRCH;
	new.pid = pid;
	r = open_descriptors(&new);
	if (r == 0)
		r = read_identity(&new);
	/* The pid cannot have been reused while the pidfd's process lived, so everything above
	 * is this process's. A failure above may also just mean that it exited meanwhile. */
	if (new.pidfd >= 0 && r != -ENOEXEC && !process_alive(&new))
		r = -ESRCH;
	if (r < 0) {
		process_close(&new);
		return r;
	}
	*p = new;
	return 0;
}

void process_close(struct process *p)
{
	close_fdp(&p->pagemap_fd);
	close_fdp(&p->proc_fd);
	close_fdp(&p->pidfd);
}

bool process_alive(const struct process *p)
{
	/* A pidfd becomes readable when the last thread has exited, reaped or not. */
	struct pollfd pfd = { .fd = p->pidfd, .events = POLLIN };
	int r;

	do
		r = poll(&pfd, 1, 0);
	while (r < 0 && errno == EINTR);
	return r == 0;
}

int process_check(const struct process *p)
{
	struct stat exe;
	int r = fstatat(p->proc_fd, "exe", &exe, 0) < 0 ? -errno : 0;

	if (!process_alive(p))
		return -ESRCH;
	if (r < 0)
		return gone(r);
	return exe.st_dev == p->exe_dev && exe.st_ino == p->exe_ino ? 0 : -ESTALE;
}

int process_vm_pages(const struct process *p, uint64_t *ret, uint64_t *ret_resident)
{
	char statm[128];
	uint64_t vm, resident;
	size_t used, rest;
	int r = io_read_line(p->proc_fd, "statm", statm, sizeof(statm));

	if (r < 0)
		return gone(r);
	r = parse_u64_prefix(statm, strlen(statm), 10, &vm, &used);
	if (r >= 0 && statm[used] != ' ')
		r = -EINVAL;
	if (r >= 0)
		r = parse_u64_prefix(statm + used + 1, strlen(statm + used + 1), 10, &resident, &rest);
	if (r < 0)
		return r;
	*ret = vm;
	if (ret_resident)
		*ret_resident = resident;
	return 0;
}

int64_t process_read_pages(const struct process *p, hva start, uint64_t n_pages, void *buf)
{
	struct iovec local = { .iov_base = buf, .iov_len = n_pages * PAGE_BYTES };
	struct iovec remote = { .iov_base = (void *)(uintptr_t)start.addr,
				.iov_len = n_pages * PAGE_BYTES };
	ssize_t n;
	int r;

	if (n_pages == 0)
		return 0;
	n = process_vm_readv(p->pid, &local, 1, &remote, 1, 0);
	r = n < 0 ? -errno : 0;
	/* It went by pid: what came belongs to this process only if it still lives. */
	if (!process_alive(p))
		return -ESRCH;
	if (r < 0)
		return r;
	return n < (ssize_t)PAGE_BYTES ? -EFAULT : (int64_t)((uint64_t)n / PAGE_BYTES);
}
