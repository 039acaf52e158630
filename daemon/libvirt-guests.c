/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/libvirt-guests.h"

#include "common/log.h"
#include "common/util.h"
#include "daemon/enrolment.h"
#include "daemon/manager.h"

/* A guest that is being moved, saved or dumped is not scanned: longer than from one of libvirt's
 * notices to the next, and over by itself should none come any more. */
#define MOVING_PAUSE_USEC (30 * USEC_PER_SEC)

struct libvirt_guests {
	struct manager *mgr;
	struct discover_libvirt *discover;
	uint64_t serial; /* of the last LIBVIRT_DOMAIN */
	bool listed;	 /* connected, and everything was told */
	unsigned n_looking; /* processes that it named and that are being looked at */
	char trouble[128];
};

/* What was said of a domain whose process is being looked at. */
struct said {
	struct manager *mgr;
	struct libvirt_guests *lg; /* gone when the manager is stopping */
	struct libvirt_facts *facts;
	char uuid[GUEST_UUID_BYTES];
	uint64_t serial;
	pid_t pid;
	bool held;
};

static struct guest *find_guest(const struct manager *mgr, const char *uuid)
{
	for (struct guest *g = registry_guests(mgr->registry); g; g = g->next)
		if (g->enrolment && g->enrolment->facts && streq(g->enrolment->facts->uuid, uuid))
			return g;
	return NULL;
}

/* --- domains ----------------------------------------------------------------------------- */

static void give_facts(struct guest *g, struct libvirt_facts *facts, uint64_t serial, bool held)
{
	/* What was said later may have come first, having needed no look. */
	if (!g->enrolment || g->enrolment->facts_serial > serial) {
		libvirt_facts_free(facts);
		return;
	}
	g->enrolment->facts_serial = serial;
	enrolment_set_facts(g, facts, held);
}

static void review_settled(struct libvirt_guests *lg)
{
	if (libvirt_guests_settled(lg))
		enrolment_review_left_behind(lg->mgr);
}

static void on_looked(struct guest *g, int r, const char *reason, void *userdata)
{
	struct said *said = userdata;
	struct manager *mgr = said->mgr;
	struct guest *before;

	if (mgr->stopping)
		goto out;
	said->lg->n_looking--;
	if (r < 0 || !streq(g->claimed_uuid, said->uuid)) {
		log_notice("process %d, which libvirt names for domain %s, is not taken for it: %s",
			   (int)said->pid, said->facts->name,
			   r == 0    ? "it has another UUID"
			   : *reason ? reason
				     : strerror(-r));
		goto settle;
	}
	before = find_guest(mgr, said->uuid);
	if (before && before != g)
		enrolment_set_facts(before, NULL, false);
	give_facts(g, TAKE_PTR(said->facts), said->serial, said->held);
	/* What says that its memory has arrived may have come while it was looked at, when nobody knew
	 * whom it was about. */
	if (said->held)
		discover_libvirt_refresh(said->lg->discover, said->uuid);
settle:
	review_settled(said->lg);
out:
	libvirt_facts_free(said->facts);
	free(said);
}

/* The process was verified before: only what libvirt says of it is new. */
static bool is_news_of(const struct guest *g, const struct libvirt_event *e)
{
	return g && g->process.pid == e->pid && process_alive(&g->process) &&
	       (streq(e->detail, "policy") || streq(e->detail, "metadata") ||
		streq(e->detail, LIBVIRT_REFRESHED));
}

static void take_domain(struct libvirt_guests *lg, struct libvirt_event *e)
{
	struct guest *g = find_guest(lg->mgr, e->uuid);
	struct said *said;
	int r;

	lg->serial++;
	if (g)
		g->enrolment->listed = true;
	if (is_news_of(g, e)) {
		give_facts(g, TAKE_PTR(e->facts), lg->serial, e->value);
		return;
	}
	if (e->pid <= 0) {
		log_debug("libvirt's domain %s has no process here", e->facts->name);
		return;
	}
	said = malloc(sizeof(*said));
	if (!said)
		return;
	*said = (struct said){
		.mgr = lg->mgr,
		.lg = lg,
		.facts = TAKE_PTR(e->facts),
		.serial = lg->serial,
		.pid = e->pid,
		.held = e->value,
	};
	memcpy(said->uuid, e->uuid, sizeof(said->uuid));
	lg->n_looking++;
	r = registry_look_at(lg->mgr->registry, e->pid, on_looked, said);
	if (r < 0)
		on_looked(NULL, r, "", said);
}

