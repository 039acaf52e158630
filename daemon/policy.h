/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Policy: what may be done with a guest, and where each word of it came from.
 *
 * One struct serves for a whole policy and for a partial one (a [Policy] section, a guest's
 * metadata element, what a client asked for): `set` says which fields it holds. The effective
 * policy of a guest is the built-in defaults, then what each layer sets, weakest first:
 *
 *   defaults < [Policy "name"] sections in order < libvirt metadata < run time (memsharectl)
 *
 * The same words name the fields everywhere: configuration, metadata attributes, client.
 * Everything is pure; any thread.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum policy_enabled {
	POLICY_NO,
	POLICY_ESTIMATE, /* read and count, merge nothing */
	POLICY_YES,
	POLICY_ENABLED_MAX,
};

enum policy_engine {
	POLICY_ENGINE_AUTO,
	POLICY_ENGINE_REMAP,
	POLICY_ENGINE_KSM,
	POLICY_ENGINE_ZERO, /* zero pages only */
	POLICY_ENGINE_MAX,
};

enum policy_tracker {
	POLICY_TRACKER_AUTO,
	POLICY_TRACKER_WP,
	POLICY_TRACKER_SOFTDIRTY,
	POLICY_TRACKER_REHASH,
	POLICY_TRACKER_MAX,
};

enum policy_field {
	POLICY_FIELD_ENABLED,
	POLICY_FIELD_DOMAIN,
	POLICY_FIELD_ENGINE,
	POLICY_FIELD_MIN_AGE,
	POLICY_FIELD_CPU,
	POLICY_FIELD_WEIGHT,
	POLICY_FIELD_THP,
	POLICY_FIELD_INJECT,
	POLICY_FIELD_MAX_MAPS,
	POLICY_FIELD_COW_BACKOFF,
	POLICY_FIELD_TRACKER,
	POLICY_FIELD_MAX,
};

/* Where a value came from, weakest first. */
enum policy_source {
	POLICY_SOURCE_DEFAULT,
	POLICY_SOURCE_SECTION,
	POLICY_SOURCE_METADATA,
	POLICY_SOURCE_RUNTIME,
	POLICY_SOURCE_MAX,
};

/* Longest name of a trust domain. Letters, digits, '.', '_' and '-', the first a letter or
 * digit; so "self:UUID" and the like can never be somebody's name. */
#define POLICY_DOMAIN_MAX 63
#define POLICY_SELF	  "self" /* the guest alone */
#define POLICY_VALUE_MAX  80	 /* a field's value as text, NUL included */
#define POLICY_REASON_MAX 256	 /* why a value was refused */
#define POLICY_ORIGIN_MAX 160	 /* longer ones are cut */

struct policy {
	enum policy_enabled enabled;
	char domain[POLICY_DOMAIN_MAX + 1];
	enum policy_engine engine;
	uint64_t min_age_usec; /* unchanged for so long before a page may merge */
	uint32_t cpu_permille; /* of one CPU, spent on passes over this guest */
	uint32_t weight; /* its part of what all passes may spend, against others' */
	uint32_t
		thp_split; /* 0: keep huge pages; N: split one when N of its pages would be freed */
	bool inject;	   /* may an agent be planted in the process */
	uint32_t max_maps; /* mappings that engine remap may add to the process */
	uint64_t
		cow_backoff_usec; /* a page written after it was merged is left alone for so long */
	enum policy_tracker tracker;

	uint32_t set; /* 1 << enum policy_field: which of the above hold something */
	enum policy_source source[POLICY_FIELD_MAX];
	char origin[POLICY_FIELD_MAX][POLICY_ORIGIN_MAX]; /* in words: "/etc/memshared.conf:12" */
};

/* What match rules look at. Strings may be NULL: unknown, which no rule matches. */
struct policy_subject {
	const char *name;
	const char *uuid;
	const char *title;
	const char *backing;	     /* block_backing_to_string() of the main RAM block */
	const char *const *metadata; /* see libvirt-xml.h */
	size_t n_metadata;
};

/* A [Policy "name"] section. Each rule that is not empty must match; no rule matches all. */
struct policy_section {
	char name[64];
	char match_name[256]; /* glob (fnmatch) on the guest's name */
	char match_uuid[37];
	char match_title[256];	  /* glob */
	char match_metadata[256]; /* glob on one metadata item */
	char match_backing[16];	  /* anonymous, shared, file, hugetlb */
	struct policy policy;
};

const char *policy_enabled_to_string(enum policy_enabled e);
const char *policy_engine_to_string(enum policy_engine e);
/* Is it the agent that merges, by transactions of ours (remap, zero), and not the kernel? */
bool policy_engine_transacts(enum policy_engine e);
const char *policy_tracker_to_string(enum policy_tracker t);
const char *policy_source_to_string(enum policy_source s);
const char *policy_field_to_string(enum policy_field f);
/* 0 or -EINVAL */
int policy_field_from_string(const char *s, enum policy_field *ret);
/* What a good value looks like, for error messages and the manual: "no, estimate or yes". */
const char *policy_field_expected(enum policy_field f);

/* All fields, each from POLICY_SOURCE_DEFAULT: enabled=no, domain=self. */
void policy_init_default(struct policy *p);
/* Nothing set. */
void policy_init_empty(struct policy *p);
/* Sets one field from text. -EINVAL: p is as it was and ret_reason says what was expected. */
int policy_set(struct policy *p, enum policy_field f, const char *value, enum policy_source source,
	       const char *origin, char ret_reason[POLICY_REASON_MAX]);
/* Same, by the field's name; an unknown name is refused too. */
int policy_set_by_name(struct policy *p, const char *field, const char *value,
		       enum policy_source source, const char *origin,
		       char ret_reason[POLICY_REASON_MAX]);
/* Forgets one field of a partial policy. */
void policy_unset(struct policy *p, enum policy_field f);
/* What a layer that could not be understood becomes: enabled=no and nothing else, the reason in
 * its origin. So a malformed element never enrols a guest, whatever weaker layers say. */
void policy_refuse(struct policy *p, enum policy_source source, const char *reason);
/* Takes over each field that `over` sets, with its origin. */
void policy_apply(struct policy *p, const struct policy *over);
bool policy_section_matches(const struct policy_section *s, const struct policy_subject *who);
/* The effective policy. metadata and runtime may be NULL. */
void policy_resolve(const struct policy_section *sections, size_t n,
		    const struct policy_subject *who, const struct policy *metadata,
		    const struct policy *runtime, struct policy *ret);
/* The value of a field as policy_set() takes it. */
void policy_format(const struct policy *p, enum policy_field f, char ret[POLICY_VALUE_MAX]);
/* Do both policies hold the same values (origins aside)? */
bool policy_equal(const struct policy *a, const struct policy *b);
/* [{"field": "enabled", "value": "yes", "source": "metadata", "origin": "..."}, ...], set fields
 * only; NULL when memory ran out. */
json_t *policy_to_json(const struct policy *p);

/* Charset and length of a trust domain's name; "self" is one. */
bool policy_domain_valid(const char *name);
