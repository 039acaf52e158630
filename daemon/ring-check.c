/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/ring-check.h"

#include "common/util.h"

#define ERRNO_MAX 4095

static bool is_errno(int64_t r)
{
	return r < 0 && r >= -ERRNO_MAX;
}

int64_t ring_result_check(enum ring_op op, uint32_t n, int64_t result)
{
	int64_t max;

	if (is_errno(result))
		return result;
	switch (op) {
	case RING_PING:
		return result == RING_VERSION ? result : -EPROTO;
	case RING_ADVISE:
	case RING_MERGE:
	case RING_UNMERGE:
	case RING_RECLAIM:
	case RING_PROTECT:
		max = n;
		break;
	case RING_RECEIVE_FD:
	case RING_OPEN_UFFD:
		max = INT32_MAX;
		break;
	case RING_MAP_STORE:
		max = INT64_MAX;
		break;
	default:
		max = 0;
	}
	return result >= 0 && result <= max ? result : -EPROTO;
}

int64_t ring_advise_check(struct ring_advise *asked, const struct ring_advise *got, uint32_t n)
{
	int64_t ok = 0;

	for (uint32_t i = 0; i < n; i++)
		if (got[i].result != 0 && !is_errno(got[i].result))
			return -EPROTO;
	for (uint32_t i = 0; i < n; i++) {
		asked[i].result = got[i].result;
		ok += got[i].result == 0;
	}
	return ok;
}

int64_t ring_runs_check(struct ring_run *asked, const struct ring_run *got, uint32_t n)
{
	int64_t pages = 0;

	for (uint32_t i = 0; i < n; i++)
		if ((got[i].result != 0 && !is_errno(got[i].result)) ||
		    got[i].merged > asked[i].n_pages)
			return -EPROTO;
	for (uint32_t i = 0; i < n; i++) {
		asked[i].result = got[i].result;
		asked[i].merged = got[i].merged;
		pages += got[i].merged;
	}
	return pages;
}

int ring_header_check(const struct ring_header *h)
{
	if (h->magic != RING_MAGIC)
		return -EPROTO;
	if (h->version != RING_VERSION)
		return -EPROTONOSUPPORT;
	return h->published - h->done <= RING_BATCHES ? 0 : -EPROTO;
}
