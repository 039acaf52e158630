/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation. A thread that sleeps in a restartable call and is interrupted by
 * ptrace stops with rax = -ERESTART* and rip behind its syscall instruction; left alone, the
 * kernel sets rip back and makes the call again. In between we let it make calls of ours with
 * the same instruction: rip - 2, number and arguments in the registers, orig_rax = -1 so
 * that the kernel does not restart anything on the way.
 *
 * The gate in tracee_stop() is what makes this safe: a thread that is in such a stop is in the
 * kernel on behalf of one known instruction; it is in no restartable sequence (rseq), holds no
 * half-executed instruction, and its user-space state is what the compiler left at a call.
 *
 * Restoring needs a stop in which the kernel still looks at rax = -ERESTART*, which the
 * exit stop of a call is not: user space would see the -512. So the thread is interrupted once
 * more and gets its registers back in the event stop (tests/platform/ptrace-restart.c).
 *
 * If we die: the kernel lets the thread run with the registers of that moment. Until
 * tracee_borrow() these are its own. From then to the end of tracee_restore() its call returns
 * what our call returned, unless our call was made by start.S's instruction, which then
 * puts everything right.
 */
#include "daemon/attach/tracee.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/fault.h"
#include "common/util.h"

/* The user code segment of a 64-bit thread. */
#define CS_64BIT 0x33
/* "syscall", at an address of any alignment. */
#define SYSCALL_INSN	   0x050f
#define SYSCALL_INSN_BYTES 2

/* Kernel-internal results of interrupted calls. */
enum {
	ERESTARTSYS_ = 512,
	ERESTARTNOINTR_ = 513,
	ERESTARTNOHAND_ = 514,
	ERESTART_RESTARTBLOCK_ = 516,
};

/* An interruption can hit a call before it does anything (clone checks for signals first). */
#define CALL_REPEATS_MAX 8

static long request(enum __ptrace_request r, const struct tracee *t, unsigned long addr, void *data)
{
	return ptrace(r, t->tid, (void *)addr, data) < 0 ? -errno : 0;
}

enum stop_kind stop_classify(int status)
{
	int event = status >> 16, sig;

	if (!WIFSTOPPED(status))
		return STOP_GONE;
	sig = WSTOPSIG(status);
	if (event == PTRACE_EVENT_STOP)
		return sig == SIGTRAP ? STOP_EVENT : STOP_GROUP;
	if (event != 0)
		return STOP_EVENT;
	return sig == (SIGTRAP | 0x80) ? STOP_SYSCALL : STOP_SIGNAL;
}

bool tracee_call_restartable(int64_t nr)
{
	switch (nr) {
	case SYS_ppoll:
	case SYS_poll:
	case SYS_clock_nanosleep:
	case SYS_nanosleep:
	case SYS_futex:
	case SYS_read:
	case SYS_restart_syscall: /* one of the above, interrupted before */
		return true;
	default:
		return false;
	}
}

bool tracee_regs_restartable(const struct user_regs_struct *regs)
{
	int64_t rax = (int64_t)regs->rax;

	return regs->cs == CS_64BIT && tracee_call_restartable((int64_t)regs->orig_rax) &&
	       (rax == -ERESTARTSYS_ || rax == -ERESTARTNOINTR_ || rax == -ERESTARTNOHAND_ ||
		rax == -ERESTART_RESTARTBLOCK_);
}

/* Sleeps until SIGCHLD or the deadline. */
static int wait_for_child(uint64_t deadline_usec)
{
	uint64_t now = now_usec(), left;
	struct timespec ts;
	sigset_t set;

	if (now >= deadline_usec)
		return -ETIMEDOUT;
	left = deadline_usec - now;
	ts = (struct timespec){ .tv_sec = (time_t)(left / USEC_PER_SEC),
				.tv_nsec = (long)(left % USEC_PER_SEC * NSEC_PER_USEC) };
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGCHLD);
	(void)sigtimedwait(&set, NULL, &ts);
	return 0;
}

/* The thread's next stop. */
static int wait_for_stop(struct tracee *t, uint64_t deadline_usec, int *ret_status)
{
	for (;;) {
		pid_t w = waitpid(t->tid, ret_status, WNOHANG | __WALL);
		int r;

		if (w == t->tid) {
			if (stop_classify(*ret_status) == STOP_GONE)
				return -ESRCH;
			t->stopped = true;
			return 0;
		}
		if (w < 0 && errno != EINTR)
			return -ESRCH;
		r = wait_for_child(deadline_usec);
		if (r < 0)
			return r;
	}
}

