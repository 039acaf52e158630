/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Finding and reading the configuration's files. */
#include "daemon/config.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>

#include "common/io.h"
#include "common/util.h"

const char *const config_dirs[] = { SYSCONFDIR, "/run", "/usr/lib", NULL };

static int file_error(const char *path, int error, char ret_error[CONFIG_ERROR_MAX])
{
	(void)snprintf(ret_error, CONFIG_ERROR_MAX, "%.400s: %s", path, strerror(-error));
	return error;
}

static int load_one(struct config *c, const char *path, char ret_error[CONFIG_ERROR_MAX])
{
	_cleanup_free_ char *buf = NULL;
	size_t len;
	int r = io_read_file(AT_FDCWD, path, CONFIG_FILE_MAX_BYTES, &buf, &len);

	if (r < 0)
		return file_error(path, r, ret_error);
	return config_parse(c, path, buf, len, ret_error);
}

int config_load_file(const char *path, struct config **ret, char ret_error[CONFIG_ERROR_MAX])
{
	_cleanup_(config_freep) struct config *c = NULL;
	int r = config_new(&c);

	*ret_error = '\0';
	if (r < 0)
		return file_error(path, r, ret_error);
	r = load_one(c, path, ret_error);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(c);
	return 0;
}

struct dropin {
	char name[NAME_MAX + 1];
	size_t dir; /* index of the strongest directory that has it */
};

static bool is_dropin(const char *name)
{
	size_t len = strlen(name);

	return name[0] != '.' && len > 5 && streq(name + len - 5, ".conf");
}

/* Adds the names in one directory that no stronger one has. */
static int list_dropins(const char *path, size_t dir, struct dropin *list, size_t *n)
{
	DIR *d = opendir(path);
	struct dirent *e;
	int r = 0;

	if (!d)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	while (r == 0 && (e = readdir(d))) {
		size_t i = 0;

		if (!is_dropin(e->d_name))
			continue;
		while (i < *n && !streq(list[i].name, e->d_name))
			i++;
		if (i < *n)
			continue;
		if (*n == CONFIG_DROPINS_MAX) {
			r = -E2BIG;
			break;
		}
		strcpy(list[*n].name, e->d_name);
		list[(*n)++].dir = dir;
	}
	(void)closedir(d);
	return r;
}

static int compare_dropins(const void *a, const void *b)
{
	return strcmp(((const struct dropin *)a)->name, ((const struct dropin *)b)->name);
}

static int load_dropins(struct config *c, const char *const *dirs, char *ret_error)
{
	_cleanup_free_ struct dropin *list = calloc(CONFIG_DROPINS_MAX, sizeof(*list));
	char path[PATH_MAX];
	size_t n = 0;
	int r;

	if (!list)
		return file_error("memshared.conf.d", -ENOMEM, ret_error);
	for (size_t d = 0; dirs[d]; d++) {
		(void)snprintf(path, sizeof(path), "%s/memshared.conf.d", dirs[d]);
		r = list_dropins(path, d, list, &n);
		if (r < 0)
			return file_error(path, r, ret_error);
	}
	qsort(list, n, sizeof(*list), compare_dropins);
	for (size_t i = 0; i < n; i++) {
		if ((size_t)snprintf(path, sizeof(path), "%s/memshared.conf.d/%s",
				     dirs[list[i].dir], list[i].name) >= sizeof(path))
			return file_error(path, -ENAMETOOLONG, ret_error);
		r = load_one(c, path, ret_error);
		if (r < 0)
			return r;
	}
	return 0;
}

int config_load(const char *const *dirs, struct config **ret, char ret_error[CONFIG_ERROR_MAX])
{
	_cleanup_(config_freep) struct config *c = NULL;
	char path[PATH_MAX];
	int r = config_new(&c);

	if (r < 0)
		return file_error("memshared.conf", r, ret_error);
	*ret_error = '\0';
	for (size_t d = 0; dirs[d]; d++) {
		(void)snprintf(path, sizeof(path), "%s/memshared.conf", dirs[d]);
		if (access(path, F_OK) < 0 && errno == ENOENT)
			continue;
		r = load_one(c, path, ret_error);
		if (r < 0)
			return r;
		break;
	}
	r = load_dropins(c, dirs, ret_error);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(c);
	return 0;
}
