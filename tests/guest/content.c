/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "content.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

const char *const content_class_names[] = {
	[CONTENT_ZERO] = "zero",     [CONTENT_DUP] = "dup",   [CONTENT_WITHIN] = "within",
	[CONTENT_UNIQUE] = "unique", [CONTENT_NEAR] = "near", [CONTENT_SLOW] = "slow",
	[CONTENT_FAST] = "fast",     [CONTENT_DISK] = "disk",
};
static_assert(sizeof(content_class_names) / sizeof(content_class_names[0]) == CONTENT_CLASS_MAX,
	      "a name for each class");

/* The finalizer of splitmix64. */
uint64_t content_mix64(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

bool content_parse_mix(const char *mix, uint8_t percent[static CONTENT_CLASS_MAX])
{
	unsigned long sum = 0;

	memset(percent, 0, CONTENT_CLASS_MAX);
	while (*mix) {
		size_t len = strcspn(mix, ":");
		unsigned long value;
		unsigned int class;
		char *end;

		for (class = 0; class < CONTENT_CLASS_MAX; class ++)
			if (strlen(content_class_names[class]) == len &&
			    !memcmp(content_class_names[class], mix, len))
				break;
		if (class == CONTENT_CLASS_MAX || mix[len] != ':')
			return false;
		value = strtoul(mix + len + 1, &end, 10);
		if (end == mix + len + 1 || (*end && *end != ',') || value > 100)
			return false;
		percent[class] = (uint8_t)value;
		mix = *end ? end + 1 : end;
	}
	for (size_t i = 0; i < CONTENT_CLASS_MAX; i++)
		sum += percent[i];
	return sum == 100;
}

/* 37 has no factor in common with 100: each hundred groups hold the mixture, well stirred. */
static enum content_class group_class(const struct content *c, size_t group)
{
	size_t slot = (group * 37 + 11) % 100;
	unsigned int class = 0;

	while (slot >= c->percent[class])
		slot -= c->percent[class ++];
	return class;
}

void content_layout(struct content *c, struct page_state *pages)
{
	uint32_t distinct;

	memset(c->n_class, 0, sizeof(c->n_class));
	for (size_t i = 0; i < c->n_pages; i++) {
		enum content_class class = group_class(c, i / c->run_pages);

		pages[i] = (struct page_state){
			.class = (uint8_t) class,
			.ident = (uint32_t)(class == CONTENT_DISK || class == CONTENT_WITHIN
						    ? c->n_class[class]
						    : i),
		};
		c->n_class[class]++;
	}

	/* Copies repeat whole runs, so that clusters of duplicates stay clusters. */
	distinct = (uint32_t)(c->n_class[CONTENT_WITHIN] / 4 / c->run_pages * c->run_pages);
	if (distinct < c->run_pages)
		distinct = c->run_pages;
	for (size_t i = 0; i < c->n_pages; i++)
		if (pages[i].class == CONTENT_WITHIN)
			pages[i].ident %= distinct;
}

static uint64_t page_key(const struct content *c, const struct page_state *s)
{
	unsigned int class = s->class == CONTENT_NEAR ? CONTENT_DUP : s->class;
	uint64_t key = content_mix64(class + 1);

	if (s->scrambled || class == CONTENT_WITHIN || class == CONTENT_UNIQUE)
		key = content_mix64(key ^ (c->seed + 1) << 8 ^ s->scrambled);
	key = content_mix64(key ^ s->ident);
	/* A fast page keeps its first content under the words written since. */
	return s->class == CONTENT_FAST ? key : content_mix64(key ^ (uint64_t)s->generation << 32);
}

static void fill_from(uint64_t key, uint64_t words[static CONTENT_WORDS])
{
	for (size_t i = 0; i < CONTENT_WORDS; i++) {
		words[i] = key;
		key = key * 6364136223846793005 + 1442695040888963407;
	}
}

static uint64_t fast_word(uint64_t key, uint32_t generation)
{
	return content_mix64(key ^ (uint64_t)generation << 20);
}

uint64_t content_fast_word(const struct content *c, const struct page_state *s, size_t *ret_index)
{
	*ret_index = s->generation % CONTENT_WORDS;
	return fast_word(page_key(c, s), s->generation);
}

uint32_t content_block(const struct content *c, const struct page_state *s)
{
	return (s->ident + s->generation * 48) & (c->disk_blocks - 1);
}

void content_fill_block(uint32_t block, uint64_t words[static CONTENT_WORDS])
{
	fill_from(content_mix64(content_mix64(CONTENT_DISK + 1) ^ block), words);
}

void content_fill(const struct content *c, const struct page_state *s,
		  uint64_t words[static CONTENT_WORDS])
{
	uint64_t key = page_key(c, s);

	if (s->class == CONTENT_DISK && !s->scrambled) {
		content_fill_block(content_block(c, s), words);
		return;
	}
	if (s->class == CONTENT_ZERO && !s->scrambled) {
		memset(words, 0, CONTENT_PAGE_SIZE);
		return;
	}
	fill_from(key, words);
	if (s->class == CONTENT_NEAR) {
		uint64_t r = content_mix64(key ^ c->seed);

		words[r % CONTENT_WORDS] ^= (r >> 32 & 0xfe) + 1;
	}
	if (s->class == CONTENT_FAST) {
		uint32_t g = s->generation < CONTENT_WORDS ? 1 : s->generation - CONTENT_WORDS + 1;

		for (; g <= s->generation; g++)
			words[g % CONTENT_WORDS] = fast_word(key, g);
	}
}
