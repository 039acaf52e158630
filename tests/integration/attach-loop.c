/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * attach-loop PID COUNT [grows]: plants an agent, uses it and takes it out, COUNT times, and checks
 * after each that the process has the descriptors and mappings of the agent no more, and in the end
 * that its threads, descriptors and mappings are what they were. With "grows" the process itself takes
 * memory meanwhile, as QEMU does while its guest boots: mappings are not compared. For the tests with
 * real guests (test-attach-qemu.py). Prints "median_usec=N max_usec=N busy=N" at the end.
 *
 * A busy guest may refuse for a while (-EBUSY): that is tried again and counted.
 */
#include <inttypes.h>

#include "common/parse.h"
#include "tests/integration/attach-fixture.h"

static char reason[AGENT_REASON_MAX];

static _noreturn_ void die(const char *what, int error)
{
	(void)fprintf(stderr, "%s: %s (%s)\n", what, reason, strerror(-error));
	exit(1);
}

static struct agent_link *attach(const struct process *p, uint64_t *busy)
{
	struct agent_link *a;
	int r;

	while ((r = agent_attach(p, reason, &a)) == -EBUSY)
		if (++*busy > 1000)
			break;
	if (r < 0)
		die("attach", r);
	return a;
}

static void use(struct agent_link *a)
{
	int fd, r = agent_ping(a);

	if (r < 0)
		die("ping", r);
	fd = agent_open_uffd(a, false);
	if (fd < 0)
		die("userfaultfd", fd);
	(void)close(fd);
	r = agent_close_uffd(a);
	if (r < 0)
		die("close userfaultfd", r);
}

static void detach(struct agent_link *a, uint64_t *busy)
{
	const struct process *p = agent_process(a);
	int r = agent_detach(a, reason);

	/* The agent is out; what is mapped is found and removed by the next that looks. */
	while (r == -EBUSY && ++*busy < 1000) {
		r = agent_adopt(p, reason, &a);
		if (r == -ENOENT)
			return;
	}
	if (r < 0)
		die("detach", r);
}

static void check(pid_t pid)
{
	static const char *const ours[] = { "memfd:memshared-", "memshared-agent.bin",
					    "Name:\tmemshared", "[userfaultfd]" };
	_cleanup_free_ char *snapshot = process_snapshot(pid);

	for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
		if (strstr(snapshot, ours[i]))
			die(ours[i], -EEXIST);
}

/* From its descriptors on, which follow the mappings. */
static const char *without_mappings(const char *snapshot)
{
	return strempty(strstr(snapshot, "\nfd "));
}

static bool is_as_it_was(pid_t pid, const char *before, bool grows, bool say)
{
	_cleanup_free_ char *after = grows ? process_snapshot(pid) : NULL;

	return grows ? streq(without_mappings(before), without_mappings(after)) :
		       is_unchanged_but_masks(pid, before, say);
}

/* Threads and descriptors of its own may be under way at any moment. */
static void wait_as_it_was(pid_t pid, const char *before, bool grows)
{
	uint64_t deadline = now_usec() + WAIT_USEC;

	while (!is_as_it_was(pid, before, grows, false)) {
		if (now_usec() > deadline) {
			(void)is_as_it_was(pid, before, false, true);
			die("the process is not as it was", -EEXIST);
		}
		(void)usleep(10000);
	}
}

int main(int argc, char **argv)
{
	static struct samples stopped;
	struct process p;
	uint32_t pid, count;
	uint64_t busy = 0;
	_cleanup_free_ char *before = NULL;
	bool grows = argc == 4 && streq(argv[3], "grows");

	if ((argc != 3 && !grows) || parse_u32(argv[1], 1, INT32_MAX, &pid) < 0 ||
	    parse_u32(argv[2], 1, 1000, &count) < 0)
		return 2;
	if (process_open(&p, (pid_t)pid) < 0)
		return 3;
	before = process_snapshot(p.pid);
	for (uint32_t i = 0; i < count; i++) {
		struct agent_link *a = attach(&p, &busy);

		samples_add(&stopped, agent_stopped_usec(a));
		use(a);
		detach(a, &busy);
		check(p.pid);
	}
	wait_as_it_was(p.pid, before, grows);
	(void)printf("median_usec=%" PRIu64, samples_report(&stopped, "thread stopped, usec"));
	(void)printf(" max_usec=%" PRIu64 " busy=%" PRIu64 "\n", stopped.values[stopped.n - 1],
		     busy);
	process_close(&p);
	return 0;
}
