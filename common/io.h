/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whole-file reads and writes with a bound, mainly of /proc and /sys files.
 *
 * dir_fd is AT_FDCWD or a directory's descriptor, so that tests can feed a fake /proc.
 * All return 0 or a byte count, or -errno; interrupted calls are repeated.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Reads a file whole into a fresh buffer (caller frees; a NUL follows the last byte, not
 * counted). -EFBIG when it holds more than max_bytes. Works on files whose size reads as 0. */
int io_read_file(int dir_fd, const char *path, size_t max_bytes, char **ret_buf, size_t *ret_len);
/* The first line without its newline, into buf. -EFBIG when it does not fit. */
int io_read_line(int dir_fd, const char *path, char *buf, size_t size);
/* One unsigned decimal number, as in /sys. -EINVAL when it holds something else. */
int io_read_u64(int dir_fd, const char *path, uint64_t *ret);
/* One write(2) of the whole string to an existing file, as sysfs wants it. */
int io_write_file(int dir_fd, const char *path, const char *text);
int io_write_u64(int dir_fd, const char *path, uint64_t v);
/* read(2)/write(2) until n bytes are done; short reads at end of file give -ENODATA. */
int io_read_full(int fd, void *buf, size_t n);
int io_write_full(int fd, const void *buf, size_t n);
