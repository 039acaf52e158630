/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pressure: is memory short enough for merging to be worth the CPU?
 *
 * Two signs, either of which is enough: little memory is available (MemAvailable), or tasks wait
 * for memory (PSI "some", average over ten seconds). Each has a threshold to begin working and a
 * laxer one to rest again, so that the state does not flap around one number.
 *
 * pressure_update() and the parsers are pure. Owned by the loop.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Thousandths of all memory that are available: work below the one, rest again above the other, which
 * is no less. */
struct pressure_thresholds {
	uint32_t work_permille, rest_permille;
};
/* Work when some task waits 1 % of the time; rest again below a quarter of that. In hundredths
 * of a percent, as the kernel prints it. */
#define PRESSURE_WORK_STALL 100U
#define PRESSURE_REST_STALL 25U

struct pressure_sample {
	uint64_t available_bytes, total_bytes;
	uint32_t stall; /* PSI memory "some avg10" in hundredths of a percent; 0 without PSI */
};

struct pressure {
	bool working;
	struct pressure_sample last;
	char reason[160]; /* what the state follows from, in words */
};

/* Starts at rest. Returns true when the state changed. */
bool pressure_update(struct pressure *p, const struct pressure_thresholds *t, const struct pressure_sample *s);
/* Reads meminfo and pressure/memory in proc_fd (a directory: /proc). */
int pressure_read(int proc_fd, struct pressure_sample *ret);

/* Parsers of these two files: 0 or -EINVAL. */
int pressure_parse_meminfo(const char *buf, size_t len, struct pressure_sample *ret);
int pressure_parse_psi(const char *buf, size_t len, uint32_t *ret_stall);
