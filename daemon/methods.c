/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/methods.h"

#include "common/units.h"
#include "common/util.h"
#include "daemon/enrolment.h"
#include "daemon/libvirt-guests.h"
#include "daemon/manager.h"
#include "daemon/report.h"
#include "daemon/yield.h"

/* Yield() without a number, and at most. */
#define YIELD_SECONDS	  60
#define YIELD_SECONDS_MAX 86400

static struct {
	reload_fn *fn;
	void *userdata;
} reloader;

void methods_set_reload(reload_fn *fn, void *userdata)
{
	reloader.fn = fn;
	reloader.userdata = userdata;
}

/* Takes the object over, and ends the call with it. */
static int reply(struct control_call *call, json_t *parameters)
{
	return parameters ? control_call_reply(call, parameters) : -ENOMEM;
}

static int status(struct control_call *call, json_t *parameters _unused_, void *userdata)
{
	return reply(call, report_status(userdata));
}

/* --- Guests, Enroll, Unenroll ----------------------------------------------------- */

/* The message names the guest: a client may have asked for several. */
static int fail_for(struct control_call *call, const char *error, pid_t pid, const char *message)
{
	return control_call_error(call, error,
				  json_pack("{s:i, s:o}", "pid", (int)pid, "message",
					    json_sprintf("%d: %s", (int)pid, message)));
}

static int no_such_guest(struct control_call *call, pid_t pid, const char *message)
{
	return fail_for(call, "io.memshared.NoSuchGuest", pid, message);
}

static int refused(struct control_call *call, pid_t pid, const char *message)
{
	return fail_for(call, "io.memshared.Refused", pid, message);
}

/* A call that is answered when a worker is done. */
struct waiting {
	struct control_call *call;
	struct manager *mgr;
	pid_t pid;
	json_t *parameters;
};

static struct waiting *wait_for(struct control_call *call, struct manager *mgr, pid_t pid,
				json_t *parameters)
{
	struct waiting *w = calloc(1, sizeof(*w));

	if (w)
		*w = (struct waiting){ control_call_ref(call), mgr, pid, json_incref(parameters) };
	return w;
}

static void waiting_free(struct waiting *w)
{
	(void)control_call_unref(w->call);
	json_decref(w->parameters);
	free(w);
}

static void looked(struct guest *g _unused_, int r _unused_, const char *reason _unused_, void *userdata)
{
	struct waiting *w = userdata;

	(void)control_call_reply(w->call, json_pack("{s:o}", "guests", report_guests(w->mgr)));
	waiting_free(w);
}

/* The answer tells those that started a moment ago, too. */
static int guests(struct control_call *call, json_t *parameters, void *userdata)
{
	struct manager *mgr = userdata;
	struct waiting *w = wait_for(call, mgr, 0, parameters);
	int r = w ? registry_look(mgr->registry, looked, w) : -ENOMEM;

	if (r < 0 && w)
		waiting_free(w);
	return r;
}

/* What the client asked for. */
static int parse_asked(json_t *parameters, struct policy *ret, char reason[POLICY_REASON_MAX])
{
	const char *values[POLICY_FIELD_MAX] = { [POLICY_FIELD_ENABLED] = "yes" };
	int r = 0;

	(void)json_unpack(parameters, "{s?s, s?s}", "domain", &values[POLICY_FIELD_DOMAIN], "engine",
			  &values[POLICY_FIELD_ENGINE]);
	policy_init_empty(ret);
	for (enum policy_field f = 0; f < POLICY_FIELD_MAX && r >= 0; f++)
		if (values[f])
			r = policy_set(ret, f, values[f], POLICY_SOURCE_RUNTIME, "memsharectl enroll", reason);
	return r;
}

static bool wants_persist(const struct waiting *w)
{
	return json_is_true(json_object_get(w->parameters, "persist"));
}

