/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/call.h"
#include "client/client.h"

int cmd_reload(const struct options *o)
{
	json_auto_t *reply = NULL;
	int status = call_once(o->socket, "Reload", NULL, &reply);

	if (status != STATUS_OK)
		return status;
	if (o->json)
		return print_json(reply);
	puts("configuration read again");
	return STATUS_OK;
}
