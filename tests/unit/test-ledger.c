/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/ledger.h"
#include "tests/unit/unit.h"

static struct ledger *new_ledger(void)
{
	struct ledger *l;

	assert_int_equal(ledger_new(&l), 0);
	return l;
}

static void blocks_get_ranges_of_their_own(void **state _unused_)
{
	struct ledger *l = new_ledger();
	struct ledger_block *a, *b, *c;
	uint32_t first;

	assert_int_equal(ledger_add_block(l, NULL, HVA(0x10000000), 1000, &a), 0);
	assert_int_equal(ledger_add_block(l, NULL, HVA(0x20000000), 5000, &b), 0);
	assert_ptr_equal(ledger_find(l, PAGE_ID(a->first.n + 999)), a);
	assert_null(ledger_find(l, PAGE_ID(a->first.n + 1000)));
	assert_ptr_equal(ledger_find(l, b->first), b);
	assert_int_equal(ledger_pages(l), 6000);
	assert_int_equal(ledger_hva(b, PAGE_ID(b->first.n + 2)).addr, 0x20002000);
	assert_int_equal(ledger_id(b, HVA(0x20002000)).n, b->first.n + 2);
	/* A freed range is used again, and reads as ABSENT. */
	first = a->first.n;
	ledger_set(l, a, a->first, PAGE_STATE_SHARED, 7);
	ledger_remove_block(l, a);
	assert_int_equal(ledger_add_block(l, NULL, HVA(0x30000000), 900, &c), 0);
	assert_int_equal(c->first.n, first);
	assert_int_equal(ledger_state(l, c->first), PAGE_STATE_ABSENT);
	assert_int_equal(ledger_word(l, c->first), 0);
	ledger_free(l);
}

static void bounds(void **state _unused_)
{
	struct ledger *l = new_ledger();
	struct ledger_block *b;

	assert_int_equal(ledger_add_block(l, NULL, HVA(0), 0, &b), -EINVAL);
	assert_int_equal(ledger_add_block(l, NULL, HVA(0), LEDGER_PAGES_MAX + 1ULL, &b), -EINVAL);
	assert_int_equal(ledger_add_block(l, NULL, HVA(0), LEDGER_PAGES_MAX, &b), 0);
	assert_int_equal(ledger_add_block(l, NULL, HVA(0), 1, &b), -ENOSPC);
	ledger_free(l);
}

static void states_are_counted(void **state _unused_)
{
	struct ledger *l = new_ledger();
	struct ledger_block *b;

	assert_int_equal(ledger_add_block(l, NULL, HVA(0x200000), 1024, &b), 0);
	assert_int_equal(b->counts[PAGE_STATE_ABSENT], 1024);
	ledger_set_young(l, b, PAGE_ID(b->first.n + 3), 100, 0xdeadbeef);
	assert_int_equal(ledger_state(l, PAGE_ID(b->first.n + 3)), PAGE_STATE_YOUNG);
	assert_int_equal(ledger_wait(l, PAGE_ID(b->first.n + 3)), LEDGER_WAIT_MAX);
	assert_int_equal(ledger_key_of(b->first.n + 3, l), 0xdeadbeef);
	assert_int_equal(b->counts[PAGE_STATE_ABSENT], 1023);
	assert_int_equal(b->counts[PAGE_STATE_YOUNG], 1);
	ledger_set(l, b, PAGE_ID(b->first.n + 3), PAGE_STATE_UNSTABLE, 5);
	assert_int_equal(b->counts[PAGE_STATE_YOUNG], 0);
	assert_int_equal(b->counts[PAGE_STATE_UNSTABLE], 1);
	ledger_free(l);
}

static void claims_end_with_the_state(void **state _unused_)
{
	struct ledger *l = new_ledger();
	struct ledger_block *b;
	page_id page;

	assert_int_equal(ledger_add_block(l, NULL, HVA(0x200000), 16, &b), 0);
	page = PAGE_ID(b->first.n + 3);
	ledger_claim(l, page, true);
	assert_false(ledger_is_claimed(l, page));
	ledger_set_young(l, b, page, 5, 0);
	ledger_claim(l, page, true);
	assert_false(ledger_is_claimed(l, page));
	assert_int_equal(ledger_wait(l, page), 5);
	ledger_set(l, b, page, PAGE_STATE_UNSTABLE, 7);
	assert_false(ledger_is_claimed(l, page));
	ledger_claim(l, page, true);
	assert_true(ledger_is_claimed(l, page));
	assert_int_equal(ledger_state(l, page), PAGE_STATE_UNSTABLE);
	assert_int_equal(ledger_word(l, page), 7);
	assert_int_equal(b->counts[PAGE_STATE_UNSTABLE], 1);
	ledger_claim(l, page, false);
	assert_false(ledger_is_claimed(l, page));
	ledger_claim(l, page, true);
	ledger_set(l, b, page, PAGE_STATE_CANDIDATE, 0);
	assert_false(ledger_is_claimed(l, page));
	ledger_free(l);
}

