/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/numa.h"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <stdio.h>

#include "common/parse.h"
#include "common/util.h"
#include "daemon/agent/ring.h"
#include "daemon/store.h"

#define NODES_MAX 56U
/* A line is a policy, a path and some counts; of longer ones the beginning is enough. */
#define LINE_BYTES 512

/* "0-3,5": up to a blank or the end. */
static int parse_nodes(const char *s, uint64_t *ret)
{
	uint64_t nodes = 0;

	for (;;) {
		uint64_t first, last;
		size_t used;

		if (parse_u64_prefix(s, strlen(s), 10, &first, &used) < 0)
			return -EINVAL;
		s += used;
		last = first;
		if (*s == '-') {
			if (parse_u64_prefix(s + 1, strlen(s + 1), 10, &last, &used) < 0 || last < first)
				return -EINVAL;
			s += 1 + used;
		}
		if (last >= NODES_MAX)
			return -EOPNOTSUPP;
		for (; first <= last; first++)
			nodes |= UINT64_C(1) << first;
		if (*s != ',')
			break;
		s++;
	}
	if (*s && *s != ' ')
		return -EINVAL;
	*ret = nodes;
	return 0;
}

static int parse_policy(const char *s, uint64_t *ret)
{
	static const struct {
		const char *name;
		uint32_t mode;
	} modes[] = {
		{ "prefer:", MPOL_PREFERRED },
		{ "prefer (many):", 5 }, /* MPOL_PREFERRED_MANY, Linux 5.15 */
		{ "bind:", MPOL_BIND },
		{ "interleave:", MPOL_INTERLEAVE },
		{ "weighted interleave:", 6 }, /* MPOL_WEIGHTED_INTERLEAVE, Linux 6.9 */
	};
	uint64_t nodes;
	int r;

	if (strncmp(s, "default", strlen("default")) == 0 && strchr(" ", s[strlen("default")])) {
		*ret = 0;
		return 0;
	}
	if (strncmp(s, "local", strlen("local")) == 0 && strchr(" ", s[strlen("local")])) {
		*ret = RING_POLICY(MPOL_LOCAL, 0);
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		if (strncmp(s, modes[i].name, strlen(modes[i].name)) != 0)
			continue;
		r = parse_nodes(s + strlen(modes[i].name), &nodes);
		if (r >= 0)
			*ret = RING_POLICY(modes[i].mode, nodes);
		return r;
	}
	/* With flags ("bind=static:0"), or of a newer kernel. */
	return -EOPNOTSUPP;
}

int numa_parse_line(const char *line, uint64_t *ret_start, uint64_t *ret_policy)
{
	uint64_t start, policy = 0;
	size_t used;
	int r;

	if (parse_u64_prefix(line, strlen(line), 16, &start, &used) < 0 || line[used] != ' ')
		return -EINVAL;
	*ret_start = start;
	if (strstr(line, " file=/memfd:" STORE_MEMFD_NAME "-"))
		return 1;
	r = parse_policy(line + used + 1, &policy);
	if (r >= 0)
		*ret_policy = policy;
	return r;
}

/* What the reading knows of one range. */
struct seen {
	int before; /* verdict on the last mapping that begins at or before the range, */
	uint64_t before_policy; /* which is the one that covers its start */
	int error;
	bool any;
};

static void note(struct numa_range *range, struct seen *seen, int r, uint64_t policy)
{
	if (r == 1 || seen->error < 0)
		return;
	if (r < 0 || (seen->any && policy != range->policy))
		seen->error = -EOPNOTSUPP;
	seen->any = true;
	range->policy = seen->error < 0 ? 0 : policy;
}

static void note_line(struct numa_range *ranges, struct seen *seen, size_t n, const char *line)
{
	uint64_t start, policy = 0;
	int r = numa_parse_line(line, &start, &policy);

	if (r == -EINVAL)
		return;
	for (size_t i = 0; i < n; i++) {
		if (start <= ranges[i].start.addr) {
			seen[i].before = r;
			seen[i].before_policy = policy;
		} else if (start < hva_add_pages(ranges[i].start, ranges[i].n_pages).addr) {
			note(&ranges[i], &seen[i], r, policy);
		}
	}
}

int numa_read(int proc_fd, struct numa_range *ranges, size_t n)
{
	_cleanup_free_ struct seen *seen = calloc(MAX(n, (size_t)1), sizeof(*seen));
	_cleanup_fclose_ FILE *f = NULL;
	bool whole = true; /* what is read next begins a line */
	char line[LINE_BYTES];
	int fd, r = 0;

	if (!seen)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		ranges[i].policy = 0;
		seen[i].before = 1;
	}
	fd = openat(proc_fd, "numa_maps", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	f = fdopen(fd, "re");
	if (!f) {
		r = -errno;
		(void)close(fd);
		return r;
	}
	while (fgets(line, sizeof(line), f)) {
		char *end = strchr(line, '\n');
		bool begins = whole;

		whole = end != NULL;
		if (end)
			*end = '\0';
		if (begins)
			note_line(ranges, seen, n, line);
	}
	if (ferror(f))
		return -EIO;
	for (size_t i = 0; i < n && r >= 0; i++) {
		note(&ranges[i], &seen[i], seen[i].before, seen[i].before_policy);
		r = seen[i].error;
	}
	return r;
}
