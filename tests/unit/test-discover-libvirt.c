/* SPDX-License-Identifier: GPL-2.0-or-later */
/* On libvirt's own test driver: real connection, events and metadata; no process behind it. */
#include "daemon/discover-libvirt.h"

#include <libvirt/libvirt.h>

#include "daemon/policy-xml.h"
#include "tests/unit/unit.h"

#define URI	      "test:///default"
#define UUID	      "6695eb01-f6a4-8304-79aa-97f2502e193f" /* its domain "test" */
#define DEADLINE_USEC (20 * USEC_PER_SEC)

static sd_event *loop;
static struct discover_libvirt *discover;
/* What has come since it was last looked at. */
static struct libvirt_event events[2048];
static size_t n_events;
static int reply;
static char reply_reason[256];

static void on_event(struct libvirt_event *e, void *userdata _unused_)
{
	assert_true(n_events < ARRAY_SIZE(events));
	events[n_events] = *e;
	events[n_events++].facts = TAKE_PTR(e->facts);
}

static void on_reply(int r, const char *reason, void *userdata _unused_)
{
	reply = r;
	(void)snprintf(reply_reason, sizeof(reply_reason), "%s", reason);
}

static void forget_events(void)
{
	for (size_t i = 0; i < n_events; i++)
		libvirt_facts_free(events[i].facts);
	n_events = 0;
}

static void run_once(uint64_t deadline)
{
	uint64_t now = now_usec();

	if (now >= deadline) {
		for (size_t i = 0; i < n_events; i++)
			print_message("had %s %s\n", libvirt_event_to_string(events[i].kind),
				      events[i].detail);
		fail_msg("nothing within the deadline");
	}
	assert_true(sd_event_run(loop, deadline - now) >= 0);
}

/* Waits for an event of this kind (and detail); those before it are dropped. */
static struct libvirt_event *wait_event(enum libvirt_event_kind kind, const char *detail)
{
	uint64_t deadline = now_usec() + DEADLINE_USEC;
	size_t seen = 0;

	for (;;) {
		for (; seen < n_events; seen++)
			if (events[seen].kind == kind &&
			    (!detail || streq(events[seen].detail, detail)))
				return &events[seen];
		run_once(deadline);
	}
}

static int set_policy(const char *uuid, const char *field, const char *value)
{
	char reason[POLICY_REASON_MAX];
	uint64_t deadline = now_usec() + DEADLINE_USEC;
	struct policy p;

	policy_init_empty(&p);
	if (field)
		assert_int_equal(
			policy_set_by_name(&p, field, value, POLICY_SOURCE_RUNTIME, "test", reason),
			0);
	reply = 1;
	assert_int_equal(
		discover_libvirt_set_policy(discover, uuid, field ? &p : NULL, on_reply, NULL), 0);
	while (reply == 1)
		run_once(deadline);
	return reply;
}

static int start(const char *uri)
{
	assert_int_equal(sd_event_new(&loop), 0);
	return discover_libvirt_new(loop, uri, on_event, NULL, &discover);
}

static int start_on_driver(void **state _unused_)
{
	return start(URI);
}

static int stop(void **state _unused_)
{
	discover_libvirt_free(TAKE_PTR(discover));
	forget_events();
	loop = sd_event_unref(loop);
	return 0;
}

static void lists_what_runs(void **state _unused_)
{
	struct discover_libvirt_stats stats;
	struct libvirt_event *e;

	(void)wait_event(LIBVIRT_LISTED, NULL);
	assert_int_equal(n_events, 3);
	assert_int_equal(events[0].kind, LIBVIRT_LISTING);
	e = &events[1];
	assert_int_equal(e->kind, LIBVIRT_DOMAIN);
	assert_string_equal(e->uuid, UUID);
	assert_string_equal(e->facts->name, "test");
	assert_int_equal(e->pid, 0);
	assert_false(e->facts->has_policy);
	discover_libvirt_stats(discover, &stats);
	assert_true(stats.connected);
	assert_int_equal(stats.connections, 1);
	assert_int_equal(stats.listings, 1);
}

