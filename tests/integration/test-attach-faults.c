/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Deaths at every moment: of memshared-attach, of the daemon, of the guest.
 *
 * What is promised (daemon/attach/plant.c): the guest lives; before a thread is borrowed and after
 * the agent's image is mapped nothing is wrong in it; in between, some 20 us, one sleeper is
 * woken for nothing once. The daemon that lives, or the next one, clears up.
 */
#include <signal.h>
#include <sys/wait.h>

#include "common/fault.h"
#include "tests/integration/attach-fixture.h"

static struct fake_guest guest;
static char reason[AGENT_REASON_MAX];

static int stop_guest(void **state _unused_)
{
	fake_guest_stop(&guest);
	(void)unsetenv("MEMSHARED_FAULT");
	return 0;
}

struct fault_point {
	const char *name;
	bool woken;  /* the borrowed thread takes our call's result for its own */
	bool leaks;  /* descriptors are left behind that the ring does not tell of yet */
};

static const struct fault_point points[] = {
	{ "attach-seized", false, false },
	{ "attach-stopped", false, false },
	{ "attach-borrowed", false, false },
	{ "attach-private", true, false },
	{ "attach-sockets", true, true },
	{ "attach-received", true, true },
	{ "attach-code", true, false },
	{ "attach-ring", false, false },
	{ "attach-cloned", false, false },
	{ "attach-registers", false, false },
	{ "attach-restored", false, false },
};

static void assert_left(const struct fault_point *f, const char *before)
{
	if (!f->leaks)
		assert_unchanged(guest.pid, before);
}

/* Kills memshared-attach there, and looks at the guest. */
static void kill_attach_at(const struct fault_point *f)
{
	_cleanup_free_ char *before = NULL;
	struct agent_link *a = NULL;
	struct guest_counters c;
	char spec[64];
	int r;

	fake_guest_start(&guest, "--idle", NULL);
	before = process_snapshot(guest.pid);
	(void)snprintf(spec, sizeof(spec), "%s:kill", f->name);
	(void)setenv("MEMSHARED_FAULT", spec, 1);
	r = agent_attach(&guest.process, reason, &a);
	(void)unsetenv("MEMSHARED_FAULT");
	print_message("# %s: %s\n", f->name, reason);
	assert_int_equal(r, -EIO);
	assert_true(fake_guest_ask(&guest, &c));
	assert_int_equal(c.eintr, 0);
	assert_int_equal(c.wrong, f->woken);
	assert_left(f, before);
	/* And it can be attached to again, as if nothing had been. */
	if (agent_attach(&guest.process, reason, &a) < 0)
		fail_msg("%s: not attached afterwards: %s", f->name, reason);
	assert_int_equal(agent_ping(a), 0);
	assert_int_equal(agent_detach(a, reason), 0);
	assert_left(f, before);
	assert_true(fake_guest_ask(&guest, &c));
	assert_int_equal(c.wrong, f->woken);
	fake_guest_stop(&guest);
}

static void attach_killed(void **state _unused_)
{
	for (size_t i = 0; i < ARRAY_SIZE(points); i++)
		kill_attach_at(&points[i]);
}

static void daemon_leaves_at(const char *fault, bool detach)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct agent_link *a = NULL;

		(void)setenv("MEMSHARED_FAULT", fault, 1);
		if (fault_init() < 0 || agent_attach(&guest.process, reason, &a) < 0)
			_exit(1);
		if (detach)
			(void)agent_detach(a, reason);
		_exit(2);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
}

/* The daemon is killed after the agent was planted, after it was greeted, and in the middle of a
 * detach: a new one adopts the agent, or cleans up. */
static void daemon_killed(void **state _unused_)
{
	static const struct {
		const char *fault;
		bool detach;
		int adopted;
	} deaths[] = {
		{ "agent-planted:kill", false, 0 },
		{ "agent-greeted:kill", false, 0 },
		{ "agent-exit:kill", true, -ENOENT },
	};

	for (size_t i = 0; i < ARRAY_SIZE(deaths); i++) {
		_cleanup_free_ char *before = NULL;
		struct agent_link *a = NULL;
		int r;

		fake_guest_start(&guest, "--idle", NULL);
		before = process_snapshot(guest.pid);
		daemon_leaves_at(deaths[i].fault, deaths[i].detach);
		r = agent_adopt(&guest.process, reason, &a);
		print_message("# %s: %s\n", deaths[i].fault, r < 0 ? reason : "adopted");
		assert_int_equal(r, deaths[i].adopted);
		if (r == 0)
			assert_int_equal(agent_detach(a, reason), 0);
		assert_unchanged(guest.pid, before);
		fake_guest_stop(&guest);
	}
}

