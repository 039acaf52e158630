/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/cgroup.h"

#include <fcntl.h>

#include "common/io.h"
#include "common/kernel.h"
#include "common/parse.h"
#include "common/util.h"

#define FILE_BYTES_MAX KIB(64)

static const struct {
	const char *mount, *limits[2], *usage, *inactive;
} versions[] = {
	[1] = { "sys/fs/cgroup/memory", { "memory.limit_in_bytes" }, "memory.usage_in_bytes", "total_inactive_file " },
	/* Above "high" the kernel slows the guest down instead of killing it. */
	[2] = { "sys/fs/cgroup", { "memory.max", "memory.high" }, "memory.current", "inactive_file " },
};

/* Is list, of len bytes, "a,b,c" with this word among them? */
static bool lists_memory(const char *list, size_t len)
{
	static const char word[] = "memory";
	const size_t n = sizeof(word) - 1;

	for (const char *at = list; (size_t)(at - list) + n <= len; at++)
		if (strncmp(at, word, n) == 0 && (at == list || at[-1] == ',') &&
		    ((size_t)(at - list) + n == len || at[n] == ','))
			return true;
	return false;
}

static bool leads_up(const char *path)
{
	for (const char *at = path; (at = strstr(at, "/..")); at += 3)
		if (at[3] == '/' || at[3] == '\0')
			return true;
	return false;
}

int cgroup_parse_path(const char *text, unsigned version, char *ret, size_t size)
{
	/* Lines of "NUMBER:CONTROLLERS:PATH"; version 2 is "0::PATH". */
	for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		size_t len = strcspn(line, "\n");
		const char *list = memchr(line, ':', len), *path;

		list = list ? list + 1 : NULL;
		path = list ? memchr(list, ':', len - (size_t)(list - line)) : NULL;
		if (!path)
			continue;
		if (version == 2 ? strncmp(line, "0::", 3) != 0 : !lists_memory(list, (size_t)(path - list)))
			continue;
		path++;
		len -= (size_t)(path - line);
		if (len >= size)
			return -ENAMETOOLONG;
		memcpy(ret, path, len);
		ret[len] = '\0';
		return ret[0] != '/' || leads_up(ret) ? -EINVAL : 0;
	}
	return -ENOENT;
}

uint64_t cgroup_parse_inactive(const char *text, unsigned version)
{
	const char *name = versions[version].inactive;
	const size_t n = strlen(name);

	for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		uint64_t bytes;
		size_t used;

		if (strncmp(line, name, n) == 0 && parse_u64_prefix(line + n, strcspn(line + n, "\n"), 10, &bytes, &used) >= 0)
			return bytes;
	}
	return 0;
}

/* The least of the group's limits; UINT64_MAX: it has none (version 2 says "max"). */
static uint64_t read_limit(int fd, unsigned version)
{
	uint64_t least = UINT64_MAX, v;

	for (size_t i = 0; i < ARRAY_SIZE(versions[version].limits) && versions[version].limits[i]; i++)
		if (io_read_u64(fd, versions[version].limits[i], &v) >= 0)
			least = MIN(least, v);
	/* "None" in version 1 is the largest number of whole pages. */
	return least < UINT64_MAX / 4 ? least : UINT64_MAX;
}

static uint64_t read_inactive(int fd, unsigned version)
{
	_cleanup_free_ char *text = NULL;
	size_t len;

	return io_read_file(fd, "memory.stat", FILE_BYTES_MAX, &text, &len) < 0 ? 0 :
										  cgroup_parse_inactive(text, version);
}

static uint64_t room_of_group(int fd, unsigned version)
{
	uint64_t limit = read_limit(fd, version), used;

	if (limit == UINT64_MAX || io_read_u64(fd, versions[version].usage, &used) < 0)
		return UINT64_MAX;
	used -= MIN(used, read_inactive(fd, version));
	return limit - MIN(limit, used);
}

int cgroup_room_read_at(int root_fd, int proc_fd, struct cgroup_room *ret)
{
	char full[CGROUP_PATH_MAX + 32], path[CGROUP_PATH_MAX];
	_cleanup_free_ char *text = NULL;
	unsigned version = kernel_memcg_version(root_fd);
	size_t len;
	int r;

	*ret = (struct cgroup_room){ .bytes = UINT64_MAX };
	if (version == 0)
		return 0;
	r = io_read_file(proc_fd, "cgroup", FILE_BYTES_MAX, &text, &len);
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	if (cgroup_parse_path(text, version, path, sizeof(path)) < 0)
		return 0;
	/* A group's members count for all groups above it. */
	for (char *end = path + strlen(path); end; end = strrchr(path, '/')) {
		_cleanup_close_ int fd = -1;
		uint64_t bytes;

		*end = '\0';
		(void)snprintf(full, sizeof(full), "%s%s", versions[version].mount, path);
		fd = openat(root_fd, full, O_PATH | O_DIRECTORY | O_CLOEXEC);
		bytes = fd < 0 ? UINT64_MAX : room_of_group(fd, version);
		if (bytes >= ret->bytes)
			continue;
		ret->bytes = bytes;
		(void)snprintf(ret->path, sizeof(ret->path), "%s", *path ? path : "/");
	}
	return 0;
}

int cgroup_room_read(int proc_fd, struct cgroup_room *ret)
{
	_cleanup_close_ int root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

	return root_fd < 0 ? -errno : cgroup_room_read_at(root_fd, proc_fd, ret);
}
