/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/member.h"

#include "common/util.h"
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
	tracker_free(m->tracker);
	agent_leave(m->agent);
	for (size_t i = 0; i < RAM_BLOCKS_MAX; i++)
		free(m->marks[i].v);
	remap_list_free(m->found);
	range_set_done(&m->qemu_marks);
	guest_unref(m->guest);
	free(m);
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

	/* See below: the last step may come too soon, so there is one more. */
	return longest <= LEDGER_WAIT_MAX
		       ? 1
		       : (unsigned)MIN(DIV_ROUND_UP(longest - 1, LEDGER_WAIT_MAX - 1), (uint64_t)UINT32_MAX);
}

unsigned member_wait_steps(uint64_t usec, uint64_t interval_usec, unsigned step_passes)
{
	uint64_t passes = wait_passes(usec, interval_usec);

	if (passes == 0)
		return 0;
	/* The first step may be the very next pass. */
	return (unsigned)MIN(DIV_ROUND_UP(passes - 1, (uint64_t)step_passes) + 1, (uint64_t)LEDGER_WAIT_MAX);
}
