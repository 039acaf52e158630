/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The metadata element by which virsh enrols a guest:
 *
 *   <policy xmlns="https://memshared.io/policy/1" enabled="yes" domain="tenant-a"/>
 *
 * Its attributes are the fields of policy.h; it has no content. Strict: anything else, in the
 * element or around it, refuses the whole element. conf/policy-1.rng is its schema.
 * Pure; any thread after xml_init().
 */
#pragma once

#include <libxml/tree.h>
#include <stddef.h>

#include "daemon/policy.h"

#define POLICY_XML_URI	     "https://memshared.io/policy/1"
#define POLICY_XML_KEY	     "memshared" /* the prefix that libvirt keeps it under */
#define POLICY_XML_MAX_BYTES 65536U

/* The element alone, as virDomainGetMetadata() gives it: in our namespace, or without one
 * because libvirt takes it off. -EINVAL: *ret is untouched and ret_reason says why. */
int policy_parse_xml(const char *buf, size_t len, struct policy *ret,
		     char ret_reason[POLICY_REASON_MAX]);
/* The same from a parsed document. */
int policy_from_element(const xmlNode *element, struct policy *ret,
			char ret_reason[POLICY_REASON_MAX]);
/* The element that says what p sets; caller frees. NULL when memory ran out. */
char *policy_to_xml(const struct policy *p);
