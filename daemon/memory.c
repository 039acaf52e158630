/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation.
 *
 * Mappings come in address order, one at a time. Neighbours of one kind are put together to a
 * range; when the next mapping does not belong to it, the range is complete and goes
 *   - to the chooser (smaps only, because only there DONTFORK shows), which keeps it if it is RAM;
 *   - to the layout digest (maps and smaps alike): every large range of writable memory, whether
 *     RAM or not, because maps cannot tell.
 * Equal digests mean equal large ranges, so maps alone, which is cheap, says whether smaps must
 * be read again. Merging splits mappings but not ranges: it does not change the digest.
 */
#include "daemon/memory.h"

#include <inttypes.h>

#include "common/util.h"

/* A guest with less is a test, and even its memory is found when nothing larger is there. */
#define SMALLEST_RAM_BYTES MIB(1)

const char *block_backing_to_string(enum block_backing b)
{
	static const char *const names[] = {
		[BLOCK_ANONYMOUS] = "anonymous",
		[BLOCK_SHARED] = "shared",
		[BLOCK_FILE] = "file",
		[BLOCK_HUGETLB] = "hugetlb",
	};
	static_assert(ARRAY_SIZE(names) == BLOCK_BACKING_MAX, "a name for each");

	return b < BLOCK_BACKING_MAX ? names[b] : "?";
}

/* --- ranges ------------------------------------------------------------------------------- */

/* What neighbours must have in common to be parts of one range. */
struct kind {
	bool usable; /* private or shared memory that may be RAM */
	bool file;   /* then the three below tell the file */
	uint64_t inode;
	uint32_t dev_major, dev_minor;
	uint32_t flags; /* SHARED and HUGETLB, and DONTFORK where known */
};

struct range {
	struct kind kind;
	bool have_anonymous; /* block.flags are those of an anonymous mapping */
	struct ram_block block;
};

struct ranges {
	bool with_marks; /* reading smaps: only DONTFORK ranges are RAM */
	struct range current;
	void (*done)(const struct range *r, void *userdata);
	void *userdata;
};

