/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/pins.h"

#include <fcntl.h>

#include "common/fault.h"
#include "common/io.h"
#include "common/parse.h"
#include "common/util.h"

#define VMSTAT_BYTES_MAX KIB(64)

/* The number behind "NAME " at the start of a line. */
static int find_count(const char *buf, size_t len, const char *name, uint64_t *ret)
{
	size_t name_len = strlen(name), used;

	for (const char *line = buf, *end = buf + len; line < end;) {
		const char *next = memchr(line, '\n', (size_t)(end - line));
		size_t line_len = next ? (size_t)(next - line) : (size_t)(end - line);

		if (line_len > name_len && memcmp(line, name, name_len) == 0 &&
		    line[name_len] == ' ')
			return parse_u64_prefix(line + name_len + 1, line_len - name_len - 1, 10,
						ret, &used);
		line += line_len + 1;
	}
	return -ENODATA;
}

int pins_parse_vmstat(const char *buf, size_t len, uint64_t *ret_acquired, uint64_t *ret_released)
{
	uint64_t acquired, released;
	int r = find_count(buf, len, "nr_foll_pin_acquired", &acquired);

	if (r == 0)
		r = find_count(buf, len, "nr_foll_pin_released", &released);
	if (r == 0) {
		*ret_acquired = acquired;
		*ret_released = released;
	}
	return r;
}

static int fold_and_read(uint64_t *ret_acquired, uint64_t *ret_released)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = io_write_file(AT_FDCWD, "/proc/sys/vm/stat_refresh", "1");

	/* EINVAL is the kernel's complaint about some other count, after the folding. */
	if (r < 0 && r != -EINVAL)
		return r == -EACCES ? -EPERM : r;
	r = io_read_file(AT_FDCWD, "/proc/vmstat", VMSTAT_BYTES_MAX, &text, &len);
	return r < 0 ? r : pins_parse_vmstat(text, len, ret_acquired, ret_released);
}

int pins_quiet(uint64_t *ret_usec)
{
	uint64_t start = now_usec(), acquired, released, unused;
	int r = FAULT_ERRNO("pins-held");

	if (r < 0)
		return 0;
	r = fold_and_read(&unused, &released);
	if (r == 0)
		r = fold_and_read(&acquired, &unused);
	if (r < 0)
		return r;
	if (acquired != released)
		return 0;
	*ret_usec = start;
	return 1;
}
