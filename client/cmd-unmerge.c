/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/call.h"
#include "client/client.h"
#include "client/print.h"

static void print_guests(json_t *guests)
{
	json_t *g;
	size_t i;

	json_array_foreach(guests, i, g) {
		_cleanup_free_ char *name = printable(strempty(get_string(g, "name")));

		printf("unmerged %lld%s%s\n", (long long)get_int(g, "pid"), *name ? " " : "", name);
	}
}

/* One call; what it did goes to all. */
static int unmerge_some(struct link *l, json_t *parameters, json_t *all)
{
	json_auto_t *reply = NULL;
	int status = link_call(l, "Unmerge", parameters, NULL, NULL, &reply);

	if (status == STATUS_OK && json_array_extend(all, json_object_get(reply, "guests")) < 0)
		must(NULL);
	return status;
}

static int unmerge_words(struct link *l, const struct options *o, json_t *all)
{
	json_auto_t *pids = NULL;
	int status = find_pids(l, o, &pids), worst = status;
	json_t *pid;
	size_t i;

	for (i = 0; status == STATUS_OK && i < json_array_size(pids); i++) {
		pid = json_array_get(pids, i);
		status = unmerge_some(l, must(json_pack("{s:O}", "pid", pid)), all);
		if (status != STATUS_OK)
			worst = status;
		/* The others all the same. */
		status = status == STATUS_FAILED ? STATUS_OK : status;
	}
	return worst;
}

int cmd_unmerge(const struct options *o)
{
	json_auto_t *result = must(json_pack("{s:[]}", "guests"));
	json_t *all = json_object_get(result, "guests"), *parameters;
	struct link *l = NULL;
	int status;

	if ((o->n_words > 0) + (o->domain != NULL) + o->all != 1) {
		complain("unmerge which guests? Name them, or say --domain NAME, or --all");
		return STATUS_USAGE;
	}
	status = link_open(o->socket, &l);
	if (status == STATUS_OK && o->n_words > 0) {
		status = unmerge_words(l, o, all);
	} else if (status == STATUS_OK) {
		parameters = o->domain ? json_pack("{s:s}", "domain", o->domain) : json_object();
		if (parameters) {
			status = unmerge_some(l, parameters, all);
		} else {
			complain("the name of a domain is not UTF-8");
			status = STATUS_USAGE;
		}
	}
	link_close(l);
	if (!o->json)
		print_guests(all);
	else if (print_json(result) != STATUS_OK)
		return STATUS_FAILED;
	return status;
}