static bool has_prefix(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* memfd names show as "/memfd:NAME (deleted)". A QEMU may call its own memfd so and gets what it
 * deserves: its own pages are taken for RAM. */
static bool is_store(const struct mapping *m)
{
	return has_prefix(m->name, "/memfd:memshared-store");
}

static bool is_ours(const struct mapping *m)
{
	return has_prefix(m->name, "/memfd:memshared-") && !is_store(m);
}

static struct kind kind_of(const struct mapping *m, bool with_marks)
{
	struct kind k = { 0 };

	if (!(m->flags & VMF_WRITE) || m->flags & (VMF_EXEC | VMF_IO) || is_ours(m))
		return k;
	if (with_marks ? !(m->flags & VMF_DONTFORK) : streq(m->name, "[heap]"))
		return k;
	k.usable = true;
	k.flags = m->flags & (VMF_SHARED | VMF_HUGETLB);
	if (m->anonymous || (is_store(m) && !(m->flags & VMF_SHARED)))
		return k;
	k.file = true;
	k.inode = m->inode;
	k.dev_major = m->dev_major;
	k.dev_minor = m->dev_minor;
	return k;
}

static bool kind_equal(const struct kind *a, const struct kind *b)
{
	return a->usable == b->usable && a->file == b->file && a->inode == b->inode &&
	       a->dev_major == b->dev_major && a->dev_minor == b->dev_minor && a->flags == b->flags;
}

static enum block_backing backing_of(const struct kind *k)
{
	if (k->flags & VMF_HUGETLB)
		return BLOCK_HUGETLB;
	if (k->flags & VMF_SHARED)
		return BLOCK_SHARED;
	return k->file ? BLOCK_FILE : BLOCK_ANONYMOUS;
}

static void ranges_finish(struct ranges *rs)
{
	if (rs->current.kind.usable)
		rs->done(&rs->current, rs->userdata);
	rs->current.kind.usable = false;
}

static void ranges_add(struct ranges *rs, const struct mapping *m)
{
	struct kind kind = kind_of(m, rs->with_marks);
	struct range *r = &rs->current;
	struct ram_block *b = &r->block;

	if (!r->kind.usable || !kind_equal(&r->kind, &kind) ||
	    hva_add_pages(b->start, b->n_pages).addr != m->start.addr) {
		ranges_finish(rs);
		*r = (struct range){ .kind = kind };
		if (!kind.usable)
			return;
		b->start = m->start;
		b->backing = backing_of(&kind);
		b->flags = m->flags;
	}
	if (m->anonymous && !r->have_anonymous) {
		r->have_anonymous = true;
		b->flags = m->flags;
	}
	b->n_pages += m->n_pages;
	b->n_mappings++;
	b->flags_any |= m->flags;
	b->rss_bytes += m->rss_bytes;
	b->anon_huge_bytes += m->anon_huge_bytes;
}

/* --- the choice --------------------------------------------------------------------------- */

struct chooser {
	const struct qmp_memdev *devs;
	size_t n_devs;
	struct ram_block *blocks; /* RAM_BLOCKS_MAX of them */
	size_t n_blocks, n_left_out;
	struct ram_block largest; /* of those that are too small; n_pages 0: none */
};

static uint64_t block_bytes(const struct ram_block *b)
{
	return b->n_pages << PAGE_SHIFT;
}

static size_t count_blocks(const struct ram_block *b, size_t n, uint64_t bytes)
{
	size_t found = 0;

	for (size_t i = 0; i < n; i++)
		found += block_bytes(&b[i]) == bytes;
	return found;
}

static size_t count_memdevs(const struct qmp_memdev *devs, size_t n_devs, uint64_t bytes)
{
	size_t found = 0;

	for (size_t i = 0; i < n_devs; i++)
		found += devs[i].size_bytes == bytes;
	return found;
}

static void choose_range(const struct range *r, void *userdata)
{
	struct chooser *c = userdata;
	uint64_t bytes = block_bytes(&r->block);

	if (bytes < MEMORY_RAM_MIN_BYTES && count_memdevs(c->devs, c->n_devs, bytes) == 0) {
		if (bytes >= SMALLEST_RAM_BYTES && r->block.n_pages > c->largest.n_pages)
			c->largest = r->block;
		return;
	}
	if (c->n_blocks == RAM_BLOCKS_MAX)
		c->n_left_out++;
	else
		c->blocks[c->n_blocks++] = r->block;
}

/* Each says what is in the way and what would change it. */
static const char *refusal_of(enum block_backing backing)
{
	switch (backing) {
	case BLOCK_SHARED:
		return "shared memory, which other processes may map; needs a private backend "
		       "(memory-backend-ram, share=off)";
	case BLOCK_HUGETLB:
		return "hugetlb pages, which cannot be split; needs a guest without hugepages "
		       "(transparent huge pages are fine)";
	case BLOCK_FILE:
		return "private mapping of a file; needs anonymous memory (memory-backend-ram)";
	default:
		return "";
	}
}

static void chooser_finish(struct chooser *c)
{
	if (c->n_blocks == 0 && c->largest.n_pages > 0)
		c->blocks[c->n_blocks++] = c->largest;
	for (size_t i = 0; i < c->n_blocks; i++)
		(void)snprintf(c->blocks[i].refusal, sizeof(c->blocks[i].refusal), "%s",
			       refusal_of(c->blocks[i].backing));
	(void)memory_confirm_blocks(c->blocks, c->n_blocks, c->devs, c->n_devs, c->n_left_out == 0);
}

bool memory_confirm_blocks(struct ram_block *b, size_t n, const struct qmp_memdev *devs, size_t n_devs,
			   bool all)
{
	bool each = true;

	for (size_t i = 0; i < n_devs && each; i++)
		each = count_blocks(b, n, devs[i].size_bytes) >= count_memdevs(devs, n_devs, devs[i].size_bytes);
	for (size_t i = 0; i < n; i++) {
		uint64_t bytes = block_bytes(&b[i]);
		size_t n_match = count_memdevs(devs, n_devs, bytes), k = 0;

		b[i].confirmed = n_match > 0;
		b[i].name[0] = '\0';
		if (n_match == 1 && count_blocks(b, n, bytes) == 1) {
			while (devs[k].size_bytes != bytes)
				k++;
			(void)snprintf(b[i].name, sizeof(b[i].name), "%s", devs[k].id);
		}
		/* A backend that has no block may have one that is not seen as it is. */
		if (b[i].backing == BLOCK_ANONYMOUS && n_devs > 0 && all)
			(void)snprintf(b[i].refusal, sizeof(b[i].refusal), "%s",
				       each && !b[i].confirmed ? "not the guest's RAM: QEMU has no memory "
								 "backend of this size (video memory?)"
							       : "");
	}
	return each;
}

size_t memory_choose_blocks(const struct mapping *m, size_t n, const struct qmp_memdev *devs,
			    size_t n_devs, struct ram_block *ret)
{
	struct chooser chooser = { .devs = devs, .n_devs = n_devs, .blocks = ret };
	struct ranges ranges = { .with_marks = true, .done = choose_range, .userdata = &chooser };

	for (size_t i = 0; i < n; i++)
		ranges_add(&ranges, &m[i]);
	ranges_finish(&ranges);
	chooser_finish(&chooser);
	return chooser.n_blocks;
}

/* --- the layout --------------------------------------------------------------------------- */

struct layout {
	uint64_t digest;
	/* Blocks that must still be there; counts those that are. */
	const struct guest_memory *known;
	size_t n_found;
};

/* Any mixing does: whoever makes two layouts collide hides memory of his own from the scan. */
static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
	return h ^ h >> 29;
}