static void metadata_is_set_changed_and_removed(void **state _unused_)
{
	struct libvirt_event *e;

	(void)wait_event(LIBVIRT_LISTED, NULL);
	forget_events();
	assert_int_equal(set_policy(UUID, "enabled", "yes"), 0);
	e = wait_event(LIBVIRT_DOMAIN, "policy");
	assert_true(e->facts->has_policy);
	assert_string_equal(e->facts->policy_error, "");
	assert_int_equal(e->facts->policy.enabled, POLICY_YES);
	forget_events();

	assert_int_equal(set_policy(UUID, "domain", "tenant-a"), 0);
	e = wait_event(LIBVIRT_DOMAIN, "policy");
	assert_string_equal(e->facts->policy.domain, "tenant-a");
	assert_int_equal(e->facts->policy.set, 1U << POLICY_FIELD_DOMAIN);
	forget_events();

	assert_int_equal(set_policy(UUID, NULL, NULL), 0);
	e = wait_event(LIBVIRT_DOMAIN, "policy");
	assert_false(e->facts->has_policy);
	/* Removing what is not there is fine. */
	assert_int_equal(set_policy(UUID, NULL, NULL), 0);
	assert_int_equal(set_policy("00000000-0000-4000-8000-000000000000", "cpu", "1%"), -ESRCH);
	assert_true(*reply_reason);
}

/* The same driver, seen by somebody else: what an administrator does with virsh. */
static void life_cycle_arrives_in_order(void **state _unused_)
{
	static const struct {
		enum libvirt_event_kind kind;
		const char *detail;
	} expected[] = {
		{LIBVIRT_PAUSED, "paused"},
		{LIBVIRT_RESUMED, "unpaused"},
		{LIBVIRT_STOPPED, "destroyed"},
		{LIBVIRT_DOMAIN, "booted"},
	};
	virConnectPtr conn;
	virDomainPtr dom;

	(void)wait_event(LIBVIRT_LISTED, NULL);
	forget_events();
	conn = virConnectOpen(URI);
	assert_non_null(conn);
	dom = virDomainLookupByUUIDString(conn, UUID);
	assert_non_null(dom);
	assert_int_equal(virDomainSuspend(dom), 0);
	assert_int_equal(virDomainResume(dom), 0);
	assert_int_equal(virDomainDestroy(dom), 0);
	assert_int_equal(virDomainCreate(dom), 0);
	(void)wait_event(LIBVIRT_DOMAIN, "booted");
	for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
		assert_int_equal(events[i].kind, expected[i].kind);
		assert_string_equal(events[i].detail, expected[i].detail);
		assert_string_equal(events[i].uuid, UUID);
	}
	(void)virDomainFree(dom);
	(void)virConnectClose(conn);
}

static void malformed_metadata_enrols_nothing(void **state _unused_)
{
	static const char *const bad[] = {"<policy enabled='yes' domian='a'/>",
					  "<policy enabled='yes'><x/></policy>",
					  "<polic enabled='yes'/>"};
	virConnectPtr conn;
	virDomainPtr dom;

	(void)wait_event(LIBVIRT_LISTED, NULL);
	conn = virConnectOpen(URI);
	dom = virDomainLookupByUUIDString(conn, UUID);
	assert_non_null(dom);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct libvirt_event *e;

		forget_events();
		assert_int_equal(virDomainSetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, bad[i],
						      POLICY_XML_KEY, POLICY_XML_URI, 0),
				 0);
		e = wait_event(LIBVIRT_DOMAIN, "policy");
		assert_int_equal(e->facts->policy.enabled, POLICY_NO);
		assert_true(*e->facts->policy_error);
	}
	assert_int_equal(virDomainSetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, NULL, NULL,
					      POLICY_XML_URI, 0),
			 0);
	(void)virDomainFree(dom);
	(void)virConnectClose(conn);
}

