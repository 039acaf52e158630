/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/unstable.h"

#include "common/util.h"

struct unstable {
	struct hashtree *tree; /* page numbers by fingerprint */
};

int unstable_new(hashtree_key_fn *key_of, void *userdata, struct unstable **ret)
{
	struct unstable *u = calloc(1, sizeof(*u));
	int r;

	if (!u)
		return -ENOMEM;
	r = hashtree_new(key_of, userdata, &u->tree);
	if (r < 0) {
		free(u);
		return r;
	}
	*ret = u;
	return 0;
}

void unstable_free(struct unstable *u)
{
	if (!u)
		return;
	hashtree_free(u->tree);
	free(u);
}

int unstable_insert(struct unstable *u, uint64_t fingerprint, page_id page)
{
	return hashtree_insert(u->tree, fingerprint, page.n);
}

int unstable_remove(struct unstable *u, uint32_t fingerprint_high, page_id page)
{
	return hashtree_remove_high(u->tree, fingerprint_high, page.n);
}

size_t unstable_find(const struct unstable *u, uint64_t fingerprint, page_id *ret, size_t max)
{
	uint32_t values[HASHTREE_EQUAL_MAX];
	size_t n = hashtree_find(u->tree, fingerprint, values, MIN(max, ARRAY_SIZE(values)));

	for (size_t i = 0; i < n; i++)
		ret[i] = PAGE_ID(values[i]);
	return n;
}

void unstable_prefetch(const struct unstable *u, uint64_t fingerprint)
{
	hashtree_prefetch(u->tree, fingerprint);
}

uint64_t unstable_count(const struct unstable *u)
{
	return hashtree_count(u->tree);
}

uint64_t unstable_bytes(const struct unstable *u)
{
	return hashtree_bytes(u->tree) + sizeof(*u) + 16; /* with malloc's own */
}
