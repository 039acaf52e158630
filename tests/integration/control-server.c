/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * usage: control-server PATH
 *
 * The daemon's control server with methods that answer from a fixed set of guests, for tests of
 * memsharectl and of hostile clients. Replies are checked against the interface. Guests: 11
 * "web1", 12 with a name that would move a terminal's cursor, and 13, which is refused.
 * It lacks Unenroll, as another version might. Prints "ready" when it listens; ends on SIGTERM.
 */
#include <inttypes.h>
#include <signal.h>

#include "common/interface.h"
#include "daemon/control.h"

static sd_event *event;

static const char *const names[] = { "web1", "evil\033[2J\n\xc2\x9b", "refused" };

static json_t *guest(json_int_t pid)
{
	const char *reason = pid == 13 ? "a reason that is so long that a terminal has no room "
					 "for it, up to its last word."
				       : NULL;

	return json_pack("{s:I s:s s:s s:s? s:s s:s s:s s:s s:I s:I s:i s:i s:i s:i s:[{s:s s:I s:s s:b}]"
			 " s:[]}",
			 "pid", pid, "name", names[pid - 11], "state",
			 pid == 13 ? "refused" : "merging", "reason", reason, "source", "proc", "domain", "self",
			 "engine", "ksm", "tracker", "rehash", "ram_bytes",
			 (json_int_t)MIB(256), "present_bytes", (json_int_t)MIB(200),
			 "shared_pages", 1000, "sharing_pages", 3000, "zero_pages", 500,
			 "saved_bytes", 12345678, "blocks", "name", "pc.ram", "ram_bytes",
			 (json_int_t)MIB(256), "backing", "anonymous", "confirmed", 1, "refusals");
}

/* The guest of this pid; else answers NoSuchGuest and returns false. */
static bool known(struct control_call *call, json_int_t pid)
{
	char message[64];

	if (pid >= 11 && pid <= 13)
		return true;
	(void)snprintf(message, sizeof(message), "there is no process %" JSON_INTEGER_FORMAT, pid);
	(void)control_call_error(call, "io.memshared.NoSuchGuest",
				 json_pack("{s:I, s:s}", "pid", pid, "message", message));
	return false;
}

static int status(struct control_call *call, json_t *parameters _unused_, void *userdata _unused_)
{
	return control_call_reply(
		call, json_pack("{s:s s:s s:I s:i s:{s:i s:I s:I s:i s:i s:i s:i s:i}"
				" s:[{s:s s:i s:s s:i s:i s:i s:i}] s:[{s:s s:b s:s}] s:[]"
				" s:{s:s s:b s:i s:i} s:[s]}",
				"version", "0.1.0", "state", "working", "uptime_usec",
				(json_int_t)(123 * USEC_PER_SEC), "page_bytes", 4096, "totals",
				"guests", 2, "ram_bytes", (json_int_t)MIB(512), "present_bytes",
				(json_int_t)MIB(400), "shared_pages", 2000, "sharing_pages", 6000,
				"zero_pages", 1000, "saved_bytes", 24691356, "overhead_bytes",
				1048576, "domains", "name", "self", "guests", 2, "engine", "ksm",
				"shared_pages", 2000, "sharing_pages", 6000, "zero_pages", 1000,
				"saved_bytes", 24691356, "engines", "name", "remap", "available", 0,
				"reason", "the kernel has no UFFDIO_MOVE", "trackers", "ksmd", "run",
				"stopped", "ours", 1, "shared_pages", 2000, "sharing_pages", 6000,
				"warnings", "ksmtuned runs too (systemctl disable --now ksmtuned)"));
}

static int guests(struct control_call *call, json_t *parameters _unused_, void *userdata _unused_)
{
	return control_call_reply(call, json_pack("{s:[o, o, o]}", "guests", guest(11), guest(12),
						  guest(13)));
}

static int enroll(struct control_call *call, json_t *parameters, void *userdata _unused_)
{
	json_int_t pid = json_integer_value(json_object_get(parameters, "pid"));

	if (!known(call, pid))
		return 0;
	if (pid == 13)
		return control_call_error(call, "io.memshared.Refused",
					  json_pack("{s:s, s:s}", "message",
						    "13 forbids sharing", "remedy",
						    "remove <nosharepages/>"));
	return control_call_reply(call, json_pack("{s:o}", "guest", guest(pid)));
}

