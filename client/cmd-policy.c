/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/call.h"
#include "client/client.h"
#include "client/print.h"
#include "client/table.h"

static void print_policy(json_t *p)
{
	static const struct column columns[] = {
		{ "FIELD", COLUMN_LEFT },
		{ "VALUE", COLUMN_LEFT },
		{ "FROM", COLUMN_LEFT },
		{ "WHERE", COLUMN_CUT },
	};
	_cleanup_free_ char *name = printable(strempty(get_string(p, "name")));
	_cleanup_free_ char *state = printable(strempty(get_string(p, "state")));
	_cleanup_free_ char *reason = printable(strempty(get_string(p, "reason")));
	_cleanup_free_ char *voucher = printable(strempty(get_string(p, "voucher")));
	struct table *t = table_new(columns, ARRAY_SIZE(columns));
	json_t *field;
	size_t i;

	printf("%lld%s%s: %s%s%s; its name is vouched for by %s\n", (long long)get_int(p, "pid"),
	       *name ? " " : "", name, state, *reason ? ": " : "", reason, voucher);
	json_array_foreach(json_object_get(p, "fields"), i, field) {
		table_text(t, get_string(field, "field"));
		table_text(t, get_string(field, "value"));
		table_text(t, get_string(field, "source"));
		table_text(t, get_string(field, "origin"));
	}
	table_print(t, stdout, 2, terminal_width(stdout));
	table_free(t);
}

int cmd_policy(const struct options *o)
{
	json_auto_t *pids = NULL, *reply = NULL;
	struct link *l = NULL;
	int status = link_open(o->socket, &l);

	if (status == STATUS_OK)
		status = find_pids(l, o, &pids);
	if (status == STATUS_OK)
		status = link_call(l, "Policy",
				   must(json_pack("{s:O}", "pid", json_array_get(pids, 0))), NULL, NULL,
				   &reply);
	link_close(l);
	if (status != STATUS_OK)
		return status;
	if (o->json)
		return print_json(reply);
	print_policy(reply);
	return STATUS_OK;
}
