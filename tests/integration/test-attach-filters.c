/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guests with seccomp filters: one that denies each call that is needed, in turn. What would harm
 * the guest is refused with nothing injected; what can be done without is done without.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "daemon/attach-run.h"
#include "daemon/attach/needs.h"
#include "tests/integration/attach-fixture.h"

static struct fake_guest guest;
static char reason[AGENT_REASON_MAX];

static int stop_guest(void **state _unused_)
{
	fake_guest_stop(&guest);
	return 0;
}

static void start_with(int nr, uint32_t verdict)
{
	char deny[64];

	(void)snprintf(deny, sizeof(deny), "--deny=%x:%x", (unsigned)nr, verdict);
	fake_guest_start(&guest, "--idle", deny);
}

static void assert_refused(const char *name)
{
	_cleanup_free_ char *before = process_snapshot(guest.pid);
	struct attach_result result;
	struct agent_link *a = NULL;
	int r = agent_attach(&guest.process, reason, &a);

	print_message("# refused: %s\n", reason);
	assert_int_equal(r, -EOPNOTSUPP);
	assert_non_null(strstr(reason, "seccomp filter would"));
	assert_non_null(strstr(reason, name));
	assert_unchanged(guest.pid, before);
	assert_true(process_alive(&guest.process));
	/* --check says the same. */
	assert_int_equal(attach_run(&guest.process, ATTACH_CHECK, -1, &result, reason),
			 -EOPNOTSUPP);
	fake_guest_stop(&guest);
}

/* Whether the call is in the list as one of this kind. */
static bool is_listed(int nr, enum need_kind kind)
{
	size_t n;
	const struct need *list = needs_list(&n);

	for (size_t i = 0; i < n; i++)
		if (list[i].nr == nr && list[i].kind == kind)
			return true;
	return false;
}

/* The next call of this kind, each once; false at the end. *at begins with 0. */
static bool next_need(enum need_kind kind, size_t *at, struct need *ret)
{
	size_t n;
	const struct need *list = needs_list(&n);

	for (; *at < n; ++*at) {
		bool seen = list[*at].kind != kind;

		for (size_t i = 0; i < *at && !seen; i++)
			seen = list[i].nr == list[*at].nr && list[i].kind == kind;
		if (!seen) {
			*ret = list[(*at)++];
			return true;
		}
	}
	return false;
}

static void killing_filters(void **state _unused_)
{
	static const enum need_kind kinds[] = { NEED_INJECT, NEED_AGENT };
	struct need need;

	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		for (size_t at = 0; next_need(kinds[k], &at, &need);) {
			start_with(need.nr, SECCOMP_RET_KILL_PROCESS);
			assert_refused(need.name);
			start_with(need.nr, SECCOMP_RET_TRAP);
			assert_refused(need.name);
		}
}

static void failing_filters(void **state _unused_)
{
	struct need need;

	for (size_t at = 0; next_need(NEED_AGENT, &at, &need);) {
		start_with(need.nr, SECCOMP_RET_ERRNO | EPERM);
		assert_refused(need.name);
	}
}

static struct agent_link *attach(void)
{
	struct agent_link *a = NULL;

	if (agent_attach(&guest.process, reason, &a) < 0)
		fail_msg("not attached: %s", reason);
	return a;
}

static void detach(struct agent_link *a, const char *before)
{
	if (agent_detach(a, reason) < 0)
		fail_msg("not detached: %s", reason);
	assert_unchanged(guest.pid, before);
	fake_guest_stop(&guest);
}

/* A filter that fails what only the borrowed thread calls is suspended. */
static void suspended_filter(void **state _unused_)
{
	struct need need;

	for (size_t at = 0; next_need(NEED_INJECT, &at, &need);) {
		_cleanup_free_ char *before = NULL;
		struct agent_link *a;

		if (is_listed(need.nr, NEED_AGENT))
			continue;
		start_with(need.nr, SECCOMP_RET_ERRNO | EPERM);
		before = process_snapshot(guest.pid);
		a = attach();
		assert_int_equal(agent_ping(a), 0);
		detach(a, before);
	}
}

