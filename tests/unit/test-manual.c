/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * memshared.conf(5) and the configuration's parser name the same keys with the same defaults.
 * The manual's source is read: a key is an item ".It Cm KEY Ns =" of its section, and its
 * default a line "Default: VALUE.".
 */
#include "tests/unit/unit.h"

#include "common/io.h"
#include "daemon/config.h"

#include <fcntl.h>

static char *manual;

static int load(void **state _unused_)
{
	const char *dir = getenv("MEMSHARED_SRCDIR");
	char path[4096];
	size_t len;

	(void)snprintf(path, sizeof(path), "%s/man/memshared.conf.5", dir ? dir : ".");
	return io_read_file(AT_FDCWD, path, MIB(1), &manual, &len);
}

static int unload(void **state _unused_)
{
	free(manual);
	return 0;
}

/* The text of a section, up to the next heading; freed by the caller. */
static char *section_text(const char *section)
{
	char heading[80];
	const char *start, *end;

	(void)snprintf(heading, sizeof(heading), "\n.Ss Section %s\n", section);
	start = strstr(manual, heading);
	if (!start)
		fail_msg("the manual has no section %s", section);
	start += strlen(heading) - 1;
	end = strstr(start, "\n.Ss ");
	if (!end)
		end = strstr(start, "\n.Sh ");
	return strndup(start, end ? (size_t)(end - start) : strlen(start));
}

/* The item of a key, up to the next one; freed by the caller. */
static char *item_text(const char *section, const char *key)
{
	_cleanup_free_ char *text = section_text(section);
	char start_of_item[80];
	const char *start, *end, *list_end;

	(void)snprintf(start_of_item, sizeof(start_of_item), "\n.It Cm %s Ns =", key);
	start = strstr(text, start_of_item);
	if (!start)
		fail_msg("the manual does not have %s in section %s", key, section);
	start++;
	end = strstr(start, "\n.It ");
	list_end = strstr(start, "\n.El");
	if (!end || (list_end && list_end < end))
		end = list_end;
	return strndup(start, end ? (size_t)(end - start) + 1 : strlen(start));
}

static void check_default(const char *section, const char *key, const char *value)
{
	_cleanup_free_ char *item = item_text(section, key);
	char line[512];

	(void)snprintf(line, sizeof(line), "\nDefault: %s.\n", *value ? value : "none");
	if (!strstr(item, line))
		fail_msg("the manual does not have \"Default: %s.\" for %s", value, key);
}

static void keys_and_defaults(void **state _unused_)
{
	const struct config_key *keys;
	size_t n;

	keys = config_keys(&n);
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *item = item_text(keys[i].section, keys[i].name);
		bool says_restart = strstr(item, "\nNeeds a restart.\n") != NULL;

		check_default(keys[i].section, keys[i].name, keys[i].value);
		if (says_restart != keys[i].restart)
			fail_msg("%s: the manual is wrong about a restart", keys[i].name);
	}
}

static void policy_fields(void **state _unused_)
{
	const char *const *matches;
	struct policy defaults;
	size_t n;

	policy_init_default(&defaults);
	for (enum policy_field f = 0; f < POLICY_FIELD_MAX; f++) {
		char value[POLICY_VALUE_MAX];

		policy_format(&defaults, f, value);
		check_default("Policy", policy_field_to_string(f), value);
	}
	matches = config_match_keys(&n);
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *item = item_text("Policy", matches[i]);

		assert_non_null(item);
	}
}

static bool is_key(const char *name)
{
	const struct config_key *keys;
	const char *const *matches;
	enum policy_field f;
	size_t n;

	keys = config_keys(&n);
	for (size_t i = 0; i < n; i++)
		if (streq(keys[i].name, name))
			return true;
	matches = config_match_keys(&n);
	for (size_t i = 0; i < n; i++)
		if (streq(matches[i], name))
			return true;
	return policy_field_from_string(name, &f) == 0;
}

static void nothing_else(void **state _unused_)
{
	static const char item[] = "\n.It Cm ";

	for (const char *p = manual; (p = strstr(p, item)); p += strlen(item)) {
		char name[64];

		assert_int_equal(sscanf(p + strlen(item), "%63s", name), 1);
		if (!is_key(name))
			fail_msg("the manual has %s, which is no key", name);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keys_and_defaults),
		cmocka_unit_test(policy_fields),
		cmocka_unit_test(nothing_else),
	};

	return cmocka_run_group_tests_name("manual", tests, load, unload);
}
