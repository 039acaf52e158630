/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "memory.h"

#include "console.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define DISK_PATH	"/dev/vda"
#define DISK_BLOCKS_MAX 1024u

static uint64_t *page_words(const struct memory *m, size_t page)
{
	return (uint64_t *)(m->bytes + page * CONTENT_PAGE_SIZE);
}

/* --- checking -------------------------------------------------------------- */

static void page_report(struct memory *m, size_t page, const unsigned char *expected)
{
	const unsigned char *got = m->bytes + page * CONTENT_PAGE_SIZE;
	const struct page_state *s = &m->pages[page];
	size_t i = 0;

	while (i < CONTENT_PAGE_SIZE - 1 && expected[i] == got[i])
		i++;
	m->errors++;
	console_say("WRONG page %zu offset %zu expected %02x got %02x class %s generation %u", page,
		    i, expected[i], got[i], content_class_names[s->class], s->generation);
}

void memory_check_page(struct memory *m, size_t page)
{
	uint64_t expected[CONTENT_WORDS];
	uint64_t start, took;

	content_fill(&m->content, &m->pages[page], expected);
	start = now_usec();
	if (memcmp(expected, page_words(m, page), sizeof(expected))) {
		page_report(m, page, (unsigned char *)expected);
		memcpy(page_words(m, page), expected, sizeof(expected));
	}
	took = now_usec() - start;
	if (took > m->worst_usec)
		m->worst_usec = took;
}

void memory_check(struct memory *m)
{
	for (size_t i = 0; i < m->content.n_pages; i++)
		memory_check_page(m, i);
}

/* --- writing --------------------------------------------------------------- */

/* The next page of a class, round and round; false when there is none. */
static bool page_next(struct memory *m, enum content_class class, size_t *ret_page)
{
	if (!m->content.n_class[class])
		return false;
	do
		m->cursor[class] = (m->cursor[class] + 1) % m->content.n_pages;
	while (m->pages[m->cursor[class]].class != class);
	*ret_page = m->cursor[class];
	return true;
}

void memory_write_fast(struct memory *m)
{
	size_t page, index;
	uint64_t word;

	if (!page_next(m, CONTENT_FAST, &page))
		return;
	memory_check_page(m, page);
	m->pages[page].generation++;
	word = content_fast_word(&m->content, &m->pages[page], &index);
	page_words(m, page)[index] = word;
}

void memory_write_slow(struct memory *m)
{
	size_t page;

	if (!page_next(m, CONTENT_SLOW, &page))
		return;
	memory_check_page(m, page);
	m->pages[page].generation++;
	content_fill(&m->content, &m->pages[page], page_words(m, page));
}

/* Reads pages [first, first + n) from the disk: neighbours, and so are their blocks. */
static void disk_read(struct memory *m, size_t first, size_t n)
{
	while (n) {
		uint32_t block = content_block(&m->content, &m->pages[first]);
		size_t now = 1;

		while (now < n && content_block(&m->content, &m->pages[first + now]) == block + now)
			now++;
		if (pread(m->disk_fd, page_words(m, first), now * CONTENT_PAGE_SIZE,
			  (off_t)block * CONTENT_PAGE_SIZE) != (ssize_t)(now * CONTENT_PAGE_SIZE))
			console_fail("read " DISK_PATH);
		first += now;
		n -= now;
	}
}

void memory_write_disk(struct memory *m)
{
	size_t first, end;

	if (!page_next(m, CONTENT_DISK, &first))
		return;
	for (end = first; end < m->content.n_pages && end < first + m->content.run_pages &&
			  m->pages[end].class == CONTENT_DISK;
	     end++) {
		memory_check_page(m, end);
		m->pages[end].generation++;
		m->pages[end].scrambled = false;
	}
	disk_read(m, first, end - first);
	for (size_t page = first; page < end; page++)
		memory_check_page(m, page);
	m->cursor[CONTENT_DISK] = end - 1;
}

void memory_fill(struct memory *m)
{
	for (size_t i = 0; i < m->content.n_pages; i++)
		content_fill(&m->content, &m->pages[i], page_words(m, i));
}

size_t memory_rewrite(struct memory *m, unsigned int percent, bool scramble, bool runs)
{
	size_t done = 0;

	m->rewrites++;
	for (size_t i = 0; i < m->content.n_pages; i++) {
		struct page_state *s = &m->pages[i];
		uint64_t unit = runs ? s->ident / m->content.run_pages : s->ident;

		if (content_mix64(m->rewrites << 40 ^ (uint64_t)s->class << 32 ^ unit) % 100 >=
		    percent)
			continue;
		memory_check_page(m, i);
		s->generation++;
		s->scrambled = scramble;
		/* A zero page has to be dirtied, or nothing would have been written to it. */
		if (s->class == CONTENT_ZERO)
			*(volatile uint64_t *)page_words(m, i) = m->rewrites;
		content_fill(&m->content, s, page_words(m, i));
		done++;
	}
	return done;
}

void memory_move(struct memory *m)
{
	size_t bytes = m->content.n_pages * CONTENT_PAGE_SIZE;
	unsigned char *old = m->bytes;

	memory_check(m);
	m->bytes = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m->bytes == MAP_FAILED)
		console_fail("memory to move to");
	madvise(m->bytes, bytes, MADV_MERGEABLE);
	memcpy(m->bytes, old, bytes);
	munmap(old, bytes);
}

/* --- start ----------------------------------------------------------------- */

void memory_open_disk(struct memory *m)
{
	unsigned char *buffer;
	uint64_t bytes;
	uint32_t blocks;

	m->disk_fd = open(DISK_PATH, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (m->disk_fd < 0 || ioctl(m->disk_fd, BLKGETSIZE64, &bytes) < 0)
		console_fail("open " DISK_PATH);
	for (blocks = DISK_BLOCKS_MAX; blocks > bytes / CONTENT_PAGE_SIZE;)
		blocks /= 2;
	if (!blocks)
		console_fail("no room on " DISK_PATH);
	m->content.disk_blocks = blocks;

	buffer = aligned_alloc(CONTENT_PAGE_SIZE, (size_t)blocks * CONTENT_PAGE_SIZE);
	if (!buffer)
		console_fail("disk buffer");
	for (uint32_t b = 0; b < blocks; b++)
		content_fill_block(b, (uint64_t *)(buffer + (size_t)b * CONTENT_PAGE_SIZE));
	if (pwrite(m->disk_fd, buffer, (size_t)blocks * CONTENT_PAGE_SIZE, 0) !=
	    (ssize_t)blocks * CONTENT_PAGE_SIZE)
		console_fail("write " DISK_PATH);
	free(buffer);
}

void memory_prepare(struct memory *m)
{
	struct content *c = &m->content;
	size_t bytes = c->n_pages * CONTENT_PAGE_SIZE;

	errno = EINVAL;
	if (!c->n_pages || !c->run_pages)
		console_fail("mib and run must not be zero");
	m->pages = calloc(c->n_pages, sizeof(*m->pages));
	m->bytes = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!m->pages || m->bytes == MAP_FAILED)
		console_fail("memory");
	/* Also as an ordinary process: merge me. In a guest this goes to a ksmd that rests. */
	madvise(m->bytes, bytes, MADV_MERGEABLE);
	content_layout(c, m->pages);
}
