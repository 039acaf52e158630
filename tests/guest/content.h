/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a page of the verifying guest must hold.
 *
 * The memory is cut into groups of "run" pages; a group has one class, and the mixture says
 * how many of a hundred groups have which. A page's content is a function of its class and
 * of a few numbers kept apart from it (struct page_state), so that it can be worked out anew
 * and compared at any time: no copy is kept that could go wrong in the same way.
 *
 *   zero    zeros
 *   dup     depends on the page's number: equal in every guest with the same mixture
 *   within  a quarter as many contents as pages, all of them this guest's own
 *   unique  depends on the guest's seed: equal to nothing
 *   near    the content of a dup page but for one byte, which depends on the seed
 *   slow    as dup; now and then replaced as a whole by its next generation
 *   fast    as dup; one word after the other is overwritten all the time
 *   disk    a block of the guest's disk, brought in by direct I/O, not by the processor
 *
 * A page that was scrambled depends on the seed whatever its class. One thread; no errors:
 * whoever calls has checked the ranges.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONTENT_PAGE_SIZE 4096
#define CONTENT_WORDS	  (CONTENT_PAGE_SIZE / 8)

enum content_class {
	CONTENT_ZERO,
	CONTENT_DUP,
	CONTENT_WITHIN,
	CONTENT_UNIQUE,
	CONTENT_NEAR,
	CONTENT_SLOW,
	CONTENT_FAST,
	CONTENT_DISK,
	CONTENT_CLASS_MAX,
};

extern const char *const content_class_names[CONTENT_CLASS_MAX];

struct page_state {
	uint32_t ident;	     /* which content of its class; the page's number for most */
	uint32_t generation; /* how often it was replaced, or a fast page written */
	uint8_t class;
	bool scrambled;
};

struct content {
	uint64_t seed;			    /* tells guests apart */
	uint8_t percent[CONTENT_CLASS_MAX]; /* adds up to 100 */
	uint32_t run_pages;		    /* group size */
	uint32_t disk_blocks;		    /* blocks of the disk in use, a power of two */
	size_t n_pages;
	size_t n_class[CONTENT_CLASS_MAX]; /* pages of each class; filled in by content_layout() */
};

/* Reads "zero:10,dup:90"; false unless it is well formed and adds up to 100. */
bool content_parse_mix(const char *mix, uint8_t percent[static CONTENT_CLASS_MAX]);

/* Gives each of c->n_pages pages its class and ident, generation 0. */
void content_layout(struct content *c, struct page_state *pages);

/* What a page in state s holds. */
void content_fill(const struct content *c, const struct page_state *s,
		  uint64_t words[static CONTENT_WORDS]);

/* What block b of the disk holds. */
void content_fill_block(uint32_t block, uint64_t words[static CONTENT_WORDS]);
/* The block that a disk page in state s holds. */
uint32_t content_block(const struct content *c, const struct page_state *s);

/* The word that the latest write of a fast page in state s set, and its index. */
uint64_t content_fast_word(const struct content *c, const struct page_state *s, size_t *ret_index);

/* Scrambled bits of x: the only source of chance in here. */
uint64_t content_mix64(uint64_t x);
