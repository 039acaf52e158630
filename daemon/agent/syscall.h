/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * System calls for freestanding code on x86-64: the agent has no libc, no errno and no TLS.
 *
 * Each wrapper is the bare call and returns what the kernel returns: a value, or -errno. Only
 * calls whose passage through the guest's seccomp filter memshared-attach has checked may be
 * made: a wrapper that is added here needs a line in daemon/attach/needs.c, or the guest's
 * filter may kill the guest.
 *
 * Only the kernel's own headers are included; structs that Debian 12's headers lack are
 * declared by their users.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <asm/unistd.h>

/* As the kernel reads it; <sys/socket.h> is not for freestanding code. */
struct sys_iovec {
	void *base;
	size_t len;
};

struct sys_msghdr {
	void *name;
	int32_t name_len;
	struct sys_iovec *iov;
	size_t iov_len;
	void *control;
	size_t control_len;
	uint32_t flags;
};

struct sys_cmsghdr {
	size_t len;
	int32_t level;
	int32_t type;
};

struct sys_timespec {
	int64_t sec;
	int64_t nsec;
};

#define SYS_ERROR_MAX 4095L

/* Whether a result that is an address is an error. */
static inline int sys_is_error(long r)
{
	return (unsigned long)r >= -(unsigned long)SYS_ERROR_MAX;
}

static inline long sys_call(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

static inline long sys_mmap(uint64_t addr, uint64_t bytes, int prot, int flags, int fd,
			    uint64_t offset)
{
	return sys_call(__NR_mmap, (long)addr, (long)bytes, prot, flags, fd, (long)offset);
}

static inline long sys_munmap(uint64_t addr, uint64_t bytes)
{
	return sys_call(__NR_munmap, (long)addr, (long)bytes, 0, 0, 0, 0);
}

static inline long sys_mremap(uint64_t addr, uint64_t bytes, uint64_t new_bytes, int flags,
			      uint64_t new_addr)
{
	return sys_call(__NR_mremap, (long)addr, (long)bytes, (long)new_bytes, flags,
			(long)new_addr, 0);
}

static inline long sys_madvise(uint64_t addr, uint64_t bytes, int advice)
{
	return sys_call(__NR_madvise, (long)addr, (long)bytes, advice, 0, 0, 0);
}

/* nodes: a mask of the first 56. */
static inline long sys_mbind(uint64_t addr, uint64_t bytes, uint32_t mode, const uint64_t *nodes)
{
	/* The kernel leaves out the last bit that it is told of. */
	return sys_call(__NR_mbind, (long)addr, (long)bytes, mode, (long)nodes, nodes ? 57 : 0, 0);
}

/* vec has a byte for each page. */
static inline long sys_mincore(uint64_t addr, uint64_t bytes, uint8_t *vec)
{
	return sys_call(__NR_mincore, (long)addr, (long)bytes, (long)vec, 0, 0, 0);
}

/* usage points at the kernel's struct rusage (<linux/resource.h>). */
static inline long sys_getrusage(int who, void *usage)
{
	return sys_call(__NR_getrusage, who, (long)usage, 0, 0, 0, 0);
}

static inline long sys_ioctl(int fd, unsigned long request, void *arg)
{
	return sys_call(__NR_ioctl, fd, (long)request, (long)arg, 0, 0, 0);
}

static inline long sys_close(int fd)
{
	return sys_call(__NR_close, fd, 0, 0, 0, 0, 0);
}

static inline long sys_write(int fd, const void *buf, size_t n)
{
	return sys_call(__NR_write, fd, (long)buf, (long)n, 0, 0, 0);
}

static inline long sys_recvmsg(int fd, struct sys_msghdr *m, int flags)
{
	return sys_call(__NR_recvmsg, fd, (long)m, flags, 0, 0, 0);
}

static inline long sys_userfaultfd(int flags)
{
	return sys_call(__NR_userfaultfd, flags, 0, 0, 0, 0, 0);
}

/* op is FUTEX_WAIT or FUTEX_WAKE, without FUTEX_PRIVATE_FLAG: the ring is shared. */
static inline long sys_futex(uint32_t *word, int op, uint32_t value)
{
	return sys_call(__NR_futex, (long)word, op, value, 0, 0, 0);
}

static inline long sys_prctl(int option, unsigned long arg)
{
	return sys_call(__NR_prctl, option, (long)arg, 0, 0, 0, 0);
}

static inline long sys_nanosleep(const struct sys_timespec *ts)
{
	return sys_call(__NR_nanosleep, (long)ts, 0, 0, 0, 0, 0);
}

static inline long sys_clock_gettime(int clock, struct sys_timespec *ts)
{
	return sys_call(__NR_clock_gettime, clock, (long)ts, 0, 0, 0, 0);
}

/* The time stamp counter: 20 ns, where clock_gettime as a system call takes ten times that. */
static inline uint64_t cycles_now(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

/*
 * Between two attempts at something that must not be given up: a tenth of a millisecond for
 * others. It sleeps, because this thread may be one that no ordinary thread can take the processor from
 * (daemon/urgency.h), and what it waits for (memory, a mapping) is for others to give.
 */
static inline void pause_a_little(void)
{
	static const struct sys_timespec little = {.sec = 0, .nsec = 100000};

	(void)sys_nanosleep(&little);
}

/* Writes to the byte without changing it, atomically against every other writer. */
static inline void byte_touch(uint8_t *byte)
{
	__asm__ volatile("lock orb $0, %0" : "+m"(*byte) : : "memory");
}

/* Ends the calling thread only. */
static inline _Noreturn void sys_exit(int status)
{
	for (;;)
		(void)sys_call(__NR_exit, status, 0, 0, 0, 0, 0);
}
