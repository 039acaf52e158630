/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Looks at random pages of another process, as a device or a thread of its own would, and says how
 * long that took (waits.h):
 *
 *   touch SECONDS PID:START(hex):PAGES ...
 *
 * SIGTERM ends it before its time.
 */
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/uio.h>

#include "common/parse.h"
#include "tests/bench/waits.h"

#define GUESTS_MAX 16

struct memory {
	uint64_t pid, start, n_pages;
};

static volatile sig_atomic_t stop;

static void on_signal(int signum _unused_)
{
	stop = 1;
}

static int parse_memory(const char *s, struct memory *m)
{
	const char *end = s + strlen(s);
	size_t used;

	if (parse_u64_prefix(s, (size_t)(end - s), 10, &m->pid, &used) < 0 || s[used] != ':')
		return -EINVAL;
	s += used + 1;
	if (parse_u64_prefix(s, (size_t)(end - s), 16, &m->start, &used) < 0 || s[used] != ':')
		return -EINVAL;
	return parse_u64(s + used + 1, 1, UINT32_MAX, &m->n_pages);
}

int main(int argc, char **argv)
{
	struct memory guests[GUESTS_MAX];
	struct waits waits = {0};
	uint64_t seconds, deadline, x = 42;
	int n = argc - 2;

	if (n < 1 || n > GUESTS_MAX || parse_u64(argv[1], 1, 86400, &seconds) < 0) {
		(void)fprintf(stderr, "usage: touch SECONDS PID:START(hex):PAGES ...\n");
		return EXIT_FAILURE;
	}
	for (int i = 0; i < n; i++)
		if (parse_memory(argv[i + 2], &guests[i]) < 0) {
			(void)fprintf(stderr, "touch: %s?\n", argv[i + 2]);
			return EXIT_FAILURE;
		}
	(void)signal(SIGTERM, on_signal);
	waits_reset(&waits);
	deadline = waits_now() + seconds * NSEC_PER_SEC;
	while (!stop && waits_now() < deadline) {
		const struct memory *m;
		struct iovec to, from;
		uint64_t start;
		char byte;

		x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		m = &guests[(x >> 20) % (uint64_t)n];
		to = (struct iovec){ &byte, 1 };
		from = (struct iovec){ (void *)(m->start + (x >> 33) % m->n_pages * PAGE_BYTES), 1 };
		start = waits_now();
		if (process_vm_readv((pid_t)m->pid, &to, 1, &from, 1, 0) != 1) {
			perror("process_vm_readv");
			return EXIT_FAILURE;
		}
		waits_note(&waits, waits_now() - start);
	}
	waits_print(&waits);
	return EXIT_SUCCESS;
}
