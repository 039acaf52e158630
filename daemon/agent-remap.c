/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/agent-remap.h"

#include "common/util.h"
#include "daemon/ring-check.h"

static size_t block_bytes(const struct remap_block *b)
{
	return sizeof(b->head) + b->head.n_runs * sizeof(*b->runs);
}

int agent_map_store(struct agent_link *a, const struct store *s)
{
	int64_t r = agent_send_fd(a, RING_FD_STORE, store_guest_fd(s));

	if (r >= 0)
		r = agent_call(a, RING_MAP_STORE, 0, store_file_bytes(s), NULL, 0);
	return r < 0 ? (int)r : 0;
}

/* How many blocks fit one batch. */
static uint32_t pack(const struct remap_block *blocks, uint32_t n, uint8_t *payload,
		     uint32_t *ret_bytes)
{
	size_t used = 0;
	uint32_t i;

	for (i = 0; i < n && used + block_bytes(&blocks[i]) <= RING_PAYLOAD_BYTES; i++) {
		const struct remap_block *b = &blocks[i];

		memcpy(payload + used, &b->head, sizeof(b->head));
		if (b->head.n_runs)
			memcpy(payload + used + sizeof(b->head), b->runs,
			       b->head.n_runs * sizeof(*b->runs));
		used += block_bytes(b);
	}
	*ret_bytes = (uint32_t)used;
	return i;
}

/* payload is our copy; of it only results are used, and each is checked. */
static int unpack_block(struct remap_block *b, const uint8_t *payload)
{
	struct ring_merge head;

	memcpy(&head, payload, sizeof(head));
	if (ring_runs_check(b->runs, (const struct ring_run *)(payload + sizeof(head)),
			    b->head.n_runs) < 0 ||
	    head.result > 0 || head.result < -4095)
		return -EPROTO;
	b->head.wait_nsec = head.wait_nsec;
	b->head.advice_failed = head.advice_failed & b->head.advice_mask;
	b->head.result = head.result;
	return 0;
}

static int64_t blocks_some(struct agent_link *a, enum ring_op op, struct remap_block *blocks,
			   uint32_t n, uint8_t *payload, uint32_t *ret_sent)
{
	uint32_t bytes, sent = pack(blocks, n, payload, &bytes);
	size_t used = 0;
	int64_t r;

	*ret_sent = sent;
	if (sent == 0)
		return -E2BIG;
	r = agent_call(a, op, sent, 0, payload, bytes);
	for (int64_t i = 0; i < r; i++) {
		int q = unpack_block(&blocks[i], payload + used);

		if (q < 0)
			return q;
		used += block_bytes(&blocks[i]);
	}
	return r;
}

int64_t agent_blocks(struct agent_link *a, enum ring_op op, struct remap_block *blocks, uint32_t n)
{
	_cleanup_free_ uint8_t *payload = malloc(RING_PAYLOAD_BYTES);
	uint32_t done = 0, sent;

	if (!payload)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		if (blocks[i].head.n_runs > REMAP_RUNS_MAX)
			return -E2BIG;
		for (uint32_t k = 0; k < blocks[i].head.n_runs; k++) {
			blocks[i].runs[k].result = -ECANCELED;
			blocks[i].runs[k].merged = 0;
		}
	}
	while (done < n) {
		int64_t r = blocks_some(a, op, blocks + done, n - done, payload, &sent);

		if (r < 0)
			return done && r != -EPROTO ? (int64_t)done : r;
		done += (uint32_t)r;
		if (r < sent)
			break;
	}
	return done;
}

uint64_t remap_blocks_pages(const struct remap_block *blocks, uint32_t n)
{
	uint64_t pages = 0;

	for (uint32_t i = 0; i < n; i++)
		for (uint32_t k = 0; k < blocks[i].head.n_runs; k++)
			pages += blocks[i].runs[k].merged;
	return pages;
}
