/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "daemon/maps.h"
#include "daemon/span.h"
#include "tests/unit/unit.h"

#define N 16U

struct expected {
	unsigned first, end;
	enum span_kind kind;
};

static void assert_spans(const struct span_list *l, const char *map, const struct expected *e,
			 size_t n)
{
	assert_int_equal(l->n, n);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(l->spans[i].start, (uintptr_t)map + e[i].first * PAGE_BYTES);
		assert_int_equal(l->spans[i].end, (uintptr_t)map + e[i].end * PAGE_BYTES);
		assert_int_equal(l->spans[i].kind, e[i].kind);
	}
}

/* Mappings of one kind are one span; what is asked for is cut at its ends. */
static void cut_by_kind(void **state _unused_)
{
	static const struct expected all[] = {
		{ 0, 4, SPAN_ANONYMOUS },  { 4, 6, SPAN_OTHER },      { 6, 8, SPAN_ANONYMOUS },
		{ 8, 10, SPAN_HOLE },	   { 10, 12, SPAN_ANONYMOUS }, { 12, 13, SPAN_OTHER },
		{ 13, 15, SPAN_ANONYMOUS }, { 15, 16, SPAN_HOLE },
	};
	static const struct expected part[] = { { 5, 6, SPAN_OTHER }, { 6, 7, SPAN_ANONYMOUS } };
	struct process p = { .proc_fd = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC) };
	int fd = memfd_create("span", MFD_CLOEXEC);
	char *map = mmap(NULL, N * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);
	struct span_list l = SPAN_LIST_EMPTY;

	assert_true(fd >= 0 && map != MAP_FAILED && ftruncate(fd, N * PAGE_BYTES) == 0);
	assert_int_equal(madvise(map + PAGE_BYTES, PAGE_BYTES, MADV_DONTFORK), 0);
	assert_ptr_not_equal(mmap(map + 4 * PAGE_BYTES, PAGE_BYTES, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_FIXED, fd, 0),
			     MAP_FAILED);
	assert_ptr_not_equal(mmap(map + 5 * PAGE_BYTES, PAGE_BYTES, PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_FIXED, fd, 0),
			     MAP_FAILED);
	assert_int_equal(munmap(map + 8 * PAGE_BYTES, 2 * PAGE_BYTES), 0);
	assert_int_equal(mprotect(map + 12 * PAGE_BYTES, PAGE_BYTES, PROT_READ), 0);
	assert_int_equal(munmap(map + 15 * PAGE_BYTES, PAGE_BYTES), 0);

	assert_int_equal(span_list_read(&p, HVA(map), N, &l), 0);
	assert_spans(&l, map, all, ARRAY_SIZE(all));
	for (unsigned page = 0; page < N; page++) {
		uint64_t addr = (uintptr_t)map + page * PAGE_BYTES;
		const struct span *s = &l.spans[span_list_find(&l, addr)];

		assert_true(s->start <= addr && addr < s->end);
	}
	span_list_done(&l);
	assert_int_equal(span_list_read(&p, HVA(map + 5 * PAGE_BYTES), 2, &l), 0);
	assert_spans(&l, map, part, ARRAY_SIZE(part));
	span_list_done(&l);
	span_list_done(&l);
	(void)munmap(map, N * PAGE_BYTES);
	(void)close(fd);
	(void)close(p.proc_fd);
}

static void assert_same(const struct span_list *a, const struct span_list *b)
{
	assert_int_equal(a->start, b->start);
	assert_int_equal(a->end, b->end);
	assert_int_equal(a->n, b->n);
	for (size_t i = 0; i < a->n; i++) {
		assert_int_equal(a->spans[i].start, b->spans[i].start);
		assert_int_equal(a->spans[i].end, b->spans[i].end);
		assert_int_equal(a->spans[i].kind, b->spans[i].kind);
	}
}

