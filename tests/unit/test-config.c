/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/config.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <syslog.h>

#include "common/io.h"
#include "tests/unit/unit.h"

static char error[CONFIG_ERROR_MAX];

/* The configuration that text makes, or NULL with the message in error. */
static struct config *parse(const char *text)
{
	struct config *c;

	assert_int_equal(config_new(&c), 0);
	if (config_parse(c, "f.conf", text, strlen(text), error) < 0) {
		assert_true(*error);
		config_free(c);
		return NULL;
	}
	assert_false(*error);
	return c;
}

static void expect_error(const char *text, const char *message)
{
	struct config *c = parse(text);

	assert_null(c);
	if (!strstr(error, message))
		fail_msg("expected \"%s\" in \"%s\"", message, error);
}

static void defaults(void **state _unused_)
{
	struct config *c = parse("");

	assert_string_equal(c->libvirt_uri, "qemu:///system");
	assert_int_equal(c->cpu_permille, 100);
	assert_int_equal(c->pass_interval_usec, 10 * USEC_PER_SEC);
	assert_int_equal(c->pressure_thresholds.work_permille, 200);
	assert_int_equal(c->pressure_thresholds.rest_permille, 300);
	assert_int_equal(c->log_level, LOG_INFO);
	assert_int_equal(c->socket_mode, 0600);
	assert_false(c->ksm_allow_foreign);
	assert_string_equal(c->ksm_domain, "");
	assert_int_equal(c->n_policies, 0);
	config_free(c);
}

static void values(void **state _unused_)
{
	struct config *c = parse("\xef\xbb\xbf[Daemon]\r\n"
				 "  CpuBudget = 2.5% ; a comment\n"
				 "# Key=value\n"
				 "\n"
				 "\tPassInterval=250ms\n"
				 "[Ksm]\nDomain=a\nDomain=b\nAllowForeign=yes\n"
				 "[Libvirt]\nUri=qemu+unix:///system?socket=/run/x\n");

	assert_non_null(c);
	assert_int_equal(c->cpu_permille, 25);
	assert_int_equal(c->pass_interval_usec, 250000);
	assert_string_equal(c->ksm_domain, "b");
	assert_true(c->ksm_allow_foreign);
	assert_string_equal(c->libvirt_uri, "qemu+unix:///system?socket=/run/x");
	config_free(c);
}

static void policies(void **state _unused_)
{
	struct config *c = parse("[Policy \"all guests\"]\nenabled=estimate\n"
				 "[Policy \"b\"]\nmatch-name=b*\ndomain=b\n"
				 "[Policy \"all guests\"]\ncpu=1%\n");

	assert_non_null(c);
	assert_int_equal(c->n_policies, 2);
	assert_string_equal(c->policies[0].name, "all guests");
	assert_int_equal(c->policies[0].policy.set,
			 1U << POLICY_FIELD_ENABLED | 1U << POLICY_FIELD_CPU);
	assert_string_equal(c->policies[0].policy.origin[POLICY_FIELD_CPU],
			    "[Policy \"all guests\"] f.conf:7");
	assert_string_equal(c->policies[1].match_name, "b*");
	config_free(c);
}

static void refusals_name_file_line_and_remedy(void **state _unused_)
{
	char text[600];

	expect_error("[Daemon]\nPressureThresholds=30%:20%\n", "f.conf:2: PressureThresholds=30%:20%: expected two");
	expect_error("[Daemon]\nPressureThresholds=30%\n", "f.conf:2: PressureThresholds=30%: expected two");
	expect_error("[Daemon]\nPressureThresholds=1%:101%\n", "f.conf:2: PressureThresholds=1%:101%: expected");
	expect_error("[Daemon]\nCpuBudget=10\n", "f.conf:2: CpuBudget=10: expected a share");
	expect_error("[Daemon]\n\nPagesperSecond=1\n", "f.conf:3: unknown key PagesperSecond");
	expect_error("[Deamon]\n", "f.conf:1: unknown section [Deamon]");
	expect_error("Workers=1\n", "f.conf:1: Workers stands before");
	expect_error("[Daemon]\nWorkers\n", "f.conf:2: expected [section] or key=value");
	expect_error("[Daemon\nWorkers=1\n", "f.conf:1: a section header ends with ]");
	expect_error("[Daemon] Workers=1\n", "f.conf:1: text after");
	expect_error("[Policy]\n", "expected [Policy \"name\"]");
	expect_error("[Policy \"\"]\n", "expected [Policy \"name\"]");
	expect_error("[Policy \"a]\n", "expected [Policy \"name\"]");
	expect_error("[Policy \"a\"b\"]\n", "printable ASCII without quotes");
	expect_error("[Policy \"a\"]\nmin-age=1y\n", "f.conf:2: min-age=\"1y\": expected a time");
	expect_error("[Policy \"a\"]\nmatch-uuid=x\n", "expected a UUID");
	expect_error("[Policy \"a\"]\nmatch-backing=ram\n", "expected anonymous, shared");
	expect_error("[Policy \"a\"]\nWorkers=1\n", "not a policy field");
	expect_error("[Ksm]\nDomain=self\n", "other than self");
	expect_error("[Daemon]\nSocket=here\n", "absolute path");
	expect_error("[Daemon]\nSocketMode=0777\n", "octal mode");
	expect_error("[Daemon]\nWorkers=1\n  \n    2\n", "f.conf:4: expected [section]");

	/* What inih would cut is refused, except in a comment. */
	memset(text, 'x', sizeof(text));
	memcpy(text, "[Daemon]\nSocket=/", 17);
	text[500] = '\0';
	expect_error(text, "f.conf:2: a line has at most");
	text[9] = '#';
	config_free(parse(text));
	memcpy(text, "[Policy \"", 9);
	strcpy(text + 60, "\"]\n");
	expect_error(text, "at most 49 bytes");
}

