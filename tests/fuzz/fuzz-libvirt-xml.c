/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A domain's XML; and the same bytes as a command line. */
#include "common/util.h"
#include "daemon/libvirt-pid.h"
#include "daemon/libvirt-xml.h"
#include "daemon/xml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char reason[POLICY_REASON_MAX] = "";
	struct libvirt_facts *f;

	xml_init();
	(void)libvirt_cmdline_matches((const char *)data, size,
				      "6695eb01-f6a4-8304-79aa-97f2502e193f");
	if (libvirt_parse_xml((const char *)data, size, &f, reason) < 0) {
		if (!*reason)
			abort();
		return 0;
	}
	if (!*f->name || strchr(f->name, '/') || strlen(f->uuid) != 36 ||
	    f->n_metadata > LIBVIRT_METADATA_MAX || (!f->has_policy && f->policy.set))
		abort();
	/* A malformed element never enrols. */
	if (*f->policy_error && f->policy.enabled != POLICY_NO)
		abort();
	for (size_t i = 0; i < f->n_metadata; i++)
		if (strlen(f->metadata[i]) >= LIBVIRT_METADATA_BYTES)
			abort();
	libvirt_facts_free(f);
	return 0;
}
