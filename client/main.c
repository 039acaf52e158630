/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command line of memsharectl(1). */
#include "autoconf.h"

#include "client/client.h"

#include <getopt.h>
#include <limits.h>
#include <locale.h>
#include <stdarg.h>

#include "client/print.h"
#include "common/parse.h"

static const struct command commands[] = {
	{ "status", "status", "how the daemon, the host and the savings are", 0, 0, 0,
	  cmd_status },
	{ "guests", "guests [GUEST...]", "all guests in a table, or some in detail", 0, 0, SIZE_MAX,
	  cmd_guests },
	{ "enroll", "enroll [--domain NAME] [--engine NAME] [--persist] GUEST...",
	  "start to share guests' pages", OPTION_DOMAIN | OPTION_ENGINE | OPTION_PERSIST, 1,
	  SIZE_MAX, cmd_enroll },
	{ "unenroll", "unenroll [--persist] GUEST...",
	  "give guests their pages back and let go of them", OPTION_PERSIST, 1, SIZE_MAX,
	  cmd_unenroll },
	{ "unmerge", "unmerge GUEST... | --domain NAME | --all",
	  "give guests their pages back, and share none until enroll", OPTION_DOMAIN | OPTION_ALL, 0,
	  SIZE_MAX, cmd_unmerge },
	{ "yield", "yield [--seconds N] GUEST...", "leave guests' userfaultfd to QEMU for a while",
	  OPTION_SECONDS, 1, SIZE_MAX, cmd_yield },
	{ "policy", "policy GUEST", "what may be done with a guest, and who says so", 0, 1, 1,
	  cmd_policy },
	{ "estimate", "estimate [--group NAME=PID,...] [PID...]",
	  "what sharing would save; only reads", OPTION_GROUP, 0, SIZE_MAX, cmd_estimate },
	{ "reload", "reload", "read the configuration again", 0, 0, 0, cmd_reload },
};

void complain(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("memsharectl: ", stderr);
	(void)vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
}

void *must(void *p)
{
	if (!p) {
		complain("out of memory");
		exit(STATUS_FAILED);
	}
	return p;
}

bool parse_pid(const char *word, json_int_t *ret)
{
	uint64_t pid;
	_cleanup_free_ char *shown = NULL;

	if (parse_u64(word, 1, INT_MAX, &pid) == 0) {
		*ret = (json_int_t)pid;
		return true;
	}
	shown = printable(word);
	complain("not a process id: \"%s\"", shown);
	return false;
}

json_t *parse_pids(char **words, size_t n)
{
	json_t *pids = must(json_array());
	json_int_t pid;

	for (size_t i = 0; i < n; i++) {
		if (!parse_pid(words[i], &pid)) {
			json_decref(pids);
			return NULL;
		}
		if (json_array_append_new(pids, json_integer(pid)) < 0)
			must(NULL);
	}
	return pids;
}

int print_json(json_t *v)
{
	if (json_dumpf(v, stdout, JSON_INDENT(2)) < 0)
		return STATUS_FAILED;
	fputc('\n', stdout);
	return STATUS_OK;
}

static void print_help(void)
{
	printf("usage: memsharectl [--socket PATH] [--json] COMMAND [ARGUMENT...]\n"
	       "\n"
	       "Talks to memshared, the daemon that makes QEMU guests share equal memory pages.\n"
	       "\n"
	       "A GUEST is a process id, a name or a UUID.\n"
	       "\n"
	       "Commands:\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  %s\n      %s\n", commands[i].synopsis, commands[i].summary);
	printf("\n"
	       "Options:\n"
	       "  -s, --socket PATH   the daemon's socket (" SOCKET_DEFAULT ")\n"
	       "  -j, --json          print results as JSON\n"
	       "      --domain NAME   enroll: the trust domain to share in;\n"
	       "                      unmerge: all guests of this domain\n"
	       "      --all           unmerge: all guests\n"
	       "      --engine NAME   enroll: how to merge (auto, remap, ksm, zero)\n"
	       "      --persist       enroll, unenroll: keep it in the guest's libvirt metadata\n"
	       "      --seconds N     yield: for how long at least (60); 0 ends it\n"
	       "      --group NAME=PID,...\n"
	       "                      estimate: guests that would share; may be repeated\n"
	       "  -h, --help          print this and exit\n"
	       "  -V, --version       print the version and exit\n"
	       "\n"
	       "See memsharectl(1).\n");
}

