/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What agent-link.c (life cycle) and agent-call.c (batches) share; see agent-link.h. */
#pragma once

#include "daemon/agent-link.h"
#include "daemon/urgency.h"

struct agent_link {
	const struct process *process;
	int ring_fd;
	int lock_fd; /* the ring once more, locked: see link_lock() */
	int event_fd; /* ours; the agent's copy is written after each batch */
	int peer_fd;  /* our copy of the guest's RING_FD_SOCKET_PEER */
	/* Shared with the guest: each word is read once and checked, nothing is kept there. */
	struct ring_header *ring;
	uint32_t published; /* batches that we published; the ring's word is for the agent */
	enum ring_op op;    /* of the last of them, and how many items it had */
	uint32_t n;
	uint32_t tag;	    /* of the last descriptor sent */
	int32_t tid;	    /* of the agent's thread */
	bool has_event;	    /* the agent has event_fd */
	bool broken;	    /* it lied, or is gone: no more batches */
	bool late;	    /* the last batch was not done in time: no other before it is */
	uint64_t stopped_usec;
	struct urgency urgency; /* of the last batch that froze memory */
};

/* Sends one batch whose payload was written with agent_payload() and waits for its result, which is
 * checked. -ESRCH, -EPROTO: the link is broken. -ETIMEDOUT: it, or the one before, is still under way. */
int64_t agent_batch(struct agent_link *a, enum ring_op op, uint32_t n, uint64_t arg,
		    uint64_t timeout_usec);
/* The payload of the next batch (before) or of the last (after agent_batch()). */
uint8_t *agent_payload_next(struct agent_link *a);
uint8_t *agent_payload_last(struct agent_link *a);
/* Waits until the agent has done what was published. */
int agent_wait_done(struct agent_link *a, uint64_t timeout_usec);
/* Waits until the agent's thread has ended. */
int agent_wait_exit(struct agent_link *a, uint64_t timeout_usec);
