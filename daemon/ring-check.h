/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the ring says is checked here before anything believes it: QEMU can write every byte of it.
 *
 * All functions are pure and take copies, never the ring itself: what was checked must not
 * change afterwards.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "daemon/agent/ring.h"

/* The result of a batch of n entries: as it is, if an honest agent could have given it; else
 * -EPROTO. A negative one is an errno. */
int64_t ring_result_check(enum ring_op op, uint32_t n, int64_t result);
/* Copies the results of `got` into `asked`, whose other members stay; returns how many are 0, or
 * -EPROTO (asked is as it was) when one is no errno. */
int64_t ring_advise_check(struct ring_advise *asked, const struct ring_advise *got, uint32_t n);
/* The same for runs: merged must not exceed the run's pages. Returns the pages merged in all. */
int64_t ring_runs_check(struct ring_run *asked, const struct ring_run *got, uint32_t n);
/* Whether a header can be adopted: magic, version, counters that fit each other. 0, -EPROTO, or
 * -EPROTONOSUPPORT for another version. */
int ring_header_check(const struct ring_header *h);
