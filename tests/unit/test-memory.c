/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/memory.h"

#include "tests/unit/unit.h"

/* --- the parser --------------------------------------------------------------------------- */

/* Shortened from a real QEMU. */
static const char qemu_smaps[] =
	"55569405f000-555694466000 r--p 00000000 fe:00 10977393                   /usr/bin/qemu\n"
	"Size:               4124 kB\n"
	"KernelPageSize:        4 kB\n"
	"Rss:                4124 kB\n"
	"AnonHugePages:         0 kB\n"
	"THPeligible:           0\n"
	"VmFlags: rd mr mw me \n"
	"7fc7afe00000-7fc7b7e00000 rw-p 00000000 00:00 0 \n"
	"Size:             131072 kB\n"
	"Rss:               10240 kB\n"
	"AnonHugePages:      8192 kB\n"
	"VmFlags: rd wr mr mw me dc ac hg mg \n"
	"7fc7b7e00000-7fc7b7e01000 ---p 00000000 00:00 0 \n"
	"Size:                  4 kB\n"
	"VmFlags: mr mw me \n"
	"7fc7c0000000-7fc7fffff000 rwxp 00000000 00:00 0 \n"
	"Rss:                2048 kB\n"
	"VmFlags: rd wr ex mr mw me ac hg \n"
	"7fc804400000-7fc804c00000 rw-s 00001000 00:01 1034    /memfd:x\\012y (deleted)\n"
	"VmFlags: rd wr sh mr mw me ms dc lo io pf uw um dd wf nh ht zz \n";

static void parses(void **state _unused_)
{
	_cleanup_free_ struct mapping *m = NULL;
	size_t n;

	assert_int_equal(memory_parse_smaps(qemu_smaps, strlen(qemu_smaps), 10, &m, &n), 0);
	assert_int_equal(n, 5);
	assert_true(m[0].start.addr == 0x55569405f000);
	assert_false(m[0].anonymous);
	assert_string_equal(m[0].name, "/usr/bin/qemu");
	assert_true(m[0].inode == 10977393);
	assert_int_equal(m[0].dev_major, 0xfe);
	assert_int_equal(m[0].flags, 0);
	assert_true(m[1].anonymous);
	assert_int_equal(m[1].n_pages, 32768);
	assert_int_equal(m[1].rss_bytes, MIB(10));
	assert_int_equal(m[1].anon_huge_bytes, MIB(8));
	assert_int_equal(m[1].flags, VMF_WRITE | VMF_DONTFORK | VMF_HUGEPAGE | VMF_MERGEABLE);
	assert_int_equal(m[2].flags, 0);
	assert_int_equal(m[3].flags, VMF_WRITE | VMF_EXEC | VMF_HUGEPAGE);
	assert_string_equal(m[4].name, "/memfd:x\\012y (deleted)");
	assert_int_equal(m[4].flags, VMF_WRITE | VMF_SHARED | VMF_DONTFORK | VMF_LOCKED | VMF_IO |
					     VMF_UFFD_WP | VMF_UFFD_MISSING | VMF_DONTDUMP |
					     VMF_WIPEONFORK | VMF_NOHUGEPAGE | VMF_HUGETLB);
}

static void parse_bounds(void **state _unused_)
{
	struct mapping *m = NULL;
	size_t n = 7;

	assert_int_equal(memory_parse_smaps(qemu_smaps, strlen(qemu_smaps), 4, &m, &n), -E2BIG);
	assert_null(m);
	assert_int_equal(n, 7);
	assert_int_equal(memory_parse_smaps("", 0, 4, &m, &n), 0);
	assert_int_equal(n, 0);
	free(m);
}

static void parse_refuses(void **state _unused_)
{
	static const char *const bad[] = {
		"\n",
		"x\n",
		"Size: 4 kB\n",
		"1000-2000 rw-p 0 0:0 0", /* no newline */
		"1000-1000 rw-p 0 0:0 0\n",
		"2000-1000 rw-p 0 0:0 0\n",
		"1001-2000 rw-p 0 0:0 0\n",
		"1000-2001 rw-p 0 0:0 0\n",
		"1000-2000 rw-\n",
		"1000-2000 rw-q 0 0:0 0\n",
		"1000-2000 rw-p\n",
		"1000-2000 rw-p 0 0:0\n",
		"1000-2000 rw-p 0 0:0 x\n",
		"1000 2000 rw-p 0 0:0 0\n",
		"1000-2000 rw-p 0 100000000:0 0\n",
		"10000000000000000-20000000000000000 rw-p 0 0:0 0\n",
		"1000-3000 rw-p 0 0:0 0\n2000-3000 rw-p 0 0:0 0\n",
		"4000-5000 rw-p 0 0:0 0\n2000-3000 rw-p 0 0:0 0\n",
		"1000-2000 rw-p 0 0:0 0\nRss:\n",
		"1000-2000 rw-p 0 0:0 0\nRss: x kB\n",
		"1000-2000 rw-p 0 0:0 0\nRss: 18446744073709551615 kB\n",
		"1000-2000 rw-p 0 0:0 0\n*\n",
	};
	struct mapping *m = NULL;
	size_t n;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(memory_parse_smaps(bad[i], strlen(bad[i]), 10, &m, &n), -EINVAL);
	assert_null(m);
}

