/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/parse.h"

#include "common/util.h"

int parse_u64_prefix(const char *buf, size_t len, unsigned base, uint64_t *ret, size_t *ret_used)
{
	uint64_t v = 0;
	size_t i;

	assert(base == 10 || base == 16);

	for (i = 0; i < len; i++) {
		unsigned digit;

		if (buf[i] >= '0' && buf[i] <= '9')
			digit = (unsigned)(buf[i] - '0');
		else if (base == 16 && buf[i] >= 'a' && buf[i] <= 'f')
			digit = (unsigned)(buf[i] - 'a') + 10;
		else if (base == 16 && buf[i] >= 'A' && buf[i] <= 'F')
			digit = (unsigned)(buf[i] - 'A') + 10;
		else
			break;
		if (__builtin_mul_overflow(v, (uint64_t)base, &v) ||
		    __builtin_add_overflow(v, (uint64_t)digit, &v))
			return -ERANGE;
	}
	if (i == 0)
		return -EINVAL;
	*ret = v;
	*ret_used = i;
	return 0;
}

/* A decimal number, then whatever the caller has to make sense of. */
static int parse_number(const char *s, uint64_t *ret, const char **ret_rest)
{
	size_t used;
	int r = parse_u64_prefix(s, strlen(s), 10, ret, &used);

	if (r < 0)
		return r;
	*ret_rest = s + used;
	return 0;
}

static int check_range(uint64_t v, uint64_t min, uint64_t max, uint64_t *ret)
{
	if (v < min || v > max)
		return -ERANGE;
	*ret = v;
	return 0;
}

int parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *ret)
{
	const char *rest;
	uint64_t v;
	int r = parse_number(s, &v, &rest);

	if (r < 0)
		return r;
	if (*rest)
		return -EINVAL;
	return check_range(v, min, max, ret);
}

int parse_u32(const char *s, uint32_t min, uint32_t max, uint32_t *ret)
{
	uint64_t v;
	int r = parse_u64(s, min, max, &v);

	if (r < 0)
		return r;
	*ret = (uint32_t)v;
	return 0;
}

struct unit {
	const char *name;
	uint64_t factor;
};

/* Multiplies by the unit that ends the string; the first row is what a bare number means. */
static int parse_with_unit(const char *s, const struct unit *units, size_t n_units, uint64_t min,
			   uint64_t max, uint64_t *ret)
{
	const char *rest;
	uint64_t v;
	int r = parse_number(s, &v, &rest);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n_units; i++) {
		if (!streq(rest, units[i].name))
			continue;
		if (__builtin_mul_overflow(v, units[i].factor, &v))
			return -ERANGE;
		return check_range(v, min, max, ret);
	}
	return -EINVAL;
}

int parse_bytes(const char *s, uint64_t min, uint64_t max, uint64_t *ret_bytes)
{
	static const struct unit units[] = {
		{ "", 1 },	   { "K", KIB(1) }, { "M", MIB(1) },
		{ "G", GIB(1) },   { "T", GIB(1024) },
	};

	return parse_with_unit(s, units, ARRAY_SIZE(units), min, max, ret_bytes);
}

int parse_usec(const char *s, uint64_t min, uint64_t max, uint64_t *ret_usec)
{
	static const struct unit units[] = {
		{ "", USEC_PER_SEC },	   { "us", 1 },
		{ "ms", USEC_PER_MSEC },   { "s", USEC_PER_SEC },
		{ "m", 60 * USEC_PER_SEC }, { "h", 3600 * USEC_PER_SEC },
	};

	return parse_with_unit(s, units, ARRAY_SIZE(units), min, max, ret_usec);
}

int parse_permille(const char *s, uint32_t min, uint32_t max, uint32_t *ret_permille)
{
	const char *rest;
	uint64_t v;
	int r = parse_number(s, &v, &rest);

	if (r < 0)
		return r;
	if (v > UINT32_MAX / 10)
		return -ERANGE;
	v *= 10;
	if (rest[0] == '.') {
		if (rest[1] < '0' || rest[1] > '9')
			return -EINVAL;
		v += (uint64_t)(rest[1] - '0');
		rest += 2;
	}
	if (!streq(rest, "%"))
		return -EINVAL;
	r = check_range(v, min, max, &v);
	if (r < 0)
		return r;
	*ret_permille = (uint32_t)v;
	return 0;
}

int parse_bool(const char *s, bool *ret)
{
	static const char *const yes[] = { "yes", "true", "on", "1" };
	static const char *const no[] = { "no", "false", "off", "0" };

	for (size_t i = 0; i < ARRAY_SIZE(yes); i++)
		if (streq(s, yes[i])) {
			*ret = true;
			return 0;
		}
	for (size_t i = 0; i < ARRAY_SIZE(no); i++)
		if (streq(s, no[i])) {
			*ret = false;
			return 0;
		}
	return -EINVAL;
}
