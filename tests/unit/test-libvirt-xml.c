/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/libvirt-xml.h"

#include "daemon/xml.h"
#include "tests/unit/unit.h"

#define UUID "6695eb01-f6a4-8304-79aa-97f2502e193f"

static struct libvirt_facts *facts;
static char reason[POLICY_REASON_MAX];

static int drop(void **state _unused_)
{
	libvirt_facts_free(facts);
	facts = NULL;
	return 0;
}

static int parse(const char *text)
{
	(void)drop(NULL);
	*reason = '\0';
	return libvirt_parse_xml(text, strlen(text), &facts, reason);
}

/* A domain with this in it. */
static void domain(const char *inside)
{
	char text[8192];

	assert_true((size_t)snprintf(text, sizeof(text),
				     "<domain type='kvm' id='7'><name>web1</name><uuid>" UUID
				     "</uuid>%s</domain>",
				     inside) < sizeof(text));
	if (parse(text) < 0)
		fail_msg("%s", reason);
}

static void identity(void **state _unused_)
{
	domain("<title>the web</title>");
	assert_string_equal(facts->name, "web1");
	assert_string_equal(facts->uuid, UUID);
	assert_string_equal(facts->title, "the web");
	assert_int_equal(facts->id, 7);
	assert_int_equal(facts->flags, 0);
	assert_false(facts->has_policy);
	assert_int_equal(
		parse("<domain type='qemu'><name>a &amp; b</name><uuid>" UUID "</uuid></domain>"),
		0);
	assert_string_equal(facts->name, "a & b");
	assert_int_equal(facts->id, -1);
}

static void not_a_domain(void **state _unused_)
{
	static const char *const bad[] = {
		"",
		"<domain/>",
		"<network><name>a</name></network>",
		"<domain><name>a</name></domain>",
		"<domain><name></name><uuid>" UUID "</uuid></domain>",
		"<domain><name>../../etc/passwd</name><uuid>" UUID "</uuid></domain>",
		"<domain><name>a</name><uuid>6695eb01</uuid></domain>",
		"<domain><name>a</name><uuid>" UUID "0</uuid></domain>",
		"<domain><name>a</name><uuid>6695eb01-f6a4-8304-79aa-97f2502e193z</uuid></domain>",
		"<!DOCTYPE domain><domain><name>a</name><uuid>" UUID "</uuid></domain>",
		"<domain><name>a</name><uuid>" UUID "</uuid>",
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(parse(bad[i]), -EINVAL);
		assert_null(facts);
		assert_true(*reason);
	}
}

