/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs memshared-attach, and understands what it says.
 *
 * The program is found in $MEMSHARED_LIBEXECDIR, by default LIBEXECDIR ($(pkglibexecdir)); it looks
 * for memshared-agent.bin in the same place. Tests point the variable at the build tree.
 *
 * Waits: for a worker thread. Nobody else may reap this process's children with wait(-1).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "daemon/process.h"

enum attach_mode {
	ATTACH_PLANT,
	ATTACH_REMOVE,
	ATTACH_CHECK,
};

struct attach_result {
	int32_t tid;	/* of the agent */
	int32_t thread; /* that was borrowed */
	int32_t peer;	/* the daemon's end of the socket, in the guest's descriptor table */
	uint32_t denied; /* enum ring_denied */
	uint32_t attempts;
	uint64_t stopped_usec;
};

/* Bytes of a reason, NUL included. The same as AGENT_REASON_MAX. */
#define ATTACH_REASON_MAX 160

/*
 * Pure. Parses the program's line (without newline). 0; the -errno of "refused", with the reason
 * (printable bytes only); -EPROTO when the line is not understood.
 */
int attach_line_parse(const char *line, struct attach_result *ret, char *ret_reason);

/*
 * 0, or -errno with a reason. -EIO: the program died without an answer, so it is not known how far
 * it came: the ring tells. ring_fd is -1 for ATTACH_CHECK.
 */
int attach_run(const struct process *p, enum attach_mode mode, int ring_fd,
	       struct attach_result *ret, char *ret_reason);
