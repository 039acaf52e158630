/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/xml.h"

#include <libxml/parser.h>

#include "common/util.h"

void xml_init(void)
{
	xmlInitParser();
}

void xml_freep(xmlDoc **doc)
{
	if (*doc)
		xmlFreeDoc(*doc);
}

void xml_stringp(xmlChar **s)
{
	if (*s)
		xmlFree(*s);
}

static void ctxt_freep(xmlParserCtxt **ctxt)
{
	if (*ctxt)
		xmlFreeParserCtxt(*ctxt);
}

/* Called where <!DOCTYPE begins, before any entity could be declared. */
static void refuse_doctype(void *userdata, const xmlChar *name _unused_,
			   const xmlChar *external _unused_, const xmlChar *system _unused_)
{
	xmlParserCtxt *ctxt = userdata;

	ctxt->_private = ctxt; /* tells xml_read() */
	xmlStopParser(ctxt);
}

static int refuse(char ret_reason[XML_REASON_MAX], int error, const char *why, int line)
{
	if (line > 0)
		(void)snprintf(ret_reason, XML_REASON_MAX, "line %d: %s", line, why);
	else
		(void)snprintf(ret_reason, XML_REASON_MAX, "%s", why);
	for (char *c = ret_reason; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = c[1] ? '?' : '\0';
	return error;
}

int xml_read(const char *buf, size_t len, size_t max_bytes, xmlDoc **ret,
	     char ret_reason[XML_REASON_MAX])
{
	_cleanup_(ctxt_freep) xmlParserCtxt *ctxt = NULL;
	_cleanup_(xml_freep) xmlDoc *doc = NULL;
	const xmlError *error;

	if (len > max_bytes || len > INT32_MAX)
		return refuse(ret_reason, -EFBIG, "too long", 0);
	ctxt = xmlNewParserCtxt();
	if (!ctxt)
		return refuse(ret_reason, -ENOMEM, "out of memory", 0);
	ctxt->sax->internalSubset = refuse_doctype;
	ctxt->sax->externalSubset = refuse_doctype;
	/* Without NOENT, DTDLOAD and HUGE: nothing is substituted, loaded or unbounded. */
	doc = xmlCtxtReadMemory(ctxt, buf, (int)len, NULL, "UTF-8",
				XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
	if (ctxt->_private)
		return refuse(ret_reason, -EINVAL, "a document type declaration is not allowed", 0);
	error = xmlCtxtGetLastError(ctxt);
	if (!doc && error && error->code == XML_ERR_NO_MEMORY)
		return refuse(ret_reason, -ENOMEM, "out of memory", 0);
	/* Also refuses what libxml2 would repair or only warn of, as undeclared prefixes. */
	if (!doc || !ctxt->wellFormed || !ctxt->nsWellFormed || !xmlDocGetRootElement(doc))
		return refuse(ret_reason, -EINVAL,
			      error && error->message ? error->message : "not well-formed XML",
			      error ? error->line : 0);
	*ret = TAKE_PTR(doc);
	return 0;
}

bool xml_is(const xmlNode *node, const char *name, const char *ns)
{
	if (node->type != XML_ELEMENT_NODE || !streq((const char *)node->name, name))
		return false;
	if (!ns)
		return node->ns == NULL;
	return node->ns && node->ns->href && streq((const char *)node->ns->href, ns);
}

xmlNode *xml_child(const xmlNode *node, const char *name)
{
	for (xmlNode *c = node ? node->children : NULL; c; c = c->next)
		if (xml_is(c, name, NULL))
			return c;
	return NULL;
}

xmlChar *xml_attr(const xmlNode *node, const char *name)
{
	return node ? xmlGetNoNsProp(node, (const xmlChar *)name) : NULL;
}

bool xml_attr_is(const xmlNode *node, const char *name, const char *value)
{
	_cleanup_xml_string_ xmlChar *v = xml_attr(node, name);

	return v && streq((const char *)v, value);
}
