/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The four functions that a compiler may call on its own even in freestanding code. Written
 * with string instructions, so that the compiler cannot turn their loops into calls to
 * themselves.
 */
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
	void *ret = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	return ret;
}

void *memmove(void *to, const void *from, size_t n)
{
	const uint8_t *last_from = (const uint8_t *)from + n - 1;
	uint8_t *last_to = (uint8_t *)to + n - 1;

	if ((uintptr_t)to - (uintptr_t)from >= n)
		return memcpy(to, from, n);
	__asm__ volatile("std; rep movsb; cld"
			 : "+D"(last_to), "+S"(last_from), "+c"(n)
			 :
			 : "memory");
	return to;
}

void *memset(void *to, int byte, size_t n)
{
	void *ret = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
	return ret;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *p = a, *q = b;

	/* Words while they are equal; the bytes of the first different one decide. */
	for (; n >= 8; n -= 8, p += 8, q += 8) {
		uint64_t v, w;

		__builtin_memcpy(&v, p, 8);
		__builtin_memcpy(&w, q, 8);
		if (v != w)
			break;
	}
	for (; n > 0; n--, p++, q++)
		if (*p != *q)
			return *p < *q ? -1 : 1;
	return 0;
}
