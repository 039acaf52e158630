/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/attach/needs.h"

#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/mempolicy.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "common/kernel-abi.h"
#include "common/util.h"
#include "daemon/agent/ring.h"
#include "daemon/attach/plant.h"

/* An argument that can be any address (or number): asked with several samples. */
#define ANY UINT64_C(0x616e79616e79616e)

#define NO_FD	 UINT64_C(0xffffffff)
#define ANON	 (MAP_PRIVATE | MAP_ANONYMOUS)
#define READ_W	 (PROT_READ | PROT_WRITE)
#define READ_X	 (PROT_READ | PROT_EXEC)
#define MAP_SLOTS   (MAP_PRIVATE | MAP_FIXED)
#define MAP_SLOTS_NR (MAP_SLOTS | MAP_NORESERVE)
#define MAP_GAP	    (MAP_FIXED_NOREPLACE | MAP_NORESERVE)
#define REMAP_ASIDE (MREMAP_MAYMOVE | MREMAP_DONTUNMAP)
#define REMAP_OVER  (MREMAP_MAYMOVE | MREMAP_FIXED)

static const struct need needs[] = {
	/* plant.c */
	{ "mmap", NEED_INJECT, 0, SYS_mmap, { 0, ANY, READ_W, ANON, NO_FD, 0 } },
	{ "socketpair", NEED_INJECT, 0, SYS_socketpair, { AF_UNIX, PLANT_SOCKET_TYPE, 0, ANY } },
	{ "recvmsg", NEED_INJECT, 0, SYS_recvmsg, { ANY, ANY, PLANT_RECVMSG_FLAGS } },
	{ "mmap of code", NEED_INJECT, 0, SYS_mmap, { 0, ANY, READ_X, MAP_PRIVATE, ANY, 0 } },
	{ "mmap of the ring", NEED_INJECT, 0, SYS_mmap, { 0, ANY, READ_W, MAP_SHARED, ANY, 0 } },
	{ "clone", NEED_INJECT, 0, SYS_clone, { PLANT_CLONE_FLAGS, ANY, ANY, ANY, ANY } },
	/* start.S, when memshared-attach was killed */
	{ "rt_sigprocmask", NEED_AGENT, 0, SYS_rt_sigprocmask, { SIG_SETMASK, ANY, 0, 8 } },
	{ "clone", NEED_AGENT, 0, SYS_clone, { PLANT_CLONE_FLAGS, ANY, ANY, ANY, ANY } },
	/* agent.c */
	{ "futex", NEED_AGENT, 0, SYS_futex, { ANY, FUTEX_WAIT, ANY, 0, 0, 0 } },
	{ "futex", NEED_AGENT, 0, SYS_futex, { ANY, FUTEX_WAKE, INT32_MAX, 0, 0, 0 } },
	{ "write", NEED_AGENT, 0, SYS_write, { ANY, ANY, 8 } },
	{ "recvmsg", NEED_AGENT, 0, SYS_recvmsg, { ANY, ANY, PLANT_RECVMSG_FLAGS } },
	{ "close", NEED_AGENT, 0, SYS_close, { ANY } },
	{ "exit", NEED_AGENT, 0, SYS_exit, { 0 } },
	{ "munmap", NEED_AGENT, 0, SYS_munmap, { ANY, ANY } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_NORMAL } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_WILLNEED } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_MERGEABLE } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_UNMERGEABLE } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_HUGEPAGE } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_NOHUGEPAGE } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_COLD } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_PAGEOUT } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_COLLAPSE } },
	{ "ioctl", NEED_AGENT, 0, SYS_ioctl, { ANY, USERFAULTFD_IOC_NEW, ANY } },
	{ "userfaultfd", NEED_OPTIONAL, RING_DENIED_USERFAULTFD, SYS_userfaultfd, { ANY } },
	{ "prctl", NEED_OPTIONAL, RING_DENIED_SET_NAME, SYS_prctl, { PR_SET_NAME, ANY } },
	/* transaction.c, reclaim.c */
	{ "mmap", NEED_AGENT, 0, SYS_mmap, { 0, ANY, READ_W, ANON, NO_FD, 0 } },
	{ "mmap", NEED_AGENT, 0, SYS_mmap, { 0, ANY, READ_W, ANON | MAP_NORESERVE, NO_FD, 0 } },
	{ "mmap", NEED_AGENT, 0, SYS_mmap, { 0, ANY, PROT_NONE, ANON | MAP_NORESERVE, NO_FD, 0 } },
	{ "mmap", NEED_AGENT, 0, SYS_mmap, { 0, ANY, PROT_READ, MAP_SHARED, ANY, 0 } },
	{ "mmap", NEED_AGENT, 0, SYS_mmap, { ANY, ANY, READ_W, ANON | MAP_GAP, NO_FD, 0 } },
	{ "mmap", NEED_AGENT, 0, SYS_mmap, { ANY, ANY, READ_W, MAP_SLOTS, ANY, ANY } },
	{ "mmap", NEED_AGENT, 0, SYS_mmap, { ANY, ANY, READ_W, MAP_SLOTS_NR, ANY, ANY } },
	{ "mremap", NEED_AGENT, 0, SYS_mremap, { ANY, ANY, ANY, REMAP_ASIDE, 0 } },
	{ "mremap", NEED_AGENT, 0, SYS_mremap, { ANY, ANY, ANY, REMAP_OVER, ANY } },
	{ "mbind", NEED_OPTIONAL, RING_DENIED_MBIND, SYS_mbind, { ANY, ANY, MPOL_BIND, ANY, 57, 0 } },
	{ "mincore", NEED_AGENT, 0, SYS_mincore, { ANY, ANY, ANY } },
	{ "getrusage", NEED_AGENT, 0, SYS_getrusage, { RUSAGE_THREAD, ANY } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_DONTNEED } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_DONTFORK } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_DOFORK } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_DONTDUMP } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_WIPEONFORK } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_POPULATE_READ } },
	{ "madvise", NEED_AGENT, 0, SYS_madvise, { ANY, ANY, MADV_POPULATE_WRITE } },
	{ "ioctl", NEED_AGENT, 0, SYS_ioctl, { ANY, UFFDIO_API, ANY } },
	{ "ioctl", NEED_AGENT, 0, SYS_ioctl, { ANY, UFFDIO_REGISTER, ANY } },
	{ "ioctl", NEED_AGENT, 0, SYS_ioctl, { ANY, UFFDIO_UNREGISTER, ANY } },
	{ "ioctl", NEED_AGENT, 0, SYS_ioctl, { ANY, UFFDIO_WAKE, ANY } },
	{ "ioctl", NEED_AGENT, 0, SYS_ioctl, { ANY, UFFDIO_COPY, ANY } },
	{ "ioctl", NEED_AGENT, 0, SYS_ioctl, { ANY, UFFDIO_ZEROPAGE, ANY } },
	{ "ioctl", NEED_AGENT, 0, SYS_ioctl, { ANY, UFFDIO_MOVE, ANY } },
	{ "ioctl", NEED_AGENT, 0, SYS_ioctl, { ANY, UFFDIO_WRITEPROTECT, ANY } },
	{ "clock_gettime", NEED_AGENT, 0, SYS_clock_gettime, { CLOCK_MONOTONIC, ANY } },
	{ "clock_gettime", NEED_AGENT, 0, SYS_clock_gettime, { CLOCK_THREAD_CPUTIME_ID, ANY } },
	{ "nanosleep", NEED_AGENT, 0, SYS_nanosleep, { ANY, 0 } },
};
_Static_assert(ARRAY_SIZE(needs) <= NEEDS_MAX, "verdicts hold all needs");