static void memory_and_devices(void **state _unused_)
{
	static const struct {
		const char *xml;
		uint32_t flags;
	} rows[] = {
		{"<memoryBacking><nosharepages/></memoryBacking>", LIBVIRT_NOSHAREPAGES},
		{"<memoryBacking><locked/></memoryBacking>", LIBVIRT_LOCKED},
		{"<memoryBacking><hugepages><page size='2' unit='M'/></hugepages></memoryBacking>",
		 LIBVIRT_HUGEPAGES},
		{"<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
		 LIBVIRT_FILE | LIBVIRT_SHARED},
		{"<memoryBacking><source type='anonymous'/><access "
		 "mode='private'/></memoryBacking>",
		 0},
		{"<cpu><numa><cell id='0' memory='1'/><cell id='1' "
		 "memAccess='shared'/></numa></cpu>",
		 LIBVIRT_SHARED},
		{"<launchSecurity type='sev'><policy>1</policy></launchSecurity>", LIBVIRT_SECURE},
		{"<launchSecurity type='sev-snp' kernelHashes='yes'/>", LIBVIRT_SECURE},
		{"<launchSecurity type='tdx'/>", LIBVIRT_SECURE},
		{"<launchSecurity type='s390-pv'/>", LIBVIRT_SECURE},
		{"<devices><hostdev mode='subsystem' type='pci'/></devices>", LIBVIRT_VFIO},
		{"<devices><hostdev mode='subsystem' type='mdev'/></devices>", LIBVIRT_VFIO},
		{"<devices><hostdev mode='subsystem' type='usb'/></devices>", 0},
		{"<devices><hostdev mode='subsystem' type='scsi_host'><source protocol='vhost'/>"
		 "</hostdev></devices>",
		 LIBVIRT_VHOST_SCSI},
		{"<devices><hostdev mode='subsystem' type='scsi'/></devices>", 0},
		/* These copy, by the process's page tables. */
		{"<devices><vsock model='virtio'/></devices>", 0},
		{"<devices><interface type='hostdev'/></devices>", LIBVIRT_VFIO},
		{"<devices><interface type='vdpa'/></devices>", LIBVIRT_VDPA},
		{"<devices><interface type='vhostuser'/></devices>", LIBVIRT_VHOST_USER},
		{"<devices><interface type='bridge'><model type='virtio'/></interface></devices>",
		 0},
		{"<devices><disk type='vhostuser'/></devices>", LIBVIRT_VHOST_USER},
		{"<devices><disk type='vhostvdpa'/></devices>", LIBVIRT_VDPA},
		{"<devices><disk type='nvme'/><disk type='file'/></devices>", LIBVIRT_VFIO},
		{"<devices><filesystem type='mount'><driver "
		 "type='virtiofs'/></filesystem></devices>",
		 LIBVIRT_VHOST_USER},
		{"<devices><filesystem type='mount'/></devices>", 0},
		{"<devices><video><driver name='vhostuser'/></video></devices>",
		 LIBVIRT_VHOST_USER},
		{"<devices><memory model='virtio-mem'/></devices>", LIBVIRT_VIRTIO_MEM},
		{"<devices><memory model='dimm' access='shared'/></devices>", LIBVIRT_SHARED},
		{"<devices><memory model='dimm'/></devices>", 0},
		{"<devices><memory model='nvdimm'/></devices>", LIBVIRT_NVDIMM},
		{"<devices><memory model='virtio-pmem'/></devices>", LIBVIRT_NVDIMM},
		{"<devices><memballoon model='virtio' freePageReporting='on'/></devices>",
		 LIBVIRT_PAGE_REPORTING},
		{"<devices><memballoon model='virtio' freePageReporting='off'/></devices>", 0},
		{"<devices><memballoon model='virtio' autodeflate='on'/></devices>", 0},
		/* Only where libvirt means it: not in metadata, not of another namespace. */
		{"<metadata><devices><hostdev type='pci'/></devices><locked/></metadata>", 0},
		{"<memoryBacking xmlns='urn:x'><locked/></memoryBacking>", 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		domain(rows[i].xml);
		if (facts->flags != rows[i].flags)
			fail_msg("%s: flags %#x, not %#x", rows[i].xml, facts->flags,
				 rows[i].flags);
	}
}

static void policy_element(void **state _unused_)
{
	domain("<metadata><memshared:policy xmlns:memshared='https://memshared.io/policy/1' "
	       "enabled='yes' domain='a'/></metadata>");
	assert_true(facts->has_policy);
	assert_string_equal(facts->policy_error, "");
	assert_int_equal(facts->policy.enabled, POLICY_YES);
	assert_string_equal(facts->policy.domain, "a");
	assert_int_equal(facts->n_metadata, 0);

	domain("<metadata><policy xmlns='https://memshared.io/policy/1' enabled='yes' cpu='1'/>"
	       "</metadata>");
	assert_true(facts->has_policy);
	assert_non_null(strstr(facts->policy_error, "cpu"));
	assert_int_equal(facts->policy.set, 1U << POLICY_FIELD_ENABLED);
	assert_int_equal(facts->policy.enabled, POLICY_NO);
	assert_non_null(strstr(facts->policy.origin[POLICY_FIELD_ENABLED], "cpu"));

	domain("<metadata><p:policy xmlns:p='https://memshared.io/policy/1' enabled='yes'/>"
	       "<p:policy xmlns:p='https://memshared.io/policy/1' enabled='yes'/></metadata>");
	assert_non_null(strstr(facts->policy_error, "more than one"));
	assert_int_equal(facts->policy.enabled, POLICY_NO);

	/* Outside <metadata>, or of no namespace, it is not ours. */
	domain("<policy xmlns='https://memshared.io/policy/1' enabled='yes'/>"
	       "<metadata><policy enabled='yes'/></metadata>");
	assert_false(facts->has_policy);
	assert_int_equal(facts->policy.set, 0);
}

static void metadata_items(void **state _unused_)
{
	struct policy_section s = {.match_metadata = "{http://openstack.org/*project@uuid=9b1"};
	struct policy_subject who;

	domain("<metadata><nova:instance xmlns:nova='http://openstack.org/nova/1.1'>"
	       "<nova:name>vm</nova:name><nova:owner><nova:project uuid='9b1'>acme</nova:project>"
	       "</nova:owner></nova:instance></metadata>");
	assert_int_equal(facts->n_metadata, 3);
	assert_string_equal(facts->metadata[0], "{http://openstack.org/nova/1.1}instance/name=vm");
	assert_string_equal(facts->metadata[1],
			    "{http://openstack.org/nova/1.1}instance/owner/project@uuid=9b1");
	who = libvirt_facts_subject(facts, NULL);
	assert_string_equal(who.backing, "anonymous");
	assert_true(policy_section_matches(&s, &who));
	strcpy(s.match_metadata, "*project@uuid=9b");
	assert_false(policy_section_matches(&s, &who));
}

static void metadata_is_bounded(void **state _unused_)
{
	size_t n = 1U << 20, at;
	char *text = malloc(n + 4096);

	assert_non_null(text);
	at = (size_t)sprintf(text, "<domain><name>a</name><uuid>" UUID "</uuid><metadata>");
	while (at < n)
		at += (size_t)sprintf(text + at, "<x:y xmlns:x='urn:x' z='1'>v</x:y>");
	strcpy(text + at, "</metadata></domain>");
	assert_int_equal(parse(text), 0);
	assert_int_equal(facts->n_metadata, LIBVIRT_METADATA_MAX);

	/* One item of a megabyte is left out. */
	at = (size_t)sprintf(text, "<domain><name>a</name><uuid>" UUID "</uuid><metadata><y>");
	memset(text + at, 'v', n);
	strcpy(text + at + n, "</y></metadata></domain>");
	assert_int_equal(parse(text), 0);
	assert_int_equal(facts->n_metadata, 0);

	/* Deep, but within libxml2's bound: what is too deep is left out. */
	at = (size_t)sprintf(text, "<domain><name>a</name><uuid>" UUID "</uuid><metadata>");
	for (size_t i = 0; i < 200; i++)
		at += (size_t)sprintf(text + at, "<d a='1'>");
	for (size_t i = 0; i < 200; i++)
		at += (size_t)sprintf(text + at, "</d>");
	strcpy(text + at, "</metadata></domain>");
	assert_int_equal(parse(text), 0);
	assert_int_equal(facts->n_metadata, 16);

	/* Deeper than that. */
	at = (size_t)sprintf(text, "<domain><name>a</name><uuid>" UUID "</uuid><metadata>");
	for (size_t i = 0; i < 5000; i++)
		at += (size_t)sprintf(text + at, "<d>");
	assert_int_equal(parse(text), -EINVAL);
	free(text);
}

static void unreadable_enrols_nothing(void **state _unused_)
{
	const struct libvirt_refusal *why[LIBVIRT_REFUSALS_MAX];

	(void)drop(NULL);
	assert_int_equal(libvirt_facts_unreadable("a", UUID, "too long", &facts), 0);
	assert_int_equal(facts->policy.enabled, POLICY_NO);
	assert_string_equal(facts->policy_error, "too long");
	assert_int_equal(libvirt_refusals(facts->flags, why), 1);
	assert_true(why[0]->engines & 1U << POLICY_ENGINE_KSM);
}

/* Every flag but the NVDIMM's is a refusal, and says so in words. */
static void refusals_are_complete(void **state _unused_)
{
	const struct libvirt_refusal *why[LIBVIRT_REFUSALS_MAX];

	assert_int_equal(libvirt_refusals(0, why), 0);
	for (uint32_t flag = 1; flag < LIBVIRT_FLAGS_END; flag <<= 1) {
		size_t n = libvirt_refusals(flag, why);

		assert_int_equal(n, flag == LIBVIRT_NVDIMM ? 0 : 1);
		if (n == 0)
			continue;
		assert_true(why[0]->flag == flag);
		assert_true(why[0]->engines & 1U << POLICY_ENGINE_REMAP);
		assert_true(*why[0]->why && *why[0]->remedy);
	}
	assert_true(libvirt_refusals(UINT32_MAX, why) <= LIBVIRT_REFUSALS_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(identity, drop),
		cmocka_unit_test_teardown(not_a_domain, drop),
		cmocka_unit_test_teardown(memory_and_devices, drop),
		cmocka_unit_test_teardown(policy_element, drop),
		cmocka_unit_test_teardown(metadata_items, drop),
		cmocka_unit_test_teardown(metadata_is_bounded, drop),
		cmocka_unit_test_teardown(unreadable_enrols_nothing, drop),
		cmocka_unit_test(refusals_are_complete),
	};

	xml_init();
	return cmocka_run_group_tests_name("libvirt-xml", tests, NULL, NULL);
}
