/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The method Estimate: which guests, in which groups; progress; the answer as JSON. */
#include <fcntl.h>

#include "common/units.h"
#include "common/util.h"
#include "daemon/discover-proc.h"
#include "daemon/estimate.h"
#include "daemon/manager.h"
#include "daemon/methods.h"

struct asked {
	struct control_call *call;
	struct manager *mgr;
	struct estimate *estimate;
	struct asked_guest {
		pid_t pid;
		char name[GUEST_NAME_BYTES], uuid[GUEST_UUID_BYTES];
	} *guests;
	pid_t *pids;
	size_t n;
	struct estimate_group *groups;
	size_t n_groups;
	json_t *parameters; /* owns the groups' names */
};

static void asked_free(struct asked *a)
{
	if (!a)
		return;
	(void)control_call_unref(a->call);
	for (size_t i = 0; i < a->n_groups; i++)
		free((void *)a->groups[i].guests);
	free(a->groups);
	free(a->pids);
	free(a->guests);
	json_decref(a->parameters);
	free(a);
}

static json_t *pids_of(const struct asked *a, const struct estimate_result *res,
		       const struct estimate_group *g)
{
	json_t *list = json_array();

	for (size_t i = 0; i < g->n_guests; i++)
		if (!res->guests[g->guests[i]].gone)
			(void)json_array_append_new(list, json_integer(a->pids[g->guests[i]]));
	return list;
}

static json_t *guests_json(const struct asked *a, const struct estimate_result *res)
{
	json_t *list = json_array();

	for (size_t i = 0; i < res->n_guests; i++) {
		const struct estimate_guest *g = &res->guests[i];

		if (g->gone)
			continue;
		(void)json_array_append_new(
			list,
			json_pack("{s:i, s:s*, s:s*, s:I, s:I, s:I, s:I, s:I}", "pid", (int)g->pid, "name",
				  *a->guests[i].name ? a->guests[i].name : NULL, "uuid",
				  *a->guests[i].uuid ? a->guests[i].uuid : NULL, "ram_pages",
				  (json_int_t)g->ram_pages, "present_pages", (json_int_t)g->present_pages,
				  "zero_pages", (json_int_t)g->zero_pages, "within_pages",
				  (json_int_t)g->within_pages, "skipped_pages",
				  (json_int_t)g->skipped_pages));
	}
	return list;
}

static json_t *pairs_json(const struct estimate_result *res)
{
	json_t *list = json_array();

	for (size_t i = 0; i < res->n_guests; i++)
		for (size_t k = i + 1; k < res->n_guests; k++)
			if (!res->guests[i].gone && !res->guests[k].gone)
				(void)json_array_append_new(
					list, json_pack("{s:[i, i], s:I}", "pids", (int)res->guests[i].pid,
							(int)res->guests[k].pid, "common_pages",
							(json_int_t)res->pairs[i * res->n_guests + k]));
	return list;
}

static json_t *groups_json(const struct asked *a, const struct estimate_result *res)
{
	json_t *list = json_array();

	for (size_t i = 0; i < res->n_groups; i++) {
		const struct estimate_group *g = &res->groups[i];

		(void)json_array_append_new(
			list, json_pack("{s:s, s:o, s:I, s:I, s:I, s:I, s:I}", "name", g->name, "pids",
					pids_of(a, res, g), "present_pages", (json_int_t)g->present_pages,
					"zero_pages", (json_int_t)g->zero_pages, "within_pages",
					(json_int_t)g->within_pages, "cross_pages",
					(json_int_t)g->cross_pages, "saved_pages",
					(json_int_t)(g->zero_pages + g->within_pages + g->cross_pages)));
	}
	return list;
}

static json_t *missing_json(const struct estimate_result *res)
{
	json_t *list = json_array();

	for (size_t i = 0; i < res->n_guests; i++)
		if (res->guests[i].gone)
			(void)json_array_append_new(list,
						    json_pack("{s:i, s:s}", "pid", (int)res->guests[i].pid,
							      "reason", res->guests[i].reason));
	return list;
}

static void on_progress(uint64_t done, uint64_t total, void *userdata)
{
	struct asked *a = userdata;

	(void)control_call_progress(a->call,
				    json_pack("{s:{s:I, s:I}}", "progress", "done_pages", (json_int_t)done,
					      "total_pages", (json_int_t)total));
}

static void on_done(const struct estimate_result *res, int r, void *userdata)
{
	struct asked *a = userdata;

	control_call_on_cancel(a->call, NULL, NULL);
	if (r < 0)
		(void)control_call_fail(a->call, "Failed", "the estimate was not finished: %s", strerror(-r));
	else
		(void)control_call_reply(
			a->call,
			json_pack("{s:{s:i, s:o, s:o, s:o, s:o, s:I, s:I}}", "result", "page_bytes",
				  (int)PAGE_BYTES, "guests", guests_json(a, res), "pairs", pairs_json(res),
				  "groups", groups_json(a, res), "missing", missing_json(res), "elapsed_usec",
				  (json_int_t)res->elapsed_usec, "read_bytes",
				  (json_int_t)(res->read_pages * PAGE_BYTES)));
	asked_free(a);
}

static void on_cancel(struct control_call *call _unused_, void *userdata)
{
	estimate_cancel(((struct asked *)userdata)->estimate);
}