static void take_listing(struct libvirt_guests *lg, bool begins)
{
	for (struct guest *g = registry_guests(lg->mgr->registry), *next; g; g = next) {
		next = g->next;
		if (!g->enrolment || !g->enrolment->facts)
			continue;
		if (begins)
			g->enrolment->listed = false;
		else if (!g->enrolment->listed)
			enrolment_set_facts(g, NULL, false); /* nobody vouches for it any more */
	}
	if (begins)
		return;
	if (!lg->listed)
		log_info("connected to libvirt");
	lg->listed = true;
	lg->trouble[0] = '\0';
	review_settled(lg);
}

/* --- what happens to them --------------------------------------------------------------------- */

static void pause_passes(struct libvirt_guests *lg, struct guest *g, uint64_t usec)
{
	if (!g->member)
		return;
	g->member->next_pass_usec = now_usec() + usec;
	manager_schedule(lg->mgr);
}

static void take_happening(struct libvirt_guests *lg, const struct libvirt_event *e)
{
	struct guest *g = find_guest(lg->mgr, e->uuid);
	struct log_guest who;

	if (!g)
		return;
	who = (struct log_guest){ g->name, g->uuid, g->process.pid };
	log_full(LOG_DEBUG, &who, "libvirt: %s %s", libvirt_event_to_string(e->kind), e->detail);
	/* A device may be open that the XML does not tell of, or whose disk is of no use to us. */
	if (e->kind == LIBVIRT_DEVICES)
		(void)registry_look_at(lg->mgr->registry, g->process.pid, NULL, NULL);
	if (e->kind == LIBVIRT_MIGRATING)
		pause_passes(lg, g, MOVING_PAUSE_USEC);
	else if (e->kind == LIBVIRT_JOB_DONE)
		pause_passes(lg, g, 0);
	/* Has its memory arrived? The domain's state says so better than the event. */
	if (g->enrolment->held)
		discover_libvirt_refresh(lg->discover, e->uuid);
}

static void on_event(struct libvirt_event *e, void *userdata)
{
	struct libvirt_guests *lg = userdata;

	switch (e->kind) {
	case LIBVIRT_LISTING:
		take_listing(lg, true);
		break;
	case LIBVIRT_LISTED:
		take_listing(lg, false);
		break;
	case LIBVIRT_DISCONNECTED:
		lg->listed = false;
		(void)snprintf(lg->trouble, sizeof(lg->trouble), "%s", e->detail);
		log_notice("no connection to libvirt (%s): what it said before stays in force, and it is "
			   "tried again", e->detail);
		break;
	case LIBVIRT_DOMAIN:
		take_domain(lg, e);
		break;
	/* Its pidfd says when a guest ends; devices are told with a LIBVIRT_DOMAIN; the tracker and
	 * the page map tell what a reset or a balloon did to its memory. */
	case LIBVIRT_STOPPED:
	case LIBVIRT_PAUSED:
	case LIBVIRT_RESUMED:
	case LIBVIRT_REBOOTED:
	case LIBVIRT_MIGRATING:
	case LIBVIRT_JOB_DONE:
	case LIBVIRT_DEVICES:
	case LIBVIRT_BALLOON:
		take_happening(lg, e);
		break;
	case LIBVIRT_EVENT_MAX:
		break;
	}
}

/* --- the whole ------------------------------------------------------------------------------------ */

int libvirt_guests_new(struct manager *mgr, const char *uri, struct libvirt_guests **ret)
{
	struct libvirt_guests *lg = calloc(1, sizeof(*lg));
	int r;

	if (!lg)
		return -ENOMEM;
	lg->mgr = mgr;
	(void)snprintf(lg->trouble, sizeof(lg->trouble), "not connected yet");
	r = discover_libvirt_new(mgr->event, uri, on_event, lg, &lg->discover);
	if (r < 0) {
		free(lg);
		return r;
	}
	*ret = lg;
	return 0;
}

void libvirt_guests_free(struct libvirt_guests *lg)
{
	if (!lg)
		return;
	discover_libvirt_free(lg->discover);
	free(lg);
}

int libvirt_guests_persist(struct libvirt_guests *lg, const struct guest *g, const struct policy *p,
			   discover_libvirt_reply_fn *fn, void *userdata)
{
	const struct libvirt_facts *facts = g->enrolment ? g->enrolment->facts : NULL;
	struct policy whole;

	if (!lg || !facts)
		return -EOPNOTSUPP;
	if (!p)
		return discover_libvirt_set_policy(lg->discover, facts->uuid, NULL, fn, userdata);
	policy_init_empty(&whole);
	if (!*facts->policy_error)
		policy_apply(&whole, &facts->policy);
	policy_apply(&whole, p);
	return discover_libvirt_set_policy(lg->discover, facts->uuid, &whole, fn, userdata);
}

bool libvirt_guests_settled(const struct libvirt_guests *lg)
{
	return lg->listed && lg->n_looking == 0;
}

const char *libvirt_guests_trouble(const struct libvirt_guests *lg)
{
	return lg->trouble;
}
