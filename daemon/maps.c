/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/maps.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include "common/kernel-abi.h"
#include "common/kernel.h"
#include "common/parse.h"
#include "common/util.h"
#include "daemon/process.h"

/* The kernel hands out at most a page a call, so that a larger buffer saves only moves. It must
 * hold the longest line: a path of PATH_MAX bytes, each escaped as \ooo, and its address. */
#define BUF_BYTES KIB(64)

/* Where one line is being read; a field that is not there leaves it failed. */
struct cursor {
	const char *at, *end;
	bool failed;
};

static uint64_t take_number(struct cursor *c, unsigned base)
{
	uint64_t v;
	size_t used;

	if (c->failed || parse_u64_prefix(c->at, (size_t)(c->end - c->at), base, &v, &used) < 0) {
		c->failed = true;
		return 0;
	}
	c->at += used;
	return v;
}

static void take_char(struct cursor *c, char wanted)
{
	if (c->failed || c->at >= c->end || *c->at != wanted)
		c->failed = true;
	else
		c->at++;
}

static uint32_t take_permissions(struct cursor *c)
{
	uint32_t flags = 0;

	if (c->failed || c->end - c->at < 4) {
		c->failed = true;
		return 0;
	}
	if (c->at[1] == 'w')
		flags |= VMF_WRITE;
	if (c->at[2] == 'x')
		flags |= VMF_EXEC;
	if (c->at[3] == 's')
		flags |= VMF_SHARED;
	else if (c->at[3] != 'p')
		c->failed = true;
	c->at += 4;
	return flags;
}

/* 7fc7afe00000-7fc7b7e00000 rw-p 00000000 00:00 0    /path */
static int parse_header(const char *line, size_t len, uint64_t last_end, struct mapping *ret)
{
	struct cursor c = { .at = line, .end = line + len };
	struct mapping m = { 0 };
	uint64_t start, end, major, minor;

	start = take_number(&c, 16);
	take_char(&c, '-');
	end = take_number(&c, 16);
	take_char(&c, ' ');
	m.flags = take_permissions(&c);
	take_char(&c, ' ');
	m.offset_bytes = take_number(&c, 16);
	take_char(&c, ' ');
	major = take_number(&c, 16);
	take_char(&c, ':');
	minor = take_number(&c, 16);
	take_char(&c, ' ');
	m.inode = take_number(&c, 10);
	if (c.failed || start >= end || end <= last_end || (start | end) & (PAGE_BYTES - 1) ||
	    major > UINT32_MAX || minor > UINT32_MAX)
		return -EINVAL;
	/* It has merged with what was shown before: the rest of it is new. */
	start = MAX(start, last_end);
	while (c.at < c.end && *c.at == ' ')
		c.at++;
	m.start = HVA(start);
	m.n_pages = (end - start) >> PAGE_SHIFT;
	m.dev_major = (uint32_t)major;
	m.dev_minor = (uint32_t)minor;
	m.anonymous = m.inode == 0 && (c.at == c.end || *c.at == '[');
	process_copy_printable(m.name, sizeof(m.name), c.at, (size_t)(c.end - c.at));
	*ret = m;
	return 0;
}

#define FLAG(a, b) ((uint32_t)(a) << 8 | (uint32_t)(b))

static uint32_t flag_from_letters(const char *s)
{
	switch (FLAG(s[0], s[1])) {
	case FLAG('m', 'g'):
		return VMF_MERGEABLE;
	case FLAG('h', 'g'):
		return VMF_HUGEPAGE;
	case FLAG('n', 'h'):
		return VMF_NOHUGEPAGE;
	case FLAG('d', 'c'):
		return VMF_DONTFORK;
	case FLAG('d', 'd'):
		return VMF_DONTDUMP;
	case FLAG('w', 'f'):
		return VMF_WIPEONFORK;
	case FLAG('l', 'o'):
		return VMF_LOCKED;
	case FLAG('s', 'h'):
		return VMF_SHARED;
	case FLAG('h', 't'):
		return VMF_HUGETLB;
	case FLAG('i', 'o'):
	case FLAG('p', 'f'):
		return VMF_IO;
	case FLAG('u', 'w'):
		return VMF_UFFD_WP;
	case FLAG('u', 'm'):
		return VMF_UFFD_MISSING;
	case FLAG('w', 'r'):
		return VMF_WRITE;
	case FLAG('e', 'x'):
		return VMF_EXEC;
	case FLAG('n', 'r'):
		return VMF_NORESERVE;
	default:
		return 0; /* one that does not matter here, or one of a newer kernel */
	}
}

static uint32_t parse_flags(const char *at, const char *end)
{
	uint32_t flags = 0;

	while (end - at >= 3 && at[0] == ' ') {
		flags |= flag_from_letters(at + 1);
		at += 3;
	}
	return flags;
}

/* "   1234 kB": the unit has never been another. */
static int parse_kib(const char *at, const char *end, uint64_t *ret_bytes)
{
	uint64_t v;
	size_t used;

	while (at < end && *at == ' ')
		at++;
	if (parse_u64_prefix(at, (size_t)(end - at), 10, &v, &used) < 0 || v > UINT64_MAX >> 10)
		return -EINVAL;
	*ret_bytes = KIB(v);
	return 0;
}

static bool has_key(const char *line, size_t len, const char *key, size_t key_len)
{
	return len >= key_len && memcmp(line, key, key_len) == 0;
}
#define HAS_KEY(line, len, key) has_key(line, len, key, sizeof(key) - 1)
#define AFTER(line, key)	((line) + sizeof(key) - 1)