static void layout_add_range(const struct range *r, void *userdata)
{
	struct layout *l = userdata;
	uint64_t start = r->block.start.addr, end = start + block_bytes(&r->block);

	if (block_bytes(&r->block) >= MEMORY_RAM_MIN_BYTES) {
		l->digest = mix(mix(l->digest, start), end);
		l->digest = mix(l->digest, r->kind.inode + r->kind.file);
	}
	for (size_t i = 0; l->known && i < l->known->n_blocks; i++) {
		const struct ram_block *b = &l->known->blocks[i];

		l->n_found += b->start.addr >= start && b->start.addr + block_bytes(b) <= end &&
			      (b->backing == BLOCK_ANONYMOUS) == !r->kind.file;
	}
}

static int layout_add_mapping(const struct mapping *m, void *userdata)
{
	struct mapping plain = *m;

	/* As maps shows it, also when it comes from smaps. */
	plain.flags &= VMF_WRITE | VMF_EXEC | VMF_SHARED;
	ranges_add(userdata, &plain);
	return 0;
}

/* 0 stays for "not known". */
static uint64_t layout_digest(const struct layout *l)
{
	return l->digest | 1;
}

/* 1 when maps shows the layout of mem, 0 when another one, or -errno. */
static int layout_is_current(const struct process *p, const struct guest_memory *mem)
{
	struct layout layout = { .known = mem };
	struct ranges ranges = { .done = layout_add_range, .userdata = &layout };
	int r = maps_read(p->proc_fd, "maps", layout_add_mapping, &ranges);

	if (r < 0)
		return r;
	ranges_finish(&ranges);
	return layout_digest(&layout) == mem->layout && layout.n_found == mem->n_blocks;
}

/* --- live guests -------------------------------------------------------------------------- */

/* One reading of smaps feeds both, so that the digest belongs to exactly these blocks. */
struct smaps_reading {
	struct ranges marked, plain;
};

static int add_mapping(const struct mapping *m, void *userdata)
{
	struct smaps_reading *s = userdata;

	ranges_add(&s->marked, m);
	return layout_add_mapping(m, &s->plain);
}

static int read_blocks(const struct process *p, struct chooser *chooser, uint64_t *ret_layout)
{
	struct layout layout = { 0 };
	struct smaps_reading s = {
		.marked = { .with_marks = true, .done = choose_range, .userdata = chooser },
		.plain = { .done = layout_add_range, .userdata = &layout },
	};
	int r = maps_read(p->proc_fd, "smaps", add_mapping, &s);

	if (r < 0)
		return r;
	/* After exit the file reads as empty, after exec it is another program's. */
	r = process_check(p);
	if (r < 0)
		return r;
	ranges_finish(&s.marked);
	ranges_finish(&s.plain);
	chooser_finish(chooser);
	*ret_layout = layout_digest(&layout);
	return 0;
}

