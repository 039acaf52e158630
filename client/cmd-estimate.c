/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What sharing would save, in three tables: each guest by itself, what each two guests have in
 * common, and the groups. Where there are too many guests for a matrix, the pairs with the most
 * in common are listed.
 */
#include "client/call.h"
#include "client/client.h"
#include "client/print.h"
#include "client/progress.h"
#include "client/table.h"

#define MATRIX_MAX 8U
#define PAIRS_MAX  20U

/* True, after a complaint, when one is named twice. */
static bool has_twice(json_t *pids)
{
	json_t *pid;
	size_t i;

	json_array_foreach(pids, i, pid)
		for (size_t k = 0; k < i; k++)
			if (json_equal(json_array_get(pids, k), pid)) {
				complain("%lld is named twice", (long long)json_integer_value(pid));
				return true;
			}
	return false;
}

/* Parses "NAME=PID,PID": a Group of the interface, or NULL after a complaint. */
static json_t *parse_group(const char *text)
{
	const char *equals = strchr(text, '=');
	_cleanup_free_ char *list = NULL;
	json_auto_t *pids = must(json_array());
	json_t *group, *name;
	char *save = NULL;
	json_int_t pid;

	if (!equals || equals == text || !equals[1]) {
		complain("a group is NAME=PID,PID...");
		return NULL;
	}
	list = must(strdup(equals + 1));
	for (char *word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		if (!parse_pid(word, &pid))
			return NULL;
		if (json_array_append_new(pids, json_integer(pid)) < 0)
			must(NULL);
	}
	if (has_twice(pids))
		return NULL;
	name = json_stringn(text, (size_t)(equals - text));
	if (!name) {
		complain("a group's name is not UTF-8");
		return NULL;
	}
	group = must(json_object());
	if (json_object_set_new(group, "name", name) < 0 ||
	    json_object_set(group, "pids", pids) < 0)
		must(NULL);
	return group;
}

static bool has_pid(json_t *pids, json_t *pid)
{
	json_t *p;
	size_t i;

	json_array_foreach(pids, i, p)
		if (json_equal(p, pid))
			return true;
	return false;
}

/* The parameters of Estimate, or NULL after a complaint. Members of groups are asked for
 * without being named twice. */
static json_t *build_parameters(const struct options *o)
{
	json_auto_t *pids = parse_pids(o->words, o->n_words), *groups = must(json_array());
	json_t *parameters, *pid;
	size_t n;

	if (!pids || has_twice(pids))
		return NULL;
	for (size_t i = 0; i < o->n_groups; i++) {
		json_t *group = parse_group(o->groups[i]);

		if (!group)
			return NULL;
		if (json_array_append_new(groups, group) < 0)
			must(NULL);
		json_array_foreach(json_object_get(group, "pids"), n, pid)
			if (!has_pid(pids, pid) && json_array_append(pids, pid) < 0)
				must(NULL);
	}
	parameters = must(json_object());
	if ((json_array_size(pids) > 0 && json_object_set(parameters, "pids", pids) < 0) ||
	    (o->n_groups > 0 && json_object_set(parameters, "groups", groups) < 0))
		must(NULL);
	return parameters;
}

static void print_guests(json_t *result, size_t width)
{
	static const struct column columns[] = {
		{ "", COLUMN_RIGHT },	      { "PID", COLUMN_RIGHT },	  { "NAME", COLUMN_CUT },
		{ "PRESENT", COLUMN_RIGHT },  { "ZERO", COLUMN_RIGHT },	  { "WITHIN", COLUMN_RIGHT },
		{ "TOTAL", COLUMN_RIGHT }, { "SHARE", COLUMN_RIGHT },
	};
	struct table *t = table_new(columns, ARRAY_SIZE(columns));
	json_int_t page_bytes = get_int(result, "page_bytes");
	json_t *g;
	size_t i;

	json_array_foreach(json_object_get(result, "guests"), i, g) {
		json_int_t saved = get_int(g, "zero_pages") + get_int(g, "within_pages");

		table_printf(t, "%zu", i + 1);
		table_printf(t, "%lld", (long long)get_int(g, "pid"));
		table_text(t, get_string(g, "name"));
		table_take(t, text_pages(get_int(g, "present_pages"), page_bytes));
		table_take(t, text_pages(get_int(g, "zero_pages"), page_bytes));
		table_take(t, text_pages(get_int(g, "within_pages"), page_bytes));
		table_take(t, text_pages(saved, page_bytes));
		table_take(t, text_percent(saved, get_int(g, "present_pages")));
	}
	printf("Each guest by itself:\n");
	table_print(t, stdout, 0, width);
	table_free(t);
}

static bool pair_is(json_t *pair, json_t *a, json_t *b)
{
	json_t *pids = json_object_get(pair, "pids");

	return json_array_size(pids) == 2 && has_pid(pids, json_object_get(a, "pid")) &&
	       has_pid(pids, json_object_get(b, "pid"));
}

/* What two guests have in common, as the cell of a matrix. */
static char *common_cell(json_t *result, json_t *a, json_t *b)
{
	json_t *pair;
	size_t i;

	json_array_foreach(json_object_get(result, "pairs"), i, pair)
		if (pair_is(pair, a, b))
			return text_pages(get_int(pair, "common_pages"),
					  get_int(result, "page_bytes"));
	return NULL;
}

