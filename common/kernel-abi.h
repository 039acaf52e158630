/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Kernel interfaces newer than the headers that memshared is built with (Debian 12's are from
 * Linux 6.1), declared by us. Each group is left alone where the installed header has it.
 *
 * Whether the running kernel knows them is another question: common/kernel.h.
 *
 * This header is included by freestanding code: constants, structs and ioctl numbers only.
 */
#pragma once

#include <linux/fs.h>
#include <linux/ioctl.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>

/* --- PAGEMAP_SCAN (6.7), on a descriptor of /proc/PID/pagemap -------------------------------- */

#ifndef PAGEMAP_SCAN
struct page_region {
	__u64 start;
	__u64 end;
	__u64 categories;
};

struct pm_scan_arg {
	__u64 size;
	__u64 flags;
	__u64 start;
	__u64 end;
	__u64 walk_end; /* out: where the walk stopped */
	__u64 vec;
	__u64 vec_len;
	__u64 max_pages;
	__u64 category_inverted;
	__u64 category_mask;
	__u64 category_anyof_mask;
	__u64 return_mask;
};

#define PAGEMAP_SCAN	 _IOWR('f', 16, struct pm_scan_arg)

#define PAGE_IS_WPALLOWED (1 << 0)
#define PAGE_IS_WRITTEN	  (1 << 1)
#define PAGE_IS_FILE	  (1 << 2)
#define PAGE_IS_PRESENT	  (1 << 3)
#define PAGE_IS_SWAPPED	  (1 << 4)
#define PAGE_IS_PFNZERO	  (1 << 5)
#define PAGE_IS_HUGE	  (1 << 6)

#define PM_SCAN_WP_MATCHING   (1 << 0)
#define PM_SCAN_CHECK_WPASYNC (1 << 1)
#endif

#ifndef PAGE_IS_SOFT_DIRTY /* 6.8 */
#define PAGE_IS_SOFT_DIRTY (1 << 7)
#endif

/* Entries of /proc/PID/pagemap when it is read as a file (no header has these). */
#define PAGEMAP_ENTRY_PFN	 ((UINT64_C(1) << 55) - 1) /* 0 without CAP_SYS_ADMIN */
#define PAGEMAP_ENTRY_SOFT_DIRTY (UINT64_C(1) << 55)
#define PAGEMAP_ENTRY_EXCLUSIVE	 (UINT64_C(1) << 56)
#define PAGEMAP_ENTRY_UFFD_WP	 (UINT64_C(1) << 57) /* 5.13 */
#define PAGEMAP_ENTRY_FILE	 (UINT64_C(1) << 61)
#define PAGEMAP_ENTRY_SWAPPED	 (UINT64_C(1) << 62)
#define PAGEMAP_ENTRY_PRESENT	 (UINT64_C(1) << 63)

/* --- PROCMAP_QUERY (6.11), on a descriptor of /proc/PID/maps --------------------------------- */

#ifndef PROCMAP_QUERY
struct procmap_query {
	__u64 size;
	__u64 query_flags;
	__u64 query_addr;
	__u64 vma_start; /* from here on: out */
	__u64 vma_end;
	__u64 vma_flags;
	__u64 vma_page_size;
	__u64 vma_offset;
	__u64 inode;
	__u32 dev_major;
	__u32 dev_minor;
	__u32 vma_name_size; /* in: 0 for no name */
	__u32 build_id_size; /* in: 0 for no build id */
	__u64 vma_name_addr;
	__u64 build_id_addr;
};

#define PROCMAP_QUERY _IOWR('f', 17, struct procmap_query)

#define PROCMAP_QUERY_VMA_READABLE	   0x01
#define PROCMAP_QUERY_VMA_WRITABLE	   0x02
#define PROCMAP_QUERY_VMA_EXECUTABLE	   0x04
#define PROCMAP_QUERY_VMA_SHARED	   0x08
#define PROCMAP_QUERY_COVERING_OR_NEXT_VMA 0x10
#define PROCMAP_QUERY_FILE_BACKED_VMA	   0x20
#endif

/* --- userfaultfd ------------------------------------------------------------------------------ */

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#ifndef USERFAULTFD_IOC_NEW /* 6.1: on /dev/userfaultfd, argument as flags of userfaultfd(2) */
#define USERFAULTFD_IOC	    0xAA
#define USERFAULTFD_IOC_NEW _IO(USERFAULTFD_IOC, 0x00)
#endif

#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM /* 5.19 */
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED /* 6.4 */
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_POISON /* 6.6 */
#define UFFD_FEATURE_POISON (1 << 14)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC /* 6.7 */
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

#ifndef UFFDIO_MOVE /* 6.8 */
struct uffdio_move {
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 mode;
	__s64 move; /* out: bytes moved, or -errno */
};
#define _UFFDIO_MOVE			 (0x05)
#define UFFDIO_MOVE			 _IOWR(UFFDIO, _UFFDIO_MOVE, struct uffdio_move)
#define UFFDIO_MOVE_MODE_DONTWAKE	 ((__u64)1 << 0)
#define UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES ((__u64)1 << 1)
#define UFFD_FEATURE_MOVE		 (1 << 16)
#endif

/* --- system call numbers (x86-64 and every newer architecture agree) -------------------------- */

#ifndef __NR_pidfd_open
#define __NR_pidfd_open 434
#endif
#ifndef __NR_pidfd_getfd
#define __NR_pidfd_getfd 438
#endif
#ifndef __NR_process_madvise
#define __NR_process_madvise 440
#endif

/* --- madvise ---------------------------------------------------------------------------------- */

#ifndef MADV_COLLAPSE /* 6.1 */
#define MADV_COLLAPSE 25
#endif
