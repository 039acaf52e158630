/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/pressure.h"

#include "common/io.h"
#include "common/parse.h"
#include "common/util.h"

#define MEMINFO_MAX KIB(16)
#define PSI_MAX	    KIB(1)

bool pressure_update(struct pressure *p, const struct pressure_thresholds *t, const struct pressure_sample *s)
{
	uint64_t permille = s->total_bytes ? s->available_bytes / MAX(s->total_bytes / 1000, UINT64_C(1)) : 0;
	bool was = p->working;

	if (permille < t->work_permille || s->stall >= PRESSURE_WORK_STALL)
		p->working = true;
	else if (permille > t->rest_permille && s->stall < PRESSURE_REST_STALL)
		p->working = false;
	p->last = *s;
	(void)snprintf(p->reason, sizeof(p->reason),
		       "%u.%u %% of memory available (works below %u.%u %%, rests above %u.%u %%), tasks wait for "
		       "memory %u.%02u %% of the time",
		       (unsigned)(permille / 10), (unsigned)(permille % 10), t->work_permille / 10,
		       t->work_permille % 10, t->rest_permille / 10, t->rest_permille % 10, s->stall / 100,
		       s->stall % 100);
	return p->working != was;
}

/* The number after "NAME:" and blanks; the line ends in " kB". */
static int find_kib(const char *buf, size_t len, const char *name, uint64_t *ret_bytes)
{
	size_t name_len = strlen(name);

	for (const char *line = buf, *end = buf + len; line < end;) {
		const char *nl = memchr(line, '\n', (size_t)(end - line));
		const char *stop = nl ? nl : end;
		uint64_t kib;
		size_t used;

		if ((size_t)(stop - line) > name_len && memcmp(line, name, name_len) == 0) {
			const char *p = line + name_len;

			while (p < stop && *p == ' ')
				p++;
			if (parse_u64_prefix(p, (size_t)(stop - p), 10, &kib, &used) < 0 ||
			    kib > UINT64_MAX >> 10)
				return -EINVAL;
			*ret_bytes = kib << 10;
			return 0;
		}
		line = stop + 1;
	}
	return -EINVAL;
}

int pressure_parse_meminfo(const char *buf, size_t len, struct pressure_sample *ret)
{
	uint64_t total, available;

	if (find_kib(buf, len, "MemTotal:", &total) < 0 ||
	    find_kib(buf, len, "MemAvailable:", &available) < 0)
		return -EINVAL;
	ret->total_bytes = total;
	ret->available_bytes = available;
	return 0;
}

int pressure_parse_psi(const char *buf, size_t len, uint32_t *ret_stall)
{
	static const char start[] = "some avg10=";
	size_t at = sizeof(start) - 1, used;
	uint64_t whole, part;

	if (len < at || memcmp(buf, start, at) != 0 ||
	    parse_u64_prefix(buf + at, len - at, 10, &whole, &used) < 0 || whole > 100)
		return -EINVAL;
	at += used;
	if (at >= len || buf[at] != '.' ||
	    parse_u64_prefix(buf + at + 1, MIN(len - at - 1, (size_t)2), 10, &part, &used) < 0 || used != 2)
		return -EINVAL;
	*ret_stall = (uint32_t)(whole * 100 + part);
	return 0;
}

int pressure_read(int proc_fd, struct pressure_sample *ret)
{
	_cleanup_free_ char *meminfo = NULL, *psi = NULL;
	struct pressure_sample s = { 0 };
	size_t len;
	int r = io_read_file(proc_fd, "meminfo", MEMINFO_MAX, &meminfo, &len);

	if (r >= 0)
		r = pressure_parse_meminfo(meminfo, len, &s);
	if (r < 0)
		return r;
	/* Without PSI the other sign decides alone. */
	if (io_read_file(proc_fd, "pressure/memory", PSI_MAX, &psi, &len) == 0)
		(void)pressure_parse_psi(psi, len, &s.stall);
	*ret = s;
	return 0;
}