const struct need *needs_list(size_t *ret_n)
{
	*ret_n = ARRAY_SIZE(needs);
	return needs;
}

/* What stands for ANY, and for the address of the call's instruction: what mmap gives out, near
 * and far, and a small number. A filter that compares addresses is not of this world. */
static const uint64_t samples[] = { 0x00007f0000001000, 0x00007ffff7ffe000, 0x0000000000000005 };

void needs_init(struct needs *n)
{
	*n = (struct needs){ 0 };
	for (size_t i = 0; i < ARRAY_SIZE(needs); i++)
		n->verdicts[i] = SECCOMP_RET_ALLOW;
}

void needs_ask(struct needs *n, const struct sock_filter *program, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(needs) * ARRAY_SIZE(samples); i++) {
		const struct need *need = &needs[i / ARRAY_SIZE(samples)];
		uint64_t sample = samples[i % ARRAY_SIZE(samples)];
		struct seccomp_data data = {
			.nr = need->nr,
			.arch = AUDIT_ARCH_X86_64,
			.instruction_pointer = sample,
		};
		uint32_t verdict, *all = &n->verdicts[i / ARRAY_SIZE(samples)];

		for (size_t k = 0; k < 6; k++)
			data.args[k] = need->args[k] == ANY ? sample : need->args[k];
		if (filter_run(program, len, &data, &verdict) < 0) {
			n->invalid = true;
			return;
		}
		*all = filter_stricter(*all, verdict);
	}
}

int needs_judge(const struct needs *n, bool suspended, uint32_t *ret_denied, char *reason,
		size_t reason_size)
{
	uint32_t denied = 0;

	if (n->invalid) {
		(void)snprintf(reason, reason_size, "its seccomp filter cannot be understood");
		return -EOPNOTSUPP;
	}
	for (size_t i = 0; i < ARRAY_SIZE(needs); i++) {
		if (filter_passes(n->verdicts[i]))
			continue;
		/* Suspension ends with memshared-attach's life, possibly just before the call: what
		 * kills stays forbidden. A call that fails then is but a wrong result. */
		if (needs[i].kind == NEED_INJECT && suspended && filter_only_fails(n->verdicts[i]))
			continue;
		if (needs[i].kind == NEED_OPTIONAL) {
			denied |= needs[i].denied;
			continue;
		}
		(void)snprintf(reason, reason_size, "its seccomp filter would %s on %s",
			       filter_verdict_to_string(n->verdicts[i]), needs[i].name);
		return -EOPNOTSUPP;
	}
	*ret_denied = denied;
	return 0;
}
