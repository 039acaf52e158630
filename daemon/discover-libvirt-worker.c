/* SPDX-License-Identifier: GPL-2.0-or-later */
/* libvirt's two threads: see discover-libvirt-private.h for who does what. */
#include "daemon/discover-libvirt-private.h"

#include <fcntl.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <sys/eventfd.h>

#include "common/log.h"
#include "common/util.h"
#include "daemon/libvirt-pid.h"
#include "daemon/policy-xml.h"

/* A libvirtd that does not answer for 15 s is taken for dead: its connection is closed, which
 * also ends the call that waits on it. */
#define KEEPALIVE_SECONDS 5
#define KEEPALIVE_COUNT	  3U
/* libvirtd is back within a second of a restart; one that is not installed is asked for rarely. */
#define BACKOFF_MIN_USEC (250 * USEC_PER_MSEC)
#define BACKOFF_MAX_USEC (10 * USEC_PER_SEC)

static void copy_detail(char ret[128], const char *s)
{
	(void)snprintf(ret, 128, "%s", strempty(s));
	for (char *c = ret; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
}

/* --- callbacks, on libvirt's loop: leave a note, return --------------------------- */

static void leave_note(struct libvirt_link *l, virDomainPtr dom, enum libvirt_event_kind kind,
		       uint64_t value, const char *detail)
{
	struct note n = {.kind = kind, .value = value};

	if (virDomainGetUUIDString(dom, n.uuid) < 0)
		return;
	copy_detail(n.detail, detail);
	(void)pthread_mutex_lock(&l->lock);
	if (l->list) {
		/* The listing to come tells it all. */
	} else if (l->n_notes == LIBVIRT_NOTES_MAX) {
		l->stats.dropped_notes += l->n_notes + 1;
		l->n_notes = 0;
		l->list = true;
	} else {
		l->notes[(l->note_head + l->n_notes++) % LIBVIRT_NOTES_MAX] = n;
	}
	(void)pthread_cond_broadcast(&l->wake);
	(void)pthread_mutex_unlock(&l->lock);
}

static const char *name_of(int i, const char *const *names, size_t n)
{
	return i >= 0 && (size_t)i < n && names[i] ? names[i] : "unknown";
}

static int on_lifecycle(virConnectPtr conn _unused_, virDomainPtr dom, int event, int detail,
			void *userdata)
{
	static const char *const started[] = {"booted", "migrated", "restored", "snapshot",
					      "wakeup"};
	static const char *const suspended[] = {"paused",    "migrated", "io-error",
						"watchdog",  "restored", "snapshot",
						"api-error", "postcopy", "postcopy-failed"};
	static const char *const resumed[] = {"unpaused", "migrated", "snapshot", "postcopy",
					      "postcopy-failed"};
	static const char *const stopped[] = {"shutdown", "destroyed", "crashed", "migrated",
					      "saved",	  "failed",    "snapshot"};

	switch (event) {
	case VIR_DOMAIN_EVENT_STARTED:
		leave_note(userdata, dom, LIBVIRT_DOMAIN, 0,
			   name_of(detail, started, ARRAY_SIZE(started)));
		break;
	case VIR_DOMAIN_EVENT_SUSPENDED:
		leave_note(userdata, dom, LIBVIRT_PAUSED, 0,
			   name_of(detail, suspended, ARRAY_SIZE(suspended)));
		break;
	case VIR_DOMAIN_EVENT_PMSUSPENDED:
		leave_note(userdata, dom, LIBVIRT_PAUSED, 0, "asleep");
		break;
	case VIR_DOMAIN_EVENT_CRASHED:
		leave_note(userdata, dom, LIBVIRT_PAUSED, 0, "crashed");
		break;
	case VIR_DOMAIN_EVENT_RESUMED:
		leave_note(userdata, dom, LIBVIRT_RESUMED, 0,
			   name_of(detail, resumed, ARRAY_SIZE(resumed)));
		break;
	case VIR_DOMAIN_EVENT_STOPPED:
		leave_note(userdata, dom, LIBVIRT_STOPPED, 0,
			   name_of(detail, stopped, ARRAY_SIZE(stopped)));
		break;
	}
	return 0;
}

static void on_reboot(virConnectPtr conn _unused_, virDomainPtr dom, void *userdata)
{
	leave_note(userdata, dom, LIBVIRT_REBOOTED, 0, NULL);
}

static void on_balloon(virConnectPtr conn _unused_, virDomainPtr dom, unsigned long long kib,
		       void *userdata)
{
	leave_note(userdata, dom, LIBVIRT_BALLOON, kib > UINT64_MAX >> 10 ? UINT64_MAX : kib << 10,
		   NULL);
}

static void leave_device_note(struct libvirt_link *l, virDomainPtr dom, const char *what,
			      const char *alias)
{
	char detail[128];

	(void)snprintf(detail, sizeof(detail), "%s %s", what, strempty(alias));
	leave_note(l, dom, LIBVIRT_DEVICES, 0, detail);
	leave_note(l, dom, LIBVIRT_DOMAIN, 0, "devices");
}

static void on_device_added(virConnectPtr conn _unused_, virDomainPtr dom, const char *alias,
			    void *userdata)
{
	leave_device_note(userdata, dom, "added", alias);
}

static void on_device_removed(virConnectPtr conn _unused_, virDomainPtr dom, const char *alias,
			      void *userdata)
{
	leave_device_note(userdata, dom, "removed", alias);
}

static void on_device_size(virConnectPtr conn _unused_, virDomainPtr dom, const char *alias,
			   unsigned long long size _unused_, void *userdata)
{
	leave_device_note(userdata, dom, "resized", alias);
}

static void on_metadata(virConnectPtr conn _unused_, virDomainPtr dom, int type, const char *uri,
			void *userdata)
{
	/* The title counts (match-title), and foreign elements do (match-metadata). */
	leave_note(userdata, dom, LIBVIRT_DOMAIN, 0,
		   type == VIR_DOMAIN_METADATA_ELEMENT && uri && streq(uri, POLICY_XML_URI)
			   ? "policy"
			   : "metadata");
}

static void on_iteration(virConnectPtr conn _unused_, virDomainPtr dom, int iteration,
			 void *userdata)
{
	leave_note(userdata, dom, LIBVIRT_MIGRATING, iteration > 0 ? (uint64_t)iteration : 0, NULL);
}

static void on_job(virConnectPtr conn _unused_, virDomainPtr dom, virTypedParameterPtr params,
		   int n_params, void *userdata)
{
	static const char *const operations[] = {
		"unknown",  "start",	       "save", "restore", "migration-in",    "migration",
		"snapshot", "snapshot-revert", "dump", "backup",  "snapshot-delete",
	};
	int operation = 0;

	(void)virTypedParamsGetInt(params, n_params, VIR_DOMAIN_JOB_OPERATION, &operation);
	leave_note(userdata, dom, LIBVIRT_JOB_DONE, 0,
		   name_of(operation, operations, ARRAY_SIZE(operations)));
}

static void on_close(virConnectPtr conn _unused_, int reason _unused_, void *userdata)
{
	struct libvirt_link *l = userdata;

	(void)pthread_mutex_lock(&l->lock);
	l->lost = true;
	(void)pthread_cond_broadcast(&l->wake);
	(void)pthread_mutex_unlock(&l->lock);
}

/* --- events out --------------------------------------------------------------------- */

/* Waits for room while the loop is busy. Takes e->facts. */
static void push_event(struct libvirt_link *l, struct libvirt_event *e)
{
	(void)pthread_mutex_lock(&l->lock);
	while (l->n_events == LIBVIRT_EVENTS_MAX && !l->stop)
		(void)pthread_cond_wait(&l->wake, &l->lock);
	if (l->stop) {
		libvirt_facts_free(TAKE_PTR(e->facts));
	} else {
		l->events[(l->event_head + l->n_events++) % LIBVIRT_EVENTS_MAX] = *e;
		if (e->kind == LIBVIRT_LISTING)
			l->stats.listings++;
		(void)eventfd_write(l->event_fd, 1);
	}
	(void)pthread_mutex_unlock(&l->lock);
}

static void push_plain(struct libvirt_link *l, enum libvirt_event_kind kind, const char *detail)
{
	struct libvirt_event e = {.kind = kind};

	copy_detail(e.detail, detail);
	push_event(l, &e);
}

static const char *last_error(void)
{
	const char *message = virGetLastErrorMessage();

	return message ? message : "unknown error";
}

/* What the domain's XML says, or, where that cannot be read, that it cannot. */
static int read_facts(virDomainPtr dom, const char *uuid, struct libvirt_facts **ret)
{
	char reason[POLICY_REASON_MAX];
	char *xml = virDomainGetXMLDesc(dom, 0);
	int r;

	if (!xml)
		return -ESRCH;
	r = libvirt_parse_xml(xml, strlen(xml), ret, reason);
	free(xml);
	if (r < 0 && r != -ENOMEM)
		r = libvirt_facts_unreadable(strempty(virDomainGetName(dom)), uuid, reason, ret);
	return r;
}

/* An incoming migration that is not over: QEMU needs userfaultfd for itself where it ends in
 * postcopy, and pages that come in are not the guest's yet. */
static bool memory_is_coming(virDomainPtr dom)
{
	int state, reason;

	if (virDomainGetState(dom, &state, &reason, 0) < 0)
		return false;
	if (state == VIR_DOMAIN_PAUSED)
		return reason == VIR_DOMAIN_PAUSED_MIGRATION ||
		       reason == VIR_DOMAIN_PAUSED_STARTING_UP ||
		       reason == VIR_DOMAIN_PAUSED_POSTCOPY ||
		       reason == VIR_DOMAIN_PAUSED_POSTCOPY_FAILED;
	return state == VIR_DOMAIN_RUNNING && (reason == VIR_DOMAIN_RUNNING_POSTCOPY ||
					       reason == VIR_DOMAIN_RUNNING_POSTCOPY_FAILED);
}

/* Tells the loop of one domain; one that has just ended is none. */
static void push_domain(struct libvirt_link *l, virDomainPtr dom, const char *detail)
{
	struct libvirt_event e = {.kind = LIBVIRT_DOMAIN};

	if (virDomainGetUUIDString(dom, e.uuid) < 0 || virDomainIsActive(dom) != 1 ||
	    read_facts(dom, e.uuid, &e.facts) < 0)
		return;
	if (libvirt_find_pid(l->proc_fd, *l->run_dir ? l->run_dir : NULL, e.facts->name, e.uuid,
			     &e.pid) < 0)
		e.pid = 0;
	e.value = memory_is_coming(dom);
	copy_detail(e.detail, detail);
	push_event(l, &e);
}

static int push_listing(struct libvirt_link *l)
{
	virDomainPtr *domains = NULL;
	int n = virConnectListAllDomains(l->conn, &domains, VIR_CONNECT_LIST_DOMAINS_ACTIVE);

	if (n < 0)
		return -EIO;
	push_plain(l, LIBVIRT_LISTING, NULL);
	for (int i = 0; i < n; i++) {
		push_domain(l, domains[i], "listed");
		(void)virDomainFree(domains[i]);
	}
	free(domains);
	push_plain(l, LIBVIRT_LISTED, NULL);
	return 0;
}

static void handle_note(struct libvirt_link *l, const struct note *n)
{
	struct libvirt_event e = {.kind = n->kind, .value = n->value};
	virDomainPtr dom;

	if (n->kind == LIBVIRT_DOMAIN) {
		dom = virDomainLookupByUUIDString(l->conn, n->uuid);
		if (!dom)
			return;
		push_domain(l, dom, n->detail);
		(void)virDomainFree(dom);
		return;
	}
	memcpy(e.uuid, n->uuid, sizeof(e.uuid));
	memcpy(e.detail, n->detail, sizeof(e.detail));
	push_event(l, &e);
}

/* --- requests ------------------------------------------------------------------------ */

static int error_to_errno(void)
{
	switch (virGetLastErrorCode()) {
	case VIR_ERR_NO_DOMAIN:
		return -ESRCH;
	case VIR_ERR_ACCESS_DENIED:
	case VIR_ERR_AUTH_FAILED:
	case VIR_ERR_OPERATION_DENIED:
		return -EPERM;
	default:
		return -EIO;
	}
}

static int set_metadata(virConnectPtr conn, const struct request *r)
{
	virDomainPtr dom = virDomainLookupByUUIDString(conn, r->uuid);
	unsigned flags = 0;
	int ret;

	if (!dom)
		return error_to_errno();
	if (virDomainIsActive(dom) == 1)
		flags |= VIR_DOMAIN_AFFECT_LIVE;
	if (virDomainIsPersistent(dom) == 1)
		flags |= VIR_DOMAIN_AFFECT_CONFIG;
	ret = virDomainSetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, r->xml, POLICY_XML_KEY,
				   POLICY_XML_URI, flags);
	if (ret < 0 && !(!r->xml && virGetLastErrorCode() == VIR_ERR_NO_DOMAIN_METADATA))
		ret = error_to_errno();
	else
		ret = 0;
	(void)virDomainFree(dom);
	return ret;
}

