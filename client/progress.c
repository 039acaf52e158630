/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client/progress.h"

#include "client/client.h"
#include "client/table.h"

#define BAR_WIDTH 40

static bool drawn;

void progress_draw(json_t *parameters, void *userdata)
{
	static const char full[] = "########################################";
	json_t *p = json_object_get(parameters, "progress");
	double done, total;
	int cells;

	if (!p || json_is_null(p) || !isatty(STDERR_FILENO))
		return;
	done = (double)json_integer_value(json_object_get(p, "done_pages"));
	total = (double)json_integer_value(json_object_get(p, "total_pages"));
	if (total <= 0 || done < 0)
		return;
	done = MIN(done, total);
	cells = (int)(done / total * BAR_WIDTH);
	fprintf(stderr, "\r%s [%.*s%*s] %3d %%", (const char *)userdata, cells, full,
		BAR_WIDTH - cells, "", (int)(done / total * 100));
	(void)fflush(stderr);
	drawn = true;
}

void progress_clear(void)
{
	if (drawn)
		fprintf(stderr, "\r\033[K");
	drawn = false;
}
