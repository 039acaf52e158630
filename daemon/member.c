/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/member.h"

#include "common/util.h"

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
	range_set_done(&m->qemu_marks);
	guest_unref(m->guest);
	free(m);
}

struct log_guest member_log(const struct member *m)
{
	return (struct log_guest){ m->guest->name, m->guest->uuid, m->process->pid };
}

unsigned member_wait_passes(uint64_t usec, uint64_t interval_usec)
{
	if (usec == 0)
		return 0;
	return (unsigned)MIN(DIV_ROUND_UP(usec, MAX(interval_usec, (uint64_t)1)),
			     (uint64_t)LEDGER_WAIT_MAX);
}
