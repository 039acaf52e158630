/* SPDX-License-Identifier: GPL-2.0-or-later */
/* enroll, unenroll and yield: one call for each guest, going on after one that fails. */
#include "client/call.h"
#include "client/client.h"
#include "client/print.h"
#include "common/parse.h"

/* "enrolled 1234 (web1): domain a, engine ksm" */
static void print_result(const char *done, json_int_t pid, json_t *guest)
{
	_cleanup_free_ char *name = printable(strempty(get_string(guest, "name")));
	_cleanup_free_ char *domain = printable(strempty(get_string(guest, "domain")));
	_cleanup_free_ char *engine = printable(strempty(get_string(guest, "engine")));
	_cleanup_free_ char *reason = printable(strempty(get_string(guest, "engine_reason")));

	printf("%s %lld", done, (long long)pid);
	if (*name)
		printf(" (%s)", name);
	if (*domain)
		printf(": domain %s, engine %s", domain, *engine ? engine : "none");
	if (*domain && !*engine && *reason)
		printf(" (%s)", reason);
	fputc('\n', stdout);
}

static json_t *build_parameters(const struct options *o, json_t *pid)
{
	json_t *p = must(json_pack("{s:O}", "pid", pid));

	if (o->seconds && json_object_set_new(p, "seconds", json_integer(strtoll(o->seconds, NULL, 10))) < 0)
		must(NULL);
	/* What is no UTF-8 can't be sent; no such domain or engine can exist either. */
	if (o->persist && json_object_set_new(p, "persist", json_true()) < 0)
		must(NULL);
	if ((o->domain && json_object_set_new(p, "domain", json_string(o->domain)) < 0) ||
	    (o->engine && json_object_set_new(p, "engine", json_string(o->engine)) < 0)) {
		complain("the name of a domain or engine is not UTF-8");
		json_decref(p);
		return NULL;
	}
	return p;
}

static int for_each_guest(const struct options *o, const char *method, const char *done)
{
	json_auto_t *pids = NULL;
	json_auto_t *all = must(json_pack("{s:[]}", "guests"));
	struct link *l = NULL;
	int status, worst = STATUS_OK;
	json_t *pid;
	size_t i;

	status = link_open(o->socket, &l);
	if (status == STATUS_OK)
		status = find_pids(l, o, &pids);
	if (status != STATUS_OK) {
		link_close(l);
		return status;
	}
	json_array_foreach(pids, i, pid) {
		json_auto_t *reply = NULL;
		json_t *parameters = build_parameters(o, pid), *guest;

		status = parameters ? link_call(l, method, parameters, NULL, NULL, &reply)
				    : STATUS_USAGE;
		if (status != STATUS_OK) {
			worst = status;
			continue;
		}
		guest = json_object_get(reply, "guest");
		if (!o->json)
			print_result(done, json_integer_value(pid), guest);
		else if (json_is_object(guest) &&
			 json_array_append(json_object_get(all, "guests"), guest) < 0)
			must(NULL);
	}
	link_close(l);
	if (o->json && print_json(all) != STATUS_OK)
		return STATUS_FAILED;
	return worst;
}

int cmd_enroll(const struct options *o)
{
	return for_each_guest(o, "Enroll", "enrolled");
}

int cmd_yield(const struct options *o)
{
	uint64_t seconds;

	if (o->seconds && parse_u64(o->seconds, 0, INT32_MAX, &seconds) < 0) {
		_cleanup_free_ char *shown = printable(o->seconds);

		complain("not a number of seconds: \"%s\"", shown);
		return STATUS_USAGE;
	}
	return for_each_guest(o, "Yield", o->seconds && seconds == 0 ? "tracked again" : "yields");
}

int cmd_unenroll(const struct options *o)
{
	return for_each_guest(o, "Unenroll", "unenrolled");
}
