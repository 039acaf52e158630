/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Log lines: to the journal with fields when the daemon runs under systemd, to stderr
 * otherwise. A line is one fact and its consequence, said by the caller that gives up;
 * leaf modules return errors and log at debug only. Page contents are never logged.
 *
 * Any thread may log. Each LOG_RATELIMITED call site prints at most 10 lines in 5 seconds, so
 * that nothing a guest does per page can flood the journal.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>
#include <syslog.h>

#include "common/util.h"

enum log_target {
	LOG_TARGET_AUTO, /* journal if $JOURNAL_STREAM names our stderr, else stderr */
	LOG_TARGET_STDERR,
	LOG_TARGET_JOURNAL,
	LOG_TARGET_MAX,
};

/* Lines below this level are dropped (LOG_INFO at start); level is one of syslog.h's. */
void log_init(enum log_target target, int max_level);
void log_set_level(int max_level);
int log_level(void);

/* Which guest a line is about; any member may be empty. */
struct log_guest {
	const char *name;
	const char *uuid;
	pid_t pid;
};

void log_full(int level, const struct log_guest *guest, const char *fmt, ...) _printf_(3, 4);

#define log_debug(...)	 log_full(LOG_DEBUG, NULL, __VA_ARGS__)
#define log_info(...)	 log_full(LOG_INFO, NULL, __VA_ARGS__)
#define log_notice(...)	 log_full(LOG_NOTICE, NULL, __VA_ARGS__)
#define log_warning(...) log_full(LOG_WARNING, NULL, __VA_ARGS__)
#define log_error(...)	 log_full(LOG_ERR, NULL, __VA_ARGS__)

struct log_ratelimit {
	uint64_t window_start_usec;
	unsigned n;
};
bool log_ratelimit_pass(struct log_ratelimit *limit);

#define LOG_RATELIMITED(level, guest, ...)                       \
	do {                                                     \
		static struct log_ratelimit limit_;              \
		if (log_ratelimit_pass(&limit_))                 \
			log_full(level, guest, __VA_ARGS__);     \
	} while (0)
