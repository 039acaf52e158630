/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A directory that stands for /, filled by tests: make_root and remove_root are their set-up and
 * tear-down. */
#pragma once

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>

#include "common/io.h"
#include "tests/unit/unit.h"

static char root[] = "/tmp/memshared-root-XXXXXX";
static int root_fd = -1;

static int remove_one(const char *path, const struct stat *st _unused_, int type _unused_,
		      struct FTW *ftw _unused_)
{
	return remove(path);
}

static int make_root(void **state _unused_)
{
	strcpy(strrchr(root, '-'), "-XXXXXX");
	if (!mkdtemp(root))
		return -1;
	root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return root_fd < 0 ? -1 : 0;
}

static int remove_root(void **state _unused_)
{
	close_fdp(&root_fd);
	return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void put(const char *path, const char *text)
{
	char dir[128];
	int fd;

	for (const char *p = path; (p = strchr(p, '/')); p++) {
		(void)snprintf(dir, sizeof(dir), "%.*s", (int)(p - path), path);
		(void)mkdirat(root_fd, dir, 0700);
	}
	fd = openat(root_fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(io_write_full(fd, text, strlen(text)), 0);
	(void)close(fd);
}
