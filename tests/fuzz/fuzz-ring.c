/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A ring's words, as a guest might write them: what passes is what an agent could have said. */
#include "common/util.h"
#include "daemon/attach-run.h"
#include "daemon/ring-check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_results(const uint8_t *data, size_t size)
{
	for (size_t i = 0; i + 13 <= size; i += 13) {
		uint32_t n;
		int64_t result, r;

		memcpy(&n, data + i + 1, 4);
		memcpy(&result, data + i + 5, 8);
		r = ring_result_check((enum ring_op)(data[i] % 16), n, result);
		if (r < -4095 || (r >= 0 && r != result) || (data[i] % 16 == RING_ADVISE && r > n))
			abort();
	}
}

static void try_vectors(const uint8_t *data, size_t size)
{
	struct ring_advise asked[32] = { 0 }, got[32];
	struct ring_run asked_runs[32], got_runs[32];
	uint32_t n = (uint32_t)MIN(size / sizeof(*got), ARRAY_SIZE(got));
	int64_t pages;

	memcpy(got, data, n * sizeof(*got));
	if (ring_advise_check(asked, got, n) > n)
		abort();
	n = (uint32_t)MIN(size / sizeof(*got_runs), ARRAY_SIZE(got_runs));
	memcpy(got_runs, data, n * sizeof(*got_runs));
	for (uint32_t i = 0; i < n; i++)
		asked_runs[i] = (struct ring_run){ .addr = i, .n_pages = i };
	pages = ring_runs_check(asked_runs, got_runs, n);
	if (pages > 31 * 32 / 2)
		abort();
	for (uint32_t i = 0; i < n; i++)
		if (asked_runs[i].addr != i || asked_runs[i].merged > i)
			abort();
}

static void try_answer(const uint8_t *data, size_t size)
{
	char line[600] = "", reason[ATTACH_REASON_MAX];
	struct attach_result r;

	if (size > 0)
		memcpy(line, data, MIN(size, sizeof(line) - 1));
	(void)attach_line_parse(line, &r, reason);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ring_header h = { 0 };

	if (size > 0)
		memcpy(&h, data, MIN(size, sizeof(h)));
	if (ring_header_check(&h) == 0 && h.published - h.done > RING_BATCHES)
		abort();
	try_results(data, size);
	try_vectors(data, size);
	try_answer(data, size);
	return 0;
}