/* Lets the thread go on from its stop, towards its next one. */
static int resume(struct tracee *t, enum __ptrace_request how, int sig)
{
	long r = request(how, t, 0, (void *)(long)sig);

	if (r == 0)
		t->stopped = false;
	return (int)r;
}

int tracee_seize(struct tracee *t, pid_t tid, bool suspend)
{
	long options = PTRACE_O_TRACESYSGOOD, r;

	*t = (struct tracee){ .tid = tid, .removing = t->removing };
	r = -EPERM;
	if (suspend)
		r = request(PTRACE_SEIZE, t, 0, (void *)(options | PTRACE_O_SUSPEND_SECCOMP));
	t->suspended = r == 0;
	/* Not allowed, or not built into the kernel: the filter itself decides then. */
	if (r == -EPERM || r == -EINVAL)
		r = request(PTRACE_SEIZE, t, 0, (void *)options);
	t->seized = r == 0;
	return (int)r;
}

static bool is_syscall_insn(const struct tracee *t, uint64_t addr)
{
	long word;

	errno = 0;
	word = ptrace(PTRACE_PEEKTEXT, t->tid, (void *)addr, NULL);
	return errno == 0 && (word & 0xffff) == SYSCALL_INSN;
}

int tracee_stop(struct tracee *t, uint64_t deadline_usec)
{
	int status, r;

	t->interrupted_usec = now_usec();
	r = (int)request(PTRACE_INTERRUPT, t, 0, NULL);
	while (r == 0) {
		r = wait_for_stop(t, deadline_usec, &status);
		if (r < 0)
			return r;
		switch (stop_classify(status)) {
		case STOP_GROUP:
			return -EAGAIN;
		case STOP_EVENT:
			r = (int)request(PTRACE_GETREGS, t, 0, &t->regs);
			if (r < 0)
				return r;
			if (!tracee_regs_restartable(&t->regs) ||
			    !is_syscall_insn(t, t->regs.rip - SYSCALL_INSN_BYTES))
				return -EAGAIN;
			return (int)request(PTRACE_GETSIGMASK, t, sizeof(t->sigmask), &t->sigmask);
		case STOP_SIGNAL:
			r = resume(t, PTRACE_CONT, WSTOPSIG(status));
			break;
		default:
			r = resume(t, PTRACE_CONT, 0);
		}
	}
	return r;
}

int tracee_read_filter(const struct tracee *t, unsigned index, struct sock_filter *program)
{
	long n = ptrace(PTRACE_SECCOMP_GET_FILTER, t->tid, (void *)(unsigned long)index, NULL);

	if (n < 0)
		return -errno;
	if (n > BPF_MAXINSNS)
		return -EFBIG;
	n = ptrace(PTRACE_SECCOMP_GET_FILTER, t->tid, (void *)(unsigned long)index, program);
	return n < 0 ? -errno : (int)n;
}

int tracee_borrow(struct tracee *t)
{
	uint64_t all = TRACEE_SIGMASK_ALL;
	long r;

	FAULT_POINT(t->removing ? "remove-stopped" : "attach-stopped");
	/* Point of no return. If we die here the thread goes on rightly, but blocks all signals
	 * until the daemon has put its mask back (struct ring_agent tells it). */
	r = request(PTRACE_SETSIGMASK, t, sizeof(all), &all);
	t->borrowed = r == 0;
	FAULT_POINT(t->removing ? "remove-borrowed" : "attach-borrowed");
	return (int)r;
}

/* Goes on to the next entry or exit of a system call. */
static int next_syscall_stop(struct tracee *t, uint64_t deadline_usec)
{
	int status, r = resume(t, PTRACE_SYSCALL, 0);

	while (r == 0) {
		r = wait_for_stop(t, deadline_usec, &status);
		if (r < 0)
			return r;
		switch (stop_classify(status)) {
		case STOP_SYSCALL:
			return 0;
		case STOP_SIGNAL:
			/* All signals are blocked but SIGSTOP, which is not ours to keep. */
			r = resume(t, PTRACE_SYSCALL, WSTOPSIG(status));
			break;
		default:
			/* The guest is being stopped or continued: our thread runs on until it is
			 * restored, and joins the others when it is detached. */
			r = resume(t, PTRACE_SYSCALL, 0);
		}
	}
	return r;
}

static int syscall_info(const struct tracee *t, struct __ptrace_syscall_info *ret)
{
	*ret = (struct __ptrace_syscall_info){ .op = PTRACE_SYSCALL_INFO_NONE };
	if (ptrace(PTRACE_GET_SYSCALL_INFO, t->tid, (void *)sizeof(*ret), ret) < 0)
		return -errno;
	return 0;
}

