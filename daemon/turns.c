/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/turns.h"

#include "common/util.h"

/* A shortage counts for so long after somebody last had to wait. */
#define SHORT_USEC USEC_PER_SEC
/* How often one that waits for others looks: about as long as a job takes. */
#define LOOK_USEC (2 * USEC_PER_MSEC)

void turns_init(struct turns *all, uint64_t ahead_max, uint64_t behind_max)
{
	*all = (struct turns){ .ahead_max = ahead_max, .behind_max = behind_max };
}

/* What the one of the others that is furthest behind has used; UINT64_MAX: there is no other. */
static uint64_t furthest_behind(const struct turns *all, const struct turn *t)
{
	uint64_t least = UINT64_MAX;

	for (const struct turn *o = all->first; o; o = o->next)
		if (o != t && !o->aside)
			least = MIN(least, o->used);
	return least;
}

void turn_begin(struct turns *all, struct turn *t)
{
	uint64_t level = furthest_behind(all, t);

	assert(!t->in);
	if (level != UINT64_MAX && level > all->behind_max)
		t->used = MAX(t->used, level - all->behind_max);
	t->aside = false;
	t->denied_usec = 0;
	t->in = all;
	t->next = all->first;
	all->first = t;
}

void turn_end(struct turn *t)
{
	struct turn **at;

	if (!t->in)
		return;
	for (at = &t->in->first; *at != t; at = &(*at)->next)
		;
	*at = t->next;
	t->in = NULL;
}

void turn_charge(struct turn *t, uint64_t amount)
{
	assert(t->weight > 0);
	t->used += amount * TURN_WEIGHT_DEFAULT / t->weight;
}

void turns_note_shortage(struct turns *all, uint64_t now_usec)
{
	all->short_until_usec = now_usec + SHORT_USEC;
}

uint64_t turn_wait_usec(struct turn *t, uint64_t now_usec)
{
	uint64_t least = t->in ? furthest_behind(t->in, t) : UINT64_MAX;

	if (least == UINT64_MAX || now_usec >= t->in->short_until_usec ||
	    t->used <= least + t->in->ahead_max) {
		t->denied_usec = 0;
		return 0;
	}
	if (t->denied_usec == 0)
		t->denied_usec = MAX(now_usec, (uint64_t)1);
	if (now_usec - t->denied_usec < TURN_WAIT_MAX_USEC)
		return LOOK_USEC;
	t->denied_usec = 0;
	return 0;
}