static void persisted(int r, const char *reason, void *userdata)
{
	struct waiting *w = userdata;
	struct guest *g = registry_find(w->mgr->registry, w->pid);
	char why[POLICY_REASON_MAX];

	if (r < 0 && g)
		enrolment_will_persist(g, false);
	if (r < 0) {
		(void)snprintf(why, sizeof(why), "it is done, but libvirt did not take it for later: %s",
			       *reason ? reason : strerror(-r));
		(void)refused(w->call, w->pid, why);
	} else if (!g) {
		(void)no_such_guest(w->call, w->pid, "the process has exited");
	} else {
		(void)control_call_reply(w->call, json_pack("{s:o}", "guest", report_guest(w->mgr, g)));
	}
	waiting_free(w);
}

/* policy NULL: takes the element out. The answer follows. */
static void persist(struct waiting *w, struct guest *g, const struct policy *policy)
{
	int r;

	enrolment_will_persist(g, true);
	r = libvirt_guests_persist(w->mgr->libvirt, g, policy, persisted, w);
	if (r < 0)
		persisted(r, r == -EOPNOTSUPP ? "it does not know this guest" : "", w);
}

static void enrolled(struct guest *g, int r, const char *reason, void *userdata)
{
	struct waiting *w = userdata;
	char why[POLICY_REASON_MAX];
	struct policy asked;

	if (r >= 0 && wants_persist(w) && parse_asked(w->parameters, &asked, why) >= 0) {
		persist(w, g, &asked);
		return;
	}
	if (r == -ESRCH)
		(void)no_such_guest(w->call, w->pid, "the process exited while it was being enrolled");
	else if (r < 0)
		(void)refused(w->call, w->pid, reason);
	else
		(void)control_call_reply(w->call, json_pack("{s:o}", "guest", report_guest(w->mgr, g)));
	waiting_free(w);
}

static void enroll_found(struct guest *g, int r, const char *reason, void *userdata)
{
	struct waiting *w = userdata;
	char why[POLICY_REASON_MAX] = "";
	struct policy asked;

	if (r == -ESRCH) {
		(void)no_such_guest(w->call, w->pid, "there is no process with this pid");
		goto out;
	}
	if (r < 0) {
		(void)fail_for(w->call, "io.memshared.NotAGuest", w->pid, *reason ? reason : strerror(-r));
		goto out;
	}
	r = parse_asked(w->parameters, &asked, why);
	if (r >= 0) {
		r = enrolment_ask(g, &asked, enrolled, w, why);
		if (r >= 0)
			return;
		if (r == -EALREADY && wants_persist(w)) {
			enrolled(g, 0, "", w);
			return;
		}
		if (r == -EALREADY)
			strcpy(why, "the guest is enrolled already: memsharectl guests shows it");
		else if (r == -EBUSY)
			strcpy(why, "the guest is being enrolled or is leaving: try again");
		else if (!*why)
			(void)snprintf(why, sizeof(why), "%s", strerror(-r));
	}
	(void)refused(w->call, w->pid, why);
out:
	waiting_free(w);
}

static int enroll(struct control_call *call, json_t *parameters, void *userdata)
{
	struct manager *mgr = userdata;
	json_int_t pid = json_integer_value(json_object_get(parameters, "pid"));
	struct waiting *w;
	int r;

	if (pid <= 0 || pid > INT32_MAX)
		return control_call_invalid(call, "pid");
	w = wait_for(call, mgr, (pid_t)pid, parameters);
	if (!w)
		return -ENOMEM;
	r = registry_look_at(mgr->registry, (pid_t)pid, enroll_found, w);
	if (r < 0)
		waiting_free(w);
	return r;
}

static void unenrolled(struct guest *g, int r, const char *reason, void *userdata)
{
	struct waiting *w = userdata;

	if (r >= 0 && wants_persist(w)) {
		persist(w, g, NULL);
		return;
	}
	if (r < 0 && r != -ESRCH)
		(void)refused(w->call, w->pid, reason);
	else
		(void)control_call_reply(w->call, NULL);
	waiting_free(w);
}

