/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/fingerprint.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <sys/random.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/fingerprint-avx2.h"
#include "common/units.h"
#include "common/util.h"

/* Separates this use of SHA-256 from any other of the same host secret. */
#define DERIVE_LABEL "memshared domain key 1"

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
	/* One load and a test: libgcc asked the processor at start. */
	if (__builtin_cpu_supports("avx2"))
		return fingerprint_page_avx2(seed, page);
	return XXH3_64bits_withSecret(page, PAGE_BYTES, seed->secret, sizeof(seed->secret));
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

/* --- SHA-256 ---------------------------------------------------------------- */

/*
 * EVP_sha256() would look its implementation up for every page, which costs as much as a tenth
 * of the hash; a fetched EVP_MD and a context that is only ever set back cost nothing.
 */
static pthread_once_t sha256_once = PTHREAD_ONCE_INIT;
static pthread_key_t sha256_key; /* frees the context when its thread ends */
static bool sha256_key_made;
static EVP_MD *sha256; /* never freed */
static __thread EVP_MD_CTX *sha256_context;

static void context_free(void *context)
{
	EVP_MD_CTX_free(context);
}

static void sha256_init(void)
{
	sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
	sha256_key_made = pthread_key_create(&sha256_key, context_free) == 0;
}

/* A context of this thread, started; 0, -ENOMEM or -EIO. */
static int sha256_start(EVP_MD_CTX **ret)
{
	if (!sha256_context) {
		EVP_MD_CTX *context;

		(void)pthread_once(&sha256_once, sha256_init);
		if (!sha256)
			return -EIO;
		if (!sha256_key_made)
			return -ENOMEM;
		context = EVP_MD_CTX_new();
		if (!context || pthread_setspecific(sha256_key, context) != 0) {
			EVP_MD_CTX_free(context);
			return -ENOMEM;
		}
		sha256_context = context;
	}
	if (!EVP_DigestInit_ex2(sha256_context, sha256, NULL))
		return -EIO;
	*ret = sha256_context;
	return 0;
}

int identity_of_page(const struct domain_key *key, const void *page, struct identity *ret)
{
	struct identity id;
	EVP_MD_CTX *c;
	int r = sha256_start(&c);

	if (r < 0)
		return r;
	if (!EVP_DigestUpdate(c, key->bytes, sizeof(key->bytes)) ||
	    !EVP_DigestUpdate(c, page, PAGE_BYTES) || !EVP_DigestFinal_ex(c, id.bytes, NULL))
		return -EIO;
	*ret = id;
	return 0;
}

int domain_key_derive(const uint8_t *secret, size_t secret_len, const char *domain,
		      struct domain_key *ret)
{
	/* The length keeps secret and name apart: no other pair gives the same bytes. */
	uint64_t len = secret_len;
	struct domain_key key;
	EVP_MD_CTX *c;
	int r = sha256_start(&c);

	if (r < 0)
		return r;
	if (!EVP_DigestUpdate(c, DERIVE_LABEL, sizeof(DERIVE_LABEL)) ||
	    !EVP_DigestUpdate(c, &len, sizeof(len)) || !EVP_DigestUpdate(c, secret, secret_len) ||
	    !EVP_DigestUpdate(c, domain, strlen(domain)) || !EVP_DigestFinal_ex(c, key.bytes, NULL))
		return -EIO;
	*ret = key;
	return 0;
}
