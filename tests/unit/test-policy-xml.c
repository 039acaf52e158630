/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/policy-xml.h"

#include <libxml/relaxng.h>

#include "daemon/xml.h"
#include "tests/unit/unit.h"

#define NS " xmlns='https://memshared.io/policy/1'"

static struct policy policy;
static char reason[POLICY_REASON_MAX];

static int parse(const char *text)
{
	policy_init_empty(&policy);
	*reason = '\0';
	return policy_parse_xml(text, strlen(text), &policy, reason);
}

static void element_sets_fields(void **state _unused_)
{
	assert_int_equal(parse("<policy" NS " enabled='yes' domain=\"tenant-a\"\n\tmin-age='5m'/>"),
			 0);
	assert_int_equal(policy.enabled, POLICY_YES);
	assert_string_equal(policy.domain, "tenant-a");
	assert_int_equal(policy.min_age_usec, 300 * USEC_PER_SEC);
	assert_int_equal(policy.set, 1U << POLICY_FIELD_ENABLED | 1U << POLICY_FIELD_DOMAIN |
					     1U << POLICY_FIELD_MIN_AGE);
	assert_int_equal(policy.source[POLICY_FIELD_DOMAIN], POLICY_SOURCE_METADATA);

	/* As libvirt gives it back, and as libvirt stores it. */
	assert_int_equal(parse("<policy enabled='estimate'/>"), 0);
	assert_int_equal(policy.enabled, POLICY_ESTIMATE);
	assert_int_equal(parse("<memshared:policy xmlns:memshared='https://memshared.io/policy/1' "
			       "thp='split:64'><!-- why --> </memshared:policy>"),
			 0);
	assert_int_equal(policy.thp_split, 64);
	assert_int_equal(parse("<policy" NS "/>"), 0);
	assert_int_equal(policy.set, 0);
}

/* An element that is not wholly understood changes nothing, and says why. */
static void malformed_elements_are_refused(void **state _unused_)
{
	static const struct {
		const char *text, *why;
	} bad[] = {
		{"", ""},
		{"policy", ""},
		{"<policy enabled='yes'", ""},
		{"<policy enabled='yes' enabled='no'/>", "redefined"},
		{"<policy enabled='YES'/>", "expected no, estimate or yes"},
		{"<policy enable='yes'/>", "not a policy field"},
		{"<policy enabled='yes' domain='a b'/>", "domain"},
		{"<policy enabled='yes'>text</policy>", "no content"},
		{"<policy enabled='yes'><cpu/></policy>", "no content"},
		{"<policy xmlns='https://memshared.io/policy/2' enabled='yes'/>", "namespace"},
		{"<policies" NS "/>", "expected an element <policy>"},
		{"<policy xmlns:x='urn:x' x:enabled='yes'/>", "another namespace"},
		{"<policy x:enabled='yes'/>", "x"},
		{"<policy enabled='&yes;'/>", "yes"},
		{"<policy enabled='yes'/><policy/>", ""},
		{"<!DOCTYPE policy [<!ENTITY e 'yes'>]><policy enabled='&e;'/>",
		 "document type declaration"},
		{"<!DOCTYPE policy SYSTEM 'http://127.0.0.1:1/x.dtd'><policy enabled='yes'/>",
		 "document type declaration"},
		{"<!DOCTYPE policy SYSTEM 'file:///etc/passwd'><policy enabled='yes'/>",
		 "document type declaration"},
		{"<!DOCTYPE lolz [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>"
		 "<!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;'>]><policy domain='&c;'/>",
		 "document type declaration"},
		{"\xff\xfe<\0p\0", ""},
		{"<policy enabled='\xff'/>", ""},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(parse(bad[i].text), -EINVAL);
		assert_int_equal(policy.set, 0);
		if (!*reason || !strstr(reason, bad[i].why))
			fail_msg("\"%s\": expected \"%s\" in \"%s\"", bad[i].text, bad[i].why,
				 reason);
		for (const char *c = reason; *c; c++)
			assert_true(*c >= ' ' && *c <= '~');
	}
}

static void long_and_deep_elements_are_refused(void **state _unused_)
{
	size_t n = 1U << 20;
	char *text = malloc(n + 64), *at = text;

	assert_non_null(text);
	at += sprintf(at, "<policy domain='");
	memset(at, 'a', n);
	strcpy(at + n, "'/>");
	assert_int_equal(parse(text), -EFBIG);
	assert_string_equal(reason, "too long");

	strcpy(text + 60000, "'/>");
	assert_int_equal(parse(text), -EINVAL);
	assert_true(strlen(reason) < POLICY_REASON_MAX);

	for (size_t i = 0; i < 20000; i++)
		memcpy(text + 3 * i, "<a>", 3);
	text[60000] = '\0';
	assert_int_equal(parse(text), -EINVAL);
	free(text);
}

