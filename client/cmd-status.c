/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/call.h"
#include "client/client.h"
#include "client/print.h"
#include "client/table.h"

/* " (reason)" or "". */
static char *in_brackets(const char *reason)
{
	_cleanup_free_ char *shown = reason ? printable(reason) : NULL;

	return shown ? text_of(" (%s)", shown) : text_of("%s", "");
}

/* One line of "name  value"; takes the value over. */
static void line(struct table *t, const char *name, char *value)
{
	table_text(t, name);
	table_take(t, value);
}

static void add_totals(struct table *t, json_t *reply)
{
	json_t *totals = json_object_get(reply, "totals");
	json_int_t page_bytes = get_int(reply, "page_bytes");
	_cleanup_free_ char *ram = text_bytes(get_int(totals, "ram_bytes"));
	_cleanup_free_ char *present = text_bytes(get_int(totals, "present_bytes"));
	_cleanup_free_ char *shared = text_pages(get_int(totals, "shared_pages"), page_bytes);
	_cleanup_free_ char *sharing = text_pages(get_int(totals, "sharing_pages"), page_bytes);
	_cleanup_free_ char *zero = text_pages(get_int(totals, "zero_pages"), page_bytes);
	_cleanup_free_ char *saved = text_bytes(get_int(totals, "saved_bytes"));
	_cleanup_free_ char *overhead = text_bytes(get_int(totals, "overhead_bytes"));
	_cleanup_free_ char *books = text_bytes(get_int(totals, "bookkeeping_bytes"));
	_cleanup_free_ char *overhead_max = text_bytes(get_int(totals, "overhead_max_bytes"));
	_cleanup_free_ char *reserved = text_bytes(get_int(totals, "reserved_bytes"));

	line(t, "guests", text_of("%lld enrolled, %s of RAM, %s present",
				  (long long)get_int(totals, "guests"), ram, present));
	line(t, "saved", text_of("%s net (overhead %s; bookkeeping %s; %s of at most %s set aside)", saved,
				 overhead, books, reserved, overhead_max));
	line(t, "sharing", text_of("%s freed by %s shared, %s of zeros", sharing, shared, zero));
}

static void add_ksmd(struct table *t, json_t *ksmd, json_int_t page_bytes)
{
	_cleanup_free_ char *sharing = NULL, *run = NULL, *why = NULL;

	if (!ksmd || json_is_null(ksmd))
		return;
	sharing = text_pages(get_int(ksmd, "sharing_pages"), page_bytes);
	run = printable(get_string(ksmd, "run"));
	why = in_brackets(get_string(ksmd, "reason"));
	line(t, "ksmd", text_of("%s%s, %s sharing on this host%s", run,
				json_is_true(json_object_get(ksmd, "ours")) ? ", driven by us" : "",
				sharing, why));
}

static void add_pressure(struct table *t, json_t *pressure)
{
	_cleanup_free_ char *available = NULL, *total = NULL, *state = NULL, *mode = NULL,
			    *why = NULL;

	if (!pressure || json_is_null(pressure))
		return;
	available = text_bytes(get_int(pressure, "available_bytes"));
	total = text_bytes(get_int(pressure, "total_bytes"));
	state = printable(get_string(pressure, "state"));
	mode = printable(get_string(pressure, "mode"));
	why = in_brackets(get_string(pressure, "reason"));
	line(t, "memory", text_of("%s of %s available; %s, pressure=%s%s", available, total, state,
				  mode, why));
}

static void add_cpu(struct table *t, json_t *cpu)
{
	_cleanup_free_ char *daemon = NULL, *ksmd = NULL, *agents = NULL, *used = NULL, *budget = NULL;

	if (!cpu || json_is_null(cpu))
		return;
	daemon = text_duration(get_int(cpu, "daemon_usec"));
	ksmd = text_duration(get_int(cpu, "ksmd_usec"));
	agents = text_duration(get_int(cpu, "agents_usec"));
	used = text_percent(get_int(cpu, "used_permille"), 1000);
	budget = text_percent(get_int(cpu, "budget_permille"), 1000);
	line(t, "cpu", text_of("%s of %s of one CPU; daemon %s, agents %s, ksmd %s", used, budget, daemon,
			       agents, ksmd));
}

static void add_remap(struct table *t, json_t *remap)
{
	long long merged = get_int(remap, "merged_pages"), holes = get_int(remap, "hole_pages");
	_cleanup_free_ char *why = in_brackets(get_string(remap, "other_reason"));

	if (merged + holes == 0)
		return;
	line(t, "remap", text_of("%lld pages merged and %lld holes made since the start; no page was "
				 "frozen longer than %lld us",
				 merged, holes, (long long)get_int(remap, "freeze_max_usec")));
	line(t, "", text_of("the agents worked at most %lld us of that; %lld batches at real-time priority, %lld not%s",
			    (long long)get_int(remap, "freeze_cpu_max_usec"),
			    (long long)get_int(remap, "urgent_batches"),
			    (long long)get_int(remap, "other_batches"), why));
}

