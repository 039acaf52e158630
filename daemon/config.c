/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation. inih splits lines into section, name and value, but by itself it is
 * lenient: it cuts long names, takes an indented line for the continuation of a value, and
 * does not say at which line its handler is called. So it gets its lines from a reader of
 * ours (ini_parse_stream) that counts them, refuses what inih would cut, strips indentation
 * and notes the section headers, which are checked even when a section is empty. The
 * first complaint wins; after it every line is skipped.
 */
#include "daemon/config.h"

#include <ctype.h>
#include <ini.h>
#include <syslog.h>

#include "common/parse.h"
#include "common/util.h"
#include "daemon/work.h"

/* Shorter than inih's own bound (200 with line end), which other builds may have lowered. */
#define LINE_MAX_BYTES 190U
#define POLICY_PREFIX  "Policy \""

static const char *const pressure_names[] = {
	[CONFIG_PRESSURE_AUTO] = "auto",
	[CONFIG_PRESSURE_ALWAYS] = "always",
};
static_assert(ARRAY_SIZE(pressure_names) == CONFIG_PRESSURE_MAX);

const char *config_pressure_to_string(enum config_pressure p)
{
	return pressure_names[p];
}

/* --- values ---------------------------------------------------------------- */

static int copy_string(const char *s, char *field, size_t size)
{
	if (strlen(s) >= size)
		return -ERANGE;
	/* Cleared whole, so that config_needs_restart() can compare bytes. */
	memset(field, 0, size);
	strcpy(field, s);
	return 0;
}

static int parse_path(const char *s, void *field)
{
	return *s == '/' ? copy_string(s, field, CONFIG_PATH_MAX) : -EINVAL;
}

static int parse_socket(const char *s, void *field)
{
	return *s == '/' ? copy_string(s, field, sizeof(((struct config *)NULL)->socket)) : -EINVAL;
}

static int parse_mode(const char *s, void *field)
{
	mode_t mode = 0;

	if (strlen(s) != 4 || s[0] != '0')
		return -EINVAL;
	for (size_t i = 1; i < 4; i++) {
		if (s[i] < '0' || s[i] > '7')
			return -EINVAL;
		mode = mode << 3 | (mode_t)(s[i] - '0');
	}
	if (mode & 0111)
		return -EINVAL;
	*(mode_t *)field = mode;
	return 0;
}

static int parse_level(const char *s, void *field)
{
	static const struct {
		const char *name;
		int level;
	} levels[] = {
		{"error", LOG_ERR}, {"warning", LOG_WARNING}, {"notice", LOG_NOTICE},
		{"info", LOG_INFO}, {"debug", LOG_DEBUG},
	};

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++)
		if (streq(s, levels[i].name)) {
			*(int *)field = levels[i].level;
			return 0;
		}
	return -EINVAL;
}

static int parse_workers(const char *s, void *field)
{
	return parse_u32(s, 0, WORK_THREADS_MAX, field);
}

static int parse_cpu(const char *s, void *field)
{
	return parse_permille(s, 1, 64000, field);
}

static int parse_count(const char *s, void *field)
{
	return parse_u32(s, 0, UINT32_MAX, field);
}

/* Less than this could not hold the trees of one small guest. */
static int parse_tree_memory(const char *s, void *field)
{
	return streq(s, "0") ? parse_bytes(s, 0, 0, field)
			     : parse_bytes(s, MIB(1), GIB(1024), field);
}

static int parse_store_max(const char *s, void *field)
{
	return parse_bytes(s, 0, GIB(64 * 1024), field);
}

static int parse_unmerge_rate(const char *s, void *field)
{
	return streq(s, "0") ? parse_bytes(s, 0, 0, field) : parse_bytes(s, MIB(1), GIB(1024), field);
}

static int parse_interval(const char *s, void *field)
{
	return parse_usec(s, 100 * USEC_PER_MSEC, 3600 * USEC_PER_SEC, field);
}

static int parse_pressure(const char *s, void *field)
{
	for (unsigned i = 0; i < CONFIG_PRESSURE_MAX; i++)
		if (streq(s, pressure_names[i])) {
			*(enum config_pressure *)field = (enum config_pressure)i;
			return 0;
		}
	return -EINVAL;
}

/* WORK:REST, two shares. */
static int parse_thresholds(const char *s, void *field)
{
	struct pressure_thresholds t;
	const char *colon = strchr(s, ':');
	char first[16];
	int r;

	if (!colon || (size_t)(colon - s) >= sizeof(first))
		return -EINVAL;
	memcpy(first, s, (size_t)(colon - s));
	first[colon - s] = '\0';
	r = parse_permille(first, 0, 1000, &t.work_permille);
	if (r >= 0)
		r = parse_permille(colon + 1, 0, 1000, &t.rest_permille);
	if (r >= 0 && t.rest_permille < t.work_permille)
		r = -ERANGE;
	if (r >= 0)
		memcpy(field, &t, sizeof(t));
	return r;
}