static void nul_bytes_are_refused(void **state _unused_)
{
	static const char text[] = "[Daemon]\nWorkers=1\0\nx\n";
	struct config *c;

	assert_int_equal(config_new(&c), 0);
	assert_int_equal(config_parse(c, "f", text, sizeof(text) - 1, error), -EINVAL);
	config_free(c);
}

static void restart_is_told(void **state _unused_)
{
	struct config *a = parse(""),
		      *b = parse("[Daemon]\nLogLevel=debug\nSocket=/a/long/path/x\n"
				 "Socket=/run/memshared/control\n"),
		      *d = parse("[Libvirt]\nUri=test:///default\n");

	assert_null(config_needs_restart(a, b));
	assert_string_equal(config_needs_restart(a, d), "Uri");
	config_free(a);
	config_free(b);
	config_free(d);
}

/* conf/memshared.conf shows each key once, with its default, and is valid when uncommented. */
static void shipped_file_is_complete(void **state _unused_)
{
	const char *srcdir = getenv("MEMSHARED_SRCDIR");
	const struct config_key *keys;
	char path[4096], line[256];
	char *text;
	size_t len, n;
	struct config *c;

	if (!srcdir) {
		print_message("MEMSHARED_SRCDIR is not set (make check sets it)\n");
		skip();
	}
	(void)snprintf(path, sizeof(path), "%s/conf/memshared.conf", srcdir);
	assert_int_equal(io_read_file(AT_FDCWD, path, 65536, &text, &len), 0);
	keys = config_keys(&n);
	for (size_t i = 0; i < n; i++) {
		(void)snprintf(line, sizeof(line), "\n#%s=%s\n", keys[i].name, keys[i].value);
		if (!strstr(text, line))
			fail_msg("no line #%s=%s", keys[i].name, keys[i].value);
	}
	/* Uncomment what is commented without a blank. */
	for (char *p = text; (p = strstr(p, "\n#"));) {
		p++;
		if (p[1] != ' ' && p[1] != '\n')
			*p = ' ';
	}
	c = parse(text);
	if (!c)
		fail_msg("%s", error);
	assert_int_equal(c->n_policies, 1);
	config_free(c);
	free(text);
}

/* --- the manual ---------------------------------------------------------------- */

static const struct config_key *find_key(const char *section, const char *name)
{
	size_t n;
	const struct config_key *keys = config_keys(&n);

	for (size_t i = 0; i < n; i++)
		if (streq(keys[i].section, section) && streq(keys[i].name, name))
			return &keys[i];
	return NULL;
}

static bool match_key_exists(const char *name)
{
	size_t n;
	const char *const *keys = config_match_keys(&n);

	for (size_t i = 0; i < n; i++)
		if (streq(keys[i], name))
			return true;
	return false;
}

/* Entries of a [Policy] section: match keys, or fields with their defaults. */
static void check_policy_entry(const char *name, const char *value)
{
	char expected[POLICY_VALUE_MAX];
	enum policy_field f;
	struct policy p;

	if (match_key_exists(name))
		return;
	if (policy_field_from_string(name, &f) < 0)
		fail_msg("the manual has a policy field %s", name);
	policy_init_default(&p);
	policy_format(&p, f, expected);
	if (!streq(value, expected))
		fail_msg("the manual's default of %s is \"%s\", ours \"%s\"", name, value,
			 expected);
}

static void check_entry(const char *section, const char *name, const char *value, bool restart)
{
	const struct config_key *key = find_key(section, name);

	if (streq(section, "Policy")) {
		check_policy_entry(name, value);
		return;
	}
	if (!key)
		fail_msg("the manual has a key %s in [%s]", name, section);
	if (!streq(value, *key->value ? key->value : "none"))
		fail_msg("the manual's default of %s is \"%s\", ours \"%s\"", name, value,
			 key->value);
	if (restart != key->restart)
		fail_msg("the manual and the table differ on whether %s needs a restart", name);
}

