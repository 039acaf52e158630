/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a seccomp filter would say to a call that has not been made yet.
 *
 * An interpreter of the classic BPF that seccomp accepts. Pure; a program that the kernel would
 * not have accepted (it comes from the kernel, but who knows) is -EINVAL and no crash.
 *
 * Source: linux/seccomp.h, seccomp_check_filter() and bpf_convert_filter(); checked against
 * the kernel's own verdicts by tests/platform/seccomp-filter.c.
 */
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Runs one filter; *ret_verdict is its SECCOMP_RET_*, data included. */
int filter_run(const struct sock_filter *program, size_t n, const struct seccomp_data *data,
	       uint32_t *ret_verdict);
/* Of the verdicts of several filters, the one that the kernel obeys. */
uint32_t filter_stricter(uint32_t a, uint32_t b);
/* Whether the call is made as if there were no filter. */
bool filter_passes(uint32_t verdict);
/* Whether the call merely fails: neither a signal nor another process's decision. */
bool filter_only_fails(uint32_t verdict);
/* "kill the process", "fail with an error", ... */
const char *filter_verdict_to_string(uint32_t verdict);
