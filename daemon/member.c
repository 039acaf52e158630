/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/member.h"

#include "common/util.h"
#include "daemon/libvirt-xml.h"
#include "daemon/remap-guest.h"

struct member *member_ref(struct member *m)
{
	m->refs++;
	return m;
}

void member_unref(struct member *m)
{
	if (!m)
		return;
	assert(m->refs > 0);
	if (--m->refs > 0)
		return;
	member_drop_tracker(m);
	agent_leave(m->agent);
	for (size_t i = 0; i < RAM_BLOCKS_MAX; i++)
		free(m->marks[i].v);
	remap_list_free(m->found);
	range_set_done(&m->qemu_marks);
	guest_unref(m->guest);
	free(m);
}

uint64_t member_sharers(const struct member *m)
{
	uint64_t n = 0;

	for (size_t b = 0; b < m->n_blocks; b++)
		n += m->blocks[b]->counts[PAGE_STATE_SHARED];
	return n;
}

bool member_may_balloon(const struct member *m)
{
	return guest_shows(m->guest) & LIBVIRT_HAS_BALLOON;
}

bool member_agent_is_idle(const struct member *m)
{
	return !m->agent || agent_is_idle(m->agent);
}

void member_drop_tracker(struct member *m)
{
	if (member_agent_is_idle(m))
		tracker_free(m->tracker);
	else
		tracker_abandon(m->tracker);
	m->tracker = NULL;
}

struct log_guest member_log(const struct member *m)
{
	return (struct log_guest){ m->guest->name, m->guest->uuid, m->process->pid };
}

static uint64_t wait_passes(uint64_t usec, uint64_t interval_usec)
{
	return DIV_ROUND_UP(usec, MAX(interval_usec, (uint64_t)1));
}

unsigned member_step_passes(const struct member_policy *p, uint64_t interval_usec)
{
	uint64_t longest = wait_passes(MAX(p->min_age_usec, p->cow_backoff_usec), interval_usec);

	if (longest <= LEDGER_WAIT_MAX)
		return 1;
	/* See below: the first long step may come too soon, so there is one more. */
	return (unsigned)MIN(DIV_ROUND_UP(longest - MEMBER_WAIT_FINE - 1,
					  (uint64_t)(LEDGER_WAIT_MAX - MEMBER_WAIT_FINE - 1)),
			     (uint64_t)UINT32_MAX);
}

unsigned member_wait_steps(uint64_t usec, uint64_t interval_usec, unsigned step_passes)
{
	uint64_t passes = wait_passes(usec, interval_usec), steps;

	if (passes <= MEMBER_WAIT_FINE)
		return (unsigned)passes;
	/* The first step may be the very next pass. */
	steps = DIV_ROUND_UP(passes - MEMBER_WAIT_FINE - 1, (uint64_t)step_passes) + 1;
	return (unsigned)MIN(MEMBER_WAIT_FINE + steps, (uint64_t)LEDGER_WAIT_MAX);
}
