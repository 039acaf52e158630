/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/pair.h"

#include <sys/uio.h>

#include "common/util.h"

/* Pages read at a time: they stay in the second-level cache until they are hashed. */
#define BATCH 64U

/* Copies the pages to buf, neighbours as one range. ok[i] says whether it worked. */
static void copy_pages(const struct process *p, const struct pair *pairs, unsigned n, uint8_t *buf, bool *ok)
{
	for (unsigned i = 0; i < n;) {
		struct iovec remote[BATCH], local = { buf + i * PAGE_BYTES, (n - i) * PAGE_BYTES };
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
	for (uint32_t at = 0; at < n; at += BATCH) {
		unsigned k = MIN(n - at, BATCH);
		bool ok[BATCH];

		copy_pages(p, pairs + at, k, copies + (size_t)at * PAGE_BYTES, ok);
		for (unsigned i = 0; i < k; i++) {
			const uint8_t *page = copies + (size_t)(at + i) * PAGE_BYTES;
			struct pair *pair = &pairs[at + i];

			pair->same = ok[i] && fingerprint_page(seed, page) == pair->fingerprint;
		}
	}
}
