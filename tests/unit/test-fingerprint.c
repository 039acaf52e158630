/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/unit.h"

#include <openssl/sha.h>
#include <pthread.h>

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

static void reference_identity(const struct domain_key *key, const uint8_t *page, uint8_t *ret)
{
	uint8_t both[DOMAIN_KEY_BYTES + PAGE_BYTES];

	memcpy(both, key->bytes, DOMAIN_KEY_BYTES);
	memcpy(both + DOMAIN_KEY_BYTES, page, PAGE_BYTES);
	SHA256(both, sizeof(both), ret);
}

static void check_identities(const struct domain_key *key)
{
	uint8_t page[PAGE_BYTES], want[IDENTITY_BYTES];
	struct identity id;

	for (unsigned i = 0; i < 16; i++) {
		fill(page, i);
		reference_identity(key, page, want);
		if (identity_of_page(key, page, &id) < 0 ||
		    memcmp(id.bytes, want, sizeof(want)) != 0)
			abort();
	}
}

static void *check_identities_thread(void *key)
{
	check_identities(key);
	return NULL;
}

static void test_identity(void **state _unused_)
{
	struct domain_key a, b;
	struct identity of_a, of_b;
	uint8_t page[PAGE_BYTES];
	pthread_t threads[4];

	assert_int_equal(domain_key_derive((const uint8_t *)"secret", 6, "tenant-a", &a), 0);
	assert_int_equal(domain_key_derive((const uint8_t *)"secret", 6, "tenant-b", &b), 0);
	check_identities(&a);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, check_identities_thread, &a), 0);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);

	fill(page, 7);
	assert_int_equal(identity_of_page(&a, page, &of_a), 0);
	assert_int_equal(identity_of_page(&b, page, &of_b), 0);
	assert_memory_not_equal(&of_a, &of_b, sizeof(of_a));
}

static void test_domain_key(void **state _unused_)
{
	static const uint8_t secret[] = "0123456789";
	static const uint8_t of_nothing[] = { 0xc1, 0x8a, 0xa3, 0x4b, 0xfe, 0x3e, 0x35, 0x08 };
	struct domain_key a, b;

	assert_int_equal(domain_key_derive(secret, 10, "x", &a), 0);
	assert_int_equal(domain_key_derive(secret, 10, "x", &b), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	assert_int_equal(domain_key_derive(secret, 10, "y", &b), 0);
	assert_memory_not_equal(&a, &b, sizeof(a));
	assert_int_equal(domain_key_derive(secret, 9, "x", &b), 0);
	assert_memory_not_equal(&a, &b, sizeof(a));
	/* A byte that moves from the secret to the name is another pair. */
	assert_int_equal(domain_key_derive(secret, 9, "9x", &b), 0);
	assert_memory_not_equal(&a, &b, sizeof(a));
	/* Keys outlive the daemon: the derivation may never change. */
	assert_int_equal(domain_key_derive(NULL, 0, "", &a), 0);
	assert_memory_equal(a.bytes, of_nothing, sizeof(of_nothing));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fingerprint_is_xxh3),
		cmocka_unit_test(test_fingerprint_sees_every_byte),
		cmocka_unit_test(test_zero_page),
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_domain_key),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