/* From any stop through one call to its exit stop. */
static int call_once(struct tracee *t, struct user_regs_struct *regs, uint64_t deadline_usec,
		     int64_t *ret_result)
{
	struct __ptrace_syscall_info info;
	int r = (int)request(PTRACE_SETREGS, t, 0, regs);

	/* If we die from here to the exit, the thread makes the call and takes its result. */
	if (r == 0)
		r = next_syscall_stop(t, deadline_usec);
	if (r < 0)
		return r;
	r = syscall_info(t, &info);
	if (r < 0)
		return r;
	if (info.op != PTRACE_SYSCALL_INFO_ENTRY || info.entry.nr != regs->rax)
		return -EPROTO;
	r = next_syscall_stop(t, deadline_usec);
	if (r == 0)
		r = syscall_info(t, &info);
	if (r < 0)
		return r;
	if (info.op != PTRACE_SYSCALL_INFO_EXIT)
		return -EPROTO;
	*ret_result = info.exit.rval;
	return 0;
}

int tracee_call(struct tracee *t, uint64_t ip, uint64_t r15, int nr, const uint64_t args[6],
		uint64_t deadline_usec, int64_t *ret_result)
{
	struct user_regs_struct regs = t->regs;
	int64_t result = 0;

	assert(t->borrowed && t->stopped);
	regs.rip = ip ? ip : t->regs.rip - SYSCALL_INSN_BYTES;
	if (ip)
		regs.r15 = r15;
	regs.rax = (unsigned long long)nr;
	regs.orig_rax = UINT64_MAX;
	regs.rdi = args[0];
	regs.rsi = args[1];
	regs.rdx = args[2];
	regs.r10 = args[3];
	regs.r8 = args[4];
	regs.r9 = args[5];
	for (unsigned i = 0; i < CALL_REPEATS_MAX; i++) {
		int r = call_once(t, &regs, deadline_usec, &result);

		if (r < 0)
			return r;
		if (result != -ERESTARTSYS_ && result != -ERESTARTNOINTR_ &&
		    result != -ERESTARTNOHAND_)
			break;
	}
	*ret_result = result;
	return 0;
}

/* If the thread stands at the entry of a call, makes that no call at all. */
static int abandon_call(struct tracee *t)
{
	struct user_regs_struct regs = t->regs;
	struct __ptrace_syscall_info info;
	int r = syscall_info(t, &info);

	if (r < 0 || info.op != PTRACE_SYSCALL_INFO_ENTRY)
		return r;
	regs.orig_rax = UINT64_MAX;
	return (int)request(PTRACE_SETREGS, t, 0, &regs);
}

/* Lets the thread run, whatever it is at, until the stop in which it can be restored. */
static int reach_event_stop(struct tracee *t, uint64_t deadline_usec)
{
	int status, r = (int)request(PTRACE_INTERRUPT, t, 0, NULL);

	if (r == 0 && t->stopped) {
		r = abandon_call(t);
		if (r == 0)
			r = resume(t, PTRACE_CONT, 0);
	}
	while (r == 0) {
		enum stop_kind kind;

		r = wait_for_stop(t, deadline_usec, &status);
		if (r < 0)
			return r;
		kind = stop_classify(status);
		/* A group stop is as good: the kernel looks at rax after it, too. */
		if (kind == STOP_EVENT || kind == STOP_GROUP)
			return 0;
		if (kind == STOP_SYSCALL)
			r = abandon_call(t);
		if (r == 0)
			r = resume(t, PTRACE_CONT, kind == STOP_SIGNAL ? WSTOPSIG(status) : 0);
	}
	return r;
}

int tracee_restore(struct tracee *t, uint64_t deadline_usec)
{
	int r;

	if (!t->borrowed)
		return 0;
	r = reach_event_stop(t, deadline_usec);
	if (r == 0)
		r = (int)request(PTRACE_SETREGS, t, 0, &t->regs);
	FAULT_POINT(t->removing ? "remove-registers" : "attach-registers");
	/* If we die here: as in tracee_borrow(). */
	if (r == 0)
		r = (int)request(PTRACE_SETSIGMASK, t, sizeof(t->sigmask), &t->sigmask);
	if (r == 0)
		t->borrowed = false;
	FAULT_POINT(t->removing ? "remove-restored" : "attach-restored");
	return r;
}

void tracee_detach(struct tracee *t)
{
	assert(!t->borrowed);
	/* A thread that is not stopped cannot be detached; the kernel does it when we exit. */
	if (t->seized && t->stopped && request(PTRACE_DETACH, t, 0, NULL) == 0)
		t->seized = false;
	if (t->interrupted_usec)
		t->stopped_usec = now_usec() - t->interrupted_usec;
}
