/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One thread of a guest, borrowed by ptrace to make system calls.
 *
 * Life cycle, and what each state means to the guest:
 *
 *   tracee_seize()    seized: the thread runs on
 *   tracee_stop()     stopped, in a restartable call: nothing has been changed
 *   tracee_borrow()   borrowed: its registers are ours from here on
 *   tracee_call()     any number of times
 *   tracee_restore()  stopped again, with its own registers and signal mask
 *   tracee_detach()   from any state but borrowed: its interrupted call goes on
 *
 * The caller has SIGCHLD blocked, not ignored; it is what waits are woken by. Nothing here
 * allocates. Deadlines are points of now_usec(); -ETIMEDOUT leaves the state as it was, -ESRCH
 * means that the thread is gone and nothing is left to do.
 */
#pragma once

#include <linux/filter.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

struct tracee {
	pid_t tid;
	bool removing; /* set by the caller: fault points are called remove-..., not attach-... */
	bool seized;
	bool suspended; /* its seccomp filter is */
	bool stopped;	/* in a ptrace stop, so that requests work */
	bool borrowed;
	struct user_regs_struct regs; /* its own, from tracee_stop() */
	uint64_t sigmask;	      /* its own, from tracee_stop(); what tracee_restore() sets */
	uint64_t interrupted_usec;    /* when it was asked to stop */
	uint64_t stopped_usec;	      /* how long it was kept, from tracee_detach() */
};

/* What a wait status says. */
enum stop_kind {
	STOP_GONE,    /* exited or killed */
	STOP_EVENT,   /* our interrupt, or an event without meaning to us */
	STOP_GROUP,   /* the guest was stopped (SIGSTOP and its kin) */
	STOP_SIGNAL,  /* a signal is about to be delivered */
	STOP_SYSCALL, /* entry or exit of a system call */
	STOP_KIND_MAX,
};
enum stop_kind stop_classify(int status);

/* Whether a thread with these registers was interrupted in a call that the kernel restarts.
 * call is the number; not yet checked: that a syscall instruction is in front of rip. */
bool tracee_regs_restartable(const struct user_regs_struct *regs);
/* Whether this is a call to look for: one that sleeps and is restarted without a trace. */
bool tracee_call_restartable(int64_t nr);

/* -EPERM; -ESRCH. suspend: also take its seccomp filter out of force, if that is allowed. */
int tracee_seize(struct tracee *t, pid_t tid, bool suspend);
/* -EAGAIN: not in a restartable call, or group-stopped: detach, try again later. */
int tracee_stop(struct tracee *t, uint64_t deadline_usec);
/*
 * Reads a seccomp filter of the stopped thread, the youngest first, at most BPF_MAXINSNS
 * instructions, and returns its length; -ENOENT behind the last; -EACCES: not allowed.
 */
int tracee_read_filter(const struct tracee *t, unsigned index, struct sock_filter *program);
/* All signals that can be blocked, as the kernel shows a mask: what a borrowed thread has. */
#define TRACEE_SIGMASK_ALL UINT64_C(0xfffffffffffbfeff)
int tracee_borrow(struct tracee *t);
/*
 * Makes one call. ip is the address of a syscall instruction, 0 for the one that the thread
 * sleeps in; r15 is passed along for start.S. 0 with the call's result (which may be -errno)
 * in *ret_result, or -errno of ptrace.
 */
int tracee_call(struct tracee *t, uint64_t ip, uint64_t r15, int nr, const uint64_t args[6],
		uint64_t deadline_usec, int64_t *ret_result);
int tracee_restore(struct tracee *t, uint64_t deadline_usec);
void tracee_detach(struct tracee *t);
