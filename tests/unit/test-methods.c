/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The daemon's table of methods and the interface file are in step. */
#include "common/interface.h"
#include "daemon/methods.h"
#include "tests/unit/unit.h"

static const struct control_method *find(const char *name)
{
	const struct control_method *table;
	size_t n;

	table = methods_table(&n);
	for (size_t i = 0; i < n; i++)
		if (streq(table[i].name, name))
			return &table[i];
	return NULL;
}

static struct interface *parse(void)
{
	struct interface *i;

	assert_int_equal(interface_parse(interface_text_memshared,
					 strlen(interface_text_memshared), &i, NULL), 0);
	return i;
}

static void all_are_there(void **state _unused_)
{
	struct interface *i = parse();
	const char *name;

	for (size_t n = 0; (name = interface_method(i, n)); n++)
		if (!find(name))
			fail_msg("nothing implements %s", name);
	interface_free(i);
}

static void no_others_are_there(void **state _unused_)
{
	struct interface *i = parse();
	const struct control_method *table;
	size_t n;

	table = methods_table(&n);
	for (size_t k = 0; k < n; k++) {
		if (!interface_has_method(i, table[k].name))
			fail_msg("%s is not in the interface", table[k].name);
		assert_ptr_equal(find(table[k].name), &table[k]);
	}
	interface_free(i);
}

/* As the interface's first lines and memshared(8) promise. */
static void others_may_only_look(void **state _unused_)
{
	static const char *const harmless[] = { "Status", "Guests" };
	const struct control_method *table;
	size_t n, n_open = 0;

	table = methods_table(&n);
	for (size_t k = 0; k < n; k++)
		n_open += !table[k].privileged;
	assert_int_equal(n_open, ARRAY_SIZE(harmless));
	for (size_t k = 0; k < ARRAY_SIZE(harmless); k++)
		assert_false(find(harmless[k])->privileged);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_are_there),
		cmocka_unit_test(no_others_are_there),
		cmocka_unit_test(others_may_only_look),
	};

	return cmocka_run_group_tests_name("methods", tests, NULL, NULL);
}
