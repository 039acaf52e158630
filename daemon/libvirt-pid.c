/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/libvirt-pid.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <strings.h>

#include "common/io.h"
#include "common/parse.h"
#include "common/util.h"

/* The kernel's own bound for arguments and environment is 6 MiB (three quarters of _STK_LIM). */
#define CMDLINE_MAX_BYTES (6U << 20)

bool libvirt_run_dir(const char *uri, char *ret, size_t size)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR"), *path = strstr(uri, ":///");
	int n = -1;

	path = path ? path + 4 : "";
	if (strcmp(path, "system") == 0 || strncmp(path, "system?", 7) == 0)
		n = snprintf(ret, size, "/run/libvirt/qemu");
	else if (strcmp(path, "session") == 0 && runtime)
		n = snprintf(ret, size, "%s/libvirt/qemu/run", runtime);
	return n > 0 && (size_t)n < size;
}

bool libvirt_cmdline_matches(const char *buf, size_t len, const char *uuid)
{
	const char *end = buf + len, *previous = NULL;

	/* Arguments end in NUL; what follows the last NUL is not one. */
	while (buf < end) {
		const char *nul = memchr(buf, '\0', (size_t)(end - buf));

		if (!nul)
			return false;
		if (previous && streq(previous, "-uuid"))
			return strcasecmp(buf, uuid) == 0;
		previous = buf;
		buf = nul + 1;
	}
	return false;
}

static bool cmdline_file_matches(int dir_fd, const char *path, const char *uuid)
{
	_cleanup_free_ char *buf = NULL;
	size_t len;

	return io_read_file(dir_fd, path, CMDLINE_MAX_BYTES, &buf, &len) == 0 &&
	       libvirt_cmdline_matches(buf, len, uuid);
}

bool libvirt_pid_matches(int dir_fd, const char *uuid)
{
	return cmdline_file_matches(dir_fd, "cmdline", uuid);
}

static bool pid_matches(int proc_fd, const char *pid, const char *uuid)
{
	char path[32];

	return (size_t)snprintf(path, sizeof(path), "%s/cmdline", pid) < sizeof(path) &&
	       cmdline_file_matches(proc_fd, path, uuid);
}

/* -ENOENT when there is no pid file. */
static int from_pid_file(int proc_fd, const char *run_dir, const char *name, const char *uuid,
			 pid_t *ret)
{
	char path[PATH_MAX], line[16];
	uint32_t pid;
	int r;

	if (strchr(name, '/') ||
	    (size_t)snprintf(path, sizeof(path), "%s/%s.pid", run_dir, name) >= sizeof(path))
		return -EINVAL;
	r = io_read_line(AT_FDCWD, path, line, sizeof(line));
	if (r < 0)
		return r;
	r = parse_u32(line, 1, INT_MAX, &pid);
	if (r < 0 || !pid_matches(proc_fd, line, uuid))
		return -ESRCH;
	*ret = (pid_t)pid;
	return 0;
}

static int from_proc(int proc_fd, const char *uuid, pid_t *ret)
{
	int fd = openat(proc_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;
	uint32_t pid, found = 0;
	int r = -ESRCH;

	if (!d) {
		r = -errno;
		close_fdp(&fd);
		return r;
	}
	while ((e = readdir(d))) {
		if (parse_u32(e->d_name, 1, INT_MAX, &pid) < 0 ||
		    !pid_matches(proc_fd, e->d_name, uuid))
			continue;
		if (found) {
			r = -ENOTUNIQ;
			break;
		}
		found = pid;
		r = 0;
	}
	(void)closedir(d);
	if (r == 0)
		*ret = (pid_t)found;
	return r;
}

int libvirt_find_pid(int proc_fd, const char *run_dir, const char *name, const char *uuid,
		     pid_t *ret)
{
	int r = run_dir ? from_pid_file(proc_fd, run_dir, name, uuid, ret) : -ENOENT;

	return r == -ENOENT ? from_proc(proc_fd, uuid, ret) : r;
}
