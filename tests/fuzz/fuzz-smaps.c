/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Any text as smaps: what is accepted is in order, and the blocks chosen lie within it. The
 * stream, cut in two anywhere, says the same. */
#include "common/util.h"
#include "daemon/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAPPINGS_MAX 4096U

struct counter {
	size_t n;
	uint64_t last_end;
};

static int count(const struct mapping *m, void *userdata)
{
	struct counter *c = userdata;

	if (m->n_pages == 0 || m->start.addr < c->last_end || strnlen(m->name, 64) == 64)
		abort();
	c->last_end = mapping_end(m).addr;
	c->n++;
	return 0;
}

static int feed_in_two(const char *text, size_t size, struct counter *c)
{
	struct maps_reader reader;
	size_t first = size / 2, used = 0;
	int r;

	maps_reader_init(&reader, count, c);
	r = maps_feed(&reader, text, first, &used);
	if (r == 0) {
		size_t again = used;

		r = maps_feed(&reader, text + again, size - again, &used);
		if (r == 0 && again + used < size)
			r = -EINVAL;
	}
	return r < 0 ? r : maps_end(&reader);
}

static void check_blocks(const struct mapping *m, size_t n)
{
	static struct ram_block blocks[RAM_BLOCKS_MAX];
	static const struct qmp_memdev devs[] = { { .id = "d", .size_bytes = KIB(64) } };
	size_t n_blocks = memory_choose_blocks(m, n, devs, ARRAY_SIZE(devs), blocks);
	uint64_t last_end = 0;

	for (size_t i = 0; i < n_blocks; i++) {
		const struct ram_block *b = &blocks[i];

		if (b->n_pages == 0 || b->start.addr < last_end || b->start.addr < m[0].start.addr)
			abort();
		last_end = hva_add_pages(b->start, b->n_pages).addr;
	}
	if (n > 0 && last_end > mapping_end(&m[n - 1]).addr)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = size ? (const char *)data : "";
	_cleanup_free_ struct mapping *m = NULL;
	struct counter c = { 0 };
	size_t n;
	int r = memory_parse_smaps(text, size, MAPPINGS_MAX, &m, &n);
	int streamed = feed_in_two(text, size, &c);

	if (r == -E2BIG)
		return 0;
	if (r != streamed || (r == 0 && n != c.n))
		abort();
	if (r == 0)
		check_blocks(m, n);
	return 0;
}
