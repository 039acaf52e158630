/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The priority of a thread, given and taken back from outside. */
#include "daemon/urgency.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "tests/unit/unit.h"

/* A child plays the guest: one thread, which sleeps. */
static struct process guest;

static int setup(void **state _unused_)
{
	char path[32];

	guest.pid = fork();
	if (guest.pid == 0)
		for (;;)
			(void)pause();
	(void)snprintf(path, sizeof(path), "/proc/%d", guest.pid);
	guest.proc_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return guest.pid > 0 && guest.proc_fd >= 0 ? 0 : -1;
}

static int teardown(void **state _unused_)
{
	(void)kill(guest.pid, SIGKILL);
	(void)waitpid(guest.pid, NULL, 0);
	(void)close(guest.proc_fd);
	return 0;
}

static void begin_or_skip(struct urgency *u)
{
	urgency_begin(&guest, guest.pid, u);
	if (u->kind == URGENCY_REALTIME)
		return;
	assert_true(u->error < 0);
	urgency_end(&guest, guest.pid, u);
	skip();
}

static void given_and_taken_back(void **state _unused_)
{
	struct urgency u;

	assert_int_equal(setpriority(PRIO_PROCESS, (id_t)guest.pid, 3), 0);
	begin_or_skip(&u);
	assert_int_equal(sched_getscheduler(guest.pid), SCHED_FIFO | SCHED_RESET_ON_FORK);
	urgency_end(&guest, guest.pid, &u);
	assert_int_equal(sched_getscheduler(guest.pid), SCHED_OTHER);
	assert_int_equal(getpriority(PRIO_PROCESS, (id_t)guest.pid), 3);
	urgency_end(&guest, guest.pid, &u);
	urgency_begin(&guest, guest.pid, &u); /* its permit has come back, once */
	assert_int_equal(u.kind, URGENCY_REALTIME);
	urgency_end(&guest, guest.pid, &u);
}

static void what_a_killed_daemon_left_is_repaired(void **state _unused_)
{
	struct urgency killed, u;

	begin_or_skip(&killed);
	urgency_repair(&guest, guest.pid);
	assert_int_equal(sched_getscheduler(guest.pid), SCHED_OTHER);
	/* Or the next batch finds it so, and does not take it for what is to be put back. */
	assert_int_equal(sched_setscheduler(guest.pid, SCHED_FIFO | SCHED_RESET_ON_FORK,
					    &(struct sched_param){ .sched_priority = 1 }),
			 0);
	urgency_end(&guest, guest.pid, &killed);
	assert_int_equal(sched_setscheduler(guest.pid, SCHED_FIFO | SCHED_RESET_ON_FORK,
					    &(struct sched_param){ .sched_priority = 1 }),
			 0);
	urgency_begin(&guest, guest.pid, &u);
	assert_int_equal(u.kind, URGENCY_REALTIME);
	urgency_end(&guest, guest.pid, &u);
	assert_int_equal(sched_getscheduler(guest.pid), SCHED_OTHER);
}

static void the_administrators_own_stays(void **state _unused_)
{
	struct urgency u;

	if (sched_setscheduler(guest.pid, SCHED_RR, &(struct sched_param){ .sched_priority = 5 }) < 0)
		skip();
	urgency_begin(&guest, guest.pid, &u);
	assert_int_equal(u.kind, URGENCY_REALTIME);
	assert_int_equal(sched_getscheduler(guest.pid), SCHED_RR);
	urgency_end(&guest, guest.pid, &u);
	urgency_repair(&guest, guest.pid);
	assert_int_equal(sched_getscheduler(guest.pid), SCHED_RR);
}

static void threads_of_others_are_out_of_reach(void **state _unused_)
{
	struct urgency u;

	urgency_begin(&guest, getpid(), &u);
	assert_int_equal(u.kind, URGENCY_NONE);
	assert_int_equal(u.error, -ESRCH);
	assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
	urgency_end(&guest, getpid(), &u);
	urgency_begin(&guest, 0, &u); /* "the caller" to the kernel */
	assert_int_equal(u.error, -ESRCH);
	assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
	urgency_repair(&guest, getpid());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(given_and_taken_back, setup, teardown),
		cmocka_unit_test_setup_teardown(what_a_killed_daemon_left_is_repaired, setup, teardown),
		cmocka_unit_test_setup_teardown(the_administrators_own_stays, setup, teardown),
		cmocka_unit_test_setup_teardown(threads_of_others_are_out_of_reach, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