static int reload(struct control_call *call, json_t *parameters _unused_, void *userdata _unused_)
{
	return control_call_error(call, "io.memshared.BadConfiguration",
				  json_pack("{s:s}", "message", "memshared.conf:7: unknown key"));
}

/* An estimate under way: a step on each turn of the loop. */
struct job {
	struct control_call *call;
	sd_event_source *source;
	unsigned done;
	bool misses; /* guest 13 was asked for, too */
};

static json_t *estimate_guest(int pid)
{
	return json_pack("{s:i s:s s:i s:i s:i s:i}", "pid", pid, "name", names[pid - 11],
			 "ram_pages", 65536, "present_pages", 50000, "zero_pages", 500,
			 "within_pages", 2000);
}

static json_t *result(bool misses)
{
	json_t *missing = misses ? json_pack("[{s:i s:s}]", "pid", 13, "reason", "it burns") : NULL;

	return json_pack("{s:{s:i s:[o, o] s:[{s:[i, i] s:i}]"
			 " s:[{s:s s:[i, i] s:i s:i s:i s:i s:i}] s:i s:o*}}",
			 "result", "page_bytes", 4096, "guests", estimate_guest(11),
			 estimate_guest(12), "pairs", "pids", 11, 12, "common_pages", 10000,
			 "groups", "name", "all", "pids", 11, 12, "present_pages", 100000,
			 "zero_pages", 1000, "within_pages", 4000, "cross_pages", 10000,
			 "saved_pages", 15000, "elapsed_usec", 1000, "missing", missing);
}

static void end_job(struct job *j)
{
	(void)sd_event_source_disable_unref(j->source);
	control_call_unref(j->call);
	free(j);
}

static int step(sd_event_source *s _unused_, void *userdata)
{
	struct job *j = userdata;

	if (++j->done <= 100)
		return control_call_progress(j->call, json_pack("{s:{s:i, s:i}}", "progress",
								"done_pages", j->done,
								"total_pages", 100));
	(void)control_call_reply(j->call, result(j->misses));
	end_job(j);
	return 0;
}

static void on_cancel(struct control_call *call _unused_, void *userdata)
{
	end_job(userdata);
}

static int estimate(struct control_call *call, json_t *parameters, void *userdata _unused_)
{
	struct job *j;
	bool misses = false;
	json_t *pid;
	size_t i;

	json_array_foreach(json_object_get(parameters, "pids"), i, pid) {
		if (!known(call, json_integer_value(pid)))
			return 0;
		misses |= json_integer_value(pid) == 13;
	}
	j = calloc(1, sizeof(*j));
	if (!j || sd_event_add_defer(event, &j->source, step, j) < 0 ||
	    sd_event_source_set_enabled(j->source, SD_EVENT_ON) < 0)
		abort();
	j->misses = misses;
	j->call = control_call_ref(call);
	control_call_on_cancel(call, on_cancel, j);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct control_method methods[] = {
		{ "Status", status, false },	 { "Guests", guests, false },
		{ "Enroll", enroll, true },	 { "Estimate", estimate, true },
		{ "Reload", reload, true },
	};
	struct control_config config = { .path = argv[1],
					 .mode = 0666,
					 .listen_fd = -1,
					 .methods = methods,
					 .n_methods = ARRAY_SIZE(methods),
					 .check_replies = true };
	struct control *control;
	sigset_t mask;
	int r;

	if (argc != 2)
		return 2;
	(void)sigemptyset(&mask);
	(void)sigaddset(&mask, SIGTERM);
	(void)sigprocmask(SIG_BLOCK, &mask, NULL);
	if (sd_event_default(&event) < 0 ||
	    sd_event_add_signal(event, NULL, SIGTERM, NULL, NULL) < 0)
		return 1;
	r = control_new(event, &config, &control);
	if (r < 0) {
		fprintf(stderr, "control_new: %s\n", strerror(-r));
		return 1;
	}
	puts("ready");
	(void)fflush(stdout);
	r = sd_event_loop(event);
	control_free(control);
	(void)sd_event_unref(event);
	return r < 0;
}
