/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tables with aligned columns. Cells are added from left to right, row after row; a table of
 * one column more than cells is a bug. On a terminal that is too narrow the column marked
 * "cut" is shortened; into a pipe or a file everything is printed whole.
 */
#pragma once

#include <stdio.h>

#include "common/util.h"

enum column_style {
	COLUMN_LEFT,
	COLUMN_RIGHT, /* numbers */
	COLUMN_CUT,   /* left, and shortened where the line is too long */
};

struct column {
	const char *title; /* all titles NULL: no line of titles */
	enum column_style style;
};

struct table;

/* columns is borrowed for the table's life. */
struct table *table_new(const struct column *columns, size_t n_columns);
void table_free(struct table *t);
/* Takes the text over (printable already); NULL prints "-". */
void table_take(struct table *t, char *text);
/* A text from the daemon, made printable; NULL prints "-". */
void table_text(struct table *t, const char *text);
void table_printf(struct table *t, const char *fmt, ...) _printf_(2, 3);
size_t table_rows(const struct table *t);
/* Lines are indented by so many blanks and at most width columns long; 0: any length. */
void table_print(const struct table *t, FILE *f, size_t indent, size_t width);
/* Columns of the terminal that f is; 0 when it is none or its width is not known. */
size_t terminal_width(FILE *f);
