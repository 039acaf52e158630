/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/frames.h"

#include <stdatomic.h>

#include "common/util.h"

int frames_init(struct frames *f, uint64_t n)
{
	size_t words = n / 64 + 1;

	*f = (struct frames){
		.n = n,
		.once = calloc(words, sizeof(*f->once)),
		.again = calloc(words, sizeof(*f->again)),
	};
	if (f->once && f->again)
		return 0;
	frames_done(f);
	return -ENOMEM;
}

void frames_done(struct frames *f)
{
	free(f->once);
	free(f->again);
	*f = (struct frames){ 0 };
}

void frames_count(struct frames *f, uint64_t pfn)
{
	const uint64_t bit = UINT64_C(1) << (pfn % 64);

	assert(pfn < f->n);
	if (!(atomic_fetch_or_explicit(&f->once[pfn / 64], bit, memory_order_relaxed) & bit))
		return;
	if (!(atomic_fetch_or_explicit(&f->again[pfn / 64], bit, memory_order_relaxed) & bit))
		atomic_fetch_add_explicit(&f->n_shared, 1, memory_order_relaxed);
}

bool frames_is_shared(const struct frames *f, uint64_t pfn)
{
	return pfn < f->n && atomic_load_explicit(&f->again[pfn / 64], memory_order_relaxed) >> (pfn % 64) & 1;
}
