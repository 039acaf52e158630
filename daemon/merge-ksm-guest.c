/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Engine ksm, the part that a guest sees when it enters or leaves the domain: QEMU's own
 * MERGEABLE marks are noted and taken away, and put back as they were.
 */
#include <sys/mman.h>

#include "common/fault.h"
#include "common/util.h"
#include "daemon/maps.h"
#include "daemon/merge-ksm.h"

static int note_mark(const struct mapping *v, void *userdata)
{
	if (!(v->flags & VMF_MERGEABLE))
		return 0;
	return range_set_add(userdata, v->start.addr, mapping_end(v).addr);
}

/* Everything that is marked now, by whomever. */
static int find_marks(const struct member *m, struct range_set *ret)
{
	int r;

	range_set_clear(ret);
	r = maps_read(m->process->proc_fd, "smaps", note_mark, ret);
	return r < 0 ? r : 0;
}

/* The same advice for each range. Single ranges may fail; -errno only when the agent does. */
static int advise_all(struct member *m, const struct range_set *ranges, int advice)
{
	_cleanup_free_ struct ring_advise *v = calloc(MAX(ranges->n, (size_t)1), sizeof(*v));
	int64_t r;

	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < ranges->n; i++)
		v[i] = (struct ring_advise){
			.addr = ranges->ranges[i].start,
			.bytes = ranges->ranges[i].end - ranges->ranges[i].start,
			.advice = advice,
		};
	r = agent_advise(m->agent, v, (uint32_t)ranges->n);
	return r < 0 ? (int)r : 0;
}

/*
 * Takes every mark away, which un-shares what was merged. That needs memory, page by page; where
 * there is none the kernel stops and leaves the mark: so what is still marked afterwards tells
 * (an error of a single range may also be a hole, where QEMU unplugged a block meanwhile).
 */
static int unmark_all(struct member *m)
{
	struct range_set before = { 0 }, after = { 0 };
	int r = find_marks(m, &before);

	if (r >= 0)
		r = advise_all(m, &before, MADV_UNMERGEABLE);
	if (r >= 0)
		r = find_marks(m, &after);
	for (size_t i = 0; i < after.n && r >= 0; i++)
		if (range_set_contains(&before, after.ranges[i].start, after.ranges[i].end))
			r = -ENOMEM;
	range_set_done(&before);
	range_set_done(&after);
	return r;
}

/* Is a part of the range still marked? Then it is still shared, for want of memory. */
static bool range_is_marked(const struct member *m, uint64_t start, uint64_t end)
{
	struct range_set now = { 0 };
	bool marked = find_marks(m, &now) >= 0;

	for (size_t i = 0; marked && i < now.n; i++)
		if (now.ranges[i].start < end && now.ranges[i].end > start) {
			range_set_done(&now);
			return true;
		}
	range_set_done(&now);
	return false;
}

static int note_enrolment(struct member *m, int guests_fd, struct kept *kept)
{
	struct kept earlier = { 0 };
	struct range_set now = { 0 };
	bool known;
	int r = kept_load(guests_fd, m->process, &earlier);

	known = r >= 0;
	kept->inherited = r != -ENOENT && r != -ESTALE;
	/* A broken one is as good as none. */
	if (r == -ENOENT || r == -EINVAL || r == -ESTALE)
		r = 0;
	if (r >= 0)
		r = find_marks(m, &now);
	if (r >= 0)
		r = kept_inherit(kept, known ? &earlier : NULL, &now);
	if (r >= 0)
		r = kept_store(guests_fd, m->process, kept);
	kept_done(&earlier);
	range_set_done(&now);
	return r;
}

int merge_ksm_enter(struct member *m, int guests_fd, struct kept *kept, const char **ret_what)
{
	int r = note_enrolment(m, guests_fd, kept);

	if (r < 0) {
		*ret_what = "its merge marks cannot be noted in the state directory";
		return r;
	}
	/* From here on the marks are known to every later daemon: whatever happens, they can be put
	 * back. SIGKILL before, between or after two ranges leaves a guest that merges less. */
	FAULT_POINT("enroll-noted");
	r = range_set_copy(&m->qemu_marks, &kept->marks);
	if (r >= 0)
		r = unmark_all(m);
	if (r < 0) {
		*ret_what = "its merge marks cannot be taken away";
		if (r != -ESRCH && advise_all(m, &m->qemu_marks, MADV_MERGEABLE) >= 0 && !kept->inherited)
			kept_remove(guests_fd, m->process);
	}
	return r;
}

/* What of a is in b is added to ret. */
static int add_common(struct range_set *ret, const struct range_set *a, const struct range_set *b)
{
	int r = 0;

	for (size_t i = 0; i < a->n && r >= 0; i++)
		for (size_t k = 0; k < b->n && r >= 0; k++) {
			uint64_t start = MAX(a->ranges[i].start, b->ranges[k].start);
			uint64_t end = MIN(a->ranges[i].end, b->ranges[k].end);

			if (start < end)
				r = range_set_add(ret, start, end);
		}
	return r;
}

int merge_ksm_grow(struct member *m, int guests_fd, const struct range_set *ram)
{
	struct range_set now = { 0 }, marked = { 0 };
	struct kept kept = { 0 };
	int r = kept_load(guests_fd, m->process, &kept);

	if (r >= 0)
		r = find_marks(m, &now);
	if (r >= 0)
		r = add_common(&marked, &now, ram);
	for (size_t i = 0; i < ram->n && r >= 0; i++)
		r = range_set_add(&kept.ram, ram->ranges[i].start, ram->ranges[i].end);
	if (r >= 0)
		r = add_common(&kept.marks, &marked, ram);
	if (r >= 0)
		r = add_common(&m->qemu_marks, &marked, ram);
	if (r >= 0)
		r = kept_store(guests_fd, m->process, &kept);
	if (r >= 0)
		r = advise_all(m, &marked, MADV_UNMERGEABLE);
	range_set_done(&now);
	range_set_done(&marked);
	kept_done(&kept);
	return r;
}

int merge_ksm_marks(const struct member *m, struct range_set *ret)
{
	return find_marks(m, ret);
}

int merge_ksm_unmark(struct member *m, uint64_t start, uint64_t end)
{
	struct ring_advise v = { .addr = start, .bytes = end - start, .advice = MADV_UNMERGEABLE };
	int64_t r = agent_advise(m->agent, &v, 1);

	/* A hole is where QEMU unplugged a block: nothing is shared there. */
	return r < 0 ? (int)r : v.result == -ENOMEM && range_is_marked(m, start, end) ? -ENOMEM : 0;
}

int merge_ksm_leave(struct member *m)
{
	int r = unmark_all(m), q = 0;

	if (r != -ESRCH)
		q = advise_all(m, &m->qemu_marks, MADV_MERGEABLE);
	return r < 0 ? r : q;
}
