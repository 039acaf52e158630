/* SPDX-License-Identifier: GPL-2.0-or-later */
/* /proc/meminfo, /proc/pressure/memory and /proc/vmstat: what is accepted is a share of the time, and any two numbers
 * of memory give a state and its reason in words. */
#include <string.h>

#include "common/util.h"
#include "daemon/pins.h"
#include "daemon/pressure.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = size ? (const char *)data : "";
	struct pressure_sample s = { 0 };
	const struct pressure_thresholds thresholds = { 200, 300 };
	struct pressure p = { 0 };
	uint64_t acquired, released;

	if (pressure_parse_psi(text, size, &s.stall) == 0 && s.stall > 10099)
		abort();
	(void)pressure_parse_meminfo(text, size, &s);
	(void)pins_parse_vmstat(text, size, &acquired, &released);
	(void)pressure_update(&p, &thresholds, &s);
	if (!*p.reason || strnlen(p.reason, sizeof(p.reason)) == sizeof(p.reason) ||
	    (!p.working && s.stall >= PRESSURE_WORK_STALL))
		abort();
	return 0;
}
