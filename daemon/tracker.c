/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/tracker.h"

#include "common/util.h"
#include "daemon/tracker-kind.h"

static const char *const kind_names[] = {
	[TRACKER_WP] = "wp",
	[TRACKER_SOFTDIRTY] = "softdirty",
	[TRACKER_REHASH] = "rehash",
};
static_assert(ARRAY_SIZE(kind_names) == TRACKER_KIND_MAX, "a name for each kind");

const char *tracker_kind_to_string(enum tracker_kind k)
{
	assert(k < TRACKER_KIND_MAX);
	return kind_names[k];
}

int tracker_kind_from_string(const char *s, enum tracker_kind *ret)
{
	for (unsigned k = 0; k < TRACKER_KIND_MAX; k++)
		if (streq(s, kind_names[k])) {
			*ret = k;
			return 0;
		}
	return -EINVAL;
}

int tracker_new(enum tracker_kind kind, const struct process *p, int uffd, enum tracker_thp thp,
		struct tracker **ret)
{
	_cleanup_close_ int owned = uffd;
	int r;

	switch (kind) {
	case TRACKER_WP:
		r = tracker_wp_new(p, owned, thp, ret);
		if (r >= 0)
			(void)TAKE_FD(owned);
		return r;
	case TRACKER_SOFTDIRTY:
		return tracker_softdirty_new(p, ret);
	case TRACKER_REHASH:
		return tracker_rehash_new(p, ret);
	case TRACKER_KIND_MAX:
		break;
	}
	assert(false);
	return -EINVAL;
}

void tracker_free(struct tracker *t)
{
	if (t)
		t->ops->free(t, true);
}

void tracker_abandon(struct tracker *t)
{
	if (t)
		t->ops->free(t, false);
}

enum tracker_kind tracker_kind(const struct tracker *t)
{
	return t->ops->kind;
}

bool tracker_is_exact(const struct tracker *t)
{
	return t->ops->kind == TRACKER_WP;
}

int tracker_arm(struct tracker *t, hva start, uint64_t n_pages)
{
	return t->ops->arm && n_pages > 0 ? t->ops->arm(t, start, n_pages) : 0;
}

void tracker_remapped(struct tracker *t, hva start, uint64_t n_pages)
{
	if (t->ops->remapped && n_pages > 0)
		t->ops->remapped(t, start, n_pages);
}

int tracker_disarm(struct tracker *t, hva start, uint64_t n_pages)
{
	return t->ops->disarm && n_pages > 0 ? t->ops->disarm(t, start, n_pages) : 0;
}

int tracker_begin_pass(struct tracker *t)
{
	return t->ops->begin_pass ? t->ops->begin_pass(t) : 0;
}

int tracker_collect(struct tracker *t, hva start, uint64_t n_pages, page_run_fn *fn,
		    void *userdata)
{
	return n_pages > 0 ? t->ops->collect(t, start, n_pages, fn, userdata) : 0;
}
