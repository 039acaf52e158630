/* SPDX-License-Identifier: GPL-2.0-or-later */
/* /proc/PID/cgroup and memory.stat: an accepted path is absolute, fits, and leads nowhere else. */
#include <string.h>

#include "common/util.h"
#include "daemon/cgroup.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = malloc(size + 1);

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	for (unsigned version = 1; version <= 2; version++) {
		char path[64];

		if (cgroup_parse_path(text, version, path, sizeof(path)) == 0 &&
		    (path[0] != '/' || strlen(path) >= sizeof(path) || strstr(path, "/../")))
			abort();
		(void)cgroup_parse_inactive(text, version);
	}
	return 0;
}
