/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/attach/leftover.h"

#include <inttypes.h>
#include <limits.h>

#include "common/util.h"
#include "daemon/agent/start.h"
#include "daemon/maps.h"

#define RING_PATH "/memfd:" RING_MEMFD_NAME " (deleted)"

/* What maps_read() hands on to end the reading: not an error of its own. */
#define FOUND (-EEXIST)

static bool is_ring(const struct mapping *m)
{
	return (m->flags & VMF_SHARED) && streq(m->name, RING_PATH);
}

static int look_for_ring(const struct mapping *m, void *userdata _unused_)
{
	return is_ring(m) ? FOUND : 0;
}

int leftover_find_ring(const struct target *t)
{
	int r = maps_read(t->process.proc_fd, "maps", look_for_ring, NULL);

	return r == FOUND ? 1 : r;
}

struct check {
	const struct target *target;
	const struct ring_agent *agent;
	bool code, private, ring;
};

/* Whether a link of /proc/PID, without the kernel's " (deleted)", names the agent's image. */
static bool links_to_code(const struct target *t, const char *path)
{
	static const char deleted[] = " (deleted)", name[] = "/" LEFTOVER_CODE_NAME;
	char link[PATH_MAX];
	ssize_t n = readlinkat(t->process.proc_fd, path, link, sizeof(link));
	size_t len;

	if (n < 0)
		return false;
	len = (size_t)n;
	if (len > sizeof(deleted) - 1 &&
	    memcmp(link + len - (sizeof(deleted) - 1), deleted, sizeof(deleted) - 1) == 0)
		len -= sizeof(deleted) - 1;
	return len >= sizeof(name) - 1 &&
	       memcmp(link + len - (sizeof(name) - 1), name, sizeof(name) - 1) == 0;
}

/* Neighbours of one kind are one mapping: ours can be part of a larger one. */
static bool contains(const struct mapping *m, uint64_t addr, uint64_t bytes)
{
	uint64_t end = mapping_end(m).addr;

	return addr >= m->start.addr && addr < end && bytes > 0 && bytes <= end - addr;
}

static int check_mapping(const struct mapping *m, void *userdata)
{
	struct check *c = userdata;
	const struct ring_agent *a = c->agent;
	uint32_t kind = m->flags & (VMF_WRITE | VMF_EXEC | VMF_SHARED);
	char path[64];

	if (contains(m, a->code_addr, a->code_bytes) && kind == VMF_EXEC && m->inode) {
		(void)snprintf(path, sizeof(path), "map_files/%" PRIx64 "-%" PRIx64, m->start.addr,
			       mapping_end(m).addr);
		c->code = links_to_code(c->target, path);
	}
	if (contains(m, a->private_addr, a->private_bytes) && kind == VMF_WRITE && m->anonymous &&
	    a->private_bytes == AGENT_PRIVATE_BYTES && !*m->name)
		c->private = true;
	if (contains(m, a->ring_addr, RING_BYTES) && is_ring(m))
		c->ring = true;
	return 0;
}

static bool is_ours(const struct target *t, int fd)
{
	static const char *const prefixes[] = {
		"socket:[",	   "anon_inode:[eventfd]", "anon_inode:[userfaultfd]",
		"/dev/userfaultfd", "/memfd:memshared-",
	};
	char path[32], link[64];
	ssize_t n;

	if (fd < 0)
		return false;
	(void)snprintf(path, sizeof(path), "fd/%d", fd);
	n = readlinkat(t->process.proc_fd, path, link, sizeof(link) - 1);
	if (n < 0)
		return false;
	link[n] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
		if (strncmp(link, prefixes[i], strlen(prefixes[i])) == 0)
			return true;
	return links_to_code(t, path);
}

int leftover_check(const struct target *t, struct ring_agent *a)
{
	struct check c = { .target = t, .agent = a };
	int r = maps_read(t->process.proc_fd, "maps", check_mapping, &c);

	if (r < 0)
		return r;
	a->code_addr = c.code ? a->code_addr : 0;
	a->private_addr = c.private ? a->private_addr : 0;
	a->ring_addr = c.ring ? a->ring_addr : 0;
	for (unsigned i = 0; i < RING_FD_MAX; i++)
		if (!is_ours(t, a->fds[i]))
			a->fds[i] = -1;
	return 0;
}