static void print_and_parse_round_trip(void **state _unused_)
{
	struct policy p;
	char *text;

	policy_init_default(&p);
	assert_int_equal(
		policy_set_by_name(&p, "thp", "split:7", POLICY_SOURCE_RUNTIME, "x", reason), 0);
	text = policy_to_xml(&p);
	assert_non_null(text);
	assert_int_equal(parse(text), 0);
	assert_true(policy_equal(&p, &policy));
	free(text);

	policy_init_empty(&p);
	text = policy_to_xml(&p);
	assert_string_equal(text, "<policy xmlns=\"https://memshared.io/policy/1\"/>");
	free(text);
}

/* --- the schema: what the parser takes is valid, and what is invalid the parser refuses --- */

static bool schema_accepts(xmlRelaxNG *schema, const char *text)
{
	xmlRelaxNGValidCtxt *ctxt = xmlRelaxNGNewValidCtxt(schema);
	xmlDoc *doc;
	int r;

	assert_non_null(ctxt);
	assert_int_equal(xml_read(text, strlen(text), POLICY_XML_MAX_BYTES, &doc, reason), 0);
	xmlRelaxNGSetValidErrors(ctxt, NULL, NULL, NULL);
	r = xmlRelaxNGValidateDoc(ctxt, doc);
	assert_true(r >= 0);
	xmlFreeDoc(doc);
	xmlRelaxNGFreeValidCtxt(ctxt);
	return r == 0;
}

static void schema_agrees(void **state _unused_)
{
	static const char *const values[] = {
		"",	 "yes",	  "no",	     "estimate",  "on",	    "0",	 "1",
		"self",	 "a",	  "a.b_c-d", "a b",	  "-a",	    "auto",	 "remap",
		"ksm",	 "zero",  "wp",	     "softdirty", "rehash", "30s",	 "5m",
		"2h",	 "250ms", "9us",     "30 s",	  "-1",	    "10%",	 "0.5%",
		"1.25%", "%",	  "keep",    "split:1",	  "split:", "split:512", "100",
		"1e3",	 "0x10",  "Yes",     "wp,rehash", "/",
	};
	const char *srcdir = getenv("MEMSHARED_SRCDIR");
	xmlRelaxNGParserCtxt *parser;
	xmlRelaxNG *schema;
	char path[4096], text[256];
	unsigned n_accepted = 0;

	if (!srcdir) {
		print_message("MEMSHARED_SRCDIR is not set (make check sets it)\n");
		skip();
	}
	(void)snprintf(path, sizeof(path), "%s/conf/policy-1.rng", srcdir);
	parser = xmlRelaxNGNewParserCtxt(path);
	assert_non_null(parser);
	schema = xmlRelaxNGParse(parser);
	assert_non_null(schema);

	for (unsigned f = 0; f < POLICY_FIELD_MAX; f++)
		for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
			bool taken, valid;

			(void)snprintf(text, sizeof(text), "<policy" NS " %s='%s'/>",
				       policy_field_to_string((enum policy_field)f), values[i]);
			taken = parse(text) == 0;
			valid = schema_accepts(schema, text);
			/* Ranges are the parser's: "0" is a number, and no share. */
			if (taken && !valid)
				fail_msg("the schema refuses %s", text);
			if (valid && !taken && strspn(values[i], "0123456789") == 0 &&
			    !strstr(values[i], "split:"))
				fail_msg("the parser refuses %s", text);
			n_accepted += taken;
		}
	assert_true(n_accepted > 40);
	assert_false(schema_accepts(schema, "<policy" NS " enable='yes'/>"));
	assert_false(schema_accepts(schema, "<policy" NS ">x</policy>"));
	assert_false(schema_accepts(schema, "<policy enabled='yes'/>"));
	xmlRelaxNGFree(schema);
	xmlRelaxNGFreeParserCtxt(parser);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(element_sets_fields),
		cmocka_unit_test(malformed_elements_are_refused),
		cmocka_unit_test(long_and_deep_elements_are_refused),
		cmocka_unit_test(print_and_parse_round_trip),
		cmocka_unit_test(schema_agrees),
	};

	xml_init();
	return cmocka_run_group_tests_name("policy-xml", tests, NULL, NULL);
}
