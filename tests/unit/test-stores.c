/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/io.h"
#include "common/util.h"
#include "daemon/stores.h"
#include "tests/unit/unit.h"

#define CAPACITY 64

static char directory[] = "/tmp/memshared-test-stores-XXXXXX";

static struct stores *open_stores(void)
{
	struct stores *s;

	assert_int_equal(stores_new(directory, &s), 0);
	return s;
}

static int get(struct stores *s, const char *domain, struct store **ret)
{
	return stores_get(s, domain, CAPACITY, NULL, 0, ret);
}

/* As the earlier daemon's descriptor comes back from systemd. */
static int writable(const struct store *s)
{
	char path[64];
	int fd;

	if (geteuid() != 0) /* mode 0400 */
		skip();
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", store_guest_fd(s));
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void inherit(struct stores *s, const char *domain, int fd)
{
	char name[STORE_FD_NAME_MAX];

	store_fd_name(domain, name);
	stores_inherit(s, name, fd);
}

static void put(struct store *s, uint8_t byte)
{
	uint8_t page[PAGE_BYTES];
	slot_id slot;

	memset(page, byte, sizeof(page));
	assert_int_equal(store_reserve(s, 1, SLOT_ID_NONE, &slot), 1);
	assert_int_equal(store_write(s, slot, page, 1), 1);
}

static bool is_noted(const char *domain)
{
	char name[STORE_FD_NAME_MAX], path[128];

	store_fd_name(domain, name);
	(void)snprintf(path, sizeof(path), "%s/stores/%s", directory, name);
	return access(path, F_OK) == 0;
}

/* Whether another daemon takes this descriptor for this domain's store. */
static bool takes(const char *domain, int fd)
{
	struct stores *s = open_stores();
	struct store *store;
	int found;

	inherit(s, domain, fd);
	found = get(s, domain, &store);
	assert_true(found == STORES_NEW || found == STORES_FROM_SYSTEMD);
	if (found)
		assert_int_equal(store_used_pages(store), 1);
	store_free(store);
	stores_free(s);
	return found == STORES_FROM_SYSTEMD;
}

static void what_was_made_is_found(void **state _unused_)
{
	struct stores *s = open_stores();
	struct store *store;
	int fd;

	assert_int_equal(get(s, "a", &store), 0);
	put(store, 1);
	assert_true(is_noted("a"));
	fd = writable(store);
	store_free(store);
	stores_free(s);
	assert_true(takes("a", fd));
	s = open_stores();
	stores_drop(s, "a");
	assert_false(is_noted("a"));
	stores_free(s);
}

/* All that the file itself shows may be forged by who is root in a guest's place. */
static void what_was_not_noted_is_not(void **state _unused_)
{
	struct stores *s = open_stores();
	struct store *store, *other;
	int fd;

	assert_int_equal(get(s, "a", &store), 0);
	assert_int_equal(store_new("a", CAPACITY, &other), 0);
	put(store, 1);
	put(other, 2);
	stores_free(s);
	/* Refused, and a new one noted instead: so the first is not it any more, either. */
	fd = writable(store);
	assert_false(takes("a", writable(other)));
	assert_false(takes("a", fd));
	store_free(store);
	store_free(other);
	s = open_stores();
	stores_drop_unclaimed(s);
	assert_false(is_noted("a"));
	stores_free(s);
}

static void domains_are_told_apart(void **state _unused_)
{
	struct stores *s = open_stores();
	struct store *a, *b;

	assert_int_equal(get(s, "a", &a), 0);
	assert_int_equal(get(s, "b", &b), 0);
	put(a, 1);
	put(b, 2);
	stores_free(s);
	assert_false(takes("b", writable(a)));
	assert_true(takes("a", writable(a)));
	store_free(a);
	store_free(b);
	s = open_stores();
	stores_drop(s, "a");
	assert_true(is_noted("b"));
	stores_drop_unclaimed(s);
	assert_false(is_noted("b"));
	stores_free(s);
}

/* A process that maps the store privately, as a guest does, until its input ends. */
static pid_t start_guest(int fd, int *ret_pipe)
{
	int ends[2], ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)close(ends[1]);
		if (mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) == MAP_FAILED)
			_exit(1);
		(void)close(fd);
		(void)!write(ready[1], "x", 1);
		(void)!read(ends[0], &byte, 1);
		_exit(0);
	}
	(void)close(ends[0]);
	(void)close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	(void)close(ready[0]);
	*ret_pipe = ends[1];
	return pid;
}

static void guests_have_it(void **state _unused_)
{
	struct stores *s = open_stores();
	struct kept_store_user users[2] = { { .pid = 1, .start_ticks = 1 } };
	struct process p = PROCESS_INIT;
	struct store *store;
	pid_t pid;
	int end;

	assert_int_equal(get(s, "a", &store), 0);
	put(store, 1);
	pid = start_guest(store_guest_fd(store), &end);
	assert_int_equal(process_open(&p, pid), 0);
	users[1].pid = pid;
	users[1].start_ticks = p.start_ticks;
	(void)snprintf(users[1].store, sizeof(users[1].store), "%s", store_label(store));
	store_free(store);
	stores_free(s);
	s = open_stores();
	assert_int_equal(stores_get(s, "a", CAPACITY, users, 2, &store), STORES_FROM_GUEST);
	assert_int_equal(store_used_pages(store), 1);
	store_free(store);
	stores_free(s);
	/* Another process, or one that had another store, is not asked. */
	users[1].start_ticks++;
	s = open_stores();
	assert_int_equal(stores_get(s, "a", CAPACITY, users, 2, &store), STORES_NEW);
	store_free(store);
	stores_drop(s, "a");
	stores_free(s);
	(void)close(end);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	process_close(&p);
}

static int make_directory(void **state _unused_)
{
	return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state _unused_)
{
	char path[sizeof(directory) + 8];
	struct stores *s = open_stores();

	stores_drop_unclaimed(s); /* what skipped tests left */
	stores_free(s);

	(void)snprintf(path, sizeof(path), "%s/stores", directory);
	return rmdir(path) == 0 && rmdir(directory) == 0 ? 0 : -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_made_is_found),
		cmocka_unit_test(what_was_not_noted_is_not),
		cmocka_unit_test(domains_are_told_apart),
		cmocka_unit_test(guests_have_it),
	};

	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
