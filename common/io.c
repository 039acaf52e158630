/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/io.h"

#include <fcntl.h>
#include <inttypes.h>

#include "common/parse.h"
#include "common/util.h"

/* Reads up to size bytes, repeating short reads; the count read, or -errno. */
static ssize_t read_some(int fd, char *buf, size_t size)
{
	size_t have = 0;

	while (have < size) {
		ssize_t n = read(fd, buf + have, size - have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

int io_read_file(int dir_fd, const char *path, size_t max_bytes, char **ret_buf, size_t *ret_len)
{
	_cleanup_close_ int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *buf = NULL;
	size_t size = MIN(max_bytes, (size_t)16384), have = 0;

	if (fd < 0)
		return -errno;
	for (;;) {
		/* One byte over the bound tells a full file from a file that is too long. */
		char *grown = realloc(buf, size + 2);
		ssize_t n;

		if (!grown)
			return -ENOMEM;
		buf = grown;
		n = read_some(fd, buf + have, size + 1 - have);
		if (n < 0)
			return (int)n;
		have += (size_t)n;
		if (have <= size)
			break;
		if (size == max_bytes)
			return -EFBIG;
		size = size > max_bytes / 2 ? max_bytes : size * 2;
	}
	buf[have] = '\0';
	*ret_len = have;
	*ret_buf = TAKE_PTR(buf);
	return 0;
}

int io_read_line(int dir_fd, const char *path, char *buf, size_t size)
{
	_cleanup_close_ int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
	ssize_t n;
	char *end;

	assert(size > 0);
	if (fd < 0)
		return -errno;
	n = read_some(fd, buf, size);
	if (n < 0)
		return (int)n;
	end = memchr(buf, '\n', (size_t)n);
	if (!end) {
		if ((size_t)n == size)
			return -EFBIG;
		end = buf + n;
	}
	*end = '\0';
	return 0;
}

int io_read_u64(int dir_fd, const char *path, uint64_t *ret)
{
	char line[32];
	int r = io_read_line(dir_fd, path, line, sizeof(line));

	return r < 0 ? r : parse_u64(line, 0, UINT64_MAX, ret);
}

int io_write_file(int dir_fd, const char *path, const char *text)
{
	_cleanup_close_ int fd = openat(dir_fd, path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	size_t len = strlen(text);
	ssize_t n;

	if (fd < 0)
		return -errno;
	do
		n = write(fd, text, len);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EIO;
}

int io_write_u64(int dir_fd, const char *path, uint64_t v)
{
	char text[24];

	(void)snprintf(text, sizeof(text), "%" PRIu64, v);
	return io_write_file(dir_fd, path, text);
}

int io_read_full(int fd, void *buf, size_t n)
{
	ssize_t got = read_some(fd, buf, n);

	if (got < 0)
		return (int)got;
	return (size_t)got == n ? 0 : -ENODATA;
}

int io_write_full(int fd, const void *buf, size_t n)
{
	const char *p = buf;

	while (n > 0) {
		ssize_t w = write(fd, p, n);

		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return -errno;
		p += w;
		n -= (size_t)w;
	}
	return 0;
}
