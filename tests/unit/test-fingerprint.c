/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/unit.h"

/* The reference: the same function without any vectors. */
#define XXH_VECTOR 0
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/fingerprint.h"
#include "common/units.h"

static void fill(uint8_t *page, uint64_t x)
{
	for (size_t i = 0; i < PAGE_BYTES; i++) {
		x = x * UINT64_C(6364136223846793005) + 1442695040888963407;
		page[i] = (uint8_t)(x >> 56);
	}
}

static void test_fingerprint_is_xxh3(void **state _unused_)
{
	struct fingerprint_seed a, b;
	uint8_t page[PAGE_BYTES + 1];

	fingerprint_seed_init(&a);
	fingerprint_seed_init(&b);
	assert_memory_not_equal(&a, &b, sizeof(a));
	for (unsigned i = 0; i < 64; i++) {
		/* Also where the page is not aligned: a caller's buffer need not be. */
		uint8_t *p = page + i % 2;

		fill(p, i);
		assert_int_equal(fingerprint_page(&a, p),
				 XXH3_64bits_withSecret(p, PAGE_BYTES, a.secret, sizeof(a.secret)));
		assert_int_not_equal(fingerprint_page(&a, p), fingerprint_page(&b, p));
	}
}

static void test_fingerprint_sees_every_byte(void **state _unused_)
{
	struct fingerprint_seed seed;
	uint8_t page[PAGE_BYTES];
	uint64_t before;

	fingerprint_seed_init(&seed);
	fill(page, 1);
	before = fingerprint_page(&seed, page);
	for (size_t i = 0; i < PAGE_BYTES; i++) {
		page[i] ^= 0x10;
		assert_int_not_equal(fingerprint_page(&seed, page), before);
		page[i] ^= 0x10;
	}
	assert_int_equal(fingerprint_page(&seed, page), before);
}

static void test_zero_page(void **state _unused_)
{
	uint8_t page[PAGE_BYTES] = { 0 };

	assert_true(page_is_zero(page));
	for (size_t i = 0; i < PAGE_BYTES; i++) {
		page[i] = 1;
		assert_false(page_is_zero(page));
		page[i] = 0;
	}
	memset(page, 0xff, sizeof(page));
	assert_false(page_is_zero(page));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fingerprint_is_xxh3),
		cmocka_unit_test(test_fingerprint_sees_every_byte),
		cmocka_unit_test(test_zero_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
