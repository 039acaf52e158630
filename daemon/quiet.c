/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/quiet.h"

#include "common/util.h"

unsigned quiet_interval(unsigned quiet_passes)
{
	unsigned interval = 1;

	while (interval < QUIET_PASSES_MAX && quiet_passes >= 8 * interval)
		interval *= 2;
	return interval;
}

static bool part_is_due(const struct ledger_block *b, uint32_t part, uint64_t pass)
{
	return (pass + part / QUIET_GROUP_PARTS) % quiet_interval(b->parts[part].quiet_passes) == 0;
}

uint32_t quiet_plan(struct ledger_block *b, uint32_t at, uint32_t n_pages, uint64_t pass, bool all,
		    struct quiet_range *ret)
{
	uint32_t n = 0, end = at + n_pages, next;

	assert(at % LEDGER_PART_PAGES == 0);
	for (; at < end; at = next) {
		uint32_t i = at / LEDGER_PART_PAGES;
		struct ledger_part *part = &b->parts[i];

		next = MIN(at + LEDGER_PART_PAGES, end);
		if (!all && !part_is_due(b, i, pass))
			continue;
		part->present_pages = part->swapped_pages = part->huge_pages = part->unmapped_pages = 0;
		if (n > 0 && ret[n - 1].first + ret[n - 1].n_pages == at)
			ret[n - 1].n_pages += next - at;
		else
			ret[n++] = (struct quiet_range){ at, next - at };
	}
	return n;
}

void quiet_note_run(struct ledger_block *b, uint32_t first, uint32_t n_pages, uint32_t bits)
{
	for (uint32_t at = first, end = first + n_pages, next; at < end; at = next) {
		struct ledger_part *part = &b->parts[at / LEDGER_PART_PAGES];
		uint16_t n;

		next = MIN(ALIGN_DOWN(at, LEDGER_PART_PAGES) + LEDGER_PART_PAGES, end);
		n = (uint16_t)(next - at);
		if (bits & PAGE_SWAPPED)
			part->swapped_pages = (uint16_t)(part->swapped_pages + n);
		if (!(bits & PAGE_PRESENT) || bits & PAGE_ZERO)
			continue;
		part->present_pages = (uint16_t)(part->present_pages + n);
		if (bits & PAGE_HUGE)
			part->huge_pages = (uint16_t)(part->huge_pages + n);
	}
}

void quiet_end(struct ledger_block *b, const struct quiet_range *range, uint64_t pass)
{
	uint32_t end = DIV_ROUND_UP(range->first + range->n_pages, LEDGER_PART_PAGES);

	for (uint32_t i = range->first / LEDGER_PART_PAGES; i < end; i++) {
		struct ledger_part *part = &b->parts[i];
		unsigned quiet = part->quiet_passes + (uint8_t)(pass - part->looked);

		part->quiet_passes = part->changed ? 0 : (uint8_t)MIN(quiet, 8 * QUIET_PASSES_MAX);
		part->looked = (uint8_t)pass;
		part->changed = false;
	}
}

void quiet_count(const struct ledger_block *b, uint64_t *present, uint64_t *swapped, uint64_t *huge,
		 uint64_t *unmapped)
{
	for (uint32_t i = 0; i < DIV_ROUND_UP(b->n_pages, LEDGER_PART_PAGES); i++) {
		*present += b->parts[i].present_pages;
		*swapped += b->parts[i].swapped_pages;
		*huge += b->parts[i].huge_pages;
		*unmapped += b->parts[i].unmapped_pages;
	}
}