/* Mappings come and go; the parts in which they did are read again, and no others. */
static void refreshed_where_it_changed(void **state _unused_)
{
	const uint64_t part = SPAN_PART_BYTES / PAGE_BYTES, n = 6 * part + 7;
	struct process p = { .proc_fd = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC) };
	int fd = memfd_create("span", MFD_CLOEXEC);
	char *map = mmap(NULL, (n + 2) * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct span_list l = SPAN_LIST_EMPTY, fresh = SPAN_LIST_EMPTY;

	assert_true(fd >= 0 && map != MAP_FAILED && ftruncate(fd, (off_t)(n * PAGE_BYTES)) == 0);
	map += PAGE_BYTES; /* so that parts are cut at no multiple of anything */
	assert_int_equal(span_list_read(&p, HVA(map), n, &l), 0);
	srand(1);
	for (unsigned round = 0; round < 200; round++) {
		for (unsigned i = (unsigned)rand() % 4; i > 0; i--) {
			uint64_t first = (uint64_t)rand() % n, n_pages = 1 + (uint64_t)rand() % (rand() % 8 ? 16 : n);
			char *at = map + first * PAGE_BYTES;
			int file = rand() % 2;

			n_pages = MIN(n_pages, n - first);
			if (rand() % 4 == 0)
				assert_int_equal(munmap(at, n_pages * PAGE_BYTES), 0);
			else
				assert_ptr_equal(mmap(at, n_pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
						      MAP_PRIVATE | MAP_FIXED | (file ? 0 : MAP_ANONYMOUS),
						      file ? fd : -1, 0),
						 at);
			assert_int_equal(span_list_note_change(&l, (uintptr_t)at, (uintptr_t)at + n_pages * PAGE_BYTES),
					 0);
		}
		assert_int_equal(span_list_refresh(&p, &l), 0);
		assert_int_equal(span_list_read(&p, HVA(map), n, &fresh), 0);
		assert_same(&l, &fresh);
		span_list_done(&fresh);
	}
	/* Elsewhere: no change of this list. */
	assert_int_equal(span_list_note_change(&l, 0, l.start), 0);
	assert_int_equal(span_list_note_change(&l, l.end, UINT64_MAX), 0);
	assert_null(l.stale);
	span_list_done(&l);
	(void)munmap(map - PAGE_BYTES, (n + 2) * PAGE_BYTES);
	(void)close(fd);
	(void)close(p.proc_fd);
}

struct seen {
	struct mapping m[64];
	size_t n;
};

static int see(const struct mapping *m, void *userdata)
{
	struct seen *s = userdata;

	if (s->n < ARRAY_SIZE(s->m))
		s->m[s->n++] = *m;
	return 0;
}

static int see_files(const struct mapping *m, void *userdata)
{
	return m->anonymous ? 0 : see(m, userdata);
}

/* Asked one by one, mappings are as the text tells. */
static void asked_as_read(void **state _unused_)
{
	static struct seen asked, read, files;
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	int proc = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = maps_query(fd, 0, UINT64_MAX, true, see, &asked);

	if (r == -EOPNOTSUPP)
		skip();
	assert_int_equal(r, 0);
	assert_int_equal(maps_read(proc, "maps", see_files, &read), 0);
	assert_int_equal(asked.n, read.n);
	assert_true(asked.n > 3);
	for (size_t i = 0; i < asked.n; i++) {
		const struct mapping *a = &asked.m[i], *b = &read.m[i];

		assert_int_equal(a->start.addr, b->start.addr);
		assert_int_equal(a->n_pages, b->n_pages);
		assert_int_equal(a->flags, b->flags);
		assert_int_equal(a->offset_bytes, b->offset_bytes);
		assert_int_equal(a->inode, b->inode);
		assert_int_equal(a->dev_major, b->dev_major);
		assert_int_equal(a->dev_minor, b->dev_minor);
		assert_false(a->anonymous);
	}
	/* One that reaches into the range, no other. */
	assert_int_equal(maps_query(fd, asked.m[1].start.addr + 1, asked.m[1].start.addr + 2, false, see, &files),
			 0);
	assert_int_equal(files.n, 1);
	assert_int_equal(files.m[0].start.addr, asked.m[1].start.addr);
	(void)close(fd);
	(void)close(proc);
}

/* The same without the ioctl, in a program of its own: features are probed once in a process. */
static void cut_by_kind_from_maps(void **state _unused_)
{
	int status;
	pid_t child = fork();

	assert_true(child >= 0);
	if (child == 0) {
		int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

		(void)dup2(null, STDOUT_FILENO);
		(void)setenv("MEMSHARED_KERNEL_DENY", "procmap-query", 1);
		(void)execl("/proc/self/exe", "test-span", "once", NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

int main(int argc, char **argv _unused_)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cut_by_kind),
		cmocka_unit_test(refreshed_where_it_changed),
		cmocka_unit_test(asked_as_read),
		cmocka_unit_test(cut_by_kind_from_maps),
	};
	const struct CMUnitTest once[] = {
		cmocka_unit_test(cut_by_kind),
		cmocka_unit_test(refreshed_where_it_changed),
	};

	return argc > 1 ? cmocka_run_group_tests_name("span", once, NULL, NULL) :
			  cmocka_run_group_tests_name("span", tests, NULL, NULL);
}
