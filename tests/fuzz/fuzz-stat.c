/* SPDX-License-Identifier: GPL-2.0-or-later */
/* /proc/PID/stat and status: whatever the text, a pid that is accepted is one. */
#include "common/util.h"
#include "daemon/process.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = size ? (const char *)data : "";
	struct process_stat stat;
	char name[16];
	uid_t uid;

	if (process_parse_stat(text, size, &stat) == 0 &&
	    (stat.pid < 0 || stat.ppid < 0 || stat.state < 'A'))
		abort();
	(void)process_parse_uid(text, size, &uid);
	process_copy_printable(name, sizeof(name), text, size);
	for (size_t i = 0; name[i]; i++)
		if (name[i] < ' ' || name[i] > '~')
			abort();
	return 0;
}
