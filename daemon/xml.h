/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading XML that somebody else wrote: libxml2 with everything off that reaches beyond the
 * buffer. No network, no external files, no document type declaration (so no entities but the
 * five of XML itself), UTF-8 only whatever the document says, at most 256 levels deep.
 *
 * Pure. Call xml_init() once before other threads use it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <libxml/tree.h>

#define XML_REASON_MAX 256 /* one line of printable ASCII */

void xml_init(void);
/* 0, -EFBIG (longer than max_bytes), -EINVAL (not well-formed, or with a document type
 * declaration) or -ENOMEM; ret_reason says which in words. */
int xml_read(const char *buf, size_t len, size_t max_bytes, xmlDoc **ret,
	     char ret_reason[XML_REASON_MAX]);
void xml_freep(xmlDoc **doc);
/* Is it an element of this name? ns: its namespace, or NULL for none. */
bool xml_is(const xmlNode *node, const char *name, const char *ns);
/* The first child element without a namespace of this name, or NULL. */
xmlNode *xml_child(const xmlNode *node, const char *name);
/* The value of an attribute without a namespace, or NULL; caller frees with xmlFree(). */
xmlChar *xml_attr(const xmlNode *node, const char *name);
/* Has the element an attribute of exactly this value? */
bool xml_attr_is(const xmlNode *node, const char *name, const char *value);
void xml_stringp(xmlChar **s);
#define _cleanup_xml_string_ _cleanup_(xml_stringp)
