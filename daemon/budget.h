/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A token bucket for CPU time (or anything else that is used up at a rate). Pure: the caller
 * gives the time.
 *
 * Work is charged after it was done, so the bucket may go below zero by one job; the next job
 * waits until it is above zero again. Over any time T the work is at most rate * T plus one
 * burst plus one job. A job that took longer than BUDGET_DEBT_SEC's worth is forgiven the rest, so that
 * no single charge, wrong ones included, stops all work for longer.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define BUDGET_DEBT_SEC 60U

struct budget {
	uint64_t rate_per_sec; /* tokens for each second; UINT64_MAX: no limit */
	int64_t tokens, burst;
	uint64_t last_usec;
	uint64_t used; /* all that was ever charged */
};

/* Starts full; a burst is what may be used at once after a rest. */
void budget_init(struct budget *b, uint64_t rate_per_sec, uint64_t burst, uint64_t now_usec);
/* Changes the rate; what is in the bucket stays, up to the new burst. */
void budget_set_rate(struct budget *b, uint64_t rate_per_sec, uint64_t burst, uint64_t now_usec);
void budget_charge(struct budget *b, uint64_t amount, uint64_t now_usec);
/* 0 when work may be done now, else the time until then (at least 1). */
uint64_t budget_wait_usec(struct budget *b, uint64_t now_usec);