static void filter_on_argument(void **state _unused_)
{
	char deny[64];

	/* As QEMU's: clone with any flags but pthread_create's kills; here: with exactly those. */
	(void)snprintf(deny, sizeof(deny), "--deny=%x:%x:0:3d0f00", SYS_clone,
		       SECCOMP_RET_KILL_PROCESS);
	fake_guest_start(&guest, "--idle", deny);
	assert_refused("clone");
	(void)snprintf(deny, sizeof(deny), "--deny=%x:%x:2:%x", SYS_madvise,
		       SECCOMP_RET_KILL_PROCESS, MADV_MERGEABLE);
	fake_guest_start(&guest, "--idle", deny);
	assert_refused("madvise");
	(void)snprintf(deny, sizeof(deny), "--deny=%x:%x:1:%x", SYS_futex,
		       SECCOMP_RET_KILL_PROCESS, FUTEX_WAIT);
	fake_guest_start(&guest, "--idle", deny);
	assert_refused("futex");
}

/* Calls that the agent can do without: it must not make them. */
static void optional_calls(void **state _unused_)
{
	struct need need;

	for (size_t at = 0; next_need(NEED_OPTIONAL, &at, &need);) {
		_cleanup_free_ char *before = NULL;
		struct agent_link *a;
		int fd;

		print_message("# done without: %s\n", need.name);
		start_with(need.nr, SECCOMP_RET_KILL_PROCESS);
		before = process_snapshot(guest.pid);
		a = attach();
		assert_int_equal(agent_ping(a), 0);
		fd = agent_open_uffd(a, false); /* where it is denied: by the device */
		assert_true(fd >= 0 || fd == -ENOENT || fd == -EACCES);
		close_fdp(&fd);
		assert_true(process_alive(&guest.process));
		detach(a, before);
	}
}

/* The exit status of memshared-attach --check. */
static int check_status(const char *option)
{
	char command[256];
	int status;

	(void)snprintf(command, sizeof(command), "%s/memshared-attach %s --check %d >/dev/null",
		       getenv("MEMSHARED_LIBEXECDIR"), option, guest.pid);
	status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* As on a kernel that cannot suspend filters: the injected calls must pass, too. */
static void no_suspension(void **state _unused_)
{
	_cleanup_free_ char *before = NULL;

	start_with(SYS_socketpair, SECCOMP_RET_ERRNO | EPERM);
	before = process_snapshot(guest.pid);
	assert_int_equal(check_status(""), 0);
	assert_int_equal(check_status("--no-suspend"), 5);
	assert_unchanged(guest.pid, before);
	fake_guest_stop(&guest);
	start_with(SYS_reboot, SECCOMP_RET_KILL_PROCESS);
	assert_int_equal(check_status("--no-suspend"), 0);
	assert_int_equal(check_status("--start=1"), 8);
	assert_int_equal(check_status("--ring=0"), 2);
}

static void harmless_filter(void **state _unused_)
{
	_cleanup_free_ char *before = NULL;
	struct agent_link *a;

	start_with(SYS_reboot, SECCOMP_RET_KILL_PROCESS);
	before = process_snapshot(guest.pid);
	a = attach();
	assert_int_equal(agent_ping(a), 0);
	detach(a, before);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_teardown(fn, stop_guest)
	const struct CMUnitTest tests[] = {
		TEST(killing_filters),	  TEST(failing_filters), TEST(suspended_filter),
		TEST(filter_on_argument), TEST(optional_calls),	 TEST(harmless_filter),
		TEST(no_suspension),
	};

	attach_tests_begin();
	return cmocka_run_group_tests_name("attach-filters", tests, NULL, NULL);
}