/* The engine shares between guests, so it needs a domain that guests can have in common. */
static int parse_shared_domain(const char *s, void *field)
{
	if (*s && (!policy_domain_valid(s) || streq(s, POLICY_SELF)))
		return -EINVAL;
	return copy_string(s, field, POLICY_DOMAIN_MAX + 1);
}

static int parse_yes_no(const char *s, void *field)
{
	return parse_bool(s, field);
}

static int parse_sleep_millisecs(const char *s, void *field)
{
	return parse_u32(s, 0, 60000, field);
}

static int parse_pages_to_scan(const char *s, void *field)
{
	return parse_u32(s, 1, 1000000, field);
}

static int parse_max_ranges(const char *s, void *field)
{
	return parse_u32(s, 1, 65536, field);
}

static int parse_uri(const char *s, void *field)
{
	return strstr(s, ":/") ? copy_string(s, field, CONFIG_PATH_MAX) : -EINVAL;
}

#define FIELD(member) offsetof(struct config, member), sizeof(((struct config *)NULL)->member)

static const struct config_key keys[] = {
	{"Daemon", "Socket", "/run/memshared/control", FIELD(socket), parse_socket,
	 "an absolute path of at most 107 bytes", true},
	{"Daemon", "SocketMode", "0600", FIELD(socket_mode), parse_mode,
	 "an octal mode without execute bits, as 0660", true},
	{"Daemon", "StateDirectory", "/var/lib/memshared", FIELD(state_directory), parse_path,
	 "an absolute path", true},
	{"Daemon", "LogLevel", "info", FIELD(log_level), parse_level,
	 "error, warning, notice, info or debug", false},
	{"Daemon", "Workers", "0", FIELD(workers), parse_workers, "a number from 0 to 64", true},
	{"Daemon", "CpuBudget", "10%", FIELD(cpu_permille), parse_cpu,
	 "a share of one CPU from 0.1% to 6400%", false},
	{"Daemon", "PagesPerSecond", "0", FIELD(pages_per_second), parse_count,
	 "a number; 0 means no limit", false},
	{"Daemon", "TreeMemoryMax", "0", FIELD(tree_memory_max_bytes), parse_tree_memory,
	 "0, or bytes from 1M to 1T", false},
	{"Daemon", "PassInterval", "10s", FIELD(pass_interval_usec), parse_interval,
	 "a time from 100ms to 1h", false},
	{"Daemon", "UnmergeRate", "512M", FIELD(unmerge_bytes_per_sec), parse_unmerge_rate,
	 "bytes in a second from 1M to 1T; 0 means no limit", false},
	{"Daemon", "Pressure", "auto", FIELD(pressure), parse_pressure, "auto or always", false},
	{"Daemon", "PressureThresholds", "20%:30%", FIELD(pressure_thresholds), parse_thresholds,
	 "two shares of the host's memory, as 20%:30%, of which the second is no less", false},
	{"Ksm", "Domain", "", FIELD(ksm_domain), parse_shared_domain,
	 "the name of a trust domain other than self, or nothing", false},
	{"Ksm", "AllowForeign", "no", FIELD(ksm_allow_foreign), parse_yes_no, "yes or no", false},
	{"Ksm", "SleepMillisecs", "20", FIELD(ksm_sleep_millisecs), parse_sleep_millisecs,
	 "a number from 0 to 60000", false},
	{"Ksm", "PagesToScan", "1000", FIELD(ksm_pages_to_scan), parse_pages_to_scan,
	 "a number from 1 to 1000000", false},
	{"Ksm", "MaxRanges", "8192", FIELD(ksm_max_ranges), parse_max_ranges,
	 "a number from 1 to 65536", false},
	{"Remap", "StoreMax", "0", FIELD(store_max_bytes), parse_store_max,
	 "bytes, as 8G; 0 means no limit", false},
	{"Libvirt", "Enabled", "yes", FIELD(libvirt_enabled), parse_yes_no, "yes or no", true},
	{"Libvirt", "Uri", "qemu:///system", FIELD(libvirt_uri), parse_uri,
	 "a libvirt URI, as qemu:///system", true},
};

const struct config_key *config_keys(size_t *ret_n)
{
	*ret_n = ARRAY_SIZE(keys);
	return keys;
}

int config_new(struct config **ret)
{
	struct config *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		int r = keys[i].parse(keys[i].value, (char *)c + keys[i].offset);

		assert(r == 0);
		(void)r;
	}
	*ret = c;
	return 0;
}

void config_free(struct config *c)
{
	if (!c)
		return;
	free(c->policies);
	free(c);
}

void config_freep(struct config **c)
{
	config_free(*c);
}