/* --remove is killed: the ring is unmapped last, so that the next daemon finds the rest. */
static void removal_killed(void **state _unused_)
{
	static const struct {
		const char *fault;
		bool woken; /* munmap's 0 is ppoll's "nothing happened" */
	} deaths[] = {
		{ "remove-seized:kill", false },     { "remove-stopped:kill", false },
		{ "remove-borrowed:kill", false },   { "remove-unmapped:kill:1", true },
		{ "remove-unmapped:kill:2", true }, { "remove-registers:kill", false },
		{ "remove-restored:kill", false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(deaths); i++) {
		struct agent_link *a = NULL;
		_cleanup_free_ char *before = NULL;
		struct guest_counters c;
		int r;

		fake_guest_start(&guest, "--idle", NULL);
		before = process_snapshot(guest.pid);
		assert_int_equal(agent_attach(&guest.process, reason, &a), 0);
		(void)setenv("MEMSHARED_FAULT", deaths[i].fault, 1);
		r = agent_detach(a, reason);
		(void)unsetenv("MEMSHARED_FAULT");
		print_message("# %s: %s\n", deaths[i].fault, reason);
		assert_int_equal(r, -EIO);
		assert_int_equal(agent_adopt(&guest.process, reason, &a), -ENOENT);
		/* Behind the last munmap there is no ring to tell of the thread's mask. */
		if (strstr(deaths[i].fault, "registers"))
			assert_unchanged_but_masks(guest.pid, before);
		else
			assert_unchanged(guest.pid, before);
		assert_true(fake_guest_ask(&guest, &c));
		assert_int_equal(c.wrong, deaths[i].woken);
		assert_int_equal(agent_attach(&guest.process, reason, &a), 0);
		assert_int_equal(agent_detach(a, reason), 0);
		fake_guest_stop(&guest);
	}
}

/* From a clock that runs beside the attach: the guest dies at any of its moments. */
static void guest_killed(void **state _unused_)
{
	unsigned attached = 0, gone = 0;

	for (unsigned i = 0; i < 60; i++) {
		struct agent_link *a = NULL;
		pid_t killer;
		int r;

		fake_guest_start(&guest, NULL, NULL);
		killer = fork();
		if (killer == 0) {
			(void)usleep(i * 100);
			(void)kill(guest.pid, SIGKILL);
			_exit(0);
		}
		r = agent_attach(&guest.process, reason, &a);
		(void)waitpid(killer, NULL, 0);
		attached += r == 0;
		gone += r == -ESRCH;
		if (r == 0) {
			assert_int_equal(agent_ping(a), -ESRCH);
			assert_int_equal(agent_ping(a), -EPIPE);
			(void)agent_detach(a, reason);
		} else if (r != -ESRCH) {
			fail_msg("%s (%s)", reason, strerror(-r));
		}
		fake_guest_stop(&guest);
	}
	print_message("# attached before the end %u times, gone %u times\n", attached, gone);
}

/* Two daemons that put batches into one ring would undo each other's work. */
static void second_daemon(void **state _unused_)
{
	_cleanup_free_ char *before = NULL;
	struct agent_link *a = NULL, *b = NULL;

	fake_guest_start(&guest, "--idle", NULL);
	before = process_snapshot(guest.pid);
	assert_int_equal(agent_attach(&guest.process, reason, &a), 0);
	assert_int_equal(agent_adopt(&guest.process, reason, &b), -EBUSY);
	assert_non_null(strstr(reason, "another memshared daemon"));
	assert_int_equal(agent_attach(&guest.process, reason, &b), -EEXIST);
	assert_int_equal(agent_ping(a), 0);
	/* The first one goes: its lock goes with it, though the guest has the ring as ever. */
	agent_leave(a);
	assert_int_equal(agent_adopt(&guest.process, reason, &b), 0);
	assert_int_equal(agent_adopt(&guest.process, reason, &a), -EBUSY);
	assert_int_equal(agent_detach(b, reason), 0);
	assert_unchanged(guest.pid, before);
	fake_guest_stop(&guest);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_teardown(fn, stop_guest)
	const struct CMUnitTest tests[] = {
		TEST(attach_killed),
		TEST(daemon_killed),
		TEST(removal_killed),
		TEST(guest_killed),
		TEST(second_daemon),
	};

	attach_tests_begin();
	return cmocka_run_group_tests_name("attach-faults", tests, NULL, NULL);
}