/* The fast skips against the obvious loop, at every start and for every neighbour. */
static void skips(void **state _unused_)
{
	struct ledger *l = new_ledger();
	struct ledger_block *b;
	const uint8_t *states;
	uint32_t n = 256;

	assert_int_equal(ledger_add_block(l, NULL, HVA(0x200000), n, &b), 0);
	srand(1);
	for (unsigned round = 0; round < 64; round++) {
		for (uint32_t i = 0; i < n; i++) {
			enum page_state s = rand() % 8 ? PAGE_STATE_SHARED : (enum page_state)(rand() % 7);

			if (s == PAGE_STATE_YOUNG)
				ledger_set_young(l, b, PAGE_ID(b->first.n + i), (unsigned)rand() % 32, 0);
			else
				ledger_set(l, b, PAGE_ID(b->first.n + i), round % 2 ? s : s % 2, 0);
		}
		states = ledger_states(l, b);
		for (uint32_t i = 0; i <= n; i++) {
			uint32_t absent = i, settled = i, unoffered = i;

			while (absent < n && LEDGER_STATE_OF(states[absent]) == PAGE_STATE_ABSENT)
				absent++;
			while (settled < n && LEDGER_STATE_OF(states[settled]) > PAGE_STATE_YOUNG)
				settled++;
			while (unoffered < n && LEDGER_STATE_OF(states[unoffered]) != PAGE_STATE_ZEROS &&
			       LEDGER_STATE_OF(states[unoffered]) != PAGE_STATE_CANDIDATE)
				unoffered++;
			assert_int_equal(ledger_skip_unoffered(states, i, n), unoffered);
			assert_int_equal(ledger_skip_absent(states, i, n), absent);
			assert_int_equal(ledger_skip_settled(states, i, n), settled);
		}
	}
	ledger_free(l);
}

static void huge_pages_of_an_unaligned_block(void **state _unused_)
{
	struct ledger *l = new_ledger();
	struct ledger_block *b;

	/* Starts in the middle of a huge page. */
	assert_int_equal(ledger_add_block(l, NULL, HVA(HUGE_BYTES * 5 / 2), 2048, &b), 0);
	ledger_note_huge(b, PAGE_ID(b->first.n + 256), 512, true);
	assert_false(ledger_is_huge(b, PAGE_ID(b->first.n + 255)));
	assert_true(ledger_is_huge(b, PAGE_ID(b->first.n + 256)));
	assert_true(ledger_is_huge(b, PAGE_ID(b->first.n + 767)));
	assert_false(ledger_is_huge(b, PAGE_ID(b->first.n + 768)));
	ledger_note_huge(b, PAGE_ID(b->first.n + 300), 1, false);
	assert_false(ledger_is_huge(b, PAGE_ID(b->first.n + 256)));
	ledger_free(l);
}

/* Places are told once; however the block is cut. */
static void left_places_are_taken(void **state _unused_)
{
	struct ledger *l = new_ledger();
	struct range_set s = { 0 };
	struct ledger_block *b;

	assert_int_equal(ledger_add_block(l, NULL, HVA(0x200000), 1000, &b), 0);
	assert_int_equal(ledger_take_left(b, &s), 0);
	assert_int_equal(s.n, 0);
	ledger_note_left(b, PAGE_ID(b->first.n + 17));
	ledger_note_left(b, PAGE_ID(b->first.n + 31));
	ledger_note_left(b, PAGE_ID(b->first.n + 32));
	ledger_note_left(b, PAGE_ID(b->first.n + 999));
	assert_int_equal(ledger_take_left(b, &s), 0);
	assert_int_equal(s.n, 2);
	assert_int_equal(s.ranges[0].start, 0x200000 + 16 * PAGE_BYTES);
	assert_int_equal(s.ranges[0].end, 0x200000 + 48 * PAGE_BYTES);
	assert_int_equal(s.ranges[1].start, 0x200000 + 992 * PAGE_BYTES);
	assert_int_equal(s.ranges[1].end, 0x200000 + 1000 * PAGE_BYTES);
	range_set_clear(&s);
	assert_int_equal(ledger_take_left(b, &s), 0);
	assert_int_equal(s.n, 0);
	range_set_done(&s);
	ledger_free(l);
}

/* Beside the claim, until the state changes. */
static void tries_are_kept_while_unstable(void **state _unused_)
{
	struct ledger *l = new_ledger();
	struct ledger_block *b;
	page_id page;

	assert_int_equal(ledger_add_block(l, NULL, HVA(0x200000), 1000, &b), 0);
	page = b->first;
	ledger_set_young(l, b, page, 5, 0);
	ledger_set_tries(l, page, 2);
	assert_int_equal(ledger_wait(l, page), 5);
	assert_int_equal(ledger_tries(l, page), 0);
	ledger_set(l, b, page, PAGE_STATE_UNSTABLE, 7);
	for (unsigned n = 0; n <= LEDGER_TRIES_MAX + 1; n++) {
		ledger_set_tries(l, page, n);
		assert_int_equal(ledger_tries(l, page), MIN(n, LEDGER_TRIES_MAX));
		assert_false(ledger_is_claimed(l, page));
		ledger_claim(l, page, true);
		assert_true(ledger_is_claimed(l, page));
		ledger_set_tries(l, page, n);
		assert_true(ledger_is_claimed(l, page));
		ledger_claim(l, page, false);
		assert_int_equal(ledger_tries(l, page), MIN(n, LEDGER_TRIES_MAX));
		assert_int_equal(ledger_state(l, page), PAGE_STATE_UNSTABLE);
		assert_int_equal(ledger_word(l, page), 7);
	}
	ledger_set(l, b, page, PAGE_STATE_UNSTABLE, 7);
	assert_int_equal(ledger_tries(l, page), 0);
	ledger_free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_get_ranges_of_their_own),
		cmocka_unit_test(bounds),
		cmocka_unit_test(states_are_counted),
		cmocka_unit_test(claims_end_with_the_state),
		cmocka_unit_test(tries_are_kept_while_unstable),
		cmocka_unit_test(skips),
		cmocka_unit_test(huge_pages_of_an_unaligned_block),
		cmocka_unit_test(left_places_are_taken),
	};

	return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
