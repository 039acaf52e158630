/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <systemd/sd-journal.h>

#define RATELIMIT_WINDOW_USEC (5 * USEC_PER_SEC)
#define RATELIMIT_BURST	      10U
/* Longest line; what does not fit is cut. */
#define LINE_BYTES 1024

static _Atomic int log_max_level = LOG_INFO;
static bool to_journal;

/* $JOURNAL_STREAM is "device:inode" of the stream that systemd gave us (systemd.exec(5)). */
static bool stderr_is_journal(void)
{
	const char *e = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	if (!e || sscanf(e, "%llu:%llu", &dev, &ino) != 2 || fstat(STDERR_FILENO, &st) < 0)
		return false;
	return st.st_dev == dev && st.st_ino == ino;
}

void log_init(enum log_target target, int max_level)
{
	to_journal = target == LOG_TARGET_JOURNAL ||
		     (target == LOG_TARGET_AUTO && stderr_is_journal());
	log_set_level(max_level);
}

void log_set_level(int max_level)
{
	atomic_store_explicit(&log_max_level, max_level, memory_order_relaxed);
}

int log_level(void)
{
	return atomic_load_explicit(&log_max_level, memory_order_relaxed);
}

void log_full(int level, const struct log_guest *guest, const char *fmt, ...)
{
	char line[LINE_BYTES];
	int saved = errno;
	va_list ap;

	if (level > log_level())
		return;
	va_start(ap, fmt);
	(void)vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);

	if (to_journal) {
		if (guest)
			(void)sd_journal_send("MESSAGE=%s", line, "PRIORITY=%i", level, "GUEST=%s",
					      strempty(guest->name), "UUID=%s", strempty(guest->uuid),
					      "GUEST_PID=%i", (int)guest->pid, NULL);
		else
			(void)sd_journal_send("MESSAGE=%s", line, "PRIORITY=%i", level, NULL);
	} else if (guest) {
		(void)fprintf(stderr, "memshared: %s (pid %d): %s\n",
			      guest->name && *guest->name ? guest->name : "guest", (int)guest->pid,
			      line);
	} else {
		(void)fprintf(stderr, "memshared: %s\n", line);
	}
	errno = saved;
}

/* Races between threads can let a few more lines through; that is harmless. */
bool log_ratelimit_pass(struct log_ratelimit *limit)
{
	uint64_t now = now_usec();

	if (now - limit->window_start_usec > RATELIMIT_WINDOW_USEC) {
		limit->window_start_usec = now;
		limit->n = 0;
	}
	return limit->n++ < RATELIMIT_BURST;
}
