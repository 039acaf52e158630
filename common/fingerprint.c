/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/fingerprint.h"

#include <sys/random.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/fault.h"
#include "common/fingerprint-avx2.h"
#include "common/units.h"
#include "common/util.h"

/* What a test leaves of a fingerprint, so that many pages have the same. */
#define SHORT (UINT64_C(0xffff) << 48)

void fingerprint_seed_init(struct fingerprint_seed *ret)
{
	size_t have = 0;

	while (have < sizeof(ret->secret)) {
		ssize_t n = getrandom(ret->secret + have, sizeof(ret->secret) - have, 0);

		/* Only a signal can come between; requests of up to 256 bytes are not even cut. */
		assert(n > 0 || errno == EINTR);
		if (n > 0)
			have += (size_t)n;
	}
}

uint64_t fingerprint_page(const struct fingerprint_seed *seed, const void *page)
{
	uint64_t fingerprint;

	/* One load and a test: libgcc asked the processor at start. */
	if (__builtin_cpu_supports("avx2"))
		fingerprint = fingerprint_page_avx2(seed, page);
	else
		fingerprint = XXH3_64bits_withSecret(page, PAGE_BYTES, seed->secret, sizeof(seed->secret));
	return FAULT_ERRNO("fingerprint-short") ? fingerprint & SHORT : fingerprint;
}

bool page_is_zero(const void *page)
{
	const uint8_t *p = page;
	uint64_t words[4];

	/* Nearly every other page says so in its first bytes. */
	memcpy(words, p, sizeof(words));
	if ((words[0] | words[1] | words[2] | words[3]) != 0)
		return false;
	/* The C library's memcmp uses the widest registers there are. */
	return memcmp(p, p + sizeof(words), PAGE_BYTES - sizeof(words)) == 0;
}