const char *config_needs_restart(const struct config *running, const struct config *loaded)
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (keys[i].restart &&
		    memcmp((const char *)running + keys[i].offset,
			   (const char *)loaded + keys[i].offset, keys[i].size) != 0)
			return keys[i].name;
	return NULL;
}

/* --- [Policy "name"] -------------------------------------------------------- */

static int match_name(struct policy_section *s, const char *value)
{
	return copy_string(value, s->match_name, sizeof(s->match_name));
}

static int match_uuid(struct policy_section *s, const char *value)
{
	if (strlen(value) != 36)
		return -EINVAL;
	for (size_t i = 0; i < 36; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? value[i] != '-' : !isxdigit((unsigned char)value[i]))
			return -EINVAL;
	}
	return copy_string(value, s->match_uuid, sizeof(s->match_uuid));
}

static int match_title(struct policy_section *s, const char *value)
{
	return copy_string(value, s->match_title, sizeof(s->match_title));
}

static int match_metadata(struct policy_section *s, const char *value)
{
	return copy_string(value, s->match_metadata, sizeof(s->match_metadata));
}

static int match_backing(struct policy_section *s, const char *value)
{
	/* block_backing_to_string()'s words. */
	if (!streq(value, "anonymous") && !streq(value, "shared") && !streq(value, "file") &&
	    !streq(value, "hugetlb"))
		return -EINVAL;
	return copy_string(value, s->match_backing, sizeof(s->match_backing));
}

static const char *const match_keys[] = {
	"match-name", "match-uuid", "match-title", "match-metadata", "match-backing",
};

static const struct {
	int (*set)(struct policy_section *s, const char *value);
	const char *expected;
} matchers[] = {
	{match_name, "a pattern for the guest's name, as web*"},
	{match_uuid, "a UUID"},
	{match_title, "a pattern for the guest's title"},
	{match_metadata, "a pattern for an item of the guest's metadata"},
	{match_backing, "anonymous, shared, file or hugetlb"},
};
static_assert(ARRAY_SIZE(match_keys) == ARRAY_SIZE(matchers));

const char *const *config_match_keys(size_t *ret_n)
{
	*ret_n = ARRAY_SIZE(match_keys);
	return match_keys;
}

/* --- one file ---------------------------------------------------------------- */

struct reader {
	struct config *config;
	const char *path;
	const char *at, *end; /* what was not read yet */
	unsigned line;
	char section[64];	       /* as the last header had it */
	struct policy_section *policy; /* in [Policy "..."], else NULL */
	char *error;		       /* CONFIG_ERROR_MAX bytes; "" until a complaint */
};

static _printf_(2, 3) int complain(struct reader *r, const char *fmt, ...)
{
	int n;
	va_list ap;

	if (*r->error)
		return -EINVAL;
	n = snprintf(r->error, CONFIG_ERROR_MAX, "%s:%u: ", r->path, r->line);
	if (n < 0 || (size_t)n >= CONFIG_ERROR_MAX)
		return -EINVAL;
	va_start(ap, fmt);
	(void)vsnprintf(r->error + n, CONFIG_ERROR_MAX - (size_t)n, fmt, ap);
	va_end(ap);
	for (char *c = r->error; *c; c++)
		if (*c < ' ' || *c == 0x7f)
			*c = '?';
	return -EINVAL;
}

static struct policy_section *add_policy(struct reader *r, const char *name)
{
	struct config *c = r->config;
	struct policy_section *grown;

	for (size_t i = 0; i < c->n_policies; i++)
		if (streq(c->policies[i].name, name))
			return &c->policies[i];
	if (c->n_policies == CONFIG_POLICIES_MAX) {
		complain(r, "more than %u policies", CONFIG_POLICIES_MAX);
		return NULL;
	}
	grown = reallocarray(c->policies, c->n_policies + 1, sizeof(*grown));
	if (!grown) {
		complain(r, "out of memory");
		return NULL;
	}
	c->policies = grown;
	grown = &c->policies[c->n_policies++];
	*grown = (struct policy_section){0};
	strcpy(grown->name, name);
	policy_init_empty(&grown->policy);
	return grown;
}

/* "Policy "name"": the name is free of quotes and control characters. */
static int enter_policy(struct reader *r)
{
	char name[sizeof(r->section)];
	size_t len = strlen(r->section), prefix = strlen(POLICY_PREFIX);

	if (len < prefix + 2 || r->section[len - 1] != '"')
		return complain(r, "[%s]: expected [Policy \"name\"]", r->section);
	memcpy(name, r->section + prefix, len - prefix - 1);
	name[len - prefix - 1] = '\0';
	for (const char *c = name; *c; c++)
		if (*c < ' ' || *c > '~' || *c == '"' || *c == '\\')
			return complain(r, "[%s]: a name is printable ASCII without quotes",
					r->section);
	r->policy = add_policy(r, name);
	return r->policy ? 0 : -EINVAL;
}

