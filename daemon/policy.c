/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/policy.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <strings.h>

#include "common/parse.h"
#include "common/units.h"
#include "common/util.h"

/* Longest min-age and cow-backoff: a week; a longer one is a slip of the pen. */
#define AGE_MAX_USEC (7 * 24 * 3600 * USEC_PER_SEC)
/* A guest may be given at most 64 CPUs' worth. */
#define CPU_MAX_PERMILLE 64000U
/* As systemd's CPUWeight=. */
#define WEIGHT_MAX 10000U
/* The kernel's own largest default for vm.max_map_count. */
#define MAPS_MAX 1048576U

static const char *const enabled_names[] = {
	[POLICY_NO] = "no",
	[POLICY_ESTIMATE] = "estimate",
	[POLICY_YES] = "yes",
};
static_assert(ARRAY_SIZE(enabled_names) == POLICY_ENABLED_MAX);

static const char *const engine_names[] = {
	[POLICY_ENGINE_AUTO] = "auto",
	[POLICY_ENGINE_REMAP] = "remap",
	[POLICY_ENGINE_KSM] = "ksm",
	[POLICY_ENGINE_ZERO] = "zero",
};
static_assert(ARRAY_SIZE(engine_names) == POLICY_ENGINE_MAX);

static const char *const tracker_names[] = {
	[POLICY_TRACKER_AUTO] = "auto",
	[POLICY_TRACKER_WP] = "wp",
	[POLICY_TRACKER_SOFTDIRTY] = "softdirty",
	[POLICY_TRACKER_REHASH] = "rehash",
};
static_assert(ARRAY_SIZE(tracker_names) == POLICY_TRACKER_MAX);

static const char *const source_names[] = {
	[POLICY_SOURCE_DEFAULT] = "default",
	[POLICY_SOURCE_SECTION] = "section",
	[POLICY_SOURCE_METADATA] = "metadata",
	[POLICY_SOURCE_RUNTIME] = "runtime",
};
static_assert(ARRAY_SIZE(source_names) == POLICY_SOURCE_MAX);

const char *policy_enabled_to_string(enum policy_enabled e)
{
	return enabled_names[e];
}

const char *policy_engine_to_string(enum policy_engine e)
{
	return engine_names[e];
}

bool policy_engine_transacts(enum policy_engine e)
{
	return e == POLICY_ENGINE_REMAP || e == POLICY_ENGINE_ZERO;
}

const char *policy_tracker_to_string(enum policy_tracker t)
{
	return tracker_names[t];
}

const char *policy_source_to_string(enum policy_source s)
{
	return source_names[s];
}

