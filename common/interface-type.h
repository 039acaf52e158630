/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a parsed interface consists of: shared by interface.c, which makes it, and
 * interface-check.c, which walks it. */
#pragma once

#include <stdbool.h>

enum type_kind {
	TYPE_BOOL,
	TYPE_INT,
	TYPE_FLOAT,
	TYPE_STRING,
	TYPE_OBJECT,
	TYPE_ARRAY,  /* element */
	TYPE_MAP,    /* element */
	TYPE_STRUCT, /* fields */
	TYPE_ENUM,   /* fields without types */
	TYPE_NAME,   /* name, definition */
	TYPE_KIND_MAX,
};

struct field;

struct type {
	enum type_kind kind;
	bool optional;
	struct type *element;
	struct field *fields;
	char *name;
	const struct type *definition; /* not owned */
};

struct field {
	char *name;
	struct type *type;
	struct field *next;
};

enum member_kind {
	MEMBER_TYPE,
	MEMBER_METHOD,
	MEMBER_ERROR,
};

struct member {
	enum member_kind kind;
	char *name;
	struct type *in;  /* of a type or error: its only one */
	struct type *out; /* of a method */
	struct member *next;
};

struct interface {
	char *name;
	struct member *members, **tail;
};

/* NULL when there is none. */
const struct member *interface_find(const struct interface *i, enum member_kind kind,
				    const char *name);
/* Has this struct or enum a field of this name? */
bool type_has_field(const struct type *t, const char *name);