/* A hundred domains come and go, thrice; what was told adds up to what is. */
static void a_hundred_domains(void **state _unused_)
{
	static virDomainPtr domains[100];
	size_t n_started = 0, n_stopped = 0;
	virConnectPtr conn;
	virDomainPtr dom;
	char xml[256];

	(void)wait_event(LIBVIRT_LISTED, NULL);
	forget_events();
	conn = virConnectOpen(URI);
	for (unsigned round = 0; round < 3; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(domains); i++) {
			(void)snprintf(xml, sizeof(xml),
				       "<domain type='test'><name>n%zu</name>"
				       "<memory>8192</memory><os><type>hvm</type></os></domain>",
				       i);
			domains[i] = virDomainCreateXML(conn, xml, 0);
			assert_non_null(domains[i]);
			assert_true(sd_event_run(loop, 0) >= 0);
		}
		/* Events keep their order: once the last one's is here, all are. */
		(void)wait_event(LIBVIRT_DOMAIN, "booted");
		for (size_t i = 0; i < ARRAY_SIZE(domains); i++) {
			assert_int_equal(virDomainDestroy(domains[i]), 0);
			(void)virDomainFree(domains[i]);
		}
	}
	dom = virDomainLookupByUUIDString(conn, UUID);
	assert_int_equal(virDomainSuspend(dom), 0);
	assert_int_equal(virDomainResume(dom), 0);
	(void)wait_event(LIBVIRT_RESUMED, NULL);
	for (size_t i = 0; i < n_events; i++) {
		n_started += events[i].kind == LIBVIRT_DOMAIN;
		n_stopped += events[i].kind == LIBVIRT_STOPPED;
	}
	/* One that ended before it was asked about is told as stopped only. */
	assert_int_equal(n_stopped, 300);
	assert_true(n_started > 0 && n_started <= 300);
	(void)virDomainFree(dom);
	(void)virConnectClose(conn);
}

/* More happens than is taken: it is told anew, and the last state is right. */
static void too_much_at_once_is_listed_again(void **state _unused_)
{
	struct discover_libvirt_stats stats = {0};
	uint64_t deadline = now_usec() + DEADLINE_USEC;
	virConnectPtr conn;
	virDomainPtr dom;

	(void)wait_event(LIBVIRT_LISTED, NULL);
	conn = virConnectOpen(URI);
	dom = virDomainLookupByUUIDString(conn, UUID);
	assert_non_null(dom);
	/* The loop does not run meanwhile: first the events fill up, then the notes. */
	for (unsigned i = 0; stats.dropped_notes == 0; i++) {
		assert_true(now_usec() < deadline);
		assert_int_equal(i % 2 ? virDomainResume(dom) : virDomainSuspend(dom), 0);
		discover_libvirt_stats(discover, &stats);
	}
	forget_events();
	(void)wait_event(LIBVIRT_LISTED, NULL);
	discover_libvirt_stats(discover, &stats);
	assert_true(stats.listings >= 2); /* what was under way may have been too much again */
	(void)virDomainFree(dom);
	(void)virConnectClose(conn);
}

static void no_libvirt_is_no_error(void **state _unused_)
{
	struct discover_libvirt_stats stats;

	assert_int_equal(start("qemu+unix:///system?socket=/nonexistent/socket"), 0);
	assert_true(*wait_event(LIBVIRT_DISCONNECTED, NULL)->detail);
	assert_int_equal(set_policy(UUID, "enabled", "yes"), -ENOTCONN);
	discover_libvirt_stats(discover, &stats);
	assert_false(stats.connected);
}

static void there_is_one_at_a_time(void **state _unused_)
{
	struct discover_libvirt *second;

	assert_int_equal(discover_libvirt_new(loop, URI, on_event, NULL, &second), -EBUSY);
	/* Requests that are still open are answered. */
	reply = 1;
	for (unsigned i = 0; i < LIBVIRT_REQUESTS_MAX; i++)
		assert_int_equal(discover_libvirt_set_policy(discover, UUID, NULL, on_reply, NULL),
				 0);
	assert_int_equal(discover_libvirt_set_policy(discover, UUID, NULL, on_reply, NULL), -EBUSY);
	discover_libvirt_free(TAKE_PTR(discover));
	assert_int_equal(reply, -ECANCELED);
	assert_int_equal(discover_libvirt_new(loop, URI, on_event, NULL, &discover), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(lists_what_runs, start_on_driver, stop),
		cmocka_unit_test_setup_teardown(metadata_is_set_changed_and_removed,
						start_on_driver, stop),
		cmocka_unit_test_setup_teardown(life_cycle_arrives_in_order, start_on_driver, stop),
		cmocka_unit_test_setup_teardown(malformed_metadata_enrols_nothing, start_on_driver,
						stop),
		cmocka_unit_test_setup_teardown(a_hundred_domains, start_on_driver, stop),
		cmocka_unit_test_setup_teardown(too_much_at_once_is_listed_again, start_on_driver,
						stop),
		cmocka_unit_test_teardown(no_libvirt_is_no_error, stop),
		cmocka_unit_test_setup_teardown(there_is_one_at_a_time, start_on_driver, stop),
	};

	return cmocka_run_group_tests_name("discover-libvirt", tests, NULL, NULL);
}
