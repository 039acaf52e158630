/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The RAM blocks of a guest: which ranges of the QEMU process hold the guest's memory.
 *
 * QEMU tells nobody the addresses, so they are recognised in /proc/PID/smaps. A candidate is a
 * range of neighbouring mappings that are private, writable, not executable, and DONTFORK ("dc").
 * DONTFORK is the one mark that QEMU gives to all guest memory and to nothing else whatever its
 * options (mem-merge=off takes "mg" away, dump-guest-core=off adds "dd", "hg" and "nh" follow
 * the huge page settings and what engines did; heap, stacks and the TCG buffer have no "dc").
 * QEMU ends each block with an inaccessible page, so two blocks are never neighbours.
 *
 * Video memory (usually 16 MiB), firmware and ROMs (some KiB) are marked alike. Therefore:
 *   - a candidate whose size is that of a backend in query-memdev is RAM (confirmed), and when
 *     each backend has been found so, nothing else is (where the backends are all the memory that
 *     the guest has: QEMU before 5.0 does not list its default memory);
 *   - one of MEMORY_RAM_MIN_BYTES and more is taken for RAM;
 *   - if that leaves none, the largest candidate of 1 MiB and more is.
 * What is taken wrongly this way, without a monitor, is large video memory (qxl has twice 64 MiB):
 * anonymous memory of the same guest under the same rules, so that to merge it is correct.
 *
 * A block often consists of many mappings: advice, userfaultfd and the remap engine split it,
 * and "mg" may be on some parts only. Private mappings of the memfd "memshared-store" are parts
 * of RAM (pages that the remap engine shares); those of any other memfd "memshared-*" never are.
 * Anonymous memory that the agent maps for itself must not be DONTFORK, lest it become a part.
 *
 * Shared, hugetlb and file-backed blocks are listed too, with what would change it in refusal, and so
 * is what turned out to be no RAM.
 *
 * smaps walks the page tables: 160-190 ms were measured for a 1 GiB block of 60,000 mappings.
 * memory_refresh_blocks() looks at maps first (24 ms for the same, 0.4 us a mapping) and reads
 * smaps only when the layout changed.
 *
 * Any thread; a guest that changes or exits meanwhile is normal.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/units.h"
#include "daemon/maps.h"
#include "daemon/process.h"
#include "daemon/qmp.h"

enum block_backing {
	BLOCK_ANONYMOUS, /* private anonymous memory: what the engines serve */
	BLOCK_SHARED,	 /* memfd or shm mapped MAP_SHARED (vhost-user, virtiofs) */
	BLOCK_FILE,	 /* a file mapped privately */
	BLOCK_HUGETLB,
	BLOCK_BACKING_MAX,
};
const char *block_backing_to_string(enum block_backing b);

#define RAM_BLOCKS_MAX 64U /* per guest; more are left out, with the number in status */
/* More than the usual video memory, less than any guest that is worth the trouble. */
#define MEMORY_RAM_MIN_BYTES MIB(32)

struct ram_block {
	hva start;
	uint64_t n_pages;
	enum block_backing backing;
	uint32_t flags;	     /* of the block's first anonymous mapping when it was found */
	uint32_t flags_any;  /* of all its mappings together */
	uint32_t n_mappings; /* of which it consisted */
	uint64_t rss_bytes, anon_huge_bytes;
	char name[64];	     /* memdev id when QMP told and the size is unambiguous, else "" */
	char refusal[128];   /* why no engine serves it; "" when one can */
	bool confirmed;	     /* query-memdev has a backend of this size */
};

/* The mappings in an smaps file. Stops at max mappings with -E2BIG; -EINVAL on bad text. The
 * caller frees *ret. For tests and comparisons; live files are streamed (maps.h). */
int memory_parse_smaps(const char *buf, size_t len, size_t max, struct mapping **ret,
		       size_t *ret_n);
/* Chooses the RAM blocks among mappings (sorted by address, as smaps is). Pure. devs may be
 * NULL; else they are all the memory that the guest has. Returns the number of blocks written, at most RAM_BLOCKS_MAX. */
size_t memory_choose_blocks(const struct mapping *m, size_t n, const struct qmp_memdev *devs,
			    size_t n_devs, struct ram_block *ret);
/* Reads smaps of a live guest and does both. 0 or -errno (-ESRCH it has exited, -ESTALE it runs
 * another program now); the blocks may be none. */
int memory_find_blocks(const struct process *p, struct ram_block ret[RAM_BLOCKS_MAX],
		       size_t *ret_n);
/* Marks blocks whose size a backend of query-memdev has, and names them. Where the backends are all the
 * memory that the guest has, and each has its block, other blocks are refused. False when a backend
 * has no block. The backends are to be asked for after the blocks, lest one that comes between be
 * taken for no RAM. */
bool memory_confirm_blocks(struct ram_block *b, size_t n, const struct qmp_memdev *devs, size_t n_devs,
			   bool all);

/* --- kept up to date ---------------------------------------------------------------------- */

/* What a guest's owner keeps. Start from all zeros. */
struct guest_memory {
	struct ram_block blocks[RAM_BLOCKS_MAX];
	size_t n_blocks;
	size_t n_left_out; /* blocks beyond RAM_BLOCKS_MAX */
	uint64_t layout;   /* digest of the large ranges; 0 forces a new look */
};

/*
 * Brings mem up to date: 1 when blocks came, went or changed their backing, 0 when not, -errno as
 * memory_find_blocks() (mem as it was). Notices blocks of MEMORY_RAM_MIN_BYTES and more that come and
 * all that go; set layout to 0 where a smaller one is expected, or when devs changed. Without devs,
 * what is known of blocks that are still there is kept.
 */
int memory_refresh_blocks(const struct process *p, const struct qmp_memdev *devs, size_t n_devs,
			  struct guest_memory *mem);
uint64_t memory_total_pages(const struct guest_memory *mem);
