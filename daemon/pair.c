/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/pair.h"

#include <sys/uio.h>

#include "common/util.h"

/* Pairs compared at a time: two buffers of this many pages stay in the second-level cache. */
#define BATCH 32U

/* Copies page i of each pair to buf + i pages, in one call for neighbours of one process.
 * ok[i] says whether it worked. */
static void copy_pages(const struct pair *pairs, unsigned n, bool twins, uint8_t *buf, bool *ok)
{
	struct iovec remote[BATCH];

	for (unsigned i = 0; i < n;) {
		const struct process *p = twins ? pairs[i].twin_process : pairs[i].process;
		struct iovec local = { buf + i * PAGE_BYTES, 0 };
		unsigned k = 0;
		ssize_t got;

		while (i + k < n && (twins ? pairs[i + k].twin_process : pairs[i + k].process) == p) {
			hva at = twins ? pairs[i + k].twin_at : pairs[i + k].at;

			remote[k++] = (struct iovec){ (void *)at.addr, PAGE_BYTES };
		}
		local.iov_len = k * PAGE_BYTES;
		got = process_vm_readv(p->pid, &local, 1, remote, k, 0);
		/* A short copy ends at a page that cannot be read: go on after it. */
		k = got < 0 ? 1 : MIN(k, (unsigned)((size_t)got / PAGE_BYTES) + 1);
		for (unsigned j = 0; j < k; j++)
			ok[i + j] = got >= (ssize_t)((j + 1) * PAGE_BYTES);
		i += k;
	}
}

int pair_compare(const struct domain_key *key, struct pair *pairs, uint32_t n, void *copies)
{
	_cleanup_free_ uint8_t *buf = aligned_alloc(PAGE_BYTES, 2 * BATCH * PAGE_BYTES);
	uint8_t *page_buf = buf, *twin_buf;

	if (!buf)
		return -ENOMEM;
	twin_buf = buf + BATCH * PAGE_BYTES;
	for (uint32_t at = 0; at < n; at += BATCH) {
		unsigned k = MIN(n - at, BATCH);
		bool ok[BATCH], twin_ok[BATCH];

		if (copies)
			page_buf = (uint8_t *)copies + (size_t)at * PAGE_BYTES;
		copy_pages(pairs + at, k, false, page_buf, ok);
		copy_pages(pairs + at, k, true, twin_buf, twin_ok);
		for (unsigned i = 0; i < k; i++) {
			struct pair *p = &pairs[at + i];
			const uint8_t *page = page_buf + i * PAGE_BYTES;

			p->equal = ok[i] && twin_ok[i] &&
				   memcmp(page, twin_buf + i * PAGE_BYTES, PAGE_BYTES) == 0 &&
				   identity_of_page(key, page, &p->identity) == 0;
		}
	}
	return 0;
}
