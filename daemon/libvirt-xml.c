/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/libvirt-xml.h"

#include <ctype.h>

#include "common/parse.h"
#include "common/util.h"
#include "daemon/policy-xml.h"
#include "daemon/xml.h"

/* Deeper metadata is left out; what is there nests two or three levels. */
#define METADATA_DEPTH 16

#define REMAP (1U << POLICY_ENGINE_REMAP)
#define KSM   (1U << POLICY_ENGINE_KSM)
#define ZERO  (1U << POLICY_ENGINE_ZERO)
#define ALL   (REMAP | KSM | ZERO)

static const struct libvirt_refusal refusals[] = {
	{LIBVIRT_UNREADABLE, ALL, "the domain's XML could not be read",
	 "see the journal; virsh dumpxml shows it"},
	{LIBVIRT_NOSHAREPAGES, ALL, "<nosharepages/> forbids sharing",
	 "take it out of <memoryBacking> and start the domain again"},
	{LIBVIRT_LOCKED, ALL, "<locked/> memory must never wait for a page",
	 "take it out of <memoryBacking> and start the domain again"},
	{LIBVIRT_HUGEPAGES, ALL, "huge pages of hugetlbfs cannot be shared page by page",
	 "take <hugepages/> out: transparent huge pages remain"},
	{LIBVIRT_SHARED, ALL, "memory of shared access is seen by other processes too",
	 "use private access; vhost-user and virtiofs need shared access"},
	{LIBVIRT_FILE, ALL, "memory that a file backs is not anonymous",
	 "use <source type='anonymous'/>"},
	{LIBVIRT_SECURE, ALL, "the memory is encrypted (launchSecurity): no page equals another",
	 "run the guest without <launchSecurity> if it may do without"},
	{LIBVIRT_VFIO, ALL, "a VFIO device pins the memory",
	 "remove the device, restart the domain"},
	{LIBVIRT_VDPA, ALL, "a vDPA device pins the memory",
	 "remove the device, restart the domain"},
	{LIBVIRT_VHOST_USER, ALL, "a vhost-user or virtiofs process shares the memory",
	 "use a device that QEMU emulates"},
	/* These discard memory; a discarded store mapping would show the store's page again,
	 * while a zero hole stays zero and the kernel's own merging is undone by the discard. */
	{LIBVIRT_VIRTIO_MEM, REMAP, "virtio-mem discards memory behind the engine's back",
	 "use engine ksm or zero, or DIMMs"},
	{LIBVIRT_PAGE_REPORTING, REMAP,
	 "free page reporting discards memory behind the engine's back",
	 "use engine ksm or zero, or freePageReporting='off'"},
	/* It holds them by references alone (iov_iter_get_pages2), which the kernel's own merging minds
	 * and UFFDIO_MOVE does not: what it reads from a disk would go to a page that was dropped. */
	{LIBVIRT_VHOST_SCSI, REMAP | ZERO, "vhost-scsi does I/O to memory in a way that does not show",
	 "use engine ksm, or virtio-scsi"},
	{LIBVIRT_SHARED_BLOCK, REMAP | ZERO,
	 "another process maps some of its memory, and would see other pages than the guest",
	 "use engine ksm, or private access for all memory"},
	{LIBVIRT_DIRECT_NET, REMAP | ZERO,
	 "direct I/O on a network file system does not show what memory it is done to",
	 "use engine ksm, or cache=writeback for the disk"},
	{LIBVIRT_UNSEEN, REMAP | ZERO, "it has more files open than can be looked at",
	 "use engine ksm, or fewer disks and queues"},
};
static_assert(ARRAY_SIZE(refusals) <= LIBVIRT_REFUSALS_MAX);

size_t libvirt_refusals(uint32_t flags, const struct libvirt_refusal *ret[LIBVIRT_REFUSALS_MAX])
{
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(refusals); i++)
		if (flags & refusals[i].flag)
			ret[n++] = &refusals[i];
	return n;
}

/* --- who it is --------------------------------------------------------------- */