/* 1 when there are too many, and the call was answered with the error. */
static int add_guest(struct asked *a, pid_t pid, const char *name, const char *uuid)
{
	struct asked_guest *grown;

	if (a->n == ESTIMATE_GUESTS_MAX) {
		(void)control_call_fail(a->call, "Failed",
					"more than %u guests at once are too many for an estimate: name some",
					ESTIMATE_GUESTS_MAX);
		return 1;
	}
	grown = reallocarray(a->guests, a->n + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	a->guests = grown;
	a->guests[a->n].pid = pid;
	(void)snprintf(a->guests[a->n].name, sizeof(a->guests[a->n].name), "%s", name);
	(void)snprintf(a->guests[a->n].uuid, sizeof(a->guests[a->n].uuid), "%s", uuid);
	a->n++;
	return 0;
}

static int index_of(const struct asked *a, json_int_t pid, size_t *ret)
{
	for (size_t i = 0; i < a->n; i++)
		if (a->guests[i].pid == pid) {
			*ret = i;
			return 0;
		}
	return -ENOENT;
}

/* A guest that the registry knows, or a process that is one by its looks. 1 when it is not or is named
 * twice, which would count all it has as shared, and the call was answered with the error. */
static int choose_guest(struct asked *a, json_int_t pid)
{
	_cleanup_close_ int proc_fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	char reason[DISCOVER_REASON_BYTES] = "";
	const struct guest *known;
	struct proc_guest g;
	size_t other;
	int r;

	if (pid <= 0 || pid > INT32_MAX || index_of(a, pid, &other) == 0) {
		(void)control_call_invalid(a->call, "pids");
		return 1;
	}
	known = registry_find(a->mgr->registry, (pid_t)pid);
	if (known)
		return add_guest(a, (pid_t)pid, known->name, known->uuid);
	r = discover_proc_pid(proc_fd, (pid_t)pid, &g, reason);
	if (r >= 0)
		return add_guest(a, (pid_t)pid, g.cmdline.name, g.cmdline.uuid);
	(void)control_call_error(a->call,
				 r == -ESRCH ? "io.memshared.NoSuchGuest" : "io.memshared.NotAGuest",
				 json_pack("{s:I, s:o}", "pid", pid, "message",
					   json_sprintf("%d: %s", (int)pid,
							r == -ESRCH ? "there is no process with this pid"
								    : reason)));
	return 1;
}

/* The guests named, or all that are known. 0, 1 when the call was answered, or -errno. */
static int choose_guests(struct asked *a)
{
	json_t *pids = json_object_get(a->parameters, "pids"), *v;
	size_t i;
	int r = 0;

	if (json_is_array(pids)) {
		json_array_foreach (pids, i, v) {
			r = choose_guest(a, json_integer_value(v));
			if (r != 0)
				return r;
		}
	} else {
		for (const struct guest *g = registry_guests(a->mgr->registry); g && r == 0; g = g->next)
			r = add_guest(a, g->process.pid, g->name, g->uuid);
	}
	if (r == 0 && a->n == 0) {
		(void)control_call_fail(a->call, "Failed", "no QEMU guest runs on this host");
		return 1;
	}
	return r;
}

/* -ENOENT: a member is not among the guests, or is named twice. */
static int make_group(struct asked *a, struct estimate_group *g, const char *name, json_t *pids)
{
	size_t n = pids ? json_array_size(pids) : a->n, i;
	size_t *list = calloc(MAX(n, (size_t)1), sizeof(*list));

	if (!list)
		return -ENOMEM;
	*g = (struct estimate_group){ .name = name, .guests = list };
	for (i = 0; i < n; i++) {
		size_t at = i;

		if (pids && index_of(a, json_integer_value(json_array_get(pids, i)), &at) < 0)
			return -ENOENT;
		for (size_t k = 0; k < g->n_guests; k++)
			if (list[k] == at)
				return -ENOENT;
		list[g->n_guests++] = at;
	}
	return 0;
}

static int choose_groups(struct asked *a)
{
	json_t *groups = json_object_get(a->parameters, "groups");
	size_t n = json_is_array(groups) ? json_array_size(groups) : 1;
	int r = 0;

	a->groups = calloc(MAX(n, (size_t)1), sizeof(*a->groups));
	if (!a->groups)
		return -ENOMEM;
	for (a->n_groups = 0; a->n_groups < n && r >= 0; a->n_groups++) {
		json_t *g = json_array_get(groups, a->n_groups);

		r = make_group(a, &a->groups[a->n_groups],
			       g ? json_string_value(json_object_get(g, "name")) : "all",
			       json_object_get(g, "pids"));
	}
	return r;
}

/* The registry has looked: it knows all guests now. */
static void on_looked(struct guest *g _unused_, int r _unused_, const char *reason _unused_,
		      void *userdata)
{
	struct asked *a = userdata;

	r = choose_guests(a);
	if (r == 0) {
		r = choose_groups(a);
		if (r == -ENOENT) {
			(void)control_call_invalid(a->call, "groups");
			r = 1;
		}
	}
	if (r == 0) {
		a->pids = calloc(a->n, sizeof(*a->pids));
		r = a->pids ? 0 : -ENOMEM;
	}
	for (size_t i = 0; r == 0 && i < a->n; i++)
		a->pids[i] = a->guests[i].pid;
	if (r == 0)
		r = estimate_start(a->mgr->event, a->mgr->pool, a->pids, a->n, a->groups, a->n_groups,
				   control_call_wants_more(a->call) ? on_progress : NULL, on_done, a,
				   &a->estimate);
	if (r == 0) {
		control_call_on_cancel(a->call, on_cancel, a);
		return;
	}
	if (r < 0)
		(void)control_call_fail(a->call, "Failed", "the estimate cannot start: %s", strerror(-r));
	asked_free(a);
}

int methods_estimate(struct control_call *call, json_t *parameters, void *userdata)
{
	struct manager *mgr = userdata;
	struct asked *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return -ENOMEM;
	*a = (struct asked){
		.call = control_call_ref(call), .mgr = mgr, .parameters = json_incref(parameters)
	};
	r = registry_look(mgr->registry, on_looked, a);
	if (r < 0)
		asked_free(a);
	return r;
}
