/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/budget.h"

#include "common/util.h"

void budget_init(struct budget *b, uint64_t rate_per_sec, uint64_t burst, uint64_t now_usec)
{
	assert(burst <= INT64_MAX / 2);
	*b = (struct budget){
		.rate_per_sec = rate_per_sec,
		.burst = (int64_t)burst,
		.tokens = (int64_t)burst,
		.last_usec = now_usec,
	};
}

static void refill(struct budget *b, uint64_t now_usec)
{
	/* A clock that seems to go backwards gives nothing. */
	uint64_t usec = now_usec > b->last_usec ? now_usec - b->last_usec : 0;
	unsigned __int128 more = (unsigned __int128)usec * b->rate_per_sec / USEC_PER_SEC;

	/* Time too short for a whole token is kept for later. */
	if (more == 0)
		return;
	b->last_usec = now_usec;
	if (more >= (uint64_t)(b->burst - b->tokens))
		b->tokens = b->burst;
	else
		b->tokens += (int64_t)more;
}

static int64_t floor_of(uint64_t rate_per_sec)
{
	return -(int64_t)(MIN(rate_per_sec, (uint64_t)INT64_MAX / 4 / BUDGET_DEBT_SEC) * BUDGET_DEBT_SEC);
}

void budget_set_rate(struct budget *b, uint64_t rate_per_sec, uint64_t burst, uint64_t now_usec)
{
	assert(burst <= INT64_MAX / 2);
	refill(b, now_usec);
	b->rate_per_sec = rate_per_sec;
	b->burst = (int64_t)burst;
	b->tokens = MAX(MIN(b->tokens, b->burst), floor_of(rate_per_sec));
}

void budget_charge(struct budget *b, uint64_t amount, uint64_t now_usec)
{
	b->used += amount;
	if (b->rate_per_sec == UINT64_MAX)
		return;
	refill(b, now_usec);
	b->tokens = MAX(b->tokens - (int64_t)MIN(amount, (uint64_t)INT64_MAX / 4), floor_of(b->rate_per_sec));
}

uint64_t budget_wait_usec(struct budget *b, uint64_t now_usec)
{
	unsigned __int128 need;

	if (b->rate_per_sec == UINT64_MAX)
		return 0;
	refill(b, now_usec);
	if (b->tokens > 0)
		return 0;
	if (b->rate_per_sec == 0)
		return UINT64_MAX;
	need = (unsigned __int128)(uint64_t)(1 - b->tokens) * USEC_PER_SEC / b->rate_per_sec + 1;
	return need > UINT64_MAX ? UINT64_MAX : (uint64_t)need;
}
