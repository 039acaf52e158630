/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The first instructions of the agent's image, at offset 0.
 *
 * memshared-attach sends the borrowed thread here for the calls that it makes once this image is
 * mapped; above all for clone, because the new thread starts behind the instruction that
 * made it, which therefore has to be ours. r15 points to struct agent_start.
 *
 * Behind the instruction stands one of:
 *  - the new thread: its stack pointer is the agent's stack;
 *  - the borrowed thread, if memshared-attach was killed (otherwise it is stopped at the
 *    call's exit and given its own registers back, and never comes here). It restores its
 *    signal mask and registers and makes its own interrupted call again, as the kernel would
 *    have. rcx and r11 are free: every system call overwrites them.
 */
#include <asm/unistd.h>

#include "daemon/agent/start.h"

	.section .text.start, "ax", @progbits
	.globl	agent_start
	.type	agent_start, @function
agent_start:
	syscall
	cmp	AGENT_START_STACK_TOP(%r15), %rsp
	je	1f

	mov	$__NR_rt_sigprocmask, %eax
	mov	$2, %edi			/* SIG_SETMASK */
	lea	AGENT_START_SIGMASK(%r15), %rsi
	xor	%edx, %edx
	mov	$8, %r10d			/* bytes in a signal set */
	syscall
	mov	AGENT_START_RDI(%r15), %rdi
	mov	AGENT_START_RSI(%r15), %rsi
	mov	AGENT_START_RDX(%r15), %rdx
	mov	AGENT_START_R10(%r15), %r10
	mov	AGENT_START_R8(%r15), %r8
	mov	AGENT_START_R9(%r15), %r9
	mov	AGENT_START_RAX(%r15), %rax
	mov	AGENT_START_RESUME_IP(%r15), %rcx
	mov	AGENT_START_R15(%r15), %r15
	jmp	*%rcx

1:	xor	%ebp, %ebp
	mov	%r15, %rdi
	call	agent_main
	ud2
	.size	agent_start, . - agent_start

	.section .note.GNU-stack, "", @progbits
