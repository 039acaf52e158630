/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A configuration file: refused with a message, or in range; what was taken prints and parses. */
#include "common/util.h"
#include "daemon/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_policy(const struct policy *p)
{
	for (unsigned f = 0; f < POLICY_FIELD_MAX; f++) {
		char value[POLICY_VALUE_MAX], reason[POLICY_REASON_MAX];
		struct policy again = *p;

		if (!(p->set & (1U << f)))
			continue;
		policy_format(p, (enum policy_field)f, value);
		if (policy_set(&again, (enum policy_field)f, value, POLICY_SOURCE_RUNTIME, "",
			       reason) < 0 ||
		    !policy_equal(p, &again))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char error[CONFIG_ERROR_MAX];
	struct config *c;
	int r;

	if (config_new(&c) < 0)
		return 0;
	r = config_parse(c, "f", (const char *)data, size, error);
	if ((r < 0) != (*error != '\0') || c->n_policies > CONFIG_POLICIES_MAX)
		abort();
	for (size_t i = 0; i < c->n_policies; i++)
		check_policy(&c->policies[i].policy);
	config_free(c);
	return 0;
}
