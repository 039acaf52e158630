/* SPDX-License-Identifier: GPL-2.0-or-later */
/* RECLAIM of one block, for transaction.c; see reclaim.c. */
#pragma once

#include "daemon/agent/range.h"

/* Carries out all runs of the block, results in them; adds the freezes to the clock. */
void reclaim_block(const struct range_env *e, struct freeze_clock *clock, struct ring_merge *m,
		   struct ring_run *runs);
