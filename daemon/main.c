/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * memshared: the daemon's start and end. Options, configuration, the event loop with its signals,
 * and what systemd wants to hear. See memshared(8).
 */
#include <getopt.h>
#include <signal.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "common/fault.h"
#include "common/kernel.h"
#include "common/log.h"
#include "common/units.h"
#include "common/util.h"
#include "autoconf.h"
#include "daemon/config.h"
#include "daemon/control.h"
#include "daemon/manager.h"
#include "daemon/methods.h"
#include "daemon/store.h"

/* Descriptors for each guest: pidfd, /proc directory, pagemap, ring, userfaultfd and a few more. */
#define NOFILE_WANTED 65536U

struct options {
	const char *config_path, *socket_path;
	bool check;
};

struct daemon {
	sd_event *event;
	struct options options;
	struct manager *manager;
	struct control *control;
};

static void print_help(FILE *f)
{
	(void)fprintf(f,
		      "Usage: memshared [OPTION]...\n"
		      "Make running QEMU guests share the memory pages they have in common.\n"
		      "\n"
		      "  -c, --config=FILE    read this file only, no drop-ins\n"
		      "  -s, --socket=PATH    listen here (overrides the configuration)\n"
		      "      --check          say what this host offers, and whether that is enough\n"
		      "  -d, --debug          log everything\n"
		      "  -h, --help           this text\n"
		      "  -V, --version        the version\n"
		      "\n"
		      "See memshared(8) and memshared.conf(5).\n");
}

enum { OPT_CHECK = 256 };

/* Returns 1 to go on, 0 or -EINVAL to exit. */
static int parse_options(struct options *o, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "config", required_argument, NULL, 'c' }, { "socket", required_argument, NULL, 's' },
		{ "check", no_argument, NULL, OPT_CHECK },  { "debug", no_argument, NULL, 'd' },
		{ "help", no_argument, NULL, 'h' },	    { "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "c:s:dhV", longs, NULL)) >= 0) {
		switch (c) {
		case 'c':
			o->config_path = optarg;
			break;
		case 's':
			o->socket_path = optarg;
			break;
		case OPT_CHECK:
			o->check = true;
			break;
		case 'd':
			log_set_level(LOG_DEBUG);
			break;
		case 'h':
			print_help(stdout);
			return 0;
		case 'V':
			(void)puts(PACKAGE_STRING);
			return 0;
		default:
			(void)fprintf(stderr, "memshared --help says what can be asked.\n");
			return -EINVAL;
		}
	}
	if (optind < argc) {
		(void)fprintf(stderr, "memshared: takes no arguments, found '%s'\n", argv[optind]);
		return -EINVAL;
	}
	return 1;
}

static int load_config(const struct options *o, struct config **ret)
{
	char error[CONFIG_ERROR_MAX];
	int r = o->config_path ? config_load_file(o->config_path, ret, error)
			       : config_load(config_dirs, ret, error);

	if (r < 0) {
		log_error("%s", error);
		return r;
	}
	if (o->socket_path) {
		if (strlen(o->socket_path) >= sizeof((*ret)->socket)) {
			log_error("--socket: the path is too long: %s", o->socket_path);
			config_free(*ret);
			return -ENAMETOOLONG;
		}
		strcpy((*ret)->socket, o->socket_path);
	}
	return 0;
}

static int on_terminate(sd_event_source *s, const struct signalfd_siginfo *si _unused_,
			void *userdata _unused_)
{
	(void)sd_notify(0, "STOPPING=1");
	return sd_event_exit(sd_event_source_get_event(s), 0);
}

static int reload(void *userdata, char ret_error[CONFIG_ERROR_MAX])
{
	struct daemon *d = userdata;
	struct config *config;
	const char *restart;
	int r;

	r = d->options.config_path ? config_load_file(d->options.config_path, &config, ret_error)
				   : config_load(config_dirs, &config, ret_error);
	if (r < 0)
		return r;
	/* The socket is not moved at run time, and the option stays in force. */
	memcpy(config->socket, d->manager->config->socket, sizeof(config->socket));
	restart = config_needs_restart(d->manager->config, config);
	if (restart)
		log_warning("%s has changed in the configuration: that needs a restart of memshared", restart);
	manager_reconfigure(d->manager, config);
	log_info("configuration reloaded");
	return 0;
}

