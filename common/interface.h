/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A Varlink interface description, parsed, so that messages can be checked against it.
 *
 * The server checks every call before a method sees it, and the client every reply before it
 * prints it; so neither asks again whether a member is there and has its type. The text is the
 * one in conf/ (common/interface-text.c is made from it), which makes the interface file
 * itself the code's table of types: they cannot drift apart.
 *
 * Pure; immutable after parsing; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

/* conf/io.memshared.varlink and conf/org.varlink.service.varlink */
extern const char interface_text_memshared[];
extern const char interface_text_service[];

struct interface;

/* 0; -EINVAL when the text is no interface (*ret_line, which may be NULL, says where; this one
 * is written on failure), -E2BIG when it is nested too deeply, -ENOMEM. */
int interface_parse(const char *text, size_t len, struct interface **ret, size_t *ret_line);
void interface_free(struct interface *i);

const char *interface_name(const struct interface *i);
/* The n-th method's name in the order of the text, NULL after the last. */
const char *interface_method(const struct interface *i, size_t n);
bool interface_has_method(const struct interface *i, const char *method);
bool interface_has_error(const struct interface *i, const char *error);

/* Where in a message the first fault is: "groups[2].pids"; cut to fit. */
struct interface_fault {
	char path[128];
	const char *problem; /* "is missing", "has the wrong type", "is not known" */
};

/*
 * 0, -EINVAL with *ret_fault written (on failure, then), or -ENOENT when there is no such
 * method or error. Calls with unknown members are faulty, because what the caller wanted by
 * them would not be done; replies and errors may have them, because newer daemons say more.
 * A member that is null counts as absent.
 */
int interface_check_call(const struct interface *i, const char *method, json_t *parameters,
			 struct interface_fault *ret_fault);
int interface_check_reply(const struct interface *i, const char *method, json_t *parameters,
			  struct interface_fault *ret_fault);
int interface_check_error(const struct interface *i, const char *error, json_t *parameters,
			  struct interface_fault *ret_fault);