/* Called without the lock; r is the worker's until it is among the replies. */
static void handle_request(struct libvirt_link *l, struct request *r)
{
	virResetLastError();
	r->result = l->conn ? set_metadata(l->conn, r) : -ENOTCONN;
	if (r->result < 0)
		copy_detail(r->reason, l->conn ? last_error() : "libvirt is not connected");
	(void)pthread_mutex_lock(&l->lock);
	r->next = l->replies;
	l->replies = r;
	(void)eventfd_write(l->event_fd, 1);
	(void)pthread_mutex_unlock(&l->lock);
}

/* --- the connection ------------------------------------------------------------------- */

static const struct {
	int id;
	virConnectDomainEventGenericCallback fn;
} callbacks[] = {
	{VIR_DOMAIN_EVENT_ID_LIFECYCLE, VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle)},
	{VIR_DOMAIN_EVENT_ID_REBOOT, VIR_DOMAIN_EVENT_CALLBACK(on_reboot)},
	{VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, VIR_DOMAIN_EVENT_CALLBACK(on_balloon)},
	{VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, VIR_DOMAIN_EVENT_CALLBACK(on_device_added)},
	{VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, VIR_DOMAIN_EVENT_CALLBACK(on_device_removed)},
	{VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE, VIR_DOMAIN_EVENT_CALLBACK(on_device_size)},
	{VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, VIR_DOMAIN_EVENT_CALLBACK(on_metadata)},
	{VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION, VIR_DOMAIN_EVENT_CALLBACK(on_iteration)},
	{VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, VIR_DOMAIN_EVENT_CALLBACK(on_job)},
};

