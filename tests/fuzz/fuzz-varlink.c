/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A stream of bytes through the framer, in pieces of the size that the first byte says; each
 * message is parsed as a call and as a reply, and checked against our interface. The framer
 * must give the same messages as cutting the whole input at its NUL bytes.
 */
#include "common/interface.h"
#include "common/util.h"
#include "common/varlink.h"

#define FUZZ_MESSAGE_MAX 4096U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_message(const struct interface *i, const char *m, size_t len)
{
	struct interface_fault fault;
	struct varlink_reply reply;
	struct varlink_call call, again;
	_cleanup_free_ char *text = NULL, *name = NULL;
	size_t text_len;

	if (varlink_reply_parse(m, len, &reply) == 0)
		varlink_reply_done(&reply);
	if (varlink_call_parse(m, len, &call) < 0)
		return;
	(void)interface_check_call(i, call.method, call.parameters, &fault);
	(void)interface_check_reply(i, call.method, call.parameters, &fault);
	/* What was parsed can be built, and reads back the same. */
	if (asprintf(&name, "%s.%s", call.interface, call.method) < 0)
		abort();
	if (varlink_call_build(name, call.parameters, call.more, &text, &text_len) < 0 ||
	    varlink_call_parse(text, text_len - 1, &again) < 0 ||
	    !json_equal(call.parameters, again.parameters) || call.more != again.more)
		abort();
	varlink_call_done(&again);
	varlink_call_done(&call);
}

/* Takes the messages that are complete; *at walks the input beside the framer. */
static int take(struct varlink_framer *f, const struct interface *i, const uint8_t **at)
{
	const char *m;
	size_t len;
	int r;

	while ((r = varlink_framer_next(f, &m, &len)) == 1) {
		if (memcmp(m, *at, len) != 0 || (*at)[len] != 0)
			abort();
		*at += len + 1;
		try_message(i, m, len);
	}
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct interface *i;
	struct varlink_framer f;
	const uint8_t *at;
	size_t piece;

	if (size < 2)
		return 0;
	piece = data[0] + 1U;
	at = ++data;
	size--;
	if (interface_parse(interface_text_memshared, strlen(interface_text_memshared), &i,
			    NULL) < 0)
		abort();
	varlink_framer_init(&f, FUZZ_MESSAGE_MAX);
	while (size > 0) {
		size_t n = MIN(MIN(piece, size), varlink_framer_room(&f));

		if (n == 0 || varlink_framer_feed(&f, data, n) < 0)
			abort();
		data += n;
		size -= n;
		if (take(&f, i, &at) < 0)
			break;
	}
	varlink_framer_done(&f);
	interface_free(i);
	return 0;
}
