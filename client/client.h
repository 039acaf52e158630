/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * memsharectl: what its files share. main.c reads the command line and finds the command;
 * cmd-*.c hold one command each; call.c talks to the daemon; table.c, units.c and progress.c
 * print.
 *
 * Every string that the daemon sends may hold a guest's name: print.h's functions make it fit
 * for a terminal. Results go to stdout, everything else to stderr.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "common/util.h"

/* memsharectl(1), EXIT STATUS */
enum exit_status {
	STATUS_OK = 0,
	STATUS_FAILED = 1,	/* the daemon refused, or the answer could not be printed */
	STATUS_USAGE = 2,	/* the command line is wrong */
	STATUS_UNREACHABLE = 3, /* no daemon, or no permission to talk to it */
};

/* Where the daemon listens unless its configuration says otherwise. */
#define SOCKET_DEFAULT "/run/memshared/control"

#define CLIENT_GROUPS_MAX 64U

/* The command line, as main.c understood it. */
struct options {
	const char *socket;
	bool json;
	const char *domain, *engine;
	bool persist, all;
	const char *seconds;
	const char *groups[CLIENT_GROUPS_MAX]; /* NAME=PID,PID... */
	size_t n_groups;
	char **words; /* what follows the command */
	size_t n_words;
};

/* Which of the options that not every command takes a command takes. */
enum option_set {
	OPTION_GROUP = 1 << 0,
	OPTION_DOMAIN = 1 << 1,
	OPTION_ENGINE = 1 << 2,
	OPTION_PERSIST = 1 << 3,
	OPTION_ALL = 1 << 4,
	OPTION_SECONDS = 1 << 5,
};

struct command {
	const char *name;
	const char *synopsis; /* for --help */
	const char *summary;
	unsigned options; /* enum option_set */
	size_t min_words, max_words;
	/* Returns an exit status. */
	int (*run)(const struct options *o);
};

int cmd_status(const struct options *o);
int cmd_guests(const struct options *o);
int cmd_enroll(const struct options *o);
int cmd_unenroll(const struct options *o);
int cmd_unmerge(const struct options *o);
int cmd_yield(const struct options *o);
int cmd_estimate(const struct options *o);
int cmd_policy(const struct options *o);
int cmd_reload(const struct options *o);

/* "memsharectl: " and the line, to stderr. */
void complain(const char *fmt, ...) _printf_(1, 2);
/* A pid from the command line; complains and returns false when it is none. */
bool parse_pid(const char *word, json_int_t *ret);
/* All words as an array of pids, or NULL after a complaint. */
json_t *parse_pids(char **words, size_t n);
struct link;
/* The pids of the guests that the words name, by pid, name or UUID; or complains and returns
 * another status than STATUS_OK. */
int find_pids(struct link *l, const struct options *o, json_t **ret);
/* For memory that a client cannot do without: ends the program when there is none. */
void *must(void *p);
/* Prints a result for programs. */
int print_json(json_t *v);

/* Members of an object that was checked against the interface; absent gives 0 or NULL. */
static inline json_int_t get_int(json_t *o, const char *name)
{
	return json_integer_value(json_object_get(o, name));
}

static inline const char *get_string(json_t *o, const char *name)
{
	return json_string_value(json_object_get(o, name));
}
