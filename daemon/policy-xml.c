/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/policy-xml.h"

#include "common/util.h"
#include "daemon/xml.h"

#define ORIGIN "libvirt metadata"

static_assert(XML_REASON_MAX <= POLICY_REASON_MAX);

static int set_attribute(struct policy *p, const xmlAttr *attr, char *ret_reason)
{
	_cleanup_xml_string_ xmlChar *value = NULL;

	if (attr->ns) {
		(void)snprintf(ret_reason, POLICY_REASON_MAX, "an attribute of another namespace");
		return -EINVAL;
	}
	value = xmlNodeListGetString(attr->doc, attr->children, 1);
	return policy_set_by_name(p, (const char *)attr->name, value ? (const char *)value : "",
				  POLICY_SOURCE_METADATA, ORIGIN, ret_reason);
}

int policy_from_element(const xmlNode *element, struct policy *ret,
			char ret_reason[POLICY_REASON_MAX])
{
	struct policy p;

	policy_init_empty(&p);
	if (!xml_is(element, "policy", POLICY_XML_URI) && !xml_is(element, "policy", NULL)) {
		(void)snprintf(ret_reason, POLICY_REASON_MAX,
			       "expected an element <policy> of namespace %s", POLICY_XML_URI);
		return -EINVAL;
	}
	for (const xmlNode *c = element->children; c; c = c->next)
		if (c->type != XML_COMMENT_NODE && !xmlIsBlankNode(c)) {
			(void)snprintf(ret_reason, POLICY_REASON_MAX,
				       "<policy> has attributes only, no content");
			return -EINVAL;
		}
	for (const xmlAttr *a = element->properties; a; a = a->next) {
		int r = set_attribute(&p, a, ret_reason);

		if (r < 0)
			return r;
	}
	*ret = p;
	return 0;
}

int policy_parse_xml(const char *buf, size_t len, struct policy *ret,
		     char ret_reason[POLICY_REASON_MAX])
{
	_cleanup_(xml_freep) xmlDoc *doc = NULL;
	int r = xml_read(buf, len, POLICY_XML_MAX_BYTES, &doc, ret_reason);

	return r < 0 ? r : policy_from_element(xmlDocGetRootElement(doc), ret, ret_reason);
}

/* No value can hold a character that XML would want escaped: see the parsers in policy.c. */
char *policy_to_xml(const struct policy *p)
{
	_cleanup_free_ char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);
	bool failed;

	if (!f)
		return NULL;
	(void)fprintf(f, "<policy xmlns=\"%s\"", POLICY_XML_URI);
	for (unsigned i = 0; i < POLICY_FIELD_MAX; i++) {
		char value[POLICY_VALUE_MAX];

		if (!(p->set & (1U << i)))
			continue;
		policy_format(p, (enum policy_field)i, value);
		(void)fprintf(f, " %s=\"%s\"", policy_field_to_string((enum policy_field)i), value);
	}
	(void)fputs("/>", f);
	failed = ferror(f) != 0;
	if (fclose(f) != 0 || failed)
		return NULL;
	return TAKE_PTR(text);
}