/* Neighbours that became one mapping while they were read. */
static void merged_meanwhile(void **state _unused_)
{
	static const char text[] = "1000-2000 rw-p 0 0:0 0\nRss: 4 kB\n"
				   "2000-3000 rw-p 0 0:0 0\nRss: 4 kB\n"
				   "1000-5000 rw-p 0 0:0 0\nRss: 16 kB\n"
				   "5000-6000 rw-p 0 0:0 0\nRss: 4 kB\n";
	struct mapping *m = NULL;
	size_t n;

	assert_int_equal(memory_parse_smaps(text, sizeof(text) - 1, 10, &m, &n), 0);
	assert_int_equal(n, 4);
	assert_int_equal(m[2].start.addr, 0x3000);
	assert_int_equal(m[2].n_pages, 2);
	assert_int_equal(m[2].rss_bytes, 8192);
	assert_int_equal(m[3].start.addr, 0x5000);
	free(m);
}

static int count_mapping(const struct mapping *m _unused_, void *userdata)
{
	++*(unsigned *)userdata;
	return 0;
}

/* Cut anywhere, the stream gives the same. */
static void feeds_in_pieces(void **state _unused_)
{
	size_t len = strlen(qemu_smaps);

	for (size_t piece = 1; piece < 200; piece++) {
		char buf[1024];
		size_t have = 0, used;
		struct maps_reader r;
		unsigned n = 0;

		maps_reader_init(&r, count_mapping, &n);
		for (size_t at = 0; at < len; at += piece) {
			size_t k = MIN(piece, len - at);

			memcpy(buf + have, qemu_smaps + at, k);
			have += k;
			assert_int_equal(maps_feed(&r, buf, have, &used), 0);
			have -= used;
			memmove(buf, buf + used, have);
		}
		assert_int_equal(have, 0);
		assert_int_equal(maps_end(&r), 0);
		assert_int_equal(n, 5);
	}
}

/* --- the choice --------------------------------------------------------------------------- */

#define MARKS (VMF_WRITE | VMF_DONTFORK | VMF_HUGEPAGE | VMF_MERGEABLE)

struct layout_text {
	struct mapping m[64];
	size_t n;
	uint64_t at;
};

static struct mapping *add(struct layout_text *l, uint64_t bytes, uint32_t flags, const char *name)
{
	struct mapping *m = &l->m[l->n++];

	assert_true(l->n <= ARRAY_SIZE(l->m));
	if (l->at == 0)
		l->at = UINT64_C(0x7f0000000000);
	*m = (struct mapping){ .start = HVA(l->at), .n_pages = bytes >> PAGE_SHIFT, .flags = flags,
			       .anonymous = name == NULL || name[0] == '[',
			       .inode = name == NULL || name[0] == '[' ? 0 : 77,
			       .rss_bytes = PAGE_BYTES };
	(void)snprintf(m->name, sizeof(m->name), "%s", strempty(name));
	l->at += bytes;
	return m;
}

static void add_guard(struct layout_text *l)
{
	(void)add(l, PAGE_BYTES, 0, NULL);
}

static size_t choose(const struct layout_text *l, struct ram_block *ret)
{
	return memory_choose_blocks(l->m, l->n, NULL, 0, ret);
}

static void default_machine(void **state _unused_)
{
	struct ram_block b[RAM_BLOCKS_MAX];
	struct layout_text l = { 0 };

	(void)add(&l, MIB(64), VMF_WRITE, "[heap]");
	(void)add(&l, MIB(128), MARKS, NULL);
	add_guard(&l);
	(void)add(&l, MIB(16), MARKS, NULL); /* video memory */
	add_guard(&l);
	(void)add(&l, KIB(256), MARKS, NULL); /* firmware */
	add_guard(&l);
	(void)add(&l, GIB(1), VMF_WRITE | VMF_EXEC | VMF_HUGEPAGE, NULL); /* TCG's code */
	(void)add(&l, MIB(64), VMF_WRITE, NULL);			   /* a malloc arena */
	(void)add(&l, MIB(64), MARKS | VMF_IO, "/dev/vfio/1");		   /* a device's memory */
	assert_int_equal(choose(&l, b), 1);
	assert_true(b[0].start.addr == l.m[1].start.addr);
	assert_int_equal(b[0].n_pages, MIB(128) >> PAGE_SHIFT);
	assert_int_equal(b[0].backing, BLOCK_ANONYMOUS);
	assert_int_equal(b[0].flags, MARKS);
	assert_string_equal(b[0].refusal, "");
	assert_false(b[0].confirmed);
}

