/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/print.h"

#include <stdarg.h>
#include <wchar.h>

#include "client/client.h"

/* One character at s: its length in bytes and width; 0 at the end; width -1: not to be shown. */
static size_t next_char(const char *s, int *ret_width)
{
	mbstate_t state = {};
	wchar_t c;
	size_t n = mbrtowc(&c, s, strlen(s), &state);

	if (n == (size_t)-1 || n == (size_t)-2) {
		*ret_width = -1;
		return 1;
	}
	*ret_width = n ? wcwidth(c) : 0;
	return n;
}

char *printable(const char *s)
{
	/* Nothing gets longer. */
	char *text = must(malloc(strlen(s) + 1)), *out = text;
	size_t n;
	int width;

	while (*s && (n = next_char(s, &width)) > 0) {
		if (width < 0) {
			*out++ = '?';
		} else {
			memcpy(out, s, n);
			out += n;
		}
		s += n;
	}
	*out = '\0';
	return text;
}

size_t text_width(const char *s)
{
	size_t total = 0, n;
	int width;

	for (; *s && (n = next_char(s, &width)) > 0; s += n)
		total += width > 0 ? (size_t)width : 0;
	return total;
}

size_t text_fit(const char *s, size_t columns)
{
	size_t used = 0, at = 0, n;
	int width;

	for (; s[at] && (n = next_char(s + at, &width)) > 0; at += n) {
		used += width > 0 ? (size_t)width : 0;
		if (used > columns)
			break;
	}
	return at;
}

char *text_of(const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	return must(text);
}

static char *text_amount(double bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double size = bytes < 0 ? -bytes : bytes;
	const char *sign = bytes < 0 ? "-" : "";
	size_t unit = 0;

	if (size < 1)
		return text_of("0");
	/* 1023.95 would be printed as 1024.0. */
	while (size >= 1023.95 && unit + 1 < ARRAY_SIZE(units)) {
		size /= 1024;
		unit++;
	}
	return text_of("%s%.*f %s", sign, unit == 0 ? 0 : 1, size, units[unit]);
}

char *text_bytes(int64_t bytes)
{
	return text_amount((double)bytes);
}

char *text_pages(int64_t pages, int64_t page_bytes)
{
	return text_amount((double)pages * (double)page_bytes);
}

char *text_percent(int64_t part, int64_t whole)
{
	if (whole <= 0)
		return text_of("-");
	return text_of("%.1f %%", 100.0 * (double)part / (double)whole);
}

char *text_duration(int64_t usec)
{
	int64_t s = usec / (int64_t)USEC_PER_SEC;

	if (s < 60)
		return text_of("%.1f s", (double)usec / (double)USEC_PER_SEC);
	if (s < 3600)
		return text_of("%lld min %lld s", (long long)(s / 60), (long long)(s % 60));
	if (s < 86400)
		return text_of("%lld h %lld min", (long long)(s / 3600), (long long)(s / 60 % 60));
	return text_of("%lld d %lld h", (long long)(s / 86400), (long long)(s / 3600 % 24));
}
