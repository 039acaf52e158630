/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon's configuration: memshared.conf and its drop-ins, memshared.conf(5).
 *
 * Read from a list of directories, strongest first (/etc, /run, /usr/lib): the first
 * memshared.conf found, then memshared.conf.d/NAME.conf in the order of NAME, where the
 * strongest directory that has a file of that name wins (so an empty file, or a link to /dev/null,
 * masks a weaker one). A key that is given again replaces the earlier value.
 *
 * Strict: an unknown section or key, a bad value or a line that is not understood refuses
 * the whole configuration, with file, line and what was expected. config_load() never changes an
 * existing struct config, so a bad reload leaves the old one in force.
 *
 * Parsing is pure and may run on any thread; a loaded configuration is immutable.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/policy.h"
#include "daemon/pressure.h"

#define CONFIG_FILE_MAX_BYTES (1U << 20)
#define CONFIG_DROPINS_MAX    256U
#define CONFIG_POLICIES_MAX   256U
#define CONFIG_PATH_MAX	      256U
#define CONFIG_ERROR_MAX      512U

enum config_pressure {
	CONFIG_PRESSURE_AUTO,	/* work hard when memory is short, rest when it is plentiful */
	CONFIG_PRESSURE_ALWAYS,
	CONFIG_PRESSURE_MAX,
};
const char *config_pressure_to_string(enum config_pressure p);

struct config {
	/* [Daemon] */
	char socket[108]; /* sockaddr_un's bound; never empty */
	mode_t socket_mode;
	char state_directory[CONFIG_PATH_MAX];
	int log_level; /* of syslog.h */
	uint32_t workers; /* 0: one for each CPU, at most 4 */
	uint32_t cpu_permille; /* of one CPU, all threads and ksmd together */
	uint32_t pages_per_second; /* read; 0: no limit */
	uint64_t tree_memory_max_bytes; /* at enrolment; 0: a hundredth of the host's memory */
	uint64_t pass_interval_usec;
	uint64_t unmerge_bytes_per_sec; /* private copies made when guests leave; 0: no limit */
	enum config_pressure pressure;
	struct pressure_thresholds pressure_thresholds;

	/* [Ksm] */
	char ksm_domain[POLICY_DOMAIN_MAX + 1]; /* "" : engine ksm is off */
	bool ksm_allow_foreign;
	uint32_t ksm_sleep_millisecs;
	uint32_t ksm_pages_to_scan;
	uint32_t ksm_max_ranges; /* per guest */

	/* [Remap] */
	uint64_t store_max_bytes; /* per trust domain; 0: no limit */

	/* [Libvirt] */
	bool libvirt_enabled;
	char libvirt_uri[CONFIG_PATH_MAX];

	/* [Policy "name"], in order of their first appearance */
	struct policy_section *policies;
	size_t n_policies;
};

/* One row for each key outside [Policy]: parser, default, manual and their test share it. */
struct config_key {
	const char *section, *name;
	const char *value; /* default, as text; "" where empty is the default */
	size_t offset, size; /* in struct config */
	int (*parse)(const char *value, void *field);
	const char *expected; /* "yes or no" */
	bool restart; /* a change is seen only by a restart of the daemon */
};
const struct config_key *config_keys(size_t *ret_n);
/* The match keys of [Policy]; the others are policy_field_to_string()'s. */
const char *const *config_match_keys(size_t *ret_n);

/* The standard directories, NULL at the end. */
extern const char *const config_dirs[];

/* Reads the configuration. None of the files must exist: then all is at its default. 0,
 * -EINVAL (ret_error says file, line and cause) or what kept a file from being read. */
int config_load(const char *const *dirs, struct config **ret, char ret_error[CONFIG_ERROR_MAX]);
/* One file, which must exist, and nothing else (--config=FILE). */
int config_load_file(const char *path, struct config **ret, char ret_error[CONFIG_ERROR_MAX]);
/* The defaults. */
int config_new(struct config **ret);
/* Takes in one file's text (path is for messages). On failure c is half changed: free it. */
int config_parse(struct config *c, const char *path, const char *buf, size_t len,
		 char ret_error[CONFIG_ERROR_MAX]);
void config_free(struct config *c);
void config_freep(struct config **c);
/* The first key that differs and that only a restart can change, or NULL. */
const char *config_needs_restart(const struct config *running, const struct config *loaded);