static void other_marks(void **state _unused_)
{
	static const uint32_t flags[] = {
		VMF_WRITE | VMF_DONTFORK,		    /* mem-merge=off, no huge pages */
		VMF_WRITE | VMF_DONTFORK | VMF_DONTDUMP,    /* dump-guest-core=off */
		VMF_WRITE | VMF_DONTFORK | VMF_NOHUGEPAGE | VMF_LOCKED,
	};

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		struct ram_block b[RAM_BLOCKS_MAX];
		struct layout_text l = { 0 };

		(void)add(&l, MIB(512), flags[i], NULL);
		assert_int_equal(choose(&l, b), 1);
		assert_int_equal(b[0].flags, flags[i]);
	}
}

/* Advice, userfaultfd and the remap engine split a block; a neighbour without marks is none. */
static void split_block(void **state _unused_)
{
	struct ram_block b[RAM_BLOCKS_MAX];
	struct layout_text l = { 0 };

	(void)add(&l, MIB(4), VMF_WRITE, NULL);
	(void)add(&l, PAGE_BYTES, VMF_WRITE | VMF_DONTFORK, "/memfd:memshared-store (deleted)");
	(void)add(&l, MIB(20), MARKS & ~(uint32_t)VMF_MERGEABLE, NULL);
	(void)add(&l, MIB(20), MARKS, NULL);
	(void)add(&l, MIB(20), MARKS | VMF_UFFD_WP, NULL);
	(void)add(&l, MIB(4), MARKS, "/memfd:memshared-store (deleted)");
	(void)add(&l, MIB(2), MARKS, "/memfd:memshared-ring (deleted)");
	(void)add(&l, MIB(2), VMF_WRITE, "/memfd:memshared-agent (deleted)");
	assert_int_equal(choose(&l, b), 1);
	assert_true(b[0].start.addr == l.m[1].start.addr);
	assert_int_equal(b[0].n_pages, (MIB(64) >> PAGE_SHIFT) + 1);
	assert_int_equal(b[0].n_mappings, 5);
	assert_int_equal(b[0].rss_bytes, 5 * PAGE_BYTES);
	assert_int_equal(b[0].flags, MARKS & ~(uint32_t)VMF_MERGEABLE);
	assert_int_equal(b[0].flags_any, MARKS | VMF_UFFD_WP);
	assert_int_equal(b[0].backing, BLOCK_ANONYMOUS);
}

static void refused_backings(void **state _unused_)
{
	struct ram_block b[RAM_BLOCKS_MAX];
	struct layout_text l = { 0 };
	const uint32_t flags = VMF_WRITE | VMF_DONTFORK;

	(void)add(&l, MIB(64), flags | VMF_SHARED, "/memfd:memory-backend-memfd (deleted)");
	/* Shared, so no part of a private block, whatever its name. */
	add(&l, MIB(64), flags | VMF_SHARED, "/memfd:memshared-store (deleted)")->inode = 78;
	add(&l, MIB(64), flags, "/var/lib/ram")->inode = 79;
	add(&l, MIB(64), flags, "/var/lib/ram2")->inode = 80;
	(void)add(&l, MIB(64), flags | VMF_HUGETLB, "/anon_hugepage (deleted)");
	(void)add(&l, MIB(64), flags | VMF_HUGETLB | VMF_SHARED, "/dev/hugepages/x (deleted)");
	(void)add(&l, MIB(64), flags, NULL);
	assert_int_equal(choose(&l, b), 7);
	assert_int_equal(b[0].backing, BLOCK_SHARED);
	assert_int_equal(b[1].backing, BLOCK_SHARED);
	assert_int_equal(b[2].backing, BLOCK_FILE);
	assert_int_equal(b[3].backing, BLOCK_FILE);
	assert_int_equal(b[4].backing, BLOCK_HUGETLB);
	assert_int_equal(b[5].backing, BLOCK_HUGETLB);
	for (unsigned i = 0; i < 6; i++) {
		assert_true(strlen(b[i].refusal) > 0);
		/* Not cut. */
		assert_true(strlen(b[i].refusal) < sizeof(b[i].refusal) - 1);
	}
	assert_int_equal(b[6].backing, BLOCK_ANONYMOUS);
	assert_string_equal(b[6].refusal, "");
}

