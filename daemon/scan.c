/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/scan.h"

#include <sys/uio.h>

#include "common/util.h"

/* Ranges in one process_vm_readv: below IOV_MAX (1024), and no more than the buffer has pages. */
#define IOVS_MAX SCAN_BUFFER_PAGES

struct scan {
	const struct process *process;
	const struct fingerprint_seed *seed;
	uint64_t zero_fingerprint;
	uint8_t *buffer;
	struct scan_result *out;
	int64_t n_read;
};

static void hash_page(struct scan *s, const uint8_t *page)
{
	uint64_t fp = fingerprint_page(s->seed, page);

	s->out->fingerprint = fp;
	/* Only a page that hashes like zeros is looked at byte by byte. */
	s->out->kind = fp == s->zero_fingerprint && page_is_zero(page) ? SCAN_ZEROS : SCAN_DATA;
	s->out++;
	s->n_read++;
}

static void mark_gone(struct scan *s, uint64_t n_pages)
{
	for (uint64_t i = 0; i < n_pages; i++, s->out++)
		*s->out = (struct scan_result){ .kind = SCAN_GONE };
}

/* Reads one buffer full. A page that cannot be read ends the kernel's copy: it is marked gone,
 * and the rest is read in further calls. */
static int read_buffer(struct scan *s, struct iovec *iov, unsigned n_iovs)
{
	while (n_iovs > 0) {
		struct iovec local = { s->buffer, SCAN_BUFFER_BYTES };
		ssize_t n = process_vm_readv(s->process->pid, &local, 1, iov, n_iovs, 0);
		size_t done;

		if (n < 0 && errno != EFAULT)
			return -errno;
		done = n < 0 ? 0 : ALIGN_DOWN((size_t)n, PAGE_BYTES);
		for (size_t i = 0; i < done; i += PAGE_BYTES)
			hash_page(s, s->buffer + i);
		while (n_iovs > 0 && done >= iov->iov_len) {
			done -= iov->iov_len;
			iov++;
			n_iovs--;
		}
		if (n_iovs == 0)
			break;
		/* The page after what was read is the one that failed. */
		mark_gone(s, 1);
		iov->iov_base = (uint8_t *)iov->iov_base + done + PAGE_BYTES;
		iov->iov_len -= done + PAGE_BYTES;
		if (iov->iov_len == 0) {
			iov++;
			n_iovs--;
		}
	}
	return 0;
}

static int scan_all(struct scan *s, const struct scan_range *ranges, uint32_t n_ranges)
{
	struct iovec iov[IOVS_MAX];
	unsigned n_iovs = 0;
	uint32_t room = SCAN_BUFFER_PAGES;
	int r = 0;

	for (uint32_t i = 0; i < n_ranges && r == 0; i++) {
		for (uint32_t at = 0; at < ranges[i].n_pages && r == 0;) {
			uint32_t n = MIN(ranges[i].n_pages - at, room);

			iov[n_iovs++] = (struct iovec){
				(void *)hva_add_pages(ranges[i].start, at).addr, n * PAGE_BYTES
			};
			at += n;
			room -= n;
			if (room == 0) {
				r = read_buffer(s, iov, n_iovs);
				n_iovs = 0;
				room = SCAN_BUFFER_PAGES;
			}
		}
	}
	return r == 0 && n_iovs > 0 ? read_buffer(s, iov, n_iovs) : r;
}

int64_t scan_pages(const struct process *p, const struct fingerprint_seed *seed,
		   const struct scan_range *ranges, uint32_t n_ranges, struct scan_result *ret)
{
	_cleanup_free_ uint8_t *buffer = aligned_alloc(PAGE_BYTES, SCAN_BUFFER_BYTES);
	struct scan s = { .process = p, .seed = seed, .buffer = buffer, .out = ret };
	int r;

	if (!buffer)
		return -ENOMEM;
	memset(buffer, 0, PAGE_BYTES);
	s.zero_fingerprint = fingerprint_page(seed, buffer);
	r = scan_all(&s, ranges, n_ranges);
	if (r < 0)
		return r;
	/* Only now is it certain that the pid was still our guest when it was read. */
	return process_alive(p) ? s.n_read : -ESRCH;
}
