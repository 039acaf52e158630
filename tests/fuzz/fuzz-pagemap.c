/* SPDX-License-Identifier: GPL-2.0-or-later */
/* pagemap_decode on any entries: the runs cover the range, in order, and neighbours differ. */
#include "common/kernel-abi.h"
#include "common/util.h"
#include "daemon/pagemap.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct cover {
	uint64_t next;
	uint32_t last_bits;
	bool any;
};

static int note_run(const struct page_run *run, void *userdata)
{
	struct cover *c = userdata;
	bool mapped = run->bits & (PAGE_PRESENT | PAGE_SWAPPED);

	if (run->start.addr != c->next || run->n_pages == 0)
		abort();
	if (c->any && run->bits == c->last_bits)
		abort();
	if ((!mapped && run->bits != 0) ||
	    (run->bits & (PAGE_PRESENT | PAGE_SWAPPED)) == (PAGE_PRESENT | PAGE_SWAPPED))
		abort();
	*c = (struct cover){ hva_add_pages(run->start, run->n_pages).addr, run->bits, true };
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct pagemap_zero zero;
	struct cover cover = { .next = PAGE_BYTES };
	uint64_t n;

	if (size < sizeof(zero))
		return 0;
	memcpy(&zero, data, sizeof(zero));
	n = (size - sizeof(zero)) / sizeof(uint64_t);

	_cleanup_free_ uint64_t *entries = malloc(n * sizeof(uint64_t) + 1);

	if (!entries)
		return 0;
	memcpy(entries, data + sizeof(zero), n * sizeof(uint64_t));
	if (pagemap_decode(entries, n, HVA(PAGE_BYTES), &zero, zero.pfn & 1, note_run, &cover) != 0)
		abort();
	if (cover.next != PAGE_BYTES * (n + 1))
		abort();
	return 0;
}
