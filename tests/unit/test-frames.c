/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/frames.h"
#include "tests/unit/unit.h"

#define N 10000U

static struct frame_page v[N], scratch[N], model[N];

static int compare(const void *a, const void *b)
{
	const struct frame_page *x = a, *y = b;

	if (x->pfn != y->pfn)
		return x->pfn < y->pfn ? -1 : 1;
	return x->page.n < y->page.n ? -1 : x->page.n > y->page.n;
}

/* Pages are numbered in order, so that the order within a frame shows. */
static void check(size_t n, uint64_t mask)
{
	uint64_t x = 1;

	for (uint32_t i = 0; i < n; i++) {
		x = x * 6364136223846793005U + 1442695040888963407U;
		v[i] = model[i] = (struct frame_page){ (x ^ x >> 29) & mask, PAGE_ID(i) };
	}
	frames_sort(v, scratch, n);
	qsort(model, n, sizeof(*model), compare);
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(v[i].pfn, model[i].pfn);
		assert_int_equal(v[i].page.n, model[i].page.n);
	}
}

static void sorts_as_qsort_does(void **state _unused_)
{
	static const size_t sizes[] = { 0, 1, 2, 3, 1000, N };
	/* None, one digit and a part of one, all digits that a frame may have, and all there are. */
	static const uint64_t masks[] = {
		0, 0x7, 0x7ff, 0xfff, 0x7ffffff, (UINT64_C(1) << 55) - 1, UINT64_MAX,
	};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		for (size_t k = 0; k < ARRAY_SIZE(masks); k++)
			check(sizes[i], masks[k]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sorts_as_qsort_does),
	};

	return cmocka_run_group_tests_name("frames", tests, NULL, NULL);
}