/* line is "[...", its end stripped. inih cuts a section at 49 bytes, so longer is refused. */
static int enter_section(struct reader *r, const char *line)
{
	const char *close = strchr(line, ']');
	size_t len = close ? (size_t)(close - line - 1) : 0;

	r->policy = NULL;
	if (!close)
		return complain(r, "a section header ends with ]");
	if (close[1 + strspn(close + 1, " \t")] &&
	    !strchr(";#", close[1 + strspn(close + 1, " \t")]))
		return complain(r, "text after a section header");
	if (len >= 50)
		return complain(r, "the name of a section has at most 49 bytes");
	memcpy(r->section, line + 1, len);
	r->section[len] = '\0';
	if (strncmp(r->section, "Policy", 6) == 0)
		return enter_policy(r);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (streq(keys[i].section, r->section))
			return 0;
	return complain(r,
			"unknown section [%s]: expected Daemon, Ksm, Remap, Libvirt or "
			"Policy \"name\"",
			r->section);
}

/* inih's source of lines: one a call, as fgets() would; NULL ends the file. */
static char *read_line(char *buf, int size, void *userdata)
{
	struct reader *r = userdata;
	const char *newline;
	size_t len;

	if (r->at == r->end || *r->error)
		return NULL;
	r->line++;
	newline = memchr(r->at, '\n', (size_t)(r->end - r->at));
	len = (size_t)((newline ? newline : r->end) - r->at);
	if (r->line == 1 && len >= 3 && memcmp(r->at, "\xef\xbb\xbf", 3) == 0) {
		r->at += 3;
		len -= 3;
	}
	while (len > 0 && isblank((unsigned char)*r->at)) {
		r->at++;
		len--;
	}
	if (len > LINE_MAX_BYTES || (int)len + 2 > size) {
		/* Only a comment may be long: inih would take its rest for a line. */
		if (*r->at != '#' && *r->at != ';') {
			complain(r, "a line has at most %u bytes", LINE_MAX_BYTES);
			return NULL;
		}
		r->at += len + (newline ? 1 : 0);
		strcpy(buf, "\n");
		return buf;
	}
	if (memchr(r->at, '\0', len)) {
		complain(r, "a NUL byte");
		return NULL;
	}
	memcpy(buf, r->at, len);
	while (len > 0 && isspace((unsigned char)buf[len - 1]))
		len--;
	buf[len] = '\0';
	r->at = newline ? newline + 1 : r->end;
	if (*buf == '[' && enter_section(r, buf) < 0)
		return NULL;
	strcpy(buf + len, "\n");
	return buf;
}

static int set_policy(struct reader *r, const char *name, const char *value)
{
	char origin[POLICY_ORIGIN_MAX], reason[POLICY_REASON_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(match_keys); i++) {
		if (!streq(name, match_keys[i]))
			continue;
		if (matchers[i].set(r->policy, value) < 0)
			return complain(r, "%s=%s: expected %s", name, value, matchers[i].expected);
		return 0;
	}
	(void)snprintf(origin, sizeof(origin), "[Policy \"%s\"] %s:%u", r->policy->name, r->path,
		       r->line);
	if (policy_set_by_name(&r->policy->policy, name, value, POLICY_SOURCE_SECTION, origin,
			       reason) < 0)
		return complain(r, "%s", reason);
	return 0;
}

static int set_key(struct reader *r, const char *name, const char *value)
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		if (!streq(keys[i].section, r->section) || !streq(keys[i].name, name))
			continue;
		if (keys[i].parse(value, (char *)r->config + keys[i].offset) < 0)
			return complain(r, "%s=%s: expected %s", name, value, keys[i].expected);
		return 0;
	}
	return complain(r, "unknown key %s in [%s]", name, r->section);
}

static int take_value(void *userdata, const char *section _unused_, const char *name,
		      const char *value)
{
	struct reader *r = userdata;

	if (*r->error)
		return 0;
	if (!*r->section)
		return complain(r, "%s stands before any [section]", name) == 0;
	return (r->policy ? set_policy(r, name, strempty(value))
			  : set_key(r, name, strempty(value))) == 0;
}

int config_parse(struct config *c, const char *path, const char *buf, size_t len,
		 char ret_error[CONFIG_ERROR_MAX])
{
	struct reader r = {
		.config = c,
		.path = path,
		.at = buf,
		.end = buf + len,
		.error = ret_error,
	};
	int line;

	*ret_error = '\0';
	line = ini_parse_stream(read_line, &r, take_value, &r);
	if (line != 0 && !*ret_error) {
		r.line = line > 0 ? (unsigned)line : r.line;
		complain(&r, line > 0 ? "expected [section] or key=value" : "out of memory");
	}
	return *ret_error ? -EINVAL : 0;
}
