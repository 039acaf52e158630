/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/remap-guest.h"

#include "common/fault.h"
#include "common/log.h"
#include "common/util.h"
#include "daemon/merge-remap.h"
#include "daemon/pins.h"
#include "daemon/refusal.h"
#include "daemon/ring-check.h"
#include "daemon/store.h"

/* How often the host's pins are looked at before copies are left for the next time. */
#define PINS_TRIES 5U

int remap_map_store(struct member *m)
{
	uint64_t bytes = store_file_bytes(m->domain->store);
	int64_t r;

	if (m->store_mapped_bytes == bytes)
		return 0;
	r = agent_call(m->agent, RING_MAP_STORE, 0, bytes, NULL, 0);
	if (r < 0)
		return (int)r;
	m->store_mapped_bytes = bytes;
	return 0;
}

/* --- entering ------------------------------------------------------------------------------ */

int merge_remap_enter(struct member *m)
{
	int r;

	if (!m->domain->store) /* holes need none */
		return 0;
	r = agent_send_fd(m->agent, RING_FD_STORE, store_guest_fd(m->domain->store));
	m->store_mapped_bytes = 0;
	return r < 0 ? r : remap_map_store(m);
}

/* --- leaving ------------------------------------------------------------------------------- */

/* Mappings that the guest has of a store, cut at multiples of 2 MiB. */
struct mapped {
	struct ring_run *runs;
	size_t n, size;
	uint64_t n_pages;
	uint64_t n_maps;
};

static int add_mapped(struct mapped *list, uint64_t at, uint64_t end)
{
	while (at < end) {
		uint64_t stop = MIN(end, ALIGN_DOWN(at, HUGE_BYTES) + HUGE_BYTES);

		if (list->n == list->size) {
			size_t size = list->size ? list->size * 2 : 256;
			struct ring_run *grown = reallocarray(list->runs, size, sizeof(*grown));

			if (!grown)
				return -ENOMEM;
			list->runs = grown;
			list->size = size;
		}
		list->runs[list->n++] = (struct ring_run){
			.addr = at, .n_pages = (uint32_t)((stop - at) / PAGE_BYTES)
		};
		list->n_pages += (stop - at) / PAGE_BYTES;
		at = stop;
	}
	return 0;
}

/* Also of a store that an earlier daemon had: it is to be given back all the same. */
static int note_mapping(const struct mapping *mapping, void *userdata)
{
	struct mapped *list = userdata;

	if (mapping->flags & VMF_SHARED ||
	    strncmp(mapping->name, "/memfd:" STORE_MEMFD_NAME, strlen("/memfd:" STORE_MEMFD_NAME)) != 0)
		return 0;
	list->n_maps++;
	return add_mapped(list, mapping->start.addr, mapping_end(mapping).addr);
}

/* Carries op out on all runs; the pages done, or -errno. */
static int64_t call_on_all(struct member *m, const struct mapped *list, enum ring_op op, uint32_t flags)
{
	_cleanup_free_ uint8_t *payload = malloc(RING_PAYLOAD_BYTES);
	int64_t done = 0;

	if (!payload)
		return -ENOMEM;
	for (size_t i = 0; i < list->n;) {
		uint64_t huge = list->runs[i].addr / HUGE_BYTES;
		struct ring_merge *t = (struct ring_merge *)payload;
		struct ring_run *runs = (struct ring_run *)(t + 1);
		struct ring_run asked[HUGE_PAGES];
		uint32_t n = 0;
		int64_t r;

		while (i + n < list->n && list->runs[i + n].addr / HUGE_BYTES == huge) {
			runs[n] = asked[n] = list->runs[i + n];
			n++;
		}
		*t = (struct ring_merge){
			.addr = asked[0].addr,
			.bytes = asked[n - 1].addr + asked[n - 1].n_pages * PAGE_BYTES - asked[0].addr,
			.n_runs = n,
			.flags = flags,
			.advice_mask = remap_advice_of(m->blocks[0]->vm_flags),
		};
		r = agent_call(m->agent, op, 1, 0, payload, (uint32_t)(sizeof(*t) + n * sizeof(*runs)));
		if (r >= 0)
			r = ring_runs_check(asked, runs, n);
		if (r < 0)
			return r;
		done += r;
		i += n;
	}
	return done;
}