int memory_find_blocks(const struct process *p, struct ram_block ret[RAM_BLOCKS_MAX],
		       size_t *ret_n)
{
	_cleanup_free_ struct ram_block *blocks = calloc(RAM_BLOCKS_MAX, sizeof(*blocks));
	struct chooser chooser = { .blocks = blocks };
	uint64_t layout;
	int r;

	if (!blocks)
		return -ENOMEM;
	r = read_blocks(p, &chooser, &layout);
	if (r < 0)
		return r;
	memcpy(ret, blocks, chooser.n_blocks * sizeof(*blocks));
	*ret_n = chooser.n_blocks;
	return 0;
}

static bool is_same_block(const struct ram_block *a, const struct ram_block *b)
{
	return a->start.addr == b->start.addr && a->n_pages == b->n_pages && a->backing == b->backing;
}

/* What QEMU said of a block holds as long as it is there. */
static void remember(const struct guest_memory *mem, struct chooser *c)
{
	for (size_t i = 0; i < c->n_blocks; i++)
		for (size_t k = 0; k < mem->n_blocks; k++) {
			const struct ram_block *known = &mem->blocks[k];

			if (!is_same_block(known, &c->blocks[i]))
				continue;
			c->blocks[i].confirmed = known->confirmed;
			memcpy(c->blocks[i].name, known->name, sizeof(known->name));
			memcpy(c->blocks[i].refusal, known->refusal, sizeof(known->refusal));
		}
}

static bool same_blocks(const struct guest_memory *mem, const struct chooser *c)
{
	if (mem->n_blocks != c->n_blocks || mem->n_left_out != c->n_left_out)
		return false;
	for (size_t i = 0; i < c->n_blocks; i++)
		if (!is_same_block(&mem->blocks[i], &c->blocks[i]))
			return false;
	return true;
}

int memory_refresh_blocks(const struct process *p, const struct qmp_memdev *devs, size_t n_devs,
			  struct guest_memory *mem)
{
	_cleanup_free_ struct ram_block *blocks = NULL;
	struct chooser chooser = { .devs = devs, .n_devs = n_devs };
	uint64_t layout;
	bool changed;
	int r;

	if (mem->layout != 0) {
		r = layout_is_current(p, mem);
		if (r != 0)
			return r < 0 ? r : 0;
	}
	blocks = calloc(RAM_BLOCKS_MAX, sizeof(*blocks));
	if (!blocks)
		return -ENOMEM;
	chooser.blocks = blocks;
	r = read_blocks(p, &chooser, &layout);
	if (r < 0)
		return r;
	changed = !same_blocks(mem, &chooser);
	if (n_devs == 0)
		remember(mem, &chooser);
	memcpy(mem->blocks, blocks, chooser.n_blocks * sizeof(*blocks));
	mem->n_blocks = chooser.n_blocks;
	mem->n_left_out = chooser.n_left_out;
	mem->layout = layout;
	return changed;
}

uint64_t memory_total_pages(const struct guest_memory *mem)
{
	uint64_t n = 0;

	for (size_t i = 0; i < mem->n_blocks; i++)
		n += mem->blocks[i].n_pages;
	return n;
}

/* --- mappings as a list ------------------------------------------------------------------- */

struct list {
	struct mapping *m;
	size_t n, size, max;
};

static int list_add(const struct mapping *m, void *userdata)
{
	struct list *l = userdata;

	if (l->n == l->max)
		return -E2BIG;
	if (l->n == l->size) {
		size_t size = l->size ? 2 * l->size : 64;
		struct mapping *grown = reallocarray(l->m, size, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		l->m = grown;
		l->size = size;
	}
	l->m[l->n++] = *m;
	return 0;
}

int memory_parse_smaps(const char *buf, size_t len, size_t max, struct mapping **ret,
		       size_t *ret_n)
{
	struct list list = { .max = max };
	struct maps_reader reader;
	size_t used;
	int r;

	maps_reader_init(&reader, list_add, &list);
	r = maps_feed(&reader, buf, len, &used);
	if (r == 0 && used < len)
		r = -EINVAL;
	if (r == 0)
		r = maps_end(&reader);
	if (r < 0) {
		free(list.m);
		return r;
	}
	*ret = list.m;
	*ret_n = list.n;
	return 0;
}
