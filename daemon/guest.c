/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/guest.h"

#include "common/util.h"

const char *guest_state_to_string(enum guest_state s)
{
	static const char *const names[] = {
		[GUEST_FOUND] = "found",       [GUEST_READY] = "ready",
		[GUEST_REFUSED] = "refused",   [GUEST_ENTERING] = "entering",
		[GUEST_ENROLLED] = "enrolled", [GUEST_LEAVING] = "leaving",
		[GUEST_GONE] = "gone",
	};
	static_assert(ARRAY_SIZE(names) == GUEST_STATE_MAX, "a name for each");

	return s < GUEST_STATE_MAX ? names[s] : "?";
}

const char *guest_event_to_string(enum guest_event e)
{
	static const char *const names[] = {
		[GUEST_LOOKED] = "looked",     [GUEST_LOOK_REFUSED] = "look-refused",
		[GUEST_ENROLL] = "enroll",     [GUEST_ENTERED] = "entered",
		[GUEST_ENTER_FAILED] = "enter-failed", [GUEST_UNENROLL] = "unenroll",
		[GUEST_LEFT] = "left",	       [GUEST_EXITED] = "exited",
	};
	static_assert(ARRAY_SIZE(names) == GUEST_EVENT_MAX, "a name for each");

	return e < GUEST_EVENT_MAX ? names[e] : "?";
}

const char *guest_source_to_string(enum guest_source s)
{
	static const char *const names[] = {
		[GUEST_SOURCE_PROC] = "proc",
		[GUEST_SOURCE_CLIENT] = "client",
		[GUEST_SOURCE_LIBVIRT] = "libvirt",
	};
	static_assert(ARRAY_SIZE(names) == GUEST_SOURCE_MAX, "a name for each");

	return s < GUEST_SOURCE_MAX ? names[s] : "?";
}

/* Each cell is a state, or an -errno (see the header). */
static const int transitions[GUEST_STATE_MAX][GUEST_EVENT_MAX] = {
	[GUEST_FOUND] = {
		[GUEST_LOOKED] = GUEST_READY,
		[GUEST_LOOK_REFUSED] = GUEST_REFUSED,
		[GUEST_ENROLL] = -EAGAIN,
		[GUEST_ENTERED] = -EPROTO,
		[GUEST_ENTER_FAILED] = -EPROTO,
		[GUEST_UNENROLL] = -EALREADY,
		[GUEST_LEFT] = -EPROTO,
		[GUEST_EXITED] = GUEST_GONE,
	},
	[GUEST_READY] = {
		[GUEST_LOOKED] = GUEST_READY,
		[GUEST_LOOK_REFUSED] = GUEST_REFUSED,
		[GUEST_ENROLL] = GUEST_ENTERING,
		[GUEST_ENTERED] = -EPROTO,
		[GUEST_ENTER_FAILED] = -EPROTO,
		[GUEST_UNENROLL] = -EALREADY,
		[GUEST_LEFT] = -EPROTO,
		[GUEST_EXITED] = GUEST_GONE,
	},
	[GUEST_REFUSED] = {
		[GUEST_LOOKED] = GUEST_READY,
		[GUEST_LOOK_REFUSED] = GUEST_REFUSED,
		[GUEST_ENROLL] = -EPERM,
		[GUEST_ENTERED] = -EPROTO,
		[GUEST_ENTER_FAILED] = -EPROTO,
		[GUEST_UNENROLL] = -EALREADY,
		[GUEST_LEFT] = -EPROTO,
		[GUEST_EXITED] = GUEST_GONE,
	},
	/* A look that refuses while a worker attaches is acted on like a wish to leave: the
	 * worker is undone when it has succeeded, and the next look says REFUSED. */
	[GUEST_ENTERING] = {
		[GUEST_LOOKED] = GUEST_ENTERING,
		[GUEST_LOOK_REFUSED] = GUEST_LEAVING,
		[GUEST_ENROLL] = -EALREADY,
		[GUEST_ENTERED] = GUEST_ENROLLED,
		[GUEST_ENTER_FAILED] = GUEST_READY,
		[GUEST_UNENROLL] = GUEST_LEAVING,
		[GUEST_LEFT] = -EPROTO,
		[GUEST_EXITED] = GUEST_GONE,
	},
	[GUEST_ENROLLED] = {
		[GUEST_LOOKED] = GUEST_ENROLLED,
		[GUEST_LOOK_REFUSED] = GUEST_LEAVING,
		[GUEST_ENROLL] = -EALREADY,
		[GUEST_ENTERED] = -EPROTO,
		[GUEST_ENTER_FAILED] = -EPROTO,
		[GUEST_UNENROLL] = GUEST_LEAVING,
		[GUEST_LEFT] = -EPROTO,
		[GUEST_EXITED] = GUEST_GONE,
	},
	/* ENTERED and ENTER_FAILED come when it was told to leave while it was entering; after
	 * ENTERED the owner starts the worker that undoes it. */
	[GUEST_LEAVING] = {
		[GUEST_LOOKED] = GUEST_LEAVING,
		[GUEST_LOOK_REFUSED] = GUEST_LEAVING,
		[GUEST_ENROLL] = -EBUSY,
		[GUEST_ENTERED] = GUEST_LEAVING,
		[GUEST_ENTER_FAILED] = GUEST_READY,
		[GUEST_UNENROLL] = -EALREADY,
		[GUEST_LEFT] = GUEST_READY,
		[GUEST_EXITED] = GUEST_GONE,
	},
	[GUEST_GONE] = {
		[GUEST_LOOKED] = GUEST_GONE,
		[GUEST_LOOK_REFUSED] = GUEST_GONE,
		[GUEST_ENROLL] = -ESRCH,
		[GUEST_ENTERED] = GUEST_GONE,
		[GUEST_ENTER_FAILED] = GUEST_GONE,
		[GUEST_UNENROLL] = -ESRCH,
		[GUEST_LEFT] = GUEST_GONE,
		[GUEST_EXITED] = GUEST_GONE,
	},
};

