/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <sys/stat.h>

#include "common/io.h"
#include "daemon/kept.h"
#include "tests/unit/unit.h"

#define BOOT "01234567-89ab-cdef-0123-456789abcdef"
#define HEAD "memshared-guest 1\nboot " BOOT "\n"

static int parse(const char *text, struct kept *ret)
{
	return kept_parse(text, strlen(text), BOOT, ret);
}

static void add(struct range_set *s, uint64_t start, uint64_t end)
{
	assert_int_equal(range_set_add(s, start, end), 0);
}

static void ask(struct policy *p, enum policy_field f, const char *value)
{
	char reason[POLICY_REASON_MAX];

	assert_int_equal(policy_set(p, f, value, POLICY_SOURCE_RUNTIME, "test", reason), 0);
}

static void assert_ranges(const struct range_set *s, size_t n, const struct range *wanted)
{
	assert_int_equal(s->n, n);
	for (size_t i = 0; i < n; i++) {
		assert_true(s->ranges[i].start == wanted[i].start);
		assert_true(s->ranges[i].end == wanted[i].end);
	}
}

static void text_comes_back(void **state _unused_)
{
	struct kept e = { 0 }, back = { 0 };
	char *text;
	size_t len;

	ask(&e.asked, POLICY_FIELD_ENABLED, "yes");
	ask(&e.asked, POLICY_FIELD_DOMAIN, "tenant-a");
	ask(&e.asked, POLICY_FIELD_CPU, "12.5%");
	e.unmerged = true;
	assert_int_equal(kept_add_store(&e, "0123456789abcdef"), 0);
	assert_int_equal(kept_add_store(&e, "fedcba9876543210"), 0);
	assert_int_equal(kept_add_store(&e, "0123456789abcdef"), 0);
	add(&e.ram, 0x7f0000000000, 0x7f0008000000);
	add(&e.ram, 0x7f1000000000, 0x7f1000200000);
	add(&e.marks, 0x7f0000000000, 0x7f0008000000);
	assert_int_equal(kept_format(&e, BOOT, &text, &len), 0);
	assert_int_equal(kept_parse(text, len, BOOT, &back), 0);
	assert_int_equal(back.asked.set, e.asked.set);
	assert_true(back.unmerged);
	assert_int_equal(back.n_stores, 2);
	assert_string_equal(back.stores[1], "fedcba9876543210");
	assert_true(policy_equal(&back.asked, &e.asked));
	assert_int_equal(back.asked.source[POLICY_FIELD_CPU], POLICY_SOURCE_RUNTIME);
	assert_ranges(&back.ram, e.ram.n, e.ram.ranges);
	assert_ranges(&back.marks, e.marks.n, e.marks.ranges);
	kept_done(&e);
	kept_done(&back);
	free(text);
}

static void what_is_not_asked_for_is_absent(void **state _unused_)
{
	struct kept e = { 0 };

	assert_int_equal(parse(HEAD, &e), 0);
	assert_int_equal(e.asked.set, 0);
	assert_int_equal(e.ram.n + e.marks.n, 0);
	kept_done(&e);
}

static void other_text_is_refused(void **state _unused_)
{
	static const char *const bad[] = {
		"",
		"memshared-guest 1",
		"memshared-guest 1\n",
		"memshared-guest 2\nboot " BOOT "\n",
		HEAD "x",
		HEAD "\n",
		HEAD "unmerged no\n",
		HEAD "store \n",
		HEAD "store 0123456789abcde\n",
		HEAD "store 0123456789abcdef0\n",
		HEAD "store 0123456789abcdeF\n",
		HEAD "store ../../../../../x\n",
		HEAD "store 0123456789abcdef\nstore 0123456789abcdef\n",
		HEAD "store 0000000000000000\nstore 0000000000000001\nstore 0000000000000002\n"
		     "store 0000000000000003\nstore 0000000000000004\n",
		HEAD "store 0123456789abcdef\nunmerged yes\n",
		HEAD "ram\n",
		HEAD "ram \n",
		HEAD "ram 1000\n",
		HEAD "ram 1000-\n",
		HEAD "ram 1000-2000",
		HEAD "ram 1000-2000 \n",
		HEAD "ram  1000-2000\n",
		HEAD "ram 2000-1000\n",
		HEAD "ram 1000-1000\n",
		HEAD "ram 1000-2001\n",
		HEAD "ram 1001-2000\n",
		HEAD "ram 1000-200000000000000\n",
		HEAD "ram 1000-ffffffffffffffffffff000\n",
		HEAD "ram 1000-3000\nram 2000-4000\n",
		HEAD "ram 1000-2000\nram 2000-3000\n",
		HEAD "ram 3000-4000\nram 1000-2000\n",
		HEAD "mark 1000-2000\nram 1000-2000\n",
		HEAD "policy\n",
		HEAD "policy domain\n",
		HEAD "policy engine ksm\npolicy domain a\n",
		HEAD "policy domain a\npolicy domain b\n",
		HEAD "policy domain /etc\n",
		HEAD "policy domain " BOOT BOOT "\n",
		HEAD "policy domain " BOOT BOOT BOOT BOOT "\n",
		HEAD "policy engine none\n",
		HEAD "policy later yes\n",
		HEAD "ram 1000-2000\npolicy domain a\n",
		HEAD "later yes\n",
	};
	struct kept e;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (parse(bad[i], &e) != -EINVAL)
			fail_msg("accepted: %s", bad[i]);
	assert_int_equal(parse("memshared-guest 1\nboot x\n", &e), -ESTALE);
	assert_int_equal(kept_parse(HEAD "ram 1000\0-2000\n", sizeof(HEAD) + 15, BOOT, &e),
			 -EINVAL);
}