static_assert(ARRAY_SIZE(callbacks) == LIBVIRT_CALLBACKS);

static void close_connection(struct libvirt_link *l, virConnectPtr conn)
{
	(void)virConnectUnregisterCloseCallback(conn, on_close);
	/* Each holds a reference: without this the connection would stay for ever. */
	for (size_t i = 0; i < ARRAY_SIZE(callbacks); i++)
		if (l->callback_ids[i] >= 0)
			(void)virConnectDomainEventDeregisterAny(conn, l->callback_ids[i]);
	(void)virConnectClose(conn);
	l->conn = NULL;
}

/* Events first, then the listing: nothing falls in between. */
static int open_connection(struct libvirt_link *l, char ret_reason[128])
{
	virConnectPtr conn = virConnectOpen(l->uri);

	if (!conn) {
		copy_detail(ret_reason, last_error());
		return -EIO;
	}
	/* Drivers without these (test:///) have no connection that could break. */
	(void)virConnectSetKeepAlive(conn, KEEPALIVE_SECONDS, KEEPALIVE_COUNT);
	(void)virConnectRegisterCloseCallback(conn, on_close, l, NULL);
	for (size_t i = ARRAY_SIZE(callbacks); i-- > 0;)
		l->callback_ids[i] = virConnectDomainEventRegisterAny(conn, NULL, callbacks[i].id,
								      callbacks[i].fn, l, NULL);
	/* An older libvirtd knows fewer events; without the life cycle we could not go on. */
	if (l->callback_ids[0] < 0) {
		copy_detail(ret_reason, last_error());
		close_connection(l, conn);
		return -EIO;
	}
	l->conn = conn;
	return 0;
}

