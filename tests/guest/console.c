/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <termios.h>
#include <unistd.h>

static int in_fd = STDIN_FILENO;
static int out_fd = STDOUT_FILENO;
static char pending[CONSOLE_LINE_MAX]; /* bytes of a line that has not ended yet */
static size_t n_pending;
static char line[CONSOLE_LINE_MAX];

void console_open(const char *path)
{
	struct termios t;

	if (path) {
		in_fd = out_fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (in_fd < 0)
			_exit(70);
	}
	if (tcgetattr(in_fd, &t) == 0) {
		cfmakeraw(&t);
		t.c_cflag |= CLOCAL | CREAD;
		tcsetattr(in_fd, TCSANOW, &t);
	}
}

void console_say(const char *format, ...)
{
	char text[512];
	va_list ap;
	size_t len, done = 0;
	int r;

	va_start(ap, format);
	r = vsnprintf(text, sizeof(text) - 1, format, ap);
	va_end(ap);
	if (r < 0)
		return;
	len = (size_t)r < sizeof(text) - 1 ? (size_t)r : sizeof(text) - 2;
	text[len++] = '\n';
	while (done < len) {
		ssize_t n = write(out_fd, text + done, len - done);

		if (n > 0)
			done += (size_t)n;
		else if (n < 0 && errno != EINTR && errno != EAGAIN)
			_exit(71);
	}
}

/* Cuts the first complete line off pending. */
static char *line_take(void)
{
	char *end = memchr(pending, '\n', n_pending);
	size_t len;

	if (!end) {
		if (n_pending == sizeof(pending))
			n_pending = 0;
		return NULL;
	}
	len = (size_t)(end - pending);
	memcpy(line, pending, len);
	n_pending -= len + 1;
	memmove(pending, end + 1, n_pending);
	if (len && line[len - 1] == '\r')
		len--;
	line[len] = '\0';
	return line;
}

char *console_read(bool wait)
{
	for (;;) {
		struct pollfd p = {.fd = in_fd, .events = POLLIN};
		char *l = line_take();
		ssize_t n;

		if (l)
			return l;
		if (poll(&p, 1, wait ? -1 : 0) <= 0) {
			if (!wait)
				return NULL;
			continue;
		}
		n = read(in_fd, pending + n_pending, sizeof(pending) - n_pending);
		if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
			return strcpy(line, "quit");
		if (n > 0)
			n_pending += (size_t)n;
	}
}

void console_end(void)
{
	if (getpid() == 1) {
		sync();
		reboot(RB_POWER_OFF);
	}
	_exit(0);
}

void console_fail(const char *what)
{
	console_say("fatal %s: %s", what, strerror(errno));
	console_end();
}