static void print_matrix(json_t *result, json_t *guests, size_t width)
{
	static const char *const numbers[MATRIX_MAX] = { "1", "2", "3", "4", "5", "6", "7", "8" };
	struct column columns[MATRIX_MAX + 1] = { { "", COLUMN_RIGHT } };
	size_t n = json_array_size(guests);
	struct table *t;

	for (size_t i = 0; i < n; i++)
		columns[i + 1] = (struct column){ numbers[i], COLUMN_RIGHT };
	t = table_new(columns, n + 1);
	for (size_t r = 0; r < n; r++) {
		table_text(t, numbers[r]);
		for (size_t c = 0; c < n; c++)
			if (c == r)
				table_text(t, "");
			else
				table_take(t, common_cell(result, json_array_get(guests, r),
							  json_array_get(guests, c)));
	}
	table_print(t, stdout, 0, width);
	table_free(t);
}

static int compare_pairs(const void *a, const void *b)
{
	json_int_t x = get_int(*(json_t *const *)a, "common_pages"),
		   y = get_int(*(json_t *const *)b, "common_pages");

	return (x < y) - (x > y);
}

static void print_top_pairs(json_t *result, json_t *pairs, size_t width)
{
	static const struct column columns[] = { { "PIDS", COLUMN_LEFT },
						 { "COMMON", COLUMN_RIGHT } };
	size_t n = json_array_size(pairs);
	_cleanup_free_ json_t **sorted = must(calloc(n + 1, sizeof(*sorted)));
	struct table *t = table_new(columns, ARRAY_SIZE(columns));

	for (size_t i = 0; i < n; i++)
		sorted[i] = json_array_get(pairs, i);
	qsort(sorted, n, sizeof(*sorted), compare_pairs);
	for (size_t i = 0; i < MIN(n, PAIRS_MAX); i++) {
		json_t *pids = json_object_get(sorted[i], "pids");

		table_printf(t, "%lld and %lld",
			     (long long)json_integer_value(json_array_get(pids, 0)),
			     (long long)json_integer_value(json_array_get(pids, 1)));
		table_take(t, text_pages(get_int(sorted[i], "common_pages"),
					 get_int(result, "page_bytes")));
	}
	table_print(t, stdout, 0, width);
	if (n > PAIRS_MAX)
		printf("(%zu more pairs have less in common; --json has them all)\n",
		       n - PAIRS_MAX);
	table_free(t);
}

static void print_pairs(json_t *result, size_t width)
{
	json_t *guests = json_object_get(result, "guests"), *pairs = json_object_get(result, "pairs");

	if (json_array_size(pairs) == 0)
		return;
	printf("\nEach two guests have in common:\n");
	if (json_array_size(guests) <= MATRIX_MAX)
		print_matrix(result, guests, width);
	else
		print_top_pairs(result, pairs, width);
}

static void print_groups(json_t *result, size_t width)
{
	static const struct column columns[] = {
		{ "GROUP", COLUMN_CUT },    { "GUESTS", COLUMN_RIGHT },	 { "PRESENT", COLUMN_RIGHT },
		{ "ZERO", COLUMN_RIGHT },   { "WITHIN", COLUMN_RIGHT },	 { "ACROSS", COLUMN_RIGHT },
		{ "TOTAL", COLUMN_RIGHT }, { "SHARE", COLUMN_RIGHT },
	};
	struct table *t = table_new(columns, ARRAY_SIZE(columns));
	json_int_t page_bytes = get_int(result, "page_bytes");
	json_t *g;
	size_t i;

	json_array_foreach(json_object_get(result, "groups"), i, g) {
		table_text(t, get_string(g, "name"));
		table_printf(t, "%zu", json_array_size(json_object_get(g, "pids")));
		table_take(t, text_pages(get_int(g, "present_pages"), page_bytes));
		table_take(t, text_pages(get_int(g, "zero_pages"), page_bytes));
		table_take(t, text_pages(get_int(g, "within_pages"), page_bytes));
		table_take(t, text_pages(get_int(g, "cross_pages"), page_bytes));
		table_take(t, text_pages(get_int(g, "saved_pages"), page_bytes));
		table_take(t, text_percent(get_int(g, "saved_pages"), get_int(g, "present_pages")));
	}
	if (table_rows(t) > 0) {
		printf("\nSharing would save:\n");
		table_print(t, stdout, 0, width);
	}
	table_free(t);
}

static void print_missing(json_t *missing)
{
	json_t *m;
	size_t i;

	json_array_foreach(missing, i, m)
		complain("%lld is left out: %s", (long long)get_int(m, "pid"), get_string(m, "reason"));
}

int cmd_estimate(const struct options *o)
{
	static char label[] = "reading";
	size_t width = terminal_width(stdout);
	json_auto_t *reply = NULL;
	json_t *parameters = build_parameters(o), *result, *missing;
	struct link *l = NULL;
	int status;

	if (!parameters)
		return STATUS_USAGE;
	status = link_open(o->socket, &l);
	if (status == STATUS_OK)
		status = link_call(l, "Estimate", parameters, progress_draw, label, &reply);
	else
		json_decref(parameters);
	link_close(l);
	if (status != STATUS_OK)
		return status;
	result = json_object_get(reply, "result");
	if (!json_is_object(result)) {
		complain("the daemon's answer to Estimate has no result");
		return STATUS_FAILED;
	}
	missing = json_object_get(result, "missing");
	print_missing(missing);
	/* Those that were not named may come and go. */
	if (json_array_size(missing) > 0 && o->n_words + o->n_groups > 0)
		status = STATUS_FAILED;
	if (o->json) {
		int printed = print_json(result);

		return printed == STATUS_OK ? status : printed;
	}
	if (json_array_size(json_object_get(result, "guests")) == 0) {
		puts("No guests.");
		return status;
	}
	print_guests(result, width);
	print_pairs(result, width);
	print_groups(result, width);
	return status;
}