/* Copies the text of a child element. 1 when there was one, 0, or -ENAMETOOLONG (cut). */
static int copy_text(const xmlNode *parent, const char *name, char *ret, size_t size)
{
	const xmlNode *node = xml_child(parent, name);
	_cleanup_xml_string_ xmlChar *text = node ? xmlNodeGetContent(node) : NULL;

	if (!text)
		return 0;
	if ((size_t)snprintf(ret, size, "%s", (const char *)text) >= size)
		return -ENAMETOOLONG;
	return 1;
}

static bool uuid_valid(const char *s)
{
	for (size_t i = 0; i < 36; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? s[i] != '-' : !isxdigit((unsigned char)s[i]))
			return false;
	}
	return s[36] == '\0';
}

static int read_identity(const xmlNode *root, struct libvirt_facts *f, char *ret_reason)
{
	_cleanup_xml_string_ xmlChar *id = xml_attr(root, "id");
	uint32_t number;

	/* The name becomes part of a path (the pid file): libvirt forbids slashes, so do we. */
	if (copy_text(root, "name", f->name, sizeof(f->name)) != 1 || !*f->name ||
	    strchr(f->name, '/')) {
		(void)snprintf(ret_reason, POLICY_REASON_MAX,
			       "a domain's name has 1 to 255 bytes and no slash");
		return -EINVAL;
	}
	if (copy_text(root, "uuid", f->uuid, sizeof(f->uuid)) != 1 || !uuid_valid(f->uuid)) {
		(void)snprintf(ret_reason, POLICY_REASON_MAX, "the domain's UUID is not one");
		return -EINVAL;
	}
	(void)copy_text(root, "title", f->title, sizeof(f->title));
	f->id = id && parse_u32((const char *)id, 0, INT32_MAX, &number) == 0 ? (int)number : -1;
	return 0;
}

/* --- memory and devices --------------------------------------------------------- */

static void read_memory_backing(const xmlNode *root, struct libvirt_facts *f)
{
	const xmlNode *backing = xml_child(root, "memoryBacking"), *source, *numa;

	if (xml_child(backing, "nosharepages"))
		f->flags |= LIBVIRT_NOSHAREPAGES;
	if (xml_child(backing, "locked"))
		f->flags |= LIBVIRT_LOCKED;
	if (xml_child(backing, "hugepages"))
		f->flags |= LIBVIRT_HUGEPAGES;
	if (xml_attr_is(xml_child(backing, "access"), "mode", "shared"))
		f->flags |= LIBVIRT_SHARED;
	source = xml_child(backing, "source");
	if (xml_attr_is(source, "type", "file") || xml_attr_is(source, "type", "memfd"))
		f->flags |= LIBVIRT_FILE;
	/* Of whatever type: SEV, SEV-SNP, TDX, protected virtualization. */
	if (xml_child(root, "launchSecurity"))
		f->flags |= LIBVIRT_SECURE;

	numa = xml_child(xml_child(root, "cpu"), "numa");
	for (const xmlNode *c = numa ? numa->children : NULL; c; c = c->next)
		if (xml_is(c, "cell", NULL) && xml_attr_is(c, "memAccess", "shared"))
			f->flags |= LIBVIRT_SHARED;
}

static uint32_t disk_flags(const xmlNode *disk)
{
	if (xml_attr_is(disk, "type", "vhostuser"))
		return LIBVIRT_VHOST_USER;
	if (xml_attr_is(disk, "type", "vhostvdpa"))
		return LIBVIRT_VDPA;
	return xml_attr_is(disk, "type", "nvme") ? LIBVIRT_VFIO : 0;
}

static uint32_t interface_flags(const xmlNode *interface)
{
	if (xml_attr_is(interface, "type", "hostdev"))
		return LIBVIRT_VFIO;
	if (xml_attr_is(interface, "type", "vdpa"))
		return LIBVIRT_VDPA;
	return xml_attr_is(interface, "type", "vhostuser") ? LIBVIRT_VHOST_USER : 0;
}

static uint32_t hostdev_flags(const xmlNode *hostdev)
{
	if (xml_attr_is(hostdev, "type", "pci") || xml_attr_is(hostdev, "type", "mdev"))
		return LIBVIRT_VFIO;
	return xml_attr_is(hostdev, "type", "scsi_host") ? LIBVIRT_VHOST_SCSI : 0;
}