int guest_next_state(enum guest_state s, enum guest_event e, enum guest_state *ret)
{
	int next;

	assert(s < GUEST_STATE_MAX && e < GUEST_EVENT_MAX);
	next = transitions[s][e];
	if (next < 0)
		return next;
	*ret = (enum guest_state)next;
	return 0;
}

bool guest_may(enum guest_state s, enum guest_act a)
{
	static const unsigned may[GUEST_STATE_MAX] = {
		[GUEST_READY] = 1U << GUEST_MAY_READ,
		[GUEST_REFUSED] = 1U << GUEST_MAY_READ,
		[GUEST_ENTERING] = 1U << GUEST_MAY_READ | 1U << GUEST_MAY_INJECT,
		[GUEST_ENROLLED] = 1U << GUEST_MAY_READ | 1U << GUEST_MAY_INJECT |
				   1U << GUEST_MAY_MERGE,
		[GUEST_LEAVING] = 1U << GUEST_MAY_READ | 1U << GUEST_MAY_INJECT,
	};

	assert(s < GUEST_STATE_MAX && a < GUEST_ACT_MAX);
	return may[s] & 1U << a;
}

int guest_new(struct process *process, enum guest_source source, struct guest **ret)
{
	struct guest *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	g->process = *process;
	*process = (struct process)PROCESS_INIT;
	g->source = source;
	g->since_usec = now_usec();
	g->refs = 1;
	*ret = g;
	return 0;
}

struct guest *guest_ref(struct guest *g)
{
	assert(g->refs > 0);
	g->refs++;
	return g;
}

void guest_unref(struct guest *g)
{
	if (!g)
		return;
	assert(g->refs > 0);
	if (--g->refs > 0)
		return;
	process_close(&g->process);
	free(g);
}

int guest_apply(struct guest *g, enum guest_event e, const char *reason)
{
	enum guest_state next;
	int r = guest_next_state(g->state, e, &next);

	if (r < 0)
		return r;
	if (next != g->state) {
		g->state = next;
		g->since_usec = now_usec();
	}
	(void)snprintf(g->reason, sizeof(g->reason), "%s", strempty(reason));
	return 0;
}

bool guest_copy_uuid(const char *uuid, char ret[GUEST_UUID_BYTES])
{
	char text[GUEST_UUID_BYTES];
	size_t i;

	for (i = 0; i < GUEST_UUID_BYTES - 1; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;
		char c = uuid[i];

		if (c >= 'A' && c <= 'F')
			c = (char)(c - 'A' + 'a');
		if (dash ? c != '-' : !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			return false;
		text[i] = c;
	}
	if (uuid[i])
		return false;
	text[i] = '\0';
	memcpy(ret, text, sizeof(text));
	return true;
}

bool guest_identify(struct guest *g, enum guest_source source, const char *name, const char *uuid)
{
	char new_name[GUEST_NAME_BYTES] = "", new_uuid[GUEST_UUID_BYTES] = "";
	bool changed;

	if (source < g->source)
		return false;
	if (name)
		process_copy_printable(new_name, sizeof(new_name), name, strlen(name));
	if (uuid)
		(void)guest_copy_uuid(uuid, new_uuid);
	changed = source != g->source || !streq(new_name, g->name) || !streq(new_uuid, g->uuid);
	g->source = source;
	memcpy(g->name, new_name, sizeof(new_name));
	memcpy(g->uuid, new_uuid, sizeof(new_uuid));
	return changed;
}

uint32_t guest_shows(const struct guest *g)
{
	uint32_t flags = 0;

	for (unsigned i = 0; i < GUEST_SHOWS_MAX; i++)
		flags |= g->shows[i];
	return flags;
}

bool guest_is(const struct guest *g, pid_t pid, uint64_t start_ticks)
{
	return g->process.pid == pid && g->process.start_ticks == start_ticks;
}

enum guest_event guest_judge_memory(const struct guest_memory *m,
				    char ret_reason[GUEST_REASON_BYTES])
{
	ret_reason[0] = '\0';
	for (size_t i = 0; i < m->n_blocks; i++)
		if (!m->blocks[i].refusal[0])
			return GUEST_LOOKED;
	if (m->n_blocks == 0)
		(void)snprintf(ret_reason, GUEST_REASON_BYTES,
			       "no guest memory found in the process (is it still starting?)");
	else
		(void)snprintf(ret_reason, GUEST_REASON_BYTES, "%s", m->blocks[0].refusal);
	return GUEST_LOOK_REFUSED;
}