bool policy_domain_valid(const char *name)
{
	static const char alnum[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
	size_t len = strlen(name), i;

	if (len == 0 || len > POLICY_DOMAIN_MAX || !strchr(alnum, name[0]))
		return false;
	for (i = 0; i < len; i++)
		if (!strchr(alnum, name[i]) && !strchr("._-", name[i]))
			return false;
	return true;
}

/* --- one parser and one printer for each field ---------------------------- */

static int name_index(const char *s, const char *const *names, size_t n, unsigned *ret)
{
	for (size_t i = 0; i < n; i++)
		if (streq(s, names[i])) {
			*ret = (unsigned)i;
			return 0;
		}
	return -EINVAL;
}

static int set_enabled(struct policy *p, const char *s)
{
	return name_index(s, enabled_names, ARRAY_SIZE(enabled_names), &p->enabled);
}

static int set_domain(struct policy *p, const char *s)
{
	if (!policy_domain_valid(s))
		return -EINVAL;
	strcpy(p->domain, s);
	return 0;
}

static int set_engine(struct policy *p, const char *s)
{
	return name_index(s, engine_names, ARRAY_SIZE(engine_names), &p->engine);
}

static int set_tracker(struct policy *p, const char *s)
{
	return name_index(s, tracker_names, ARRAY_SIZE(tracker_names), &p->tracker);
}

static int set_min_age(struct policy *p, const char *s)
{
	return parse_usec(s, 0, AGE_MAX_USEC, &p->min_age_usec);
}

static int set_cow_backoff(struct policy *p, const char *s)
{
	return parse_usec(s, 0, AGE_MAX_USEC, &p->cow_backoff_usec);
}

static int set_cpu(struct policy *p, const char *s)
{
	return parse_permille(s, 1, CPU_MAX_PERMILLE, &p->cpu_permille);
}

static int set_weight(struct policy *p, const char *s)
{
	return parse_u32(s, 1, WEIGHT_MAX, &p->weight);
}

static int set_thp(struct policy *p, const char *s)
{
	if (streq(s, "keep")) {
		p->thp_split = 0;
		return 0;
	}
	if (strncmp(s, "split:", 6) != 0)
		return -EINVAL;
	return parse_u32(s + 6, 1, HUGE_PAGES, &p->thp_split);
}

static int set_inject(struct policy *p, const char *s)
{
	return parse_bool(s, &p->inject);
}

static int set_max_maps(struct policy *p, const char *s)
{
	return parse_u32(s, 0, MAPS_MAX, &p->max_maps);
}

static void print_usec(uint64_t usec, char *ret)
{
	static const struct {
		uint64_t usec;
		const char *name;
	} units[] = {
		{3600 * USEC_PER_SEC, "h"},
		{60 * USEC_PER_SEC, "m"},
		{USEC_PER_SEC, "s"},
		{USEC_PER_MSEC, "ms"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (usec % units[i].usec == 0 && usec >= units[i].usec) {
			(void)snprintf(ret, POLICY_VALUE_MAX, "%" PRIu64 "%s", usec / units[i].usec,
				       units[i].name);
			return;
		}
	(void)snprintf(ret, POLICY_VALUE_MAX, "%" PRIu64 "%s", usec, usec ? "us" : "s");
}

void policy_format(const struct policy *p, enum policy_field f, char ret[POLICY_VALUE_MAX])
{
	const char *s = "";

	switch (f) {
	case POLICY_FIELD_ENABLED:
		s = enabled_names[p->enabled];
		break;
	case POLICY_FIELD_DOMAIN:
		s = p->domain;
		break;
	case POLICY_FIELD_ENGINE:
		s = engine_names[p->engine];
		break;
	case POLICY_FIELD_TRACKER:
		s = tracker_names[p->tracker];
		break;
	case POLICY_FIELD_INJECT:
		s = p->inject ? "yes" : "no";
		break;
	case POLICY_FIELD_MIN_AGE:
		print_usec(p->min_age_usec, ret);
		return;
	case POLICY_FIELD_COW_BACKOFF:
		print_usec(p->cow_backoff_usec, ret);
		return;
	case POLICY_FIELD_CPU:
		(void)snprintf(ret, POLICY_VALUE_MAX, p->cpu_permille % 10 ? "%u.%u%%" : "%u%%",
			       p->cpu_permille / 10, p->cpu_permille % 10);
		return;
	case POLICY_FIELD_THP:
		(void)snprintf(ret, POLICY_VALUE_MAX, p->thp_split ? "split:%u" : "keep",
			       p->thp_split);
		return;
	case POLICY_FIELD_WEIGHT:
		(void)snprintf(ret, POLICY_VALUE_MAX, "%u", p->weight);
		return;
	case POLICY_FIELD_MAX_MAPS:
		(void)snprintf(ret, POLICY_VALUE_MAX, "%u", p->max_maps);
		return;
	case POLICY_FIELD_MAX:
		break;
	}
	(void)snprintf(ret, POLICY_VALUE_MAX, "%s", s);
}

static const struct field {
	const char *name;
	const char *value; /* built-in default */
	int (*set)(struct policy *p, const char *s);
	const char *expected;
} fields[] = {
	/* Opt-in and alone: nothing is merged until asked, and then only inside the guest. */
	[POLICY_FIELD_ENABLED] = {"enabled", "no", set_enabled, "no, estimate or yes"},
	[POLICY_FIELD_DOMAIN] = {"domain", POLICY_SELF, set_domain,
				 "self, or up to 63 letters, digits and ._- that start with a "
				 "letter or digit"},
	[POLICY_FIELD_ENGINE] = {"engine", "auto", set_engine, "auto, remap, ksm or zero"},
	/* Long enough that a guest's boot and page-cache churn has passed a page by. */
	[POLICY_FIELD_MIN_AGE] = {"min-age", "30s", set_min_age,
				  "a time from 0s to 168h, as 30s or 5m"},
	/* The daemon's own budget is the tighter one, unless somebody sets this. */
	[POLICY_FIELD_CPU] = {"cpu", "100%", set_cpu, "a share of one CPU from 0.1% to 6400%"},
	[POLICY_FIELD_WEIGHT] = {"weight", "100", set_weight, "a number from 1 to 10000"},
	[POLICY_FIELD_THP] = {"thp", "keep", set_thp, "keep, or split:N with N from 1 to 512"},
	[POLICY_FIELD_INJECT] = {"inject", "yes", set_inject, "yes or no"},
	/* Half of the older distributions' vm.max_map_count: QEMU needs some itself. */
	[POLICY_FIELD_MAX_MAPS] = {"max-maps", "32768", set_max_maps, "a number from 0 to 1048576"},
	[POLICY_FIELD_COW_BACKOFF] = {"cow-backoff", "5m", set_cow_backoff,
				      "a time from 0s to 168h, as 30s or 5m"},
	[POLICY_FIELD_TRACKER] = {"tracker", "auto", set_tracker, "auto, wp, softdirty or rehash"},
};
static_assert(ARRAY_SIZE(fields) == POLICY_FIELD_MAX);
static_assert(POLICY_FIELD_MAX <= 32, "policy.set is a mask of 32 bits");

const char *policy_field_to_string(enum policy_field f)
{
	return fields[f].name;
}

const char *policy_field_expected(enum policy_field f)
{
	return fields[f].expected;
}

int policy_field_from_string(const char *s, enum policy_field *ret)
{
	for (unsigned f = 0; f < POLICY_FIELD_MAX; f++)
		if (streq(s, fields[f].name)) {
			*ret = (enum policy_field)f;
			return 0;
		}
	return -EINVAL;
}

/* --- setting --------------------------------------------------------------- */

/* A piece of somebody's input fit for a message: printable, cut. */
static const char *quote(const char *s, char buf[48])
{
	size_t i;

	for (i = 0; s[i] && i < 44; i++)
		buf[i] = s[i] >= ' ' && s[i] < 0x7f ? s[i] : '?';
	strcpy(buf + i, s[i] ? "..." : "");
	return buf;
}

static void note_origin(struct policy *p, enum policy_field f, enum policy_source source,
			const char *origin)
{
	p->set |= 1U << f;
	p->source[f] = source;
	(void)snprintf(p->origin[f], POLICY_ORIGIN_MAX, "%s", origin);
	/* File names and reasons can hold anything; JSON and terminals want text. */
	for (char *c = p->origin[f]; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
}

int policy_set(struct policy *p, enum policy_field f, const char *value, enum policy_source source,
	       const char *origin, char ret_reason[POLICY_REASON_MAX])
{
	char word[48];

	if (fields[f].set(p, value) < 0) {
		(void)snprintf(ret_reason, POLICY_REASON_MAX, "%s=\"%s\": expected %s",
			       fields[f].name, quote(value, word), fields[f].expected);
		return -EINVAL;
	}
	note_origin(p, f, source, origin);
	return 0;
}

int policy_set_by_name(struct policy *p, const char *field, const char *value,
		       enum policy_source source, const char *origin,
		       char ret_reason[POLICY_REASON_MAX])
{
	enum policy_field f;
	char word[48];

	if (policy_field_from_string(field, &f) < 0) {
		(void)snprintf(ret_reason, POLICY_REASON_MAX,
			       "\"%s\" is not a policy field; known are enabled, domain, engine, "
			       "min-age, cpu, weight, thp, inject, max-maps, cow-backoff, tracker",
			       quote(field, word));
		return -EINVAL;
	}
	return policy_set(p, f, value, source, origin, ret_reason);
}

void policy_unset(struct policy *p, enum policy_field f)
{
	p->set &= ~(1U << f);
}

void policy_init_empty(struct policy *p)
{
	*p = (struct policy){0};
}

void policy_init_default(struct policy *p)
{
	policy_init_empty(p);
	for (unsigned f = 0; f < POLICY_FIELD_MAX; f++) {
		int r = fields[f].set(p, fields[f].value);

		assert(r == 0);
		(void)r;
		note_origin(p, (enum policy_field)f, POLICY_SOURCE_DEFAULT, "built in");
	}
}

void policy_refuse(struct policy *p, enum policy_source source, const char *reason)
{
	policy_init_empty(p);
	p->enabled = POLICY_NO;
	note_origin(p, POLICY_FIELD_ENABLED, source, reason);
}

static void copy_field(struct policy *p, const struct policy *from, enum policy_field f)
{
	switch (f) {
	case POLICY_FIELD_ENABLED:
		p->enabled = from->enabled;
		break;
	case POLICY_FIELD_DOMAIN:
		memcpy(p->domain, from->domain, sizeof(p->domain));
		break;
	case POLICY_FIELD_ENGINE:
		p->engine = from->engine;
		break;
	case POLICY_FIELD_MIN_AGE:
		p->min_age_usec = from->min_age_usec;
		break;
	case POLICY_FIELD_CPU:
		p->cpu_permille = from->cpu_permille;
		break;
	case POLICY_FIELD_WEIGHT:
		p->weight = from->weight;
		break;
	case POLICY_FIELD_THP:
		p->thp_split = from->thp_split;
		break;
	case POLICY_FIELD_INJECT:
		p->inject = from->inject;
		break;
	case POLICY_FIELD_MAX_MAPS:
		p->max_maps = from->max_maps;
		break;
	case POLICY_FIELD_COW_BACKOFF:
		p->cow_backoff_usec = from->cow_backoff_usec;
		break;
	case POLICY_FIELD_TRACKER:
		p->tracker = from->tracker;
		break;
	case POLICY_FIELD_MAX:
		return;
	}
	note_origin(p, f, from->source[f], from->origin[f]);
}

void policy_apply(struct policy *p, const struct policy *over)
{
	for (unsigned f = 0; f < POLICY_FIELD_MAX; f++)
		if (over->set & (1U << f))
			copy_field(p, over, (enum policy_field)f);
}

/* --- matching -------------------------------------------------------------- */

static bool glob_matches(const char *glob, const char *s)
{
	return !*glob || (s && fnmatch(glob, s, 0) == 0);
}

static bool metadata_matches(const char *glob, const struct policy_subject *who)
{
	if (!*glob)
		return true;
	for (size_t i = 0; i < who->n_metadata; i++)
		if (fnmatch(glob, who->metadata[i], 0) == 0)
			return true;
	return false;
}

bool policy_section_matches(const struct policy_section *s, const struct policy_subject *who)
{
	return glob_matches(s->match_name, who->name) && glob_matches(s->match_title, who->title) &&
	       (!*s->match_uuid || (who->uuid && strcasecmp(s->match_uuid, who->uuid) == 0)) &&
	       (!*s->match_backing || (who->backing && streq(s->match_backing, who->backing))) &&
	       metadata_matches(s->match_metadata, who);
}

void policy_resolve(const struct policy_section *sections, size_t n,
		    const struct policy_subject *who, const struct policy *metadata,
		    const struct policy *runtime, struct policy *ret)
{
	policy_init_default(ret);
	for (size_t i = 0; i < n; i++)
		if (policy_section_matches(&sections[i], who))
			policy_apply(ret, &sections[i].policy);
	if (metadata)
		policy_apply(ret, metadata);
	if (runtime)
		policy_apply(ret, runtime);
}

bool policy_equal(const struct policy *a, const struct policy *b)
{
	if (a->set != b->set)
		return false;
	for (unsigned f = 0; f < POLICY_FIELD_MAX; f++) {
		char va[POLICY_VALUE_MAX], vb[POLICY_VALUE_MAX];

		if (!(a->set & (1U << f)))
			continue;
		policy_format(a, (enum policy_field)f, va);
		policy_format(b, (enum policy_field)f, vb);
		if (!streq(va, vb))
			return false;
	}
	return true;
}

json_t *policy_to_json(const struct policy *p)
{
	json_t *list = json_array();

	for (unsigned f = 0; list && f < POLICY_FIELD_MAX; f++) {
		char value[POLICY_VALUE_MAX];
		json_t *entry;

		if (!(p->set & (1U << f)))
			continue;
		policy_format(p, (enum policy_field)f, value);
		entry = json_pack("{ss ss ss ss}", "field", fields[f].name, "value", value,
				  "source", source_names[p->source[f]], "origin", p->origin[f]);
		if (!entry || json_array_append_new(list, entry) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}