static struct request *take_request(struct libvirt_link *l)
{
	struct request *r = l->requests;

	if (r)
		l->requests = r->next;
	return r;
}

/* One piece of work, or a wait for some; called and returns with the lock held. -EIO: the
 * connection is of no use any more. */
static int serve_once(struct libvirt_link *l)
{
	struct request *request = take_request(l);
	struct note n;
	int r = 0;

	if (request) {
		(void)pthread_mutex_unlock(&l->lock);
		handle_request(l, request);
	} else if (l->list) {
		l->list = false;
		l->n_notes = 0;
		(void)pthread_mutex_unlock(&l->lock);
		r = push_listing(l);
	} else if (l->n_notes > 0) {
		n = l->notes[l->note_head];
		l->note_head = (l->note_head + 1) % LIBVIRT_NOTES_MAX;
		l->n_notes--;
		(void)pthread_mutex_unlock(&l->lock);
		handle_note(l, &n);
	} else {
		(void)pthread_cond_wait(&l->wake, &l->lock);
		return 0;
	}
	(void)pthread_mutex_lock(&l->lock);
	return r;
}

/* While there is no connection: requests are refused at once. With the lock held. */
static void back_off(struct libvirt_link *l, uint64_t usec)
{
	uint64_t until = now_usec() + usec;
	struct timespec t = {
		.tv_sec = (time_t)(until / USEC_PER_SEC),
		.tv_nsec = (long)(until % USEC_PER_SEC * NSEC_PER_USEC),
	};

	while (!l->stop) {
		struct request *request = take_request(l);

		if (request) {
			(void)pthread_mutex_unlock(&l->lock);
			handle_request(l, request);
			(void)pthread_mutex_lock(&l->lock);
		} else if (pthread_cond_timedwait(&l->wake, &l->lock, &t) != 0) {
			return;
		}
	}
}

