/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The probes behind kernel_has(): each uses a feature on memory, descriptors or a child of
 * ours, undoes what it did, and returns 0 or -errno. Only common/kernel.c calls them.
 */
#pragma once

int kernel_probe_vm_read(void);
int kernel_probe_page_frames(void);
int kernel_probe_pagemap_scan(void);
int kernel_probe_scan_soft_dirty(void);
int kernel_probe_procmap_query(void);
int kernel_probe_soft_dirty(void);
int kernel_probe_uffd(void);
int kernel_probe_uffd_device(void);
int kernel_probe_uffd_wp_async(void);
int kernel_probe_uffd_move(void);
int kernel_probe_pidfd_getfd(void);
int kernel_probe_ptrace(void);
int kernel_probe_suspend_seccomp(void);
int kernel_probe_self_madvise(void);
int kernel_probe_ksm(void);
int kernel_probe_ksm_stat(void);
int kernel_probe_psi(void);