static int unenroll(struct control_call *call, json_t *parameters, void *userdata)
{
	struct manager *mgr = userdata;
	json_int_t pid = json_integer_value(json_object_get(parameters, "pid"));
	struct guest *g = pid > 0 && pid <= INT32_MAX ? registry_find(mgr->registry, (pid_t)pid) : NULL;
	struct waiting *w;
	int r;

	if (!g)
		return no_such_guest(call, (pid_t)pid, "no guest with this pid is enrolled");
	w = wait_for(call, mgr, (pid_t)pid, parameters);
	if (!w)
		return -ENOMEM;
	r = enrolment_release(g, unenrolled, w);
	if (r < 0)
		waiting_free(w);
	if (r == -ENOENT)
		return no_such_guest(call, (pid_t)pid, "no guest with this pid is enrolled");
	if (r == -EBUSY)
		return control_call_fail(call, "Busy", "the guest is entering or leaving already");
	return r;
}

/* --- Unmerge ----------------------------------------------------------------------- */

/* A call that is answered when all its guests have their pages back. */
struct unmerging {
	struct control_call *call;
	struct manager *mgr;
	unsigned n_waiting;
	json_t *pids;
	pid_t failed; /* the first that could not; 0: none */
	char reason[GUEST_REASON_BYTES];
};

/* A guest less to wait for. */
static void unmerging_unref(struct unmerging *u)
{
	json_t *guests, *pid;
	size_t i;

	if (--u->n_waiting > 0)
		return;
	if (u->failed) {
		(void)refused(u->call, u->failed, u->reason);
	} else {
		guests = json_array();
		json_array_foreach(u->pids, i, pid) {
			struct guest *g = registry_find(u->mgr->registry, (pid_t)json_integer_value(pid));

			if (g)
				(void)json_array_append_new(guests, report_guest(u->mgr, g));
		}
		(void)control_call_reply(u->call, json_pack("{s:o}", "guests", guests));
	}
	(void)control_call_unref(u->call);
	json_decref(u->pids);
	free(u);
}

static void unmerged(struct guest *g, int r, const char *reason, void *userdata)
{
	struct unmerging *u = userdata;

	/* One that has exited has no pages. */
	if (r < 0 && process_alive(&g->process) && !u->failed) {
		u->failed = g->process.pid;
		(void)snprintf(u->reason, sizeof(u->reason), "%s", reason);
	}
	unmerging_unref(u);
}

static bool is_meant(const struct guest *g, json_int_t pid, const char *domain)
{
	return g->state == GUEST_ENROLLED && g->member && (!pid || g->process.pid == pid) &&
	       (!domain || streq(g->member->domain->name, domain));
}

/* Copies that these guests would make, of what is known to be shared. */
static uint64_t shared_bytes(const struct manager *mgr, json_int_t pid, const char *domain)
{
	uint64_t pages = 0;

	for (const struct guest *g = registry_guests(mgr->registry); g; g = g->next)
		pages += is_meant(g, pid, domain) ? member_sharers(g->member) : 0;
	return pages * PAGE_BYTES;
}

static void unmerge_one(struct unmerging *u, struct guest *g)
{
	int r;

	(void)json_array_append_new(u->pids, json_integer(g->process.pid));
	u->n_waiting++;
	r = enrolment_unmerge(g, unmerged, u);
	if (r == -EALREADY)
		unmerged(g, 0, "", u);
	else if (r < 0)
		unmerged(g, r, r == -EBUSY ? "the guest is entering, leaving or being unmerged already" : strerror(-r),
			 u);
}

static int unmerge(struct control_call *call, json_t *parameters, void *userdata)
{
	struct manager *mgr = userdata;
	json_int_t pid = json_integer_value(json_object_get(parameters, "pid"));
	const char *domain = json_string_value(json_object_get(parameters, "domain"));
	char reason[GIVEBACK_REASON_MAX];
	struct unmerging *u;

	if (pid < 0 || pid > INT32_MAX || (json_is_integer(json_object_get(parameters, "pid")) && !pid))
		return control_call_invalid(call, "pid");
	if (giveback_check_memory(NULL, shared_bytes(mgr, pid, domain), reason) == -ENOMEM)
		return refused(call, (pid_t)pid, reason);
	u = calloc(1, sizeof(*u));
	if (!u)
		return -ENOMEM;
	*u = (struct unmerging){ control_call_ref(call), mgr, 1, json_array(), 0, "" };
	for (struct guest *g = registry_guests(mgr->registry); g; g = g->next)
		if (is_meant(g, pid, domain))
			unmerge_one(u, g);
	if (json_array_size(u->pids) == 0 && (pid || domain)) {
		(void)no_such_guest(call, (pid_t)pid, pid ? "no guest with this pid is enrolled"
							  : "no guest is enrolled in this domain");
		(void)control_call_unref(u->call);
		json_decref(u->pids);
		free(u);
		return 0;
	}
	unmerging_unref(u);
	return 0;
}

