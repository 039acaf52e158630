/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The file of an enrolled guest: what is accepted is well-formed, and is written the same again. */
#include "common/util.h"
#include "daemon/kept.h"

#define BOOT "01234567-89ab-cdef-0123-456789abcdef"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ranges(const struct range_set *s)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct range *r = &s->ranges[i];

		if (r->start >= r->end || r->start % PAGE_BYTES || r->end % PAGE_BYTES ||
		    r->end > UINT64_C(1) << 56 || (i > 0 && s->ranges[i - 1].end >= r->start))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = size ? (const char *)data : "";
	struct kept e = { 0 }, again = { 0 };
	char *out;
	size_t len;

	if (kept_parse(text, size, BOOT, &e) < 0)
		return 0;
	check_ranges(&e.ram);
	check_ranges(&e.marks);
	if (kept_format(&e, BOOT, &out, &len) < 0)
		abort();
	if (kept_parse(out, len, BOOT, &again) < 0 || again.ram.n != e.ram.n ||
	    again.marks.n != e.marks.n || again.asked.set != e.asked.set ||
	    !policy_equal(&again.asked, &e.asked))
		abort();
	free(out);
	kept_done(&e);
	kept_done(&again);
	return 0;
}