static int on_reload(sd_event_source *s _unused_, const struct signalfd_siginfo *si _unused_,
		     void *userdata)
{
	char error[CONFIG_ERROR_MAX];

	(void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)now_usec());
	if (reload(userdata, error) < 0)
		log_error("the configuration stays as it was: %s", error);
	(void)sd_notify(0, "READY=1");
	return 0;
}

static int add_signals(struct daemon *d)
{
	sigset_t set;
	int r;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	(void)signal(SIGPIPE, SIG_IGN);
	r = sd_event_add_signal(d->event, NULL, SIGTERM, on_terminate, d);
	if (r >= 0)
		r = sd_event_add_signal(d->event, NULL, SIGINT, on_terminate, d);
	if (r >= 0)
		r = sd_event_add_signal(d->event, NULL, SIGHUP, on_reload, d);
	return r;
}

/* Of what systemd hands over: stores of an earlier daemon, and a socket, which is returned, or -1. */
static int take_descriptors(struct daemon *d)
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(1, &names), listen_fd = -1;

	for (int i = 0; i < n; i++) {
		int fd = SD_LISTEN_FDS_START + i;

		if (strncmp(names[i], STORE_FD_NAME "-", strlen(STORE_FD_NAME "-")) == 0)
			manager_inherit(d->manager, names[i], fd);
		else if (listen_fd < 0)
			listen_fd = fd;
		else
			(void)close(fd);
		free(names[i]);
	}
	free(names);
	return listen_fd;
}

static int listen_on(struct daemon *d)
{
	const struct config *config = d->manager->config;
	struct control_config c = {
		.path = config->socket,
		.mode = config->socket_mode,
		.listen_fd = take_descriptors(d),
		.userdata = d->manager,
		.version = PACKAGE_VERSION,
	};
	int r;

	c.methods = methods_table(&c.n_methods);
	r = control_new(d->event, &c, &d->control);
	if (r == -EADDRINUSE)
		log_error("another memshared listens on %s: stop it, or give --socket", config->socket);
	else if (r < 0)
		log_error("cannot listen on %s: %s", config->socket, strerror(-r));
	return r;
}

static void raise_limits(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < NOFILE_WANTED) {
		l.rlim_cur = NOFILE_WANTED;
		l.rlim_max = MAX(l.rlim_max, (rlim_t)NOFILE_WANTED);
		(void)setrlimit(RLIMIT_NOFILE, &l);
	}
}

static int run(struct daemon *d)
{
	char reason[MANAGER_REASON_MAX] = "";
	struct config *config;
	int r = load_config(&d->options, &config);

	if (r < 0)
		return r;
	log_set_level(MAX(log_level() == LOG_DEBUG ? LOG_DEBUG : 0, config->log_level));
	raise_limits();
	r = sd_event_default(&d->event);
	if (r >= 0)
		r = add_signals(d);
	if (r >= 0)
		r = manager_new(d->event, config, &d->manager, reason);
	if (r < 0) {
		log_error("cannot start: %s%s%s", reason, *reason ? ": " : "", strerror(-r));
		config_free(config);
		return r;
	}
	methods_set_reload(reload, d);
	r = listen_on(d);
	if (r < 0)
		return r;
	(void)sd_event_set_watchdog(d->event, true);
	log_info("%s is ready on %s", PACKAGE_STRING, d->manager->config->socket);
	(void)sd_notify(0, "READY=1");
	return sd_event_loop(d->event);
}

static int check(void)
{
	kernel_print(stdout);
	return kernel_allows_daemon() ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
	struct daemon d = { 0 };
	int r;

	assert(sysconf(_SC_PAGESIZE) == PAGE_BYTES);
	log_init(LOG_TARGET_AUTO, LOG_INFO);
	r = parse_options(&d.options, argc, argv);
	if (r <= 0)
		return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
	if (fault_init() < 0) {
		log_error("$MEMSHARED_FAULT is not understood: NAME:kill, NAME:stop or NAME:ERRNO, see common/fault.h");
		return EXIT_FAILURE;
	}
	if (kernel_probe_all() < 0) {
		log_error("$MEMSHARED_KERNEL_DENY names a feature that does not exist");
		return EXIT_FAILURE;
	}
	if (d.options.check)
		return check();
	if (!kernel_allows_daemon()) {
		log_error("this host does not offer enough (are we root?): memshared --check says what is missing");
		return EXIT_FAILURE;
	}
	r = run(&d);
	control_free(d.control);
	manager_free(d.manager);
	(void)sd_event_unref(d.event);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
