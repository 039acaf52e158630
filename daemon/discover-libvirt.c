/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The loop's half: see discover-libvirt-private.h for who does what. */
#include "daemon/discover-libvirt-private.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <signal.h>
#include <sys/eventfd.h>

#include "common/util.h"
#include "daemon/libvirt-pid.h"
#include "daemon/policy-xml.h"
#include "daemon/xml.h"

/* How long free() waits for a call to libvirt that is under way. */
#define FREE_WAIT_USEC USEC_PER_SEC
/* Events taken before other sources of the loop get their turn. */
#define EVENTS_A_TURN 32U

/* Whom to call when a request is answered. */
struct caller {
	uint64_t id;
	discover_libvirt_reply_fn *fn;
	void *userdata;
	struct caller *next;
};

struct discover_libvirt {
	struct libvirt_link *link;
	sd_event_source *source;
	discover_libvirt_fn *fn;
	void *userdata;
	struct caller *callers;
	unsigned n_callers;
	uint64_t last_id;
};

static const char *const event_names[] = {
	[LIBVIRT_LISTING] = "listing",	 [LIBVIRT_LISTED] = "listed",
	[LIBVIRT_DISCONNECTED] = "disconnected", [LIBVIRT_DOMAIN] = "domain",
	[LIBVIRT_STOPPED] = "stopped",	 [LIBVIRT_PAUSED] = "paused",
	[LIBVIRT_RESUMED] = "resumed",	 [LIBVIRT_REBOOTED] = "rebooted",
	[LIBVIRT_MIGRATING] = "migrating", [LIBVIRT_JOB_DONE] = "job-done",
	[LIBVIRT_DEVICES] = "devices",	 [LIBVIRT_BALLOON] = "balloon",
};
static_assert(ARRAY_SIZE(event_names) == LIBVIRT_EVENT_MAX);

const char *libvirt_event_to_string(enum libvirt_event_kind k)
{
	return event_names[k];
}

static _Atomic bool exists;

static void requests_free(struct request *list)
{
	while (list) {
		struct request *next = list->next;

		free(list->xml);
		free(list);
		list = next;
	}
}

/* Called with the lock held; gives it back. The last one turns off the light. */
void link_unref(struct libvirt_link *l)
{
	bool last = --l->refs == 0;

	(void)pthread_mutex_unlock(&l->lock);
	if (!last)
		return;
	for (unsigned i = 0; i < l->n_events; i++)
		libvirt_facts_free(l->events[(l->event_head + i) % LIBVIRT_EVENTS_MAX].facts);
	requests_free(l->requests);
	requests_free(l->replies);
	free(l->notes);
	free(l->events);
	close_fdp(&l->event_fd);
	close_fdp(&l->proc_fd);
	(void)pthread_cond_destroy(&l->wake);
	(void)pthread_mutex_destroy(&l->lock);
	free(l);
	/* libvirt's loop has ended by now, so another may begin. */
	atomic_store(&exists, false);
}

static void answer(struct discover_libvirt *d, const struct request *r)
{
	for (struct caller **c = &d->callers; *c; c = &(*c)->next) {
		struct caller *found = *c;

		if (found->id != r->id)
			continue;
		*c = found->next;
		d->n_callers--;
		found->fn(r->result, r->reason, found->userdata);
		free(found);
		return;
	}
}

static int take_events(sd_event_source *source _unused_, int fd, uint32_t revents _unused_,
		       void *userdata)
{
	struct discover_libvirt *d = userdata;
	struct libvirt_link *l = d->link;
	struct request *replies;
	eventfd_t n;

	(void)eventfd_read(fd, &n);
	(void)pthread_mutex_lock(&l->lock);
	for (unsigned i = 0; l->n_events > 0; i++) {
		struct libvirt_event e = l->events[l->event_head];

		if (i == EVENTS_A_TURN) {
			(void)eventfd_write(fd, 1);
			break;
		}
		l->event_head = (l->event_head + 1) % LIBVIRT_EVENTS_MAX;
		l->n_events--;
		(void)pthread_cond_broadcast(&l->wake);
		(void)pthread_mutex_unlock(&l->lock);
		d->fn(&e, d->userdata);
		libvirt_facts_free(e.facts);
		(void)pthread_mutex_lock(&l->lock);
	}
	replies = TAKE_PTR(l->replies);
	(void)pthread_mutex_unlock(&l->lock);
	for (struct request *r = replies; r; r = r->next)
		answer(d, r);
	requests_free(replies);
	return 0;
}

/* libvirt prints errors on stderr unless somebody takes them; ours travel in the events. */
static void drop_error(void *userdata _unused_, virErrorPtr error _unused_)
{
}

static int register_once(void)
{
	static bool done;

	if (done)
		return 0;
	xml_init();
	if (virInitialize() < 0 || virEventRegisterDefaultImpl() < 0)
		return -EIO;
	virSetErrorFunc(NULL, drop_error);
	done = true;
	return 0;
}

