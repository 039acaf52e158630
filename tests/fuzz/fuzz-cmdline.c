/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Any bytes as /proc/PID/cmdline: what comes out is printable where it says so, and ends. */
#include "common/util.h"
#include "daemon/qemu-cmdline.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const char *s, size_t size)
{
	if (strnlen(s, size) == size)
		abort();
	for (size_t i = 0; s[i]; i++)
		if (s[i] < ' ' || s[i] > '~')
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data, *reason = NULL;
	struct qemu_cmdline c;
	int r = qemu_parse_cmdline(text, size, &c, &reason);

	if (r < 0) {
		if (!reason)
			abort();
		return 0;
	}
	check_text(c.name, sizeof(c.name));
	check_text(c.uuid, sizeof(c.uuid));
	if (c.n_monitors > QEMU_MONITORS_MAX)
		abort();
	for (size_t i = 0; i < c.n_monitors; i++)
		if (strnlen(c.monitors[i], QEMU_PATH_BYTES) == QEMU_PATH_BYTES || !c.monitors[i][0])
			abort();
	return 0;
}