/* Marks inside RAM that was served may be ours: only the note of who took them away counts. */
static void marks_are_inherited(void **state _unused_)
{
	static const struct range marks[] = { { 0x100000, 0x200000 }, { 0x900000, 0xa00000 } };
	static const struct range ram[] = { { 0x100000, 0x300000 }, { 0x500000, 0x600000 } };
	struct kept e = { 0 }, earlier = { 0 };
	struct range_set now = { 0 };

	add(&earlier.ram, 0x100000, 0x300000);
	add(&earlier.marks, 0x100000, 0x200000);
	add(&now, 0x280000, 0x290000); /* ours */
	add(&now, 0x900000, 0xa00000); /* plugged in meanwhile */
	add(&e.ram, 0x500000, 0x600000);
	assert_int_equal(kept_inherit(&e, &earlier, &now), 0);
	assert_ranges(&e.marks, ARRAY_SIZE(marks), marks);
	assert_ranges(&e.ram, ARRAY_SIZE(ram), ram);
	kept_done(&e);
	kept_done(&earlier);
	range_set_done(&now);
}

static void without_an_earlier_note_all_marks_are_qemus(void **state _unused_)
{
	static const struct range marks[] = { { 0x100000, 0x200000 } };
	struct kept e = { 0 };
	struct range_set now = { 0 };

	add(&now, 0x100000, 0x200000);
	add(&e.ram, 0x100000, 0x300000);
	assert_int_equal(kept_inherit(&e, NULL, &now), 0);
	assert_ranges(&e.marks, 1, marks);
	kept_done(&e);
	range_set_done(&now);
}

static void put(int dir_fd, const char *name, const char *text)
{
	_cleanup_close_ int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(io_write_full(fd, text, strlen(text)), 0);
}

static bool there(int dir_fd, const char *name)
{
	return faccessat(dir_fd, name, F_OK, 0) == 0;
}

static void files_live_as_long_as_their_guests(void **state _unused_)
{
	char dir[] = "/tmp/memshared-test-enrolment-XXXXXX", own[64], unfinished[72], guests[64];
	struct process p = PROCESS_INIT;
	struct kept e = { 0 }, back = { 0 };
	struct kept_store_user *users;
	size_t n;
	int fd;

	assert_non_null(mkdtemp(dir));
	assert_int_equal(kept_open_dir("/proc/nothing"), -ENOENT);
	fd = kept_open_dir(dir);
	assert_true(fd >= 0);
	assert_int_equal(process_open(&p, getpid()), 0);
	assert_int_equal(kept_load(fd, &p, &back), -ENOENT);
	ask(&e.asked, POLICY_FIELD_DOMAIN, "a");
	add(&e.marks, 0x1000, 0x2000);
	assert_int_equal(kept_store(fd, &p, &e), 0);
	assert_int_equal(kept_store(fd, &p, &e), 0);
	assert_int_equal(kept_load(fd, &p, &back), 0);
	assert_int_equal(back.asked.domain[0], 'a');
	assert_int_equal(back.marks.n, 1);

	(void)snprintf(own, sizeof(own), "%d-%lu", (int)p.pid, (unsigned long)p.start_ticks);
	(void)snprintf(unfinished, sizeof(unfinished), "%s.new", own);
	put(fd, unfinished, "memsh");
	put(fd, "1-999999999999", HEAD); /* another process had this pid */
	put(fd, "nonsense", HEAD);
	assert_int_equal(kept_sweep(fd), 1);
	assert_true(there(fd, own));
	assert_false(there(fd, unfinished) || there(fd, "1-999999999999") || there(fd, "nonsense"));
	put(fd, own, "broken");
	assert_int_equal(kept_sweep(fd), 1);
	put(fd, own, "memshared-guest 1\nboot before\n");
	assert_int_equal(kept_load(fd, &p, &back), -ESTALE);
	assert_int_equal(kept_sweep(fd), 0);
	assert_int_equal(kept_store(fd, &p, &e), 0);
	assert_int_equal(kept_set_store(fd, &p, "0123456789abcdef"), 0);
	assert_int_equal(kept_add_store(&e, "0000000000000000"), 0);
	assert_int_equal(kept_store_users(fd, &users, &n), 0);
	assert_int_equal(n, 1);
	assert_true(users[0].pid == p.pid && users[0].start_ticks == p.start_ticks);
	assert_string_equal(users[0].store, "0123456789abcdef");
	free(users);
	put(fd, own, "broken"); /* any store */
	assert_int_equal(kept_store_users(fd, &users, &n), 0);
	assert_int_equal(n, 1);
	assert_string_equal(users[0].store, "");
	free(users);
	assert_int_equal(kept_store(fd, &p, &e), 0);
	assert_int_equal(kept_set_store(fd, &p, NULL), 0);
	assert_int_equal(kept_store_users(fd, &users, &n), 0);
	assert_int_equal(n, 0);
	free(users);
	kept_remove(fd, &p);
	assert_false(there(fd, own));

	kept_done(&e);
	kept_done(&back);
	process_close(&p);
	close_fdp(&fd);
	(void)snprintf(guests, sizeof(guests), "%s/guests", dir);
	assert_int_equal(rmdir(guests), 0);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_comes_back),
		cmocka_unit_test(what_is_not_asked_for_is_absent),
		cmocka_unit_test(other_text_is_refused),
		cmocka_unit_test(marks_are_inherited),
		cmocka_unit_test(without_an_earlier_note_all_marks_are_qemus),
		cmocka_unit_test(files_live_as_long_as_their_guests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
