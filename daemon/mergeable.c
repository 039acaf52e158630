/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/mergeable.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/parse.h"
#include "common/util.h"
#include "daemon/ksm.h"
#include "daemon/maps.h"
#include "daemon/process.h"

/* What fits the kernel's own limit for the name of a process. */
#define COMM_BYTES 16

struct look {
	const struct mergeable_look *asked;
	uint64_t until_usec;
};

struct smaps {
	const struct look *look;
	bool any, found; /* mappings at all, mergeable ones */
};

static bool is_gone(int r)
{
	return r == -ESRCH || r == -ENOENT;
}

static int check_time(const struct look *l)
{
	if (l->asked->stop && *l->asked->stop)
		return -ECANCELED;
	return now_usec() > l->until_usec ? -ETIME : 0;
}

static int note_mapping(const struct mapping *m, void *userdata)
{
	struct smaps *s = userdata;

	s->any = true;
	s->found = m->flags & VMF_MERGEABLE;
	return s->found ? -EEXIST : check_time(s->look);
}

static int read_smaps(const struct look *l, int fd, bool *ret_any)
{
	struct smaps s = { .look = l };
	int r = maps_read(fd, "smaps", note_mapping, &s);

	*ret_any = s.any;
	return s.found ? 1 : r;
}

/* One thread, which tells of the memory of all of them, unless it has exited. */
static int look_at_thread(const struct look *l, int fd, bool *ret_any)
{
	struct ksm_stat s;
	int r = ksm_read_stat(fd, &s);

	*ret_any = r == 0;
	if (r == 0 && s.mergeable >= 0)
		return s.mergeable;
	if (r == 0 && l->asked->quick && s.rmap_items == 0)
		return 0;
	/* That of what has no memory is empty. Before Linux 6.1 there is none. */
	return r == -ENODATA ? 0 : read_smaps(l, fd, ret_any);
}

/* The first thread may have exited, and its files are empty then, while others run on. */
static int look_at_others(const struct look *l, int pid_fd)
{
	int fd = openat(pid_fd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	const struct dirent *e;
	bool any = false;
	struct stat st;
	DIR *d;

	/* A kernel thread, mostly: there is no other. */
	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_nlink == 3) {
		close_fdp(&fd);
		return 0;
	}
	d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		r = -errno;
		close_fdp(&fd);
		return r;
	}
	while (r == 0 && !any && (errno = 0, e = readdir(d))) {
		_cleanup_close_ int task = -1;

		if (e->d_name[0] == '.')
			continue;
		task = openat(dirfd(d), e->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		r = task < 0 ? -errno : look_at_thread(l, task, &any);
		if (is_gone(r))
			r = 0;
		if (r == 0)
			r = check_time(l);
	}
	(void)closedir(d);
	return r;
}

static int look_at(const struct look *l, int pid_fd)
{
	bool any;
	int r = look_at_thread(l, pid_fd, &any);

	if (r == 0 && !any)
		r = look_at_others(l, pid_fd);
	return is_gone(r) ? 0 : r;
}

static struct look begin(const struct mergeable_look *asked)
{
	return (struct look){ .asked = asked, .until_usec = now_usec() + asked->max_usec };
}

int mergeable_process(const struct mergeable_look *asked, int pid_fd)
{
	struct look l = begin(asked);

	return look_at(&l, pid_fd);
}

static int refuse(int fd, const char *pid, int r, char *ret_reason, size_t size)
{
	char comm[COMM_BYTES] = "", name[COMM_BYTES];

	(void)io_read_line(fd, "comm", comm, sizeof(comm));
	process_copy_printable(name, sizeof(name), comm, strlen(comm));
	if (r == 1)
		(void)snprintf(ret_reason, size,
			       "process %s (%s) outside the domain has mergeable memory, which ksmd would merge "
			       "with it: enroll it, or set AllowForeign=yes in [Ksm]", pid, name);
	else
		(void)snprintf(ret_reason, size,
			       "whether process %s (%s) has mergeable memory cannot be told (%s): "
			       "end it, or set AllowForeign=yes in [Ksm]", pid, name, strerror(-r));
	return r == 1 ? -EPERM : r;
}

static int look_at_pid(const struct look *l, int proc_fd, const char *name, char *ret_reason, size_t size)
{
	_cleanup_close_ int fd = -1;
	uint32_t pid;
	int r;

	if (parse_u32(name, 1, INT32_MAX, &pid) < 0 || l->asked->ours((pid_t)pid, l->asked->userdata))
		return 0;
	fd = openat(proc_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		r = is_gone(-errno) ? 0 : -errno;
	else
		r = look_at(l, fd);
	if (r == 0)
		r = check_time(l);
	return r == 0 || r == -ECANCELED ? r : refuse(fd, name, r, ret_reason, size);
}

int mergeable_look(const struct mergeable_look *asked, char *ret_reason, size_t size)
{
	int fd = openat(asked->proc_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct look l = begin(asked);
	const struct dirent *e;

	while (d && r == 0 && (errno = 0, e = readdir(d)))
		r = look_at_pid(&l, dirfd(d), e->d_name, ret_reason, size);
	if (r == 0 && errno != 0) {
		r = -errno;
		(void)snprintf(ret_reason, size, "the processes of this host cannot be listed: %s", strerror(-r));
	}
	if (d)
		(void)closedir(d);
	else
		close_fdp(&fd);
	return r;
}
