/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the running kernel offers, each feature probed by using it, here and nowhere else.
 *
 * kernel_has() probes a feature when first asked and keeps the answer: probes touch only
 * memory, descriptors and a child of ours, nothing of the host's. $MEMSHARED_KERNEL_DENY, a
 * list of names separated by commas, makes features absent: that is how tests walk the paths
 * that this kernel wouldn't take.
 *
 * Any thread; but some probes fork, so that a program calls kernel_probe_all() before it
 * starts threads.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum kernel_feature {
	KERNEL_VM_READ,		/* process_vm_readv of another process */
	KERNEL_PAGE_FRAMES,	/* frame numbers in /proc/PID/pagemap */
	KERNEL_PAGEMAP_SCAN,	/* PAGEMAP_SCAN ioctl */
	KERNEL_SCAN_SOFT_DIRTY, /* PAGEMAP_SCAN tells soft-dirty pages */
	KERNEL_PROCMAP_QUERY,	/* PROCMAP_QUERY ioctl on /proc/PID/maps */
	KERNEL_SOFT_DIRTY,	/* clear_refs and bit 55 of pagemap */
	KERNEL_UFFD,		/* userfaultfd(2), faults from user mode, MISSING */
	KERNEL_UFFD_DEVICE,	/* /dev/userfaultfd: also faults from kernel mode */
	KERNEL_UFFD_WP_ASYNC,	/* write protection that resolves by itself, with PAGEMAP_SCAN */
	KERNEL_UFFD_MOVE,	/* UFFDIO_MOVE */
	KERNEL_PIDFD_GETFD,	/* descriptors out of another process */
	KERNEL_PTRACE,		/* PTRACE_SEIZE of a process that is ours to trace */
	KERNEL_SUSPEND_SECCOMP, /* PTRACE_O_SUSPEND_SECCOMP */
	KERNEL_SELF_MADVISE,	/* process_madvise on oneself takes any advice */
	KERNEL_KSM,		/* /sys/kernel/mm/ksm, and we may write it */
	KERNEL_KSM_STAT,	/* /proc/PID/ksm_stat counts merged pages */
	KERNEL_PSI,		/* /proc/pressure/memory */
	KERNEL_FEATURE_MAX,
};

/* "pagemap-scan": the name in tables and in $MEMSHARED_KERNEL_DENY. */
const char *kernel_feature_to_string(enum kernel_feature f);
bool kernel_has(enum kernel_feature f);
/* Why kernel_has() says no: -errno of the probe, -ECANCELED when denied; 0 when it says yes. */
int kernel_feature_error(enum kernel_feature f);
/* Probes everything. -EINVAL when $MEMSHARED_KERNEL_DENY names what is no feature; the others
 * named there are denied all the same. */
int kernel_probe_all(void);

enum kernel_thp {
	KERNEL_THP_ABSENT,
	KERNEL_THP_NEVER,
	KERNEL_THP_MADVISE,
	KERNEL_THP_ALWAYS,
	KERNEL_THP_MAX,
};
const char *kernel_thp_to_string(enum kernel_thp t);

/* Settings of the host; they may change at any time. */
struct kernel_settings {
	char release[64];
	uint64_t max_map_count;
	enum kernel_thp thp;
	uint64_t swap_bytes;
	unsigned numa_nodes;
	unsigned memcg_version; /* 1 or 2; 0 without a memory controller */
	bool ksm_advisor;	/* the kernel's own tuning is on: pages_to_scan refuses writes */
};
/* root_fd is a directory that holds proc and sys: tests feed a copy. What can't be read is
 * taken for absent. */
void kernel_settings_read(int root_fd, struct kernel_settings *ret);
/* As memcg_version above. */
unsigned kernel_memcg_version(int root_fd);

/* What follows from the features. */
bool kernel_allows_agent(void);		  /* code of ours inside a guest */
bool kernel_allows_tracker_wp(void);
bool kernel_allows_tracker_softdirty(void);
bool kernel_allows_engine_ksm(void);
bool kernel_allows_engine_remap(void); /* and engine zero */
/* At least one engine works. */
bool kernel_allows_daemon(void);

/* The table of `memshared --check`: a row for each feature and setting (name, answer, what it
 * is used for, what it comes from), then trackers and engines. */
void kernel_print(FILE *f);