static void tell_disconnected(struct libvirt_link *l, const char *why)
{
	if (!l->told_disconnected)
		push_plain(l, LIBVIRT_DISCONNECTED, why);
	l->told_disconnected = true;
}

/* From connection to its loss. Called and returns with the lock held. */
static void serve_connection(struct libvirt_link *l)
{
	char reason[128];

	l->lost = false;
	l->list = true;
	l->n_notes = 0;
	(void)pthread_mutex_unlock(&l->lock);
	if (open_connection(l, reason) < 0) {
		tell_disconnected(l, reason);
		(void)pthread_mutex_lock(&l->lock);
		return;
	}
	l->told_disconnected = false;
	(void)pthread_mutex_lock(&l->lock);
	l->stats.connected = true;
	l->stats.connections++;
	while (!l->stop && !l->lost)
		if (serve_once(l) < 0)
			break;
	l->stats.connected = false;
	(void)pthread_mutex_unlock(&l->lock);
	close_connection(l, l->conn);
	tell_disconnected(l, "libvirt closed the connection");
	(void)pthread_mutex_lock(&l->lock);
}

/* --- the threads ------------------------------------------------------------------------ */

static void on_timer(int timer _unused_, void *userdata _unused_)
{
}

static void *run_libvirt_loop(void *userdata)
{
	struct libvirt_link *l = userdata;

	while (!atomic_load(&l->libvirt_stop))
		if (virEventRunDefaultImpl() < 0)
			log_debug("libvirt's event loop: %s", last_error());
	return NULL;
}

static int start_libvirt_loop(struct libvirt_link *l)
{
	l->libvirt_timer = virEventAddTimeout(-1, on_timer, NULL, NULL);
	if (l->libvirt_timer < 0)
		return -EIO;
	return -pthread_create(&l->libvirt_thread, NULL, run_libvirt_loop, l);
}

static void stop_libvirt_loop(struct libvirt_link *l)
{
	atomic_store(&l->libvirt_stop, true);
	virEventUpdateTimeout(l->libvirt_timer, 0);
	(void)pthread_join(l->libvirt_thread, NULL);
	(void)virEventRemoveTimeout(l->libvirt_timer);
}

void *libvirt_worker(void *userdata)
{
	struct libvirt_link *l = userdata;
	uint64_t backoff = BACKOFF_MIN_USEC;
	bool looping = start_libvirt_loop(l) == 0;

	l->proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!looping)
		tell_disconnected(l, "libvirt's event loop did not start");
	(void)pthread_mutex_lock(&l->lock);
	while (!l->stop) {
		uint64_t connections = l->stats.connections;

		if (looping)
			serve_connection(l);
		backoff = l->stats.connections > connections ? BACKOFF_MIN_USEC
							     : MIN(backoff * 2, BACKOFF_MAX_USEC);
		back_off(l, backoff);
	}
	(void)pthread_mutex_unlock(&l->lock);
	if (looping)
		stop_libvirt_loop(l);
	(void)pthread_mutex_lock(&l->lock);
	l->ended = true;
	(void)pthread_cond_broadcast(&l->wake);
	link_unref(l);
	return NULL;
}