static uint32_t filesystem_flags(const xmlNode *filesystem)
{
	return xml_attr_is(xml_child(filesystem, "driver"), "type", "virtiofs") ? LIBVIRT_VHOST_USER
										: 0;
}

static uint32_t memory_flags(const xmlNode *memory)
{
	uint32_t flags = xml_attr_is(memory, "access", "shared") ? LIBVIRT_SHARED : 0;

	if (xml_attr_is(memory, "model", "virtio-mem"))
		flags |= LIBVIRT_VIRTIO_MEM;
	/* Their block alone is not served, which the process shows; the rest of the RAM is. */
	if (xml_attr_is(memory, "model", "nvdimm") || xml_attr_is(memory, "model", "virtio-pmem"))
		flags |= LIBVIRT_NVDIMM;
	return flags;
}

static uint32_t balloon_flags(const xmlNode *balloon)
{
	return xml_attr_is(balloon, "freePageReporting", "on") ? LIBVIRT_PAGE_REPORTING : 0;
}

static uint32_t video_flags(const xmlNode *video)
{
	return xml_attr_is(xml_child(video, "driver"), "name", "vhostuser") ? LIBVIRT_VHOST_USER
									    : 0;
}

static void read_devices(const xmlNode *root, struct libvirt_facts *f)
{
	static const struct {
		const char *name;
		uint32_t (*flags)(const xmlNode *device);
	} kinds[] = {
		{"disk", disk_flags},	    {"interface", interface_flags},
		{"hostdev", hostdev_flags}, {"filesystem", filesystem_flags},
		{"memory", memory_flags},   {"memballoon", balloon_flags},
		{"video", video_flags},
	};
	const xmlNode *devices = xml_child(root, "devices");

	for (const xmlNode *c = devices ? devices->children : NULL; c; c = c->next)
		for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
			if (xml_is(c, kinds[i].name, NULL))
				f->flags |= kinds[i].flags(c);
}

/* --- metadata ------------------------------------------------------------------- */

/* path=value, when it fits; *path is "{ns}a/b" or "{ns}a/b@c". Out of memory leaves it out. */
static void add_item(struct libvirt_facts *f, const char *path, const char *value)
{
	char item[LIBVIRT_METADATA_BYTES];

	if (f->n_metadata == LIBVIRT_METADATA_MAX ||
	    (size_t)snprintf(item, sizeof(item), "%s=%s", path, value) >= sizeof(item))
		return;
	f->metadata[f->n_metadata] = strdup(item);
	if (f->metadata[f->n_metadata])
		f->n_metadata++;
}

static void add_element(struct libvirt_facts *f, const xmlNode *node, const char *parent,
			unsigned depth)
{
	char path[LIBVIRT_METADATA_BYTES], attr[LIBVIRT_METADATA_BYTES];
	_cleanup_xml_string_ xmlChar *text = NULL;
	int n;

	if (depth == METADATA_DEPTH || f->n_metadata == LIBVIRT_METADATA_MAX)
		return;
	n = depth == 0 ? snprintf(path, sizeof(path), "{%s}%s",
				  node->ns ? (const char *)node->ns->href : "",
				  (const char *)node->name)
		       : snprintf(path, sizeof(path), "%s/%s", parent, (const char *)node->name);
	if (n < 0 || (size_t)n >= sizeof(path))
		return;
	for (const xmlAttr *a = node->properties; a; a = a->next) {
		_cleanup_xml_string_ xmlChar *value = xmlNodeListGetString(a->doc, a->children, 1);

		n = snprintf(attr, sizeof(attr), "%s@%s", path, (const char *)a->name);
		if (n > 0 && (size_t)n < sizeof(attr))
			add_item(f, attr, value ? (const char *)value : "");
	}
	if (node->children && !xmlFirstElementChild((xmlNode *)node)) {
		text = xmlNodeGetContent(node);
		if (text)
			add_item(f, path, (const char *)text);
	}
	for (const xmlNode *c = node->children; c; c = c->next)
		if (c->type == XML_ELEMENT_NODE)
			add_element(f, c, path, depth + 1);
}