static int link_new(const char *uri, struct libvirt_link **ret)
{
	struct libvirt_link *l = calloc(1, sizeof(*l));
	pthread_condattr_t attr;

	if (!l)
		return -ENOMEM;
	l->refs = 1;
	l->proc_fd = -1;
	(void)pthread_mutex_init(&l->lock, NULL);
	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&l->wake, &attr);
	(void)pthread_condattr_destroy(&attr);
	(void)snprintf(l->uri, sizeof(l->uri), "%s", uri);
	if (!libvirt_run_dir(uri, l->run_dir, sizeof(l->run_dir)))
		l->run_dir[0] = '\0';
	l->notes = calloc(LIBVIRT_NOTES_MAX, sizeof(*l->notes));
	l->events = calloc(LIBVIRT_EVENTS_MAX, sizeof(*l->events));
	l->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!l->notes || !l->events || l->event_fd < 0) {
		(void)pthread_mutex_lock(&l->lock);
		link_unref(l);
		return -ENOMEM;
	}
	*ret = l;
	return 0;
}

/* Signals are the daemon's loop's; its threads inherit that they get none. */
static int start_worker(struct libvirt_link *l)
{
	pthread_attr_t attr;
	sigset_t all, old;
	pthread_t thread;
	int r;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	l->refs++;
	r = pthread_create(&thread, &attr, libvirt_worker, l);
	if (r != 0)
		l->refs--;
	(void)pthread_attr_destroy(&attr);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

int discover_libvirt_new(sd_event *event, const char *uri, discover_libvirt_fn *fn, void *userdata,
			 struct discover_libvirt **ret)
{
	struct discover_libvirt *d;
	int r;

	if (atomic_exchange(&exists, true))
		return -EBUSY;
	d = calloc(1, sizeof(*d));
	r = d ? register_once() : -ENOMEM;
	if (r >= 0)
		r = link_new(uri, &d->link);
	if (r < 0) {
		free(d);
		atomic_store(&exists, false);
		return r;
	}
	d->fn = fn;
	d->userdata = userdata;
	r = sd_event_add_io(event, &d->source, d->link->event_fd, EPOLLIN, take_events, d);
	if (r >= 0)
		r = start_worker(d->link);
	if (r < 0) {
		sd_event_source_disable_unref(d->source);
		(void)pthread_mutex_lock(&d->link->lock);
		link_unref(d->link);
		free(d);
		return r;
	}
	*ret = d;
	return 0;
}

void discover_libvirt_free(struct discover_libvirt *d)
{
	struct timespec until;
	struct libvirt_link *l;

	if (!d)
		return;
	l = d->link;
	sd_event_source_disable_unref(d->source);
	(void)clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += FREE_WAIT_USEC / USEC_PER_SEC;
	(void)pthread_mutex_lock(&l->lock);
	l->stop = true;
	(void)pthread_cond_broadcast(&l->wake);
	while (!l->ended && pthread_cond_timedwait(&l->wake, &l->lock, &until) == 0)
		;
	link_unref(l);
	while (d->callers) {
		struct caller *c = d->callers;

		d->callers = c->next;
		c->fn(-ECANCELED, "memshared is stopping", c->userdata);
		free(c);
	}
	free(d);
}

int discover_libvirt_set_policy(struct discover_libvirt *d, const char *uuid,
				const struct policy *p, discover_libvirt_reply_fn *fn,
				void *userdata)
{
	_cleanup_free_ struct request *r = calloc(1, sizeof(*r));
	_cleanup_free_ struct caller *c = calloc(1, sizeof(*c));
	_cleanup_free_ char *xml = p ? policy_to_xml(p) : NULL;
	struct request **last;

	if (d->n_callers == LIBVIRT_REQUESTS_MAX)
		return -EBUSY;
	if (!r || !c || (p && !xml))
		return -ENOMEM;
	*c = (struct caller){ ++d->last_id, fn, userdata, d->callers };
	r->id = c->id;
	r->xml = TAKE_PTR(xml);
	(void)snprintf(r->uuid, sizeof(r->uuid), "%s", uuid);
	d->callers = TAKE_PTR(c);
	d->n_callers++;

	(void)pthread_mutex_lock(&d->link->lock);
	for (last = &d->link->requests; *last; last = &(*last)->next)
		;
	*last = TAKE_PTR(r);
	(void)pthread_cond_broadcast(&d->link->wake);
	(void)pthread_mutex_unlock(&d->link->lock);
	return 0;
}

void discover_libvirt_stats(struct discover_libvirt *d, struct discover_libvirt_stats *ret)
{
	(void)pthread_mutex_lock(&d->link->lock);
	*ret = d->link->stats;
	(void)pthread_mutex_unlock(&d->link->lock);
}

void discover_libvirt_refresh(struct discover_libvirt *d, const char *uuid)
{
	struct libvirt_link *l = d->link;
	struct note n = { .kind = LIBVIRT_DOMAIN, .detail = LIBVIRT_REFRESHED };

	(void)snprintf(n.uuid, sizeof(n.uuid), "%s", uuid);
	(void)pthread_mutex_lock(&l->lock);
	if (l->n_notes < LIBVIRT_NOTES_MAX)
		l->notes[(l->note_head + l->n_notes++) % LIBVIRT_NOTES_MAX] = n;
	else
		l->list = true;
	(void)pthread_cond_broadcast(&l->wake);
	(void)pthread_mutex_unlock(&l->lock);
}
