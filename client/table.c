/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/table.h"

#include <stdarg.h>
#include <sys/ioctl.h>

#include "client/client.h"
#include "client/print.h"

#define GAP	    2U
#define CUT_MIN	    8U
#define COLUMNS_MAX 32U

struct table {
	const struct column *columns;
	size_t n_columns;
	char **cells;
	size_t n_cells, size;
};

struct table *table_new(const struct column *columns, size_t n_columns)
{
	struct table *t = must(calloc(1, sizeof(*t)));

	assert(n_columns > 0 && n_columns <= COLUMNS_MAX);
	t->columns = columns;
	t->n_columns = n_columns;
	return t;
}

void table_free(struct table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n_cells; i++)
		free(t->cells[i]);
	free(t->cells);
	free(t);
}

void table_take(struct table *t, char *text)
{
	if (t->n_cells == t->size) {
		t->size = MAX(t->size * 2, (size_t)64);
		t->cells = must(reallocarray(t->cells, t->size, sizeof(*t->cells)));
	}
	t->cells[t->n_cells++] = text ? text : text_of("-");
}

void table_text(struct table *t, const char *text)
{
	table_take(t, text ? printable(text) : NULL);
}

void table_printf(struct table *t, const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	table_take(t, must(text));
}

size_t table_rows(const struct table *t)
{
	return t->n_cells / t->n_columns;
}

static const char *cell(const struct table *t, size_t row, size_t column)
{
	return t->cells[row * t->n_columns + column];
}

/* The width of each column, shortened to what the line allows. */
static void measure(const struct table *t, size_t indent, size_t line, size_t *ret)
{
	size_t total = indent, cut = SIZE_MAX;

	for (size_t c = 0; c < t->n_columns; c++) {
		ret[c] = text_width(strempty(t->columns[c].title));
		for (size_t r = 0; r < table_rows(t); r++)
			ret[c] = MAX(ret[c], text_width(cell(t, r, c)));
		total += ret[c] + (c ? GAP : 0);
		if (t->columns[c].style == COLUMN_CUT)
			cut = c;
	}
	if (line > 0 && total > line && cut != SIZE_MAX) {
		size_t over = total - line;

		ret[cut] = ret[cut] > over + CUT_MIN ? ret[cut] - over : MIN(ret[cut], CUT_MIN);
	}
}

/* One cell; blanks after it only if another follows. */
static void print_cell(FILE *f, const char *text, enum column_style style, size_t width, bool last)
{
	size_t has = text_width(text);

	if (last && has == 0)
		return;
	if (has > width) {
		fprintf(f, "%.*s...", (int)text_fit(text, width - 3), text);
		has = width;
	} else if (style == COLUMN_RIGHT) {
		fprintf(f, "%*s%s", (int)(width - has), "", text);
		has = width;
	} else {
		fputs(text, f);
	}
	if (!last)
		fprintf(f, "%*s", (int)(width - has + GAP), "");
}

void table_print(const struct table *t, FILE *f, size_t indent, size_t width)
{
	size_t widths[COLUMNS_MAX], last = t->n_columns - 1;

	measure(t, indent, width, widths);
	if (t->columns[0].title) {
		fprintf(f, "%*s", (int)indent, "");
		for (size_t c = 0; c <= last; c++)
			print_cell(f, t->columns[c].title, t->columns[c].style, widths[c],
				   c == last);
		fputc('\n', f);
	}
	for (size_t r = 0; r < table_rows(t); r++) {
		fprintf(f, "%*s", (int)indent, "");
		for (size_t c = 0; c <= last; c++)
			print_cell(f, cell(t, r, c), t->columns[c].style, widths[c], c == last);
		fputc('\n', f);
	}
}

size_t terminal_width(FILE *f)
{
	struct winsize size;

	if (!isatty(fileno(f)) || ioctl(fileno(f), TIOCGWINSZ, &size) < 0)
		return 0;
	return size.ws_col;
}
