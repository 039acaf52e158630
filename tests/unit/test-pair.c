/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads memory of this very process. */
#include "tests/unit/unit.h"

#include <sys/mman.h>
#include <unistd.h>

#include "daemon/pair.h"

/* More than are read at a time. */
#define PAGES 150U

struct memory {
	struct process process;
	struct fingerprint_seed seed;
	uint8_t *pages, *copies;
	struct pair pairs[PAGES];
};

/* Every page is the one of a pair, in order but for the last, which comes first. */
static uint32_t page_of(uint32_t pair)
{
	return (pair + PAGES - 1) % PAGES;
}

static int memory_setup(void **state)
{
	struct memory *m = calloc(1, sizeof(*m));

	assert_non_null(m);
	fingerprint_seed_init(&m->seed);
	assert_int_equal(process_open(&m->process, getpid()), 0);
	m->copies = malloc(PAGES * PAGE_BYTES);
	assert_non_null(m->copies);
	m->pages = mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(m->pages, MAP_FAILED);
	for (uint32_t i = 0; i < PAGES * PAGE_BYTES; i++)
		m->pages[i] = (uint8_t)(i / PAGE_BYTES * 7 + i % 251);
	for (uint32_t i = 0; i < PAGES; i++) {
		uint8_t *page = m->pages + page_of(i) * PAGE_BYTES;

		m->pairs[i] = (struct pair){ .fingerprint = fingerprint_page(&m->seed, page),
					     .at = HVA(page),
					     .slot = SLOT_ID_NONE };
	}
	*state = m;
	return 0;
}

static int memory_teardown(void **state)
{
	struct memory *m = *state;

	munmap(m->pages, PAGES * PAGE_BYTES);
	process_close(&m->process);
	free(m->copies);
	free(m);
	return 0;
}

static void expect_same(const struct memory *m, uint32_t pair)
{
	const uint8_t *page = m->pages + page_of(pair) * PAGE_BYTES;

	assert_true(m->pairs[pair].same);
	assert_memory_equal(m->copies + pair * PAGE_BYTES, page, PAGE_BYTES);
}

static void read_all(struct memory *m)
{
	for (uint32_t at = 0, n; at < PAGES; at += n) {
		n = MIN(PAGES - at, PAIR_CHUNK_PAGES);
		pair_read(&m->process, &m->seed, m->pairs + at, n, m->copies + at * PAGE_BYTES);
	}
}

static void pages_are_copied(void **state)
{
	struct memory *m = *state;

	read_all(m);
	for (uint32_t i = 0; i < PAGES; i++)
		expect_same(m, i);
}

/* Written since the scan, or gone: only these are not what they were. */
static void changed_pages_are_told(void **state)
{
	struct memory *m = *state;

	m->pages[40 * PAGE_BYTES + 4095] ^= 1;
	assert_int_equal(mprotect(m->pages + 50 * PAGE_BYTES, 2 * PAGE_BYTES, PROT_NONE), 0);
	assert_int_equal(mprotect(m->pages + (PAGES - 1) * PAGE_BYTES, PAGE_BYTES, PROT_NONE), 0);
	read_all(m);
	for (uint32_t i = 0; i < PAGES; i++) {
		uint32_t page = page_of(i);

		if (page == 40 || page == 50 || page == 51 || page == PAGES - 1)
			assert_false(m->pairs[i].same);
		else
			expect_same(m, i);
	}
}

/* Only what is as it was, and has a slot. */
static void copies_are_stored(void **state)
{
	struct memory *m = *state;
	uint8_t page[PAGE_BYTES];
	struct store *s;
	slot_id first;

	m->pages[page_of(10) * PAGE_BYTES] ^= 1;
	read_all(m);
	assert_int_equal(store_new("tenant", PAGES, &s), 0);
	assert_int_equal(store_reserve(s, PAIR_CHUNK_PAGES, SLOT_ID_NONE, &first), PAIR_CHUNK_PAGES);
	/* Backwards from the 31st on: these are no neighbours. */
	for (uint32_t i = 0; i < PAIR_CHUNK_PAGES; i++)
		m->pairs[i].slot = SLOT_ID(first.n + (i < 30 ? i : PAIR_CHUNK_PAGES - 1 - (i - 30)));
	m->pairs[20].slot = SLOT_ID_NONE;
	pair_store(s, m->pairs, PAIR_CHUNK_PAGES, m->copies);
	for (uint32_t i = 0; i < PAIR_CHUNK_PAGES; i++) {
		assert_int_equal(m->pairs[i].stored, i != 10 && i != 20);
		if (!m->pairs[i].stored)
			continue;
		assert_int_equal(store_read(s, m->pairs[i].slot, 1, page), 0);
		assert_memory_equal(page, m->copies + i * PAGE_BYTES, PAGE_BYTES);
	}
	store_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(pages_are_copied, memory_setup, memory_teardown),
		cmocka_unit_test_setup_teardown(changed_pages_are_told, memory_setup, memory_teardown),
		cmocka_unit_test_setup_teardown(copies_are_stored, memory_setup, memory_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
