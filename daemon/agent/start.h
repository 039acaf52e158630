/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The first page of the agent's private block: what memshared-attach and the agent's first
 * instructions (start.S) tell each other.
 *
 * The private block is one anonymous mapping: this page (struct agent_start, then a page of
 * buffers for the borrowed calls), then the stack, which grows down from its end.
 *
 * Included by freestanding code and by assembler.
 */
#pragma once

#define AGENT_STACK_BYTES   (120 << 10)
#define AGENT_BUFFER_OFFSET 4096
#define AGENT_PRIVATE_BYTES (AGENT_STACK_BYTES + 8192)

/* Offsets in struct agent_start, for the assembler. */
#define AGENT_START_STACK_TOP 0
#define AGENT_START_RESUME_IP 8
#define AGENT_START_RAX	      16
#define AGENT_START_RDI	      24
#define AGENT_START_RSI	      32
#define AGENT_START_RDX	      40
#define AGENT_START_R10	      48
#define AGENT_START_R8	      56
#define AGENT_START_R9	      64
#define AGENT_START_R15	      72
#define AGENT_START_SIGMASK   80

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

struct agent_start {
	uint64_t stack_top; /* tells the new thread from the borrowed one */
	/* How the borrowed thread goes on if memshared-attach dies: it makes its call again. */
	uint64_t resume_ip; /* its syscall instruction */
	uint64_t rax;	    /* the call's number, or restart_syscall's */
	uint64_t rdi, rsi, rdx, r10, r8, r9, r15;
	uint64_t sigmask;
	/* For agent_main(). */
	uint64_t ring_addr;
};

_Static_assert(offsetof(struct agent_start, stack_top) == AGENT_START_STACK_TOP, "start.S");
_Static_assert(offsetof(struct agent_start, resume_ip) == AGENT_START_RESUME_IP, "start.S");
_Static_assert(offsetof(struct agent_start, rax) == AGENT_START_RAX, "start.S");
_Static_assert(offsetof(struct agent_start, rdi) == AGENT_START_RDI, "start.S");
_Static_assert(offsetof(struct agent_start, rsi) == AGENT_START_RSI, "start.S");
_Static_assert(offsetof(struct agent_start, rdx) == AGENT_START_RDX, "start.S");
_Static_assert(offsetof(struct agent_start, r10) == AGENT_START_R10, "start.S");
_Static_assert(offsetof(struct agent_start, r8) == AGENT_START_R8, "start.S");
_Static_assert(offsetof(struct agent_start, r9) == AGENT_START_R9, "start.S");
_Static_assert(offsetof(struct agent_start, r15) == AGENT_START_R15, "start.S");
_Static_assert(offsetof(struct agent_start, sigmask) == AGENT_START_SIGMASK, "start.S");
#endif
