/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/pair.h"

#include <sys/uio.h>

#include "common/util.h"

/* Copies the pages to buf, neighbours as one range. ok[i] says whether it worked. */
static void copy_pages(const struct process *p, const struct pair *pairs, unsigned n, uint8_t *buf, bool *ok)
{
	for (unsigned i = 0; i < n;) {
		struct iovec remote[PAIR_CHUNK_PAGES], local = { buf + i * PAGE_BYTES, (n - i) * PAGE_BYTES };
		unsigned n_iovs = 0, done;
		ssize_t got;

		for (unsigned k = i; k < n; k++)
			if (k > i && pairs[k].at.addr == pairs[k - 1].at.addr + PAGE_BYTES)
				remote[n_iovs - 1].iov_len += PAGE_BYTES;
			else
				remote[n_iovs++] = (struct iovec){ (void *)pairs[k].at.addr, PAGE_BYTES };
		got = process_vm_readv(p->pid, &local, 1, remote, n_iovs, 0);
		done = i + (unsigned)((size_t)MAX(got, (ssize_t)0) / PAGE_BYTES);
		while (i < done)
			ok[i++] = true;
		/* A short copy ends at a page that cannot be read: go on after it. */
		if (i < n)
			ok[i++] = false;
	}
}

void pair_read(const struct process *p, const struct fingerprint_seed *seed, struct pair *pairs, uint32_t n,
	       uint8_t *copies)
{
	bool ok[PAIR_CHUNK_PAGES];

	assert(n <= PAIR_CHUNK_PAGES);
	copy_pages(p, pairs, n, copies, ok);
	for (uint32_t i = 0; i < n; i++)
		pairs[i].same = ok[i] && fingerprint_page(seed, copies + i * PAGE_BYTES) == pairs[i].fingerprint;
}

void pair_store(const struct store *s, struct pair *pairs, uint32_t n, const uint8_t *copies)
{
	for (uint32_t i = 0, run; i < n; i += run) {
		int64_t done;

		run = 1;
		pairs[i].stored = false;
		if (!pairs[i].same || slot_id_is_none(pairs[i].slot))
			continue;
		while (i + run < n && pairs[i + run].same && pairs[i + run].slot.n == pairs[i].slot.n + run)
			run++;
		done = store_write(s, pairs[i].slot, copies + i * PAGE_BYTES, run);
		for (uint32_t k = 0; k < run; k++)
			pairs[i + k].stored = (int64_t)k < done;
	}
}
