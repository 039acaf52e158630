/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verifying guest's line console: the first serial port, or standard input and output
 * when the program runs as an ordinary process.
 *
 * One thread. Whatever goes wrong here ends the program: without its console the guest
 * is of no use to a test.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define CONSOLE_LINE_MAX 128

/* path NULL: standard input and output. A terminal is made raw and silent. */
void console_open(const char *path);

/* One line, newline added; written at once. */
void console_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/*
 * The next line of input without its end, or NULL when none is complete; with wait, sleeps
 * until there is one. A line that is too long is cut. The end of input reads as "quit".
 */
char *console_read(bool wait);

/* The guest ends: power off, or the process exits. */
void console_end(void) __attribute__((noreturn));
/* The same after a last line that says what went wrong, by errno. */
void console_fail(const char *what) __attribute__((noreturn));