/* One of the lines below a header. Most of them are of no interest: the first letter tells. */
static int parse_field(struct mapping *m, const char *line, size_t len)
{
	const char *end = line + len;

	switch (line[0]) {
	case 'R':
		if (HAS_KEY(line, len, "Rss:"))
			return parse_kib(AFTER(line, "Rss:"), end, &m->rss_bytes);
		return 0;
	case 'A':
		if (HAS_KEY(line, len, "AnonHugePages:"))
			return parse_kib(AFTER(line, "AnonHugePages:"), end, &m->anon_huge_bytes);
		return 0;
	case 'V':
		if (HAS_KEY(line, len, "VmFlags:"))
			m->flags |= parse_flags(AFTER(line, "VmFlags:"), end);
		return 0;
	default:
		return line[0] >= 'A' && line[0] <= 'Z' ? 0 : -EINVAL;
	}
}

void maps_reader_init(struct maps_reader *r, mapping_fn *fn, void *userdata)
{
	*r = (struct maps_reader){ .fn = fn, .userdata = userdata };
}

int maps_end(struct maps_reader *r)
{
	uint64_t bytes = r->current.n_pages << PAGE_SHIFT;

	if (!r->have)
		return 0;
	r->have = false;
	/* Of a mapping that was shown in two pieces the kernel counted the whole. */
	r->current.rss_bytes = MIN(r->current.rss_bytes, bytes);
	r->current.anon_huge_bytes = MIN(r->current.anon_huge_bytes, bytes);
	return r->fn(&r->current, r->userdata);
}

/* A header begins with a hexadecimal digit, in lower case; everything else with a capital. */
static int take_line(struct maps_reader *r, const char *line, size_t len)
{
	int res;

	if (len == 0)
		return -EINVAL;
	if (line[0] >= 'A' && line[0] <= 'Z')
		return r->have ? parse_field(&r->current, line, len) : -EINVAL;
	res = maps_end(r);
	if (res < 0)
		return res;
	res = parse_header(line, len, r->last_end, &r->current);
	if (res < 0)
		return res;
	r->last_end = mapping_end(&r->current).addr;
	r->have = true;
	return 0;
}

int maps_feed(struct maps_reader *r, const char *buf, size_t len, size_t *ret_used)
{
	const char *at = buf, *end = buf + len;

	for (;;) {
		const char *newline = at < end ? memchr(at, '\n', (size_t)(end - at)) : NULL;
		int res;

		if (!newline)
			break;
		res = take_line(r, at, (size_t)(newline - at));
		if (res < 0)
			return res;
		at = newline + 1;
	}
	*ret_used = (size_t)(at - buf);
	return 0;
}

/* Reads on until the end of the file; what is left of a line stays for the next round. */
static int read_all(int fd, char *buf, struct maps_reader *reader)
{
	size_t have = 0;

	for (;;) {
		ssize_t n = read(fd, buf + have, BUF_BYTES - have);
		size_t used;
		int r;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return have == 0 ? maps_end(reader) : -EINVAL;
		have += (size_t)n;
		r = maps_feed(reader, buf, have, &used);
		if (r < 0)
			return r;
		have -= used;
		if (have == BUF_BYTES)
			return -EINVAL;
		memmove(buf, buf + used, have);
	}
}

int maps_read(int proc_fd, const char *file, mapping_fn *fn, void *userdata)
{
	_cleanup_close_ int fd = openat(proc_fd, file, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *buf = NULL;
	struct maps_reader reader;

	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	buf = malloc(BUF_BYTES);
	if (!buf)
		return -ENOMEM;
	maps_reader_init(&reader, fn, userdata);
	return read_all(fd, buf, &reader);
}

static uint32_t flags_from_query(uint64_t flags)
{
	return (flags & PROCMAP_QUERY_VMA_WRITABLE ? (uint32_t)VMF_WRITE : 0) |
	       (flags & PROCMAP_QUERY_VMA_EXECUTABLE ? (uint32_t)VMF_EXEC : 0) |
	       (flags & PROCMAP_QUERY_VMA_SHARED ? (uint32_t)VMF_SHARED : 0);
}

int maps_query(int maps_fd, uint64_t start, uint64_t end, bool files_only, mapping_fn *fn, void *userdata)
{
	if (!kernel_has(KERNEL_PROCMAP_QUERY))
		return -EOPNOTSUPP;
	while (start < end) {
		struct procmap_query q = {
			.size = sizeof(q),
			.query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA |
				       (files_only ? PROCMAP_QUERY_FILE_BACKED_VMA : 0),
			.query_addr = start,
		};
		struct mapping m;
		int r;

		if (ioctl(maps_fd, PROCMAP_QUERY, &q) < 0) {
			if (errno == EINTR)
				continue;
			return errno == ENOENT ? 0 : -errno;
		}
		if (q.vma_start >= end)
			return 0;
		/* An answer that does not lead on would never end. */
		if (q.vma_end <= start || q.vma_start >= q.vma_end)
			return -EIO;
		m = (struct mapping){
			.start = HVA(q.vma_start),
			.n_pages = (q.vma_end - q.vma_start) >> PAGE_SHIFT,
			.flags = flags_from_query(q.vma_flags),
			.anonymous = q.inode == 0 && q.dev_major == 0 && q.dev_minor == 0,
			.offset_bytes = q.vma_offset,
			.inode = q.inode,
			.dev_major = q.dev_major,
			.dev_minor = q.dev_minor,
		};
		r = fn(&m, userdata);
		if (r < 0)
			return r;
		start = q.vma_end;
	}
	return 0;
}
