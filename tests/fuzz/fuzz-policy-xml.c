/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A policy element: refused with a reason, or the same again after printing. */
#include "common/util.h"
#include "daemon/policy-xml.h"
#include "daemon/xml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char reason[POLICY_REASON_MAX] = "";
	struct policy p = { 0 }, again;
	char *xml;

	xml_init();
	if (policy_parse_xml((const char *)data, size, &p, reason) < 0) {
		if (!*reason || p.set)
			abort();
		return 0;
	}
	xml = policy_to_xml(&p);
	if (!xml)
		return 0;
	if (policy_parse_xml(xml, strlen(xml), &again, reason) < 0 || !policy_equal(&p, &again))
		abort();
	free(xml);
	return 0;
}
