/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/call.h"
#include "client/client.h"
#include "client/print.h"
#include "client/table.h"

/* Guests report pages; their size is the machine's, and the client runs on the same. */
static json_int_t page_bytes(void)
{
	return sysconf(_SC_PAGESIZE);
}

static void print_table(json_t *guests, size_t width)
{
	static const struct column columns[] = {
		{ "PID", COLUMN_RIGHT },     { "NAME", COLUMN_LEFT },	 { "STATE", COLUMN_LEFT },
		{ "DOMAIN", COLUMN_LEFT },   { "ENGINE", COLUMN_LEFT },	 { "TRACKER", COLUMN_LEFT },
		{ "PRESENT", COLUMN_RIGHT }, { "SHARING", COLUMN_RIGHT }, { "ZERO", COLUMN_RIGHT },
		{ "SAVED", COLUMN_RIGHT },   { "REASON", COLUMN_CUT },
	};
	struct table *t = table_new(columns, ARRAY_SIZE(columns));
	json_t *g;
	size_t i;

	json_array_foreach(guests, i, g) {
		table_printf(t, "%lld", (long long)get_int(g, "pid"));
		table_text(t, get_string(g, "name"));
		table_text(t, get_string(g, "state"));
		table_text(t, get_string(g, "domain"));
		table_text(t, get_string(g, "engine"));
		table_text(t, get_string(g, "tracker"));
		table_take(t, text_bytes(get_int(g, "present_bytes")));
		table_take(t, text_pages(get_int(g, "sharing_pages"), page_bytes()));
		table_take(t, text_pages(get_int(g, "zero_pages"), page_bytes()));
		table_take(t, text_bytes(get_int(g, "saved_bytes")));
		table_text(t, get_string(g, "reason"));
	}
	if (table_rows(t) > 0)
		table_print(t, stdout, 0, width);
	else
		puts("No guests.");
	table_free(t);
}

/* "value (reason)" where both are known. */
static void add_with_reason(struct table *t, const char *name, const char *value,
			    const char *reason)
{
	_cleanup_free_ char *shown = value ? printable(value) : NULL;
	_cleanup_free_ char *why = reason ? printable(reason) : NULL;

	if (!value && !reason)
		return;
	table_text(t, name);
	table_take(t, why ? text_of("%s (%s)", shown ? shown : "none", why)
			  : text_of("%s", shown));
}

static void add_amounts(struct table *t, json_t *g)
{
	_cleanup_free_ char *ram = text_bytes(get_int(g, "ram_bytes"));
	_cleanup_free_ char *present = text_bytes(get_int(g, "present_bytes"));
	_cleanup_free_ char *shared = text_pages(get_int(g, "shared_pages"), page_bytes());
	_cleanup_free_ char *sharing = text_pages(get_int(g, "sharing_pages"), page_bytes());
	_cleanup_free_ char *zero = text_pages(get_int(g, "zero_pages"), page_bytes());
	_cleanup_free_ char *unmapped = text_pages(get_int(g, "unmapped_pages"), page_bytes());

	table_text(t, "memory");
	table_printf(t, "%s, %s present", ram, present);
	table_text(t, "sharing");
	table_printf(t, "%s freed by %s shared, %s of zeros", sharing, shared, zero);
	if (get_int(g, "unmapped_pages") > 0) {
		table_text(t, "given up");
		table_printf(t, "%s of the shared, to a balloon or to swap: nothing is saved by them", unmapped);
	}
	table_text(t, "saved");
	table_take(t, text_bytes(get_int(g, "saved_bytes")));
	if (json_is_integer(json_object_get(g, "cpu_usec"))) {
		table_text(t, "cpu");
		table_take(t, text_duration(get_int(g, "cpu_usec")));
	}
	if (json_is_integer(json_object_get(g, "passes"))) {
		table_text(t, "passes");
		table_printf(t, "%lld", (long long)get_int(g, "passes"));
	}
}

