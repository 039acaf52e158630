/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * usage: libvirt-events URI
 *
 * Prints what discover-libvirt says, one JSON object a line, and takes commands on stdin:
 *
 *   set UUID FIELD=VALUE...   writes the policy element; {"reply": R, "reason": "..."}
 *   remove UUID               takes it out
 *   stats                     {"connected": ..., "connections": ..., "listings": ...}
 *
 * It ends with stdin.
 */
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>

#include "common/io.h"
#include "common/log.h"
#include "common/util.h"
#include "daemon/discover-libvirt.h"
#include "daemon/libvirt-pid.h"
#include "daemon/process.h"

static struct discover_libvirt *discover;

static void print(json_t *line)
{
	assert(line);
	(void)json_dumpf(line, stdout, JSON_COMPACT);
	(void)putchar('\n');
	(void)fflush(stdout);
	json_decref(line);
}

/* As the daemon does it: the pid is opened, and then must still be the domain's. */
static json_t *verified(pid_t pid, const char *uuid)
{
	struct process p;
	bool ok;

	if (pid == 0 || process_open(&p, pid) < 0)
		return json_false();
	ok = libvirt_pid_matches(p.proc_fd, uuid) && process_alive(&p);
	process_close(&p);
	return json_boolean(ok);
}

static json_t *refusals(uint32_t flags)
{
	const struct libvirt_refusal *why[LIBVIRT_REFUSALS_MAX];
	size_t n = libvirt_refusals(flags, why);
	json_t *list = json_array();

	for (size_t i = 0; i < n; i++)
		(void)json_array_append_new(list, json_string(why[i]->why));
	return list;
}

static void on_event(struct libvirt_event *e, void *userdata _unused_)
{
	json_t *line = json_pack("{ss ss ss sI}", "event", libvirt_event_to_string(e->kind), "uuid",
				 e->uuid, "detail", e->detail, "value", (json_int_t)e->value);
	const struct libvirt_facts *f = e->facts;

	if (f)
		(void)json_object_update_new(
			line,
			json_pack("{ss ss si so si sb ss so so}", "name", f->name, "title",
				  f->title, "pid", (int)e->pid, "verified",
				  verified(e->pid, e->uuid), "flags", (int)f->flags, "has_policy",
				  (int)f->has_policy, "policy_error", f->policy_error, "policy",
				  policy_to_json(&f->policy), "refusals", refusals(f->flags)));
	print(line);
}

static void on_reply(int r, const char *reason, void *userdata _unused_)
{
	print(json_pack("{si ss}", "reply", r, "reason", reason));
}

static int set_policy(char *words)
{
	char *save = NULL, *uuid = strtok_r(words, " ", &save), *word;
	char reason[POLICY_REASON_MAX];
	struct policy p;

	policy_init_empty(&p);
	if (!uuid)
		return -EINVAL;
	while ((word = strtok_r(NULL, " ", &save))) {
		char *equals = strchr(word, '=');

		if (!equals)
			return -EINVAL;
		*equals = '\0';
		if (policy_set_by_name(&p, word, equals + 1, POLICY_SOURCE_RUNTIME, "stdin",
				       reason) < 0)
			return -EINVAL;
	}
	return discover_libvirt_set_policy(discover, uuid, &p, on_reply, NULL);
}

static void print_stats(void)
{
	struct discover_libvirt_stats s;

	discover_libvirt_stats(discover, &s);
	print(json_pack("{sb sI sI}", "connected", (int)s.connected, "connections",
			(json_int_t)s.connections, "listings", (json_int_t)s.listings));
}

static int run_command(char *line)
{
	line[strcspn(line, "\n")] = '\0';
	if (strncmp(line, "set ", 4) == 0)
		return set_policy(line + 4);
	if (strncmp(line, "remove ", 7) == 0)
		return discover_libvirt_set_policy(discover, line + 7, NULL, on_reply, NULL);
	if (streq(line, "stats")) {
		print_stats();
		return 0;
	}
	return -EINVAL;
}

/* Commands are short and written whole, so each read is whole lines. */
static int on_stdin(sd_event_source *source, int fd, uint32_t revents _unused_,
		    void *userdata _unused_)
{
	char buf[4096], *save = NULL;
	ssize_t n = read(fd, buf, sizeof(buf) - 1);

	if (n <= 0)
		return sd_event_exit(sd_event_source_get_event(source), 0);
	buf[n] = '\0';
	for (char *line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (run_command(line) < 0)
			print(json_pack("{si ss}", "reply", -EINVAL, "reason", "bad command"));
	return 0;
}

int main(int argc, char **argv)
{
	sd_event *loop = NULL;
	int r;

	if (argc != 2) {
		(void)fprintf(stderr, "usage: %s URI\n", argv[0]);
		return 2;
	}
	(void)signal(SIGPIPE, SIG_IGN);
	r = sd_event_default(&loop);
	if (r >= 0)
		r = sd_event_add_io(loop, NULL, STDIN_FILENO, EPOLLIN, on_stdin, NULL);
	if (r >= 0)
		r = discover_libvirt_new(loop, argv[1], on_event, NULL, &discover);
	if (r < 0) {
		log_error("libvirt-events: %s", strerror(-r));
		return 1;
	}
	r = sd_event_loop(loop);
	discover_libvirt_free(discover);
	sd_event_unref(loop);
	return r < 0;
}