enum {
	OPT_GROUP = 256,
	OPT_DOMAIN,
	OPT_ENGINE,
	OPT_PERSIST,
	OPT_ALL,
	OPT_SECONDS,
};

/* Reads the options; -1 to go on, else an exit status. */
static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option options[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "json", no_argument, NULL, 'j' },
		{ "group", required_argument, NULL, OPT_GROUP },
		{ "domain", required_argument, NULL, OPT_DOMAIN },
		{ "engine", required_argument, NULL, OPT_ENGINE },
		{ "persist", no_argument, NULL, OPT_PERSIST },
		{ "all", no_argument, NULL, OPT_ALL },
		{ "seconds", required_argument, NULL, OPT_SECONDS },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{},
	};
	int c;

	while ((c = getopt_long(argc, argv, "s:jhV", options, NULL)) >= 0) {
		switch (c) {
		case 's':
			o->socket = optarg;
			break;
		case 'j':
			o->json = true;
			break;
		case OPT_GROUP:
			if (o->n_groups == CLIENT_GROUPS_MAX) {
				complain("more than %u groups", CLIENT_GROUPS_MAX);
				return STATUS_USAGE;
			}
			o->groups[o->n_groups++] = optarg;
			break;
		case OPT_DOMAIN:
			o->domain = optarg;
			break;
		case OPT_ENGINE:
			o->engine = optarg;
			break;
		case OPT_SECONDS:
			o->seconds = optarg;
			break;
		case OPT_PERSIST:
			o->persist = true;
			break;
		case OPT_ALL:
			o->all = true;
			break;
		case 'h':
			print_help();
			return STATUS_OK;
		case 'V':
			printf("memsharectl %s\n", PACKAGE_VERSION);
			return STATUS_OK;
		default:
			fputs("Try memsharectl --help.\n", stderr);
			return STATUS_USAGE;
		}
	}
	return -1;
}

static const struct command *find_command(const char *name)
{
	_cleanup_free_ char *shown = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (streq(commands[i].name, name))
			return &commands[i];
	shown = printable(name);
	complain("no such command: \"%s\" (try memsharectl --help)", shown);
	return NULL;
}

/* Does the command take these options and that many words? */
static bool usage_is_right(const struct command *c, const struct options *o)
{
	const struct {
		unsigned option;
		bool given;
		const char *name, *owner;
	} checks[] = {
		{ OPTION_GROUP, o->n_groups > 0, "--group", "estimate" },
		{ OPTION_DOMAIN, o->domain != NULL, "--domain", "enroll and unmerge" },
		{ OPTION_ALL, o->all, "--all", "unmerge" },
		{ OPTION_ENGINE, o->engine != NULL, "--engine", "enroll" },
		{ OPTION_SECONDS, o->seconds != NULL, "--seconds", "yield" },
		{ OPTION_PERSIST, o->persist, "--persist", "enroll and unenroll" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(checks); i++)
		if (checks[i].given && !(c->options & checks[i].option)) {
			complain("%s is for %s, not for %s", checks[i].name, checks[i].owner,
				 c->name);
			return false;
		}
	if (o->n_words < c->min_words || o->n_words > c->max_words) {
		complain("usage: memsharectl %s", c->synopsis);
		return false;
	}
	return true;
}

/* A full disk or a closed pipe must not look like success. */
static int close_stdout(int status)
{
	if (fflush(stdout) != 0 || ferror(stdout)) {
		complain("can't write the result: %s", strerror(errno));
		return status == STATUS_OK ? STATUS_FAILED : status;
	}
	return status;
}

int main(int argc, char **argv)
{
	struct options o = { .socket = SOCKET_DEFAULT };
	const struct command *command;
	int status;

	(void)setlocale(LC_CTYPE, "");
	status = parse_options(argc, argv, &o);
	if (status >= 0)
		return close_stdout(status);
	if (optind == argc) {
		complain("no command given (try memsharectl --help)");
		return STATUS_USAGE;
	}
	command = find_command(argv[optind]);
	o.words = argv + optind + 1;
	o.n_words = (size_t)(argc - optind - 1);
	if (!command || !usage_is_right(command, &o))
		return STATUS_USAGE;
	return close_stdout(command->run(&o));
}