static void print_blocks(json_t *blocks, size_t width)
{
	static const struct column columns[] = { { "BLOCK", COLUMN_LEFT },
						 { "SIZE", COLUMN_RIGHT },
						 { "BACKING", COLUMN_LEFT },
						 { "REFUSED", COLUMN_CUT } };
	struct table *t;
	json_t *b;
	size_t i;

	if (json_array_size(blocks) == 0)
		return;
	t = table_new(columns, ARRAY_SIZE(columns));
	json_array_foreach(blocks, i, b) {
		table_text(t, get_string(b, "name"));
		table_take(t, text_bytes(get_int(b, "ram_bytes")));
		table_text(t, get_string(b, "backing"));
		table_text(t, get_string(b, "refusal"));
	}
	table_print(t, stdout, 2, width);
	table_free(t);
}

static void print_details(json_t *g, size_t width)
{
	static const struct column columns[] = { { NULL, COLUMN_LEFT }, { NULL, COLUMN_CUT } };
	struct table *t = table_new(columns, ARRAY_SIZE(columns));
	_cleanup_free_ char *name = printable(strempty(get_string(g, "name")));
	json_t *refusal;
	size_t i;

	printf("%lld%s%s\n", (long long)get_int(g, "pid"), *name ? " " : "", name);
	add_with_reason(t, "uuid", get_string(g, "uuid"), NULL);
	add_with_reason(t, "title", get_string(g, "title"), NULL);
	add_with_reason(t, "enabled", get_string(g, "enabled"), NULL);
	add_with_reason(t, "state", get_string(g, "state"), get_string(g, "reason"));
	add_with_reason(t, "source", get_string(g, "source"), NULL);
	add_with_reason(t, "domain", get_string(g, "domain"), NULL);
	add_with_reason(t, "engine", get_string(g, "engine"), get_string(g, "engine_reason"));
	add_with_reason(t, "tracker", get_string(g, "tracker"), get_string(g, "tracker_reason"));
	add_amounts(t, g);
	json_array_foreach(json_object_get(g, "refusals"), i, refusal)
		add_with_reason(t, "refused", json_string_value(refusal), NULL);
	table_print(t, stdout, 2, width);
	table_free(t);
	print_blocks(json_object_get(g, "blocks"), width);
}

/* Those of the guests that have one of the pids, in the order of pids; NULL after a
 * complaint when one is missing. */
static json_t *select_guests(json_t *guests, json_t *pids)
{
	json_t *chosen = must(json_array()), *pid, *g;
	size_t i, n;

	json_array_foreach(pids, i, pid) {
		bool found = false;

		json_array_foreach(guests, n, g) {
			if (get_int(g, "pid") != json_integer_value(pid))
				continue;
			if (json_array_append(chosen, g) < 0)
				must(NULL);
			found = true;
			break;
		}
		if (!found) {
			complain("no guest has pid %lld (memsharectl guests lists them)",
				 (long long)json_integer_value(pid));
			json_decref(chosen);
			return NULL;
		}
	}
	return chosen;
}

int cmd_guests(const struct options *o)
{
	json_auto_t *pids = NULL, *reply = NULL, *chosen = NULL;
	size_t width = terminal_width(stdout), i;
	struct link *l = NULL;
	json_t *guests, *g;
	int status = link_open(o->socket, &l);

	if (status == STATUS_OK)
		status = find_pids(l, o, &pids);
	if (status == STATUS_OK)
		status = link_call(l, "Guests", NULL, NULL, NULL, &reply);
	link_close(l);
	if (status != STATUS_OK)
		return status;
	guests = json_object_get(reply, "guests");
	if (o->n_words > 0) {
		chosen = select_guests(guests, pids);
		if (!chosen)
			return STATUS_FAILED;
		if (json_object_set(reply, "guests", chosen) < 0)
			must(NULL);
		guests = chosen;
	}
	if (o->json)
		return print_json(reply);
	if (o->n_words == 0)
		print_table(guests, width);
	else
		json_array_foreach(guests, i, g)
			print_details(g, width);
	return STATUS_OK;
}
