/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Strings and numbers for people. Everything returned is fresh memory. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/util.h"

/* The text with everything replaced by '?' that this locale's terminal can't show or that
 * would move its cursor: names come from guests. */
char *printable(const char *s);
/* Columns that a printable text takes. */
size_t text_width(const char *s);
/* The longest start of a printable text that fits into so many columns, in bytes. */
size_t text_fit(const char *s, size_t columns);

char *text_of(const char *fmt, ...) _printf_(1, 2);
/* "0", "512 B", "1.5 GiB", "-20.0 MiB": three or four digits. */
char *text_bytes(int64_t bytes);
/* Pages as bytes, without overflow. */
char *text_pages(int64_t pages, int64_t page_bytes);
/* "12.3 %"; "-" when the whole is nothing. */
char *text_percent(int64_t part, int64_t whole);
/* "12.3 s", "5 min 3 s", "2 h 14 min", "3 d 4 h" */
char *text_duration(int64_t usec);
