/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A process that cannot be mistaken for another: pid, start time and pidfd.
 *
 * A pid alone may be reused between two looks. process_open() takes the pidfd first, then
 * reads the start time, then asks the pidfd whether the process still lives: what was read in
 * between belongs to the pidfd. Everything later that goes by pid is followed by
 * process_alive() before its result is believed (process_read_pages() does so itself).
 *
 * An exec keeps all three; process_open() therefore also notes the executable (device and
 * inode), and process_check() says -ESTALE when it changed.
 *
 * Embedded in its owner; the descriptors may be used from any thread, the struct is immutable
 * after process_open().
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/units.h"

struct process {
	pid_t pid;
	int pidfd;
	int proc_fd;	  /* /proc/PID as a directory: openat() on it never meets another process */
	int pagemap_fd;	  /* /proc/PID/pagemap, O_RDONLY; also takes PAGEMAP_SCAN */
	uint64_t start_ticks; /* field 22 of /proc/PID/stat */
	uid_t uid;	  /* effective uid at open, as seen from our user namespace */
	dev_t exe_dev;
	ino_t exe_ino;
	char exe[64];	  /* base name of the executable, printable bytes only */
};

/* What is open is -1 before process_open() and after process_close(). */
#define PROCESS_INIT                                            \
	{                                                       \
		.pidfd = -1, .proc_fd = -1, .pagemap_fd = -1    \
	}

/* 0; -ESRCH no such process, -EPERM/-EACCES not allowed, -ENOEXEC a kernel thread or zombie.
 * On failure nothing stays open and *p is PROCESS_INIT. */
int process_open(struct process *p, pid_t pid);
/* Fine on PROCESS_INIT, and twice. */
void process_close(struct process *p);
/* False once the process has exited (zombies included). */
bool process_alive(const struct process *p);
/* 0, -ESRCH when it is gone, -ESTALE when it runs another executable now. */
int process_check(const struct process *p);
/* The size of its address space and, if wanted, what of it is resident, in pages. -ESRCH. */
int process_vm_pages(const struct process *p, uint64_t *ret, uint64_t *ret_resident);
/*
 * Copies n_pages whole pages from the process. Returns the number of pages read, which is
 * smaller when a page in between cannot be read, or -errno when not even the first could:
 * -EFAULT nothing readable is mapped there, -ESRCH the process is gone.
 * Reads memory as it is at that moment; a guest may be writing it (torn pages are normal).
 * Absent pages are brought in: ask pagemap.h first.
 */
int64_t process_read_pages(const struct process *p, hva start, uint64_t n_pages, void *buf);

/* --- what /proc/PID says, also for those who only look (discover-proc.h) ------------------ */

struct process_stat {
	pid_t pid, ppid;
	char state; /* R, S, D, T, t, Z, X, ... */
	uint64_t start_ticks;
};

/*
 * Pure. The name in /proc/PID/stat is chosen by the process and may hold blanks, newlines and
 * parentheses; every field after it is a number or one letter, so the last ')' ends the name.
 * -EINVAL when the text is not of this form.
 */
int process_parse_stat(const char *buf, size_t len, struct process_stat *ret);
/* Pure. The effective uid in the text of /proc/PID/status. */
int process_parse_uid(const char *buf, size_t len, uid_t *ret);
/* Reads proc_dir_fd's "stat", where proc_dir_fd is /proc/PID. -ESRCH when it is gone. */
int process_read_stat(int proc_dir_fd, struct process_stat *ret);
/* Copies a string of unknown origin: what is not printable ASCII becomes '?', cut to fit. */
void process_copy_printable(char *to, size_t size, const char *from, size_t len);
/* The base name of the executable without the kernel's " (deleted)", by the link /proc/PID/exe:
 * "exe" in the process's directory, or "PID/exe" in /proc. -ENOEXEC when there is none (kernel
 * thread, zombie; also no such process). */
int process_read_exe(int dir_fd, const char *link, char *ret, size_t size);
