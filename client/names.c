/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Guests on the command line: a process id, a name or a UUID. */
#include <strings.h>

#include "client/call.h"
#include "client/client.h"
#include "client/print.h"

static bool is_number(const char *word)
{
	return *word && word[strspn(word, "0123456789")] == '\0';
}

static bool is_called(json_t *guest, const char *word)
{
	return strcmp(strempty(get_string(guest, "name")), word) == 0 ||
	       strcasecmp(strempty(get_string(guest, "uuid")), word) == 0;
}

static bool find_guest(json_t *guests, const char *word, json_int_t *ret)
{
	_cleanup_free_ char *shown = printable(word);
	unsigned found = 0;
	json_t *g;
	size_t i;

	json_array_foreach(guests, i, g) {
		if (!*word || !is_called(g, word))
			continue;
		*ret = get_int(g, "pid");
		found++;
	}
	if (found == 0)
		complain("no guest is called \"%s\" (memsharectl guests lists them)", shown);
	else if (found > 1)
		complain("%u guests are called \"%s\": give the process id or the UUID", found, shown);
	return found == 1;
}

int find_pids(struct link *l, const struct options *o, json_t **ret)
{
	json_auto_t *pids = must(json_array()), *reply = NULL;

	for (size_t i = 0; i < o->n_words; i++) {
		json_int_t pid;
		int status = STATUS_OK;

		if (!is_number(o->words[i]) && !reply)
			status = link_call(l, "Guests", NULL, NULL, NULL, &reply);
		if (status != STATUS_OK)
			return status;
		if (is_number(o->words[i]) && !parse_pid(o->words[i], &pid))
			return STATUS_USAGE;
		if (!is_number(o->words[i]) &&
		    !find_guest(json_object_get(reply, "guests"), o->words[i], &pid))
			return STATUS_FAILED;
		if (json_array_append_new(pids, json_integer(pid)) < 0)
			must(NULL);
	}
	*ret = json_incref(pids);
	return STATUS_OK;
}
