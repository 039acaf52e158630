/* SPDX-License-Identifier: GPL-2.0-or-later */
/* /proc/PID/ksm_stat, and the file in which KSM's settings outlive the daemon: what would be written
 * back to the host is a number. */
#include <string.h>

#include "common/parse.h"
#include "common/util.h"
#include "daemon/ksm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The boot that the corpus is of. */
#define BOOT "0123456789ab"

static void check_state(char *text)
{
	struct ksm k = { 0 };
	uint64_t value;

	if (ksm_parse_state(text, BOOT, k.settings) < 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(k.settings); i++)
		if (k.settings[i].present && parse_u64(k.settings[i].text, 0, UINT64_MAX, &value) < 0)
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = malloc(size + 1);
	const char *stat = size ? (const char *)data : "";
	struct ksm_stat s;

	if (ksm_parse_stat(stat, size, &s) == 0 && (size == 0 || s.mergeable < -1 || s.mergeable > 1))
		abort();
	if (!text)
		return 0;
	memcpy(text, stat, size);
	text[size] = '\0';
	check_state(text);
	return 0;
}
