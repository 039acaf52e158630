/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the attach tests have in common: a fake guest, and a look at what a process consists of. */
#pragma once

#include "daemon/agent-link.h"
#include "daemon/process.h"
#include "tests/unit/unit.h"

/* Prints the reason, which the test runner puts into the TAP line, and skips. */
#define SKIP(...)                           \
	do {                                \
		print_message(__VA_ARGS__); \
		print_message("\n");        \
		skip();                     \
	} while (0)

/* For events that come in milliseconds when nothing else runs. */
#define WAIT_USEC (20 * USEC_PER_SEC)

struct fake_guest {
	pid_t pid;
	int in, out; /* its stdin and stdout */
	uint64_t ram, ram_bytes;
	struct process process;
};

struct guest_counters {
	uint64_t rounds, eintr, wrong;
};

/* First thing in main(): ends the program, all tests skipped, unless they can run here; points
 * MEMSHARED_LIBEXECDIR at the build tree. */
void attach_tests_begin(void);

/* Starts tests/integration/fake-guest and waits until it is ready. Up to two arguments. */
void fake_guest_start(struct fake_guest *g, const char *arg1, const char *arg2);
/* Kills it; also one that has died. */
void fake_guest_stop(struct fake_guest *g);
/* Asks for the counters. False when it doesn't answer. */
bool fake_guest_ask(struct fake_guest *g, struct guest_counters *ret);
/* Waits until every thread of it but the busy one made some rounds more. */
void fake_guest_let_work(struct fake_guest *g, uint64_t more_rounds);

/* Whether the main thread sleeps in a system call, and which. */
bool sleeps_in_call(pid_t pid, int64_t *ret_nr);

/* What a process consists of, as text: mappings, descriptors, threads with their signal masks. */
char *process_snapshot(pid_t pid);
/* Fails, showing the difference, unless the process is as it was. */
void assert_unchanged(pid_t pid, const char *before);
/* The same, the threads' signal masks left aside: busy threads change them in ppoll. say: print the
 * difference. */
bool is_unchanged_but_masks(pid_t pid, const char *before, bool say);
void assert_unchanged_but_masks(pid_t pid, const char *before);

/* Waits until the condition holds, looking every millisecond; fails at the deadline. */
#define wait_until(condition)                                                        \
	do {                                                                         \
		uint64_t deadline_ = now_usec() + WAIT_USEC;                         \
		while (!(condition)) {                                               \
			if (now_usec() > deadline_)                                  \
				fail_msg("not within the deadline: %s", #condition); \
			(void)usleep(1000);                                          \
		}                                                                    \
	} while (0)

struct samples {
	uint64_t values[1024];
	size_t n;
};
void samples_add(struct samples *s, uint64_t value);
/* Prints "what: median M, 99 % N, max X" for the log; returns the median. */
uint64_t samples_report(struct samples *s, const char *what);