static void read_policy(const xmlNode *element, struct libvirt_facts *f)
{
	char origin[POLICY_ORIGIN_MAX];
	int r = -EINVAL;

	if (f->has_policy)
		(void)snprintf(f->policy_error, sizeof(f->policy_error),
			       "more than one element of namespace " POLICY_XML_URI);
	else
		r = policy_from_element(element, &f->policy, f->policy_error);
	f->has_policy = true;
	if (r == 0)
		return;
	(void)snprintf(origin, sizeof(origin), "malformed libvirt metadata: %.120s",
		       f->policy_error);
	policy_refuse(&f->policy, POLICY_SOURCE_METADATA, origin);
}

static int read_metadata(const xmlNode *root, struct libvirt_facts *f)
{
	const xmlNode *metadata = xml_child(root, "metadata");

	f->metadata = calloc(LIBVIRT_METADATA_MAX, sizeof(*f->metadata));
	if (!f->metadata)
		return -ENOMEM;
	for (const xmlNode *c = metadata ? metadata->children : NULL; c; c = c->next) {
		if (c->type != XML_ELEMENT_NODE)
			continue;
		if (c->ns && c->ns->href && streq((const char *)c->ns->href, POLICY_XML_URI))
			read_policy(c, f);
		else
			add_element(f, c, "", 0);
	}
	return 0;
}

/* --- the whole ------------------------------------------------------------------- */

void libvirt_facts_free(struct libvirt_facts *f)
{
	if (!f)
		return;
	for (size_t i = 0; i < f->n_metadata; i++)
		free(f->metadata[i]);
	free(f->metadata);
	free(f);
}

void libvirt_facts_freep(struct libvirt_facts **f)
{
	libvirt_facts_free(*f);
}

int libvirt_parse_xml(const char *buf, size_t len, struct libvirt_facts **ret,
		      char ret_reason[POLICY_REASON_MAX])
{
	_cleanup_(libvirt_facts_freep) struct libvirt_facts *f = NULL;
	_cleanup_(xml_freep) xmlDoc *doc = NULL;
	const xmlNode *root;
	int r = xml_read(buf, len, LIBVIRT_XML_MAX_BYTES, &doc, ret_reason);

	if (r < 0)
		return r;
	root = xmlDocGetRootElement(doc);
	if (!xml_is(root, "domain", NULL)) {
		(void)snprintf(ret_reason, POLICY_REASON_MAX, "expected <domain>");
		return -EINVAL;
	}
	f = calloc(1, sizeof(*f));
	if (!f) {
		(void)snprintf(ret_reason, POLICY_REASON_MAX, "out of memory");
		return -ENOMEM;
	}
	r = read_identity(root, f, ret_reason);
	if (r < 0)
		return r;
	read_memory_backing(root, f);
	read_devices(root, f);
	r = read_metadata(root, f);
	if (r < 0) {
		(void)snprintf(ret_reason, POLICY_REASON_MAX, "out of memory");
		return r;
	}
	*ret = TAKE_PTR(f);
	return 0;
}

int libvirt_facts_unreadable(const char *name, const char *uuid, const char *reason,
			     struct libvirt_facts **ret)
{
	struct libvirt_facts *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	(void)snprintf(f->name, sizeof(f->name), "%s", name);
	(void)snprintf(f->uuid, sizeof(f->uuid), "%s", uuid);
	(void)snprintf(f->policy_error, sizeof(f->policy_error), "%s", reason);
	f->id = -1;
	f->flags = LIBVIRT_UNREADABLE;
	f->has_policy = true;
	policy_refuse(&f->policy, POLICY_SOURCE_METADATA, "the domain's XML could not be read");
	*ret = f;
	return 0;
}

struct policy_subject libvirt_facts_subject(const struct libvirt_facts *f, const char *backing)
{
	if (!backing)
		backing = f->flags & LIBVIRT_HUGEPAGES ? "hugetlb"
			  : f->flags & LIBVIRT_SHARED  ? "shared"
			  : f->flags & LIBVIRT_FILE    ? "file"
						       : "anonymous";
	return (struct policy_subject){
		.name = f->name,
		.uuid = f->uuid,
		.title = *f->title ? f->title : NULL,
		.backing = backing,
		.metadata = (const char *const *)f->metadata,
		.n_metadata = f->n_metadata,
	};
}
