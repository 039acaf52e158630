/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon's side of an agent: planting it (by running memshared-attach), finding it again
 * after a restart, sending it batches, and taking it out.
 *
 * Life cycle: agent_attach() or agent_adopt() -> any number of batches -> agent_detach() (the
 * guest is as before) or agent_leave() (the agent stays for the next daemon).
 *
 * Threads: one owner at a time; calls that wait (marked "waits") are for a worker thread and
 * have a deadline; they return -ESRCH as soon as the guest dies (pidfd), -ETIMEDOUT at the
 * deadline, -EPROTO when the ring holds what no agent writes. After -ESRCH and -EPROTO the link is
 * broken: every batch fails with -EPIPE, and only agent_leave() and agent_detach() are of use.
 *
 * -ETIMEDOUT says nothing of the batch: QEMU may stand still (SIGSTOP, a debugger, a frozen cgroup) with
 * pages of the guest's in the agent's hands, which come back when it goes on. Until then every other
 * batch fails in the same way. What the agent may be in the middle of must stay as it is: its
 * userfaultfd registered, slots that it was told of in the store (agent_is_idle()).
 *
 * The process (struct process) must outlive the link. Nobody may reap the caller's children by
 * wait(-1) meanwhile: memshared-attach is one (attach-run.h).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/units.h"
#include "daemon/agent/ring.h"
#include "daemon/process.h"
#include "daemon/urgency.h"

struct agent_link;

/* A refusal says why in words, for status: "being traced by gdb (pid 123)". */
#define AGENT_REASON_MAX 160

/* Plants an agent. Waits: normally for milliseconds, for a busy guest 2 s, at most 15 s. On failure
 * *ret_reason (AGENT_REASON_MAX bytes) says why: -EBUSY try later (no thread sleeps in a
 * restartable call, traced, stopped), -EPERM, -EOPNOTSUPP the seccomp filter would kill, -EEXIST
 * it has an agent (adopt it), -ESRCH. */
int agent_attach(const struct process *p, char *ret_reason, struct agent_link **ret);
/* Takes over an agent that an earlier daemon left. -ENOENT when there is none (and remains of an
 * attempt that was killed have been removed); -EBUSY when a daemon that runs has it. Waits. */
int agent_adopt(const struct process *p, char *ret_reason, struct agent_link **ret);
/* How many batches the agent of a guest has done, ever; nothing is changed. 0; -EBUSY: one is under
 * way; -ENOENT: no agent; another error: nobody knows. */
int agent_peek(const struct process *p, uint32_t *ret_done);
/* EXIT, then memshared-attach --remove unmaps what is left. Frees the link in any case. Waits. */
int agent_detach(struct agent_link *a, char *ret_reason);
/* Closes our side; the agent waits for the next daemon. */
void agent_leave(struct agent_link *a);

/* Each waits. results are in the arrays, checked; the return is the number of entries that
 * succeeded or -errno of the batch. Longer vectors are sent in several batches. */
int agent_ping(struct agent_link *a);
int64_t agent_advise(struct agent_link *a, struct ring_advise *v, uint32_t n);
/* Makes a userfaultfd inside the guest and returns our copy of it (caller owns), or -errno.
 * kernel_faults: also faults from kernel mode (KVM, vhost), by /dev/userfaultfd. Otherwise the
 * device is used only where the guest's seccomp filter denies userfaultfd(2). One at a time:
 * -EEXIST, also after adoption of an agent that had one (agent_close_uffd() first). */
int agent_open_uffd(struct agent_link *a, bool kernel_faults);
int agent_close_uffd(struct agent_link *a);
/* Hands over a descriptor (SCM_RIGHTS) for role. */
int agent_send_fd(struct agent_link *a, enum ring_fd role, int fd);
/* Sends a batch as it is, payload_bytes of payload copied in and (after) out. What comes out is the
 * guest's word: check it (ring-check.h). */
int64_t agent_call(struct agent_link *a, enum ring_op op, uint32_t n, uint64_t arg, void *payload,
		   uint32_t payload_bytes);
/* Waits a little for a batch of agent_call() that was not done in time: as that would have returned. */
int64_t agent_call_late(struct agent_link *a, void *payload, uint32_t payload_bytes);
/* Has it done all that it was asked for? Any thread that may use the link. */
bool agent_is_idle(const struct agent_link *a);
const struct process *agent_process(const struct agent_link *a);
/* Time the borrowed thread was stopped while attaching. */
uint64_t agent_stopped_usec(const struct agent_link *a);
/* What the agent's priority was in the last batch that froze memory. */
const struct urgency *agent_urgency(const struct agent_link *a);
/* CPU time of the agent's thread so far; 0 when it can't be told. */
uint64_t agent_cpu_nsec(const struct agent_link *a);
/* Memory that its ring and its stack take now. Waits for nothing but the lock of the guest's address space. */
uint64_t agent_memory_bytes(const struct agent_link *a);