/* The copies in these mappings become anonymous memory; the pages done. */
static int64_t reclaim(struct member *m, const struct mapped *list)
{
	int direct = refusal_direct_io(m->process);
	uint64_t quiet_usec, began_usec;
	int64_t r;

	if (direct < 0)
		return direct;
	if (direct == 0)
		return call_on_all(m, list, RING_RECLAIM, RING_RECLAIM_UNPINNED);
	r = call_on_all(m, list, RING_PROTECT, 0);
	if (r < 0)
		return r;
	began_usec = now_usec();
	for (unsigned i = 0; i < PINS_TRIES; i++)
		if (pins_quiet(&quiet_usec) == 1 && quiet_usec >= began_usec)
			break;
		else if (i + 1 == PINS_TRIES)
			return -EBUSY; /* a device may be writing to some */
	return call_on_all(m, list, RING_RECLAIM, 0);
}

int merge_remap_leave(struct member *m, char *ret_reason, size_t size)
{
	struct mapped list = { 0 };
	uint64_t available;
	int64_t done;
	int r = maps_read(m->process->proc_fd, "maps", note_mapping, &list);

	if (r < 0 || list.n == 0) {
		free(list.runs);
		return r;
	}
	/* Copies need memory; half of what is available may be used for them. */
	available = (uint64_t)sysconf(_SC_AVPHYS_PAGES);
	if (list.n_pages > available / 2) {
		(void)snprintf(ret_reason, size, "%llu MiB would be needed for its own copies: free some memory first",
			       (unsigned long long)(list.n_pages * PAGE_BYTES >> 20));
		free(list.runs);
		return -ENOMEM;
	}
	done = call_on_all(m, &list, RING_UNMERGE, 0);
	FAULT_POINT("remap-unmerged");
	/* Its pages are its own from here on. What is left is to make them anonymous again. */
	if (done >= 0)
		done = reclaim(m, &list);
	if (done >= 0 && (uint64_t)done < list.n_pages) {
		(void)snprintf(ret_reason, size, "%llu of its pages could not be given back",
			       (unsigned long long)(list.n_pages - (uint64_t)done));
		done = -EBUSY;
	}
	free(list.runs);
	return (int)MIN(done, (int64_t)0);
}

/* --- while it stays -------------------------------------------------------------------------- */

struct copied {
	const struct member *m;
	struct mapped *list;
	bool all; /* so far, in this mapping */
};

static int note_run(const struct page_run *run, void *userdata)
{
	struct copied *c = userdata;

	/* Absent pages show the slot again when they are touched; so they are not copied. */
	if (!(run->bits & PAGE_PRESENT) || run->bits & PAGE_FILE)
		c->all = false;
	return c->all ? 0 : -ECANCELED;
}

static int note_copied(const struct mapping *mapping, void *userdata)
{
	struct copied *c = userdata;
	slot_id first;
	uint64_t n;
	int r;

	if (!store_mapping_slots(c->m->domain->store, mapping, &first, &n))
		return 0;
	c->list->n_maps++;
	c->all = true;
	/* Most of them are short, and to ask what else is mapped there would take the longest. */
	r = pagemap_walk(c->m->process, mapping->start, mapping->n_pages, PAGEMAP_FORCE_FILE, note_run, c);
	if (r < 0 && r != -ECANCELED)
		return r;
	return c->all ? add_mapped(c->list, mapping->start.addr, mapping_end(mapping).addr) : 0;
}

int64_t remap_reclaim(struct member *m)
{
	struct mapped list = { 0 };
	struct copied c = { m, &list, true };
	int64_t r = maps_read(m->process->proc_fd, "maps", note_copied, &c);

	m->n_maps = list.n_maps * 2;
	if (r >= 0 && list.n > 0) {
		r = reclaim(m, &list);
		for (size_t i = 0; i < m->n_blocks && r >= 0; i++)
			(void)tracker_arm(m->tracker, m->blocks[i]->start, m->blocks[i]->n_pages);
	}
	free(list.runs);
	return r;
}
