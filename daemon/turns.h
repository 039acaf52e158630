/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Turns: who goes next when several want more of something than there is, each by its weight.
 *
 * Each is charged for what it used, divided by its weight; whoever is ahead of another that
 * competes with it waits until that one has caught up. While there is enough for all, nobody waits,
 * and who rests saves up little. Pure: the caller gives the time.
 *
 * The wait has a bound (TURN_WAIT_MAX_USEC): one whose job hangs holds up nobody for longer.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define TURN_WEIGHT_DEFAULT 100U
#define TURN_WAIT_MAX_USEC  10000000U

struct turn {
	struct turns *in; /* competes there; NULL: not at all */
	uint32_t weight; /* from 1 */
	uint64_t used; /* what it was charged, for a weight of TURN_WEIGHT_DEFAULT */
	bool aside; /* something else keeps it from going */
	uint64_t denied_usec; /* since when it waits for others; 0: it does not */
	struct turn *next;
};

struct turns {
	struct turn *first;
	uint64_t short_until_usec; /* there is not enough for all */
	/* In the units of `used`: how far one may be ahead of another, and how far behind all others
	 * when it begins, so that a rest between two passes costs nobody its part. */
	uint64_t ahead_max, behind_max;
};

/* ahead_max: about a job's worth; behind_max: several. */
void turns_init(struct turns *all, uint64_t ahead_max, uint64_t behind_max);
/* Begins to compete. */
void turn_begin(struct turns *all, struct turn *t);
/* Does so no more; nothing happens where it did not. */
void turn_end(struct turn *t);
void turn_charge(struct turn *t, uint64_t amount);
/* Somebody had to wait, because there is not enough. */
void turns_note_shortage(struct turns *all, uint64_t now_usec);
/* 0: it may go now; else when to ask again. */
uint64_t turn_wait_usec(struct turn *t, uint64_t now_usec);