static void print_summary(json_t *reply, size_t width)
{
	static const struct column columns[] = { { NULL, COLUMN_LEFT }, { NULL, COLUMN_CUT } };
	struct table *t = table_new(columns, ARRAY_SIZE(columns));
	_cleanup_free_ char *version = printable(get_string(reply, "version"));
	_cleanup_free_ char *state = printable(get_string(reply, "state"));
	_cleanup_free_ char *why = in_brackets(get_string(reply, "reason"));
	_cleanup_free_ char *uptime = text_duration(get_int(reply, "uptime_usec"));

	printf("memshared %s: %s%s, up %s\n", version, state, why, uptime);
	add_totals(t, reply);
	add_cpu(t, json_object_get(reply, "cpu"));
	add_remap(t, json_object_get(reply, "remap"));
	add_pressure(t, json_object_get(reply, "pressure"));
	add_ksmd(t, json_object_get(reply, "ksmd"), get_int(reply, "page_bytes"));
	table_print(t, stdout, 2, width);
	table_free(t);
}

static void print_domains(json_t *domains, json_int_t page_bytes, size_t width)
{
	static const struct column columns[] = {
		{ "DOMAIN", COLUMN_CUT },    { "GUESTS", COLUMN_RIGHT },  { "ENGINE", COLUMN_LEFT },
		{ "SHARED", COLUMN_RIGHT },  { "SHARING", COLUMN_RIGHT }, { "ZERO", COLUMN_RIGHT },
		{ "SAVED", COLUMN_RIGHT },
	};
	struct table *t;
	json_t *d;
	size_t i;

	if (json_array_size(domains) == 0)
		return;
	t = table_new(columns, ARRAY_SIZE(columns));
	json_array_foreach(domains, i, d) {
		table_text(t, get_string(d, "name"));
		table_printf(t, "%lld", (long long)get_int(d, "guests"));
		table_text(t, get_string(d, "engine"));
		table_take(t, text_pages(get_int(d, "shared_pages"), page_bytes));
		table_take(t, text_pages(get_int(d, "sharing_pages"), page_bytes));
		table_take(t, text_pages(get_int(d, "zero_pages"), page_bytes));
		table_take(t, text_bytes(get_int(d, "saved_bytes")));
	}
	fputc('\n', stdout);
	table_print(t, stdout, 0, width);
	table_free(t);
}

static void print_facilities(json_t *list, const struct column columns[4], size_t width)
{
	struct table *t;
	json_t *f;
	size_t i;

	if (json_array_size(list) == 0)
		return;
	t = table_new(columns, 4);
	json_array_foreach(list, i, f) {
		table_text(t, get_string(f, "name"));
		table_text(t, json_is_true(json_object_get(f, "available")) ? "yes" : "no");
		table_text(t, get_string(f, "state"));
		table_text(t, get_string(f, "reason"));
	}
	fputc('\n', stdout);
	table_print(t, stdout, 0, width);
	table_free(t);
}

static void print_warnings(json_t *warnings)
{
	json_t *w;
	size_t i;

	if (json_array_size(warnings) > 0)
		fputc('\n', stdout);
	json_array_foreach(warnings, i, w) {
		_cleanup_free_ char *text = printable(json_string_value(w));

		printf("warning: %s\n", text);
	}
}

int cmd_status(const struct options *o)
{
	static const struct column engines[] = { { "ENGINE", COLUMN_LEFT },
						 { "USABLE", COLUMN_LEFT },
						 { "STATE", COLUMN_LEFT },
						 { "REASON", COLUMN_CUT } };
	static const struct column trackers[] = { { "TRACKER", COLUMN_LEFT },
						  { "USABLE", COLUMN_LEFT },
						  { "STATE", COLUMN_LEFT },
						  { "REASON", COLUMN_CUT } };
	size_t width = terminal_width(stdout);
	json_auto_t *reply = NULL;
	int status = call_once(o->socket, "Status", NULL, &reply);

	if (status != STATUS_OK)
		return status;
	if (o->json)
		return print_json(reply);
	print_summary(reply, width);
	print_domains(json_object_get(reply, "domains"), get_int(reply, "page_bytes"), width);
	print_facilities(json_object_get(reply, "engines"), engines, width);
	print_facilities(json_object_get(reply, "trackers"), trackers, width);
	print_warnings(json_object_get(reply, "warnings"));
	return STATUS_OK;
}