/* memshared.conf(5) has each key, once, in its section, with its default, and no other. */
static void manual_is_complete(void **state _unused_)
{
	const char *srcdir = getenv("MEMSHARED_SRCDIR");
	char path[4096], section[32] = "", name[64] = "", value[128] = "";
	size_t len, n_keys, n_match, n_entries = 0;
	char *text, *save = NULL;
	bool restart = false;

	if (!srcdir) {
		print_message("MEMSHARED_SRCDIR is not set (make check sets it)\n");
		skip();
	}
	(void)snprintf(path, sizeof(path), "%s/man/memshared.conf.5", srcdir);
	assert_int_equal(io_read_file(AT_FDCWD, path, 1U << 20, &text, &len), 0);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (*name && (strncmp(line, ".It", 3) == 0 || strncmp(line, ".El", 3) == 0)) {
			check_entry(section, name, value, restart);
			n_entries++;
			*name = '\0';
		}
		if (sscanf(line, ".Ss Section %31s", section) == 1 ||
		    sscanf(line, ".It Cm %63s Ns =", name) == 1) {
			*value = '\0';
			restart = false;
		} else if (sscanf(line, "Default: %127s", value) == 1) {
			assert_true(*value);
			value[strlen(value) - 1] = '\0'; /* the full stop */
		} else if (streq(line, "Needs a restart.")) {
			restart = true;
		}
	}
	(void)config_keys(&n_keys);
	(void)config_match_keys(&n_match);
	assert_int_equal(n_entries, n_keys + n_match + POLICY_FIELD_MAX);
	free(text);
}

/* --- directories ------------------------------------------------------------- */

static char root[] = "/tmp/memshared-config-XXXXXX";
static char dirs_storage[3][64];
static const char *dirs[4];

static int make_dirs(void **state _unused_)
{
	strcpy(root + sizeof(root) - 7, "XXXXXX");
	if (!mkdtemp(root))
		return -1;
	for (size_t i = 0; i < 3; i++) {
		static const char *const names[] = {"etc", "run", "lib"};
		char path[256];

		(void)snprintf(dirs_storage[i], sizeof(dirs_storage[i]), "%s/%s", root, names[i]);
		(void)snprintf(path, sizeof(path), "%s/memshared.conf.d", dirs_storage[i]);
		if (mkdir(dirs_storage[i], 0700) < 0 || mkdir(path, 0700) < 0)
			return -1;
		dirs[i] = dirs_storage[i];
	}
	return 0;
}

static int remove_one(const char *path, const struct stat *st _unused_, int type _unused_,
		      struct FTW *ftw _unused_)
{
	return remove(path);
}

static int remove_dirs(void **state _unused_)
{
	return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void put(const char *name, const char *text)
{
	char path[256];
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/%s", root, name);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static void dropins_override_by_name_and_order(void **state _unused_)
{
	struct config *c;

	put("lib/memshared.conf", "[Daemon]\nWorkers=1\n");
	put("etc/memshared.conf", "[Daemon]\nPagesPerSecond=5\n");
	put("lib/memshared.conf.d/10-a.conf", "[Ksm]\nDomain=vendor\nMaxRanges=7\n");
	put("etc/memshared.conf.d/10-a.conf", "[Ksm]\nDomain=mine\n");
	put("run/memshared.conf.d/20-b.conf", "[Daemon]\nPagesPerSecond=6\n");
	put("lib/memshared.conf.d/05-c.conf", "[Daemon]\nPagesPerSecond=4\n");
	put("etc/memshared.conf.d/30.conf~", "nonsense");
	put("etc/memshared.conf.d/.30.conf", "nonsense");
	assert_int_equal(config_load(dirs, &c, error), 0);
	assert_int_equal(c->workers, 0);
	assert_int_equal(c->pages_per_second, 6);
	assert_string_equal(c->ksm_domain, "mine");
	assert_int_equal(c->ksm_max_ranges, 8192);
	config_free(c);
}

static void one_bad_file_refuses_all(void **state _unused_)
{
	struct config *c = NULL;

	put("etc/memshared.conf", "[Daemon]\nPagesPerSecond=5\n");
	put("lib/memshared.conf.d/10-a.conf", "[Ksm]\nDomain=a\n\nDomains=b\n");
	assert_int_equal(config_load(dirs, &c, error), -EINVAL);
	assert_null(c);
	assert_non_null(strstr(error, "lib/memshared.conf.d/10-a.conf:4: unknown key Domains"));
}

static void missing_files_are_defaults(void **state _unused_)
{
	static const char *const nowhere[] = {"/nonexistent", NULL};
	struct config *c;

	assert_int_equal(config_load(nowhere, &c, error), 0);
	config_free(c);
	assert_int_equal(config_load_file("/nonexistent", &c, error), -ENOENT);
	assert_non_null(strstr(error, "/nonexistent: No such file"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults),
		cmocka_unit_test(values),
		cmocka_unit_test(policies),
		cmocka_unit_test(refusals_name_file_line_and_remedy),
		cmocka_unit_test(nul_bytes_are_refused),
		cmocka_unit_test(restart_is_told),
		cmocka_unit_test(shipped_file_is_complete),
		cmocka_unit_test(manual_is_complete),
		cmocka_unit_test_setup_teardown(dropins_override_by_name_and_order, make_dirs,
						remove_dirs),
		cmocka_unit_test_setup_teardown(one_bad_file_refuses_all, make_dirs, remove_dirs),
		cmocka_unit_test(missing_files_are_defaults),
	};

	return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