static void memdevs(void **state _unused_)
{
	static const struct qmp_memdev devs[] = {
		{ .id = "pc.ram", .size_bytes = MIB(8) },
		{ .id = "dimm0", .size_bytes = MIB(256) },
		{ .id = "dimm1", .size_bytes = MIB(256) },
	};
	static const struct qmp_memdev more[] = {
		{ .id = "pc.ram", .size_bytes = MIB(8) },
		{ .id = "dimm2", .size_bytes = MIB(512) },
	};
	struct ram_block b[RAM_BLOCKS_MAX];
	struct layout_text l = { 0 };

	(void)add(&l, MIB(8), MARKS, NULL);
	add_guard(&l);
	(void)add(&l, MIB(256), MARKS, NULL);
	add_guard(&l);
	(void)add(&l, MIB(64), MARKS, NULL); /* qxl's */
	add_guard(&l);
	(void)add(&l, MIB(256), MARKS, NULL);
	/* All backends are there: the rest is no RAM. */
	assert_int_equal(memory_choose_blocks(l.m, l.n, devs, ARRAY_SIZE(devs), b), 4);
	assert_true(b[0].confirmed);
	assert_string_equal(b[0].name, "pc.ram");
	assert_true(b[1].confirmed);
	assert_string_equal(b[1].name, ""); /* which of the two? */
	assert_int_equal(b[2].n_pages, MIB(64) >> PAGE_SHIFT);
	assert_false(b[2].confirmed);
	assert_non_null(strstr(b[2].refusal, "not the guest's RAM"));
	assert_true(b[3].confirmed);
	assert_string_equal(b[3].refusal, "");
	/* One is not: who knows what the monitor did not say. */
	assert_int_equal(memory_choose_blocks(l.m, l.n, more, ARRAY_SIZE(more), b), 4);
	assert_true(b[0].confirmed);
	assert_false(b[2].confirmed);
	assert_string_equal(b[2].refusal, "");
	assert_false(memory_confirm_blocks(b, 4, more, ARRAY_SIZE(more), true));
	assert_true(memory_confirm_blocks(b, 4, devs, ARRAY_SIZE(devs), false));
	assert_string_equal(b[2].refusal, "");
	assert_true(memory_confirm_blocks(b, 4, devs, ARRAY_SIZE(devs), true));
	assert_string_not_equal(b[2].refusal, "");
	assert_true(memory_confirm_blocks(b, 4, NULL, 0, false));
	assert_false(b[0].confirmed);
	assert_string_equal(b[0].name, "");
}

static void small_guest(void **state _unused_)
{
	struct ram_block b[RAM_BLOCKS_MAX];
	struct layout_text l = { 0 };

	(void)add(&l, KIB(256), MARKS, NULL);
	add_guard(&l);
	assert_int_equal(choose(&l, b), 0);
	(void)add(&l, MIB(8), MARKS, NULL);
	add_guard(&l);
	(void)add(&l, MIB(2), MARKS, NULL);
	assert_int_equal(choose(&l, b), 1);
	assert_int_equal(b[0].n_pages, MIB(8) >> PAGE_SHIFT);
}

static void many_blocks(void **state _unused_)
{
	static struct mapping m[2 * RAM_BLOCKS_MAX + 10];
	struct ram_block b[RAM_BLOCKS_MAX];

	/* Every second one: no neighbours. */
	for (size_t i = 0; i < ARRAY_SIZE(m); i++)
		m[i] = (struct mapping){ .start = HVA(2 * i * GIB(1)), .anonymous = true,
					 .n_pages = GIB(1) >> PAGE_SHIFT, .flags = MARKS };
	assert_int_equal(memory_choose_blocks(m, ARRAY_SIZE(m), NULL, 0, b), RAM_BLOCKS_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(merged_meanwhile),
		cmocka_unit_test(parses),	   cmocka_unit_test(parse_bounds),
		cmocka_unit_test(parse_refuses),   cmocka_unit_test(feeds_in_pieces),
		cmocka_unit_test(default_machine), cmocka_unit_test(other_marks),
		cmocka_unit_test(split_block),	   cmocka_unit_test(refused_backings),
		cmocka_unit_test(memdevs),	   cmocka_unit_test(small_guest),
		cmocka_unit_test(many_blocks),
	};

	return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
