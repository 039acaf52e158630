/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A line of /proc/PID/numa_maps: what is accepted can be put back. */
#include <string.h>

#include "common/util.h"
#include "daemon/agent/ring.h"
#include "daemon/numa.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *line = malloc(size + 1);
	uint64_t start, policy = 0;
	int r;

	if (!line)
		return 0;
	memcpy(line, data, size);
	line[size] = '\0';
	r = numa_parse_line(line, &start, &policy);
	if (r == 0 && policy && RING_POLICY_MODE(policy) == 0)
		abort();
	if (r != 0 && policy)
		abort();
	return 0;
}
