/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An interface description and, after a NUL byte, a JSON value to check against its methods. */
#include "common/interface.h"
#include "common/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data, *name;
	const uint8_t *nul = memchr(data, 0, size);
	size_t len = nul ? (size_t)(nul - data) : size, line = 0;
	struct interface_fault fault;
	struct interface *i;
	json_auto_t *v = NULL;

	if (interface_parse(text, len, &i, &line) < 0) {
		if (line == 0)
			abort();
		return 0;
	}
	if (nul)
		v = json_loadb((const char *)nul + 1, size - len - 1, 0, NULL);
	for (size_t n = 0; v && (name = interface_method(i, n)); n++) {
		(void)interface_check_call(i, name, v, &fault);
		(void)interface_check_reply(i, name, v, &fault);
	}
	interface_free(i);
	return 0;
}