/* --- Yield ------------------------------------------------------------------------- */

static void yielded(struct member *m, int r, void *userdata)
{
	struct waiting *w = userdata;

	if (r == -ESRCH)
		(void)no_such_guest(w->call, w->pid, "the process has exited, or the guest is leaving");
	else if (r < 0)
		(void)refused(w->call, w->pid, r == -ETIMEDOUT ? MEMBER_AGENT_IS_LATE : strerror(-r));
	else
		(void)control_call_reply(w->call, json_pack("{s:o}", "guest", report_guest(w->mgr, m->guest)));
	waiting_free(w);
}

static int yield(struct control_call *call, json_t *parameters, void *userdata)
{
	struct manager *mgr = userdata;
	json_int_t pid = json_integer_value(json_object_get(parameters, "pid")), seconds = YIELD_SECONDS;
	struct guest *g = pid > 0 && pid <= INT32_MAX ? registry_find(mgr->registry, (pid_t)pid) : NULL;
	struct waiting *w;
	int r;

	(void)json_unpack(parameters, "{s?I}", "seconds", &seconds);
	if (seconds < 0 || seconds > YIELD_SECONDS_MAX)
		return control_call_invalid(call, "seconds");
	if (!g)
		return no_such_guest(call, (pid_t)pid, "no guest has this pid: memsharectl guests lists them");
	if (!g->member)
		return refused(call, (pid_t)pid,
			       "it is not enrolled: nothing of memshared's keeps QEMU from userfaultfd");
	if (seconds == 0) {
		yield_end(mgr, g->member);
		return reply(call, json_pack("{s:o}", "guest", report_guest(mgr, g)));
	}
	w = wait_for(call, mgr, (pid_t)pid, parameters);
	if (!w)
		return -ENOMEM;
	r = yield_begin(mgr, g->member, (uint64_t)seconds * USEC_PER_SEC, "memsharectl yield was asked for",
			yielded, w);
	if (r >= 0)
		return 0;
	waiting_free(w);
	if (r == -EBUSY)
		return control_call_fail(call, "Busy", "another client waits for this guest to yield");
	return no_such_guest(call, (pid_t)pid, "the guest is leaving");
}

static int policy(struct control_call *call, json_t *parameters, void *userdata)
{
	const struct manager *mgr = userdata;
	json_int_t pid = json_integer_value(json_object_get(parameters, "pid"));
	struct guest *g = pid > 0 && pid <= INT32_MAX ? registry_find(mgr->registry, (pid_t)pid) : NULL;

	if (!g)
		return no_such_guest(call, (pid_t)pid, "no guest has this pid: memsharectl guests lists them");
	return reply(call, report_policy(g));
}

static int reload(struct control_call *call, json_t *parameters _unused_, void *userdata _unused_)
{
	char error[CONFIG_ERROR_MAX] = "";
	int r = reloader.fn(reloader.userdata, error);

	if (r < 0)
		return control_call_error(call, "io.memshared.BadConfiguration",
					  json_pack("{s:s}", "message", error));
	return control_call_reply(call, NULL);
}

const struct control_method *methods_table(size_t *ret_n)
{
	static const struct control_method table[] = {
		{ "Status", status, false },	 { "Guests", guests, false },
		{ "Enroll", enroll, true },	 { "Unenroll", unenroll, true },
		{ "Unmerge", unmerge, true },	 { "Yield", yield, true },
		{ "Policy", policy, true },
		{ "Estimate", methods_estimate, true }, { "Reload", reload, true },
	};

	*ret_n = ARRAY_SIZE(table);
	return table;
}
