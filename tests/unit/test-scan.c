/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads memory of this very process. */
#include "tests/unit/unit.h"

#include <sys/mman.h>
#include <unistd.h>

#include "daemon/scan.h"

/* More than one buffer full. */
#define PAGES (SCAN_BUFFER_PAGES * 2 + 7)

struct memory {
	struct process process;
	struct fingerprint_seed seed;
	uint8_t *pages;
};

static int memory_setup(void **state)
{
	struct memory *m = calloc(1, sizeof(*m));

	assert_non_null(m);
	fingerprint_seed_init(&m->seed);
	assert_int_equal(process_open(&m->process, getpid()), 0);
	m->pages = mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(m->pages, MAP_FAILED);
	for (uint32_t i = 0; i < PAGES * PAGE_BYTES; i++)
		m->pages[i] = (uint8_t)(i / PAGE_BYTES * 7 + i % 251);
	*state = m;
	return 0;
}

static int memory_teardown(void **state)
{
	struct memory *m = *state;

	munmap(m->pages, PAGES * PAGE_BYTES);
	process_close(&m->process);
	free(m);
	return 0;
}

static uint8_t *page_at(const struct memory *m, uint32_t i)
{
	return m->pages + i * PAGE_BYTES;
}

static void expect(const struct memory *m, const struct scan_result *result, uint32_t page)
{
	assert_int_equal(result->kind, SCAN_DATA);
	assert_true(result->fingerprint == fingerprint_page(&m->seed, page_at(m, page)));
}

static void all_pages_in_order(void **state)
{
	struct memory *m = *state;
	struct scan_range ranges[] = { { HVA(page_at(m, 1)), PAGES - 2 }, { HVA(page_at(m, 0)), 1 } };
	struct scan_result results[PAGES - 1];

	assert_int_equal(scan_pages(&m->process, &m->seed, ranges, ARRAY_SIZE(ranges), results), PAGES - 1);
	for (uint32_t i = 0; i < PAGES - 2; i++)
		expect(m, &results[i], i + 1);
	expect(m, &results[PAGES - 2], 0);
}

static void zeros_are_told(void **state)
{
	struct memory *m = *state;
	struct scan_range range = { HVA(page_at(m, 0)), 3 };
	struct scan_result results[3];

	memset(page_at(m, 1), 0, PAGE_BYTES);
	memset(page_at(m, 2), 0, PAGE_BYTES - 1);
	assert_int_equal(scan_pages(&m->process, &m->seed, &range, 1, results), 3);
	expect(m, &results[0], 0);
	assert_int_equal(results[1].kind, SCAN_ZEROS);
	expect(m, &results[2], 2);
}

/* First, last and in the middle of what one call of the kernel's reads. */
static void gone_pages_do_not_hide_others(void **state)
{
	static const uint32_t gone[] = { 0, 9, 10, SCAN_BUFFER_PAGES, PAGES - 1 };
	struct memory *m = *state;
	struct scan_range range = { HVA(page_at(m, 0)), PAGES };
	struct scan_result results[PAGES];

	for (size_t i = 0; i < ARRAY_SIZE(gone); i++)
		assert_int_equal(mprotect(page_at(m, gone[i]), PAGE_BYTES, PROT_NONE), 0);
	assert_int_equal(scan_pages(&m->process, &m->seed, &range, 1, results), PAGES - ARRAY_SIZE(gone));
	for (uint32_t i = 0, k = 0; i < PAGES; i++) {
		if (k < ARRAY_SIZE(gone) && gone[k] == i) {
			assert_int_equal(results[i].kind, SCAN_GONE);
			k++;
		} else {
			expect(m, &results[i], i);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(all_pages_in_order, memory_setup, memory_teardown),
		cmocka_unit_test_setup_teardown(zeros_are_told, memory_setup, memory_teardown),
		cmocka_unit_test_setup_teardown(gone_pages_do_not_hide_others, memory_setup, memory_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
