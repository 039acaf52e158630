/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/remap-guest.h"

#include <fcntl.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/util.h"
#include "daemon/cgroup.h"
#include "daemon/devices.h"
#include "daemon/libvirt-xml.h"
#include "daemon/merge-remap.h"
#include "daemon/pins.h"
#include "daemon/ring-check.h"
#include "daemon/runs.h"
#include "daemon/slot-map.h"
#include "daemon/store.h"

/* Runs in a batch of RECLAIM, whose agent runs before ordinary threads (urgency.h): each takes 10 us, and
 * a page 1 us. */
#define RECLAIM_RUNS_MAX  32U
#define RECLAIM_PAGES_MAX 512U
/* Runs between whose protection and RECLAIM little time passes in which the guest may write to them: to look
 * at the process's descriptors in between costs as much as some thirty of them. */
#define RECLAIM_PORTION_RUNS 256U

/* How often the host's pins are looked at before copies are left for the next time. */
#define PINS_TRIES 5U
/* What the limits of a guest's memory control groups must allow before copies are reclaimed. */
#define RECLAIM_ROOM_BYTES MIB(16)

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

int remap_look_at_devices(struct member *m)
{
	const struct libvirt_refusal *why[LIBVIRT_REFUSALS_MAX];
	uint64_t now = now_usec();
	uint32_t flags;
	size_t n;

	if (m->devices_usec && now - m->devices_usec < USEC_PER_SEC)
		return 0;
	if (devices_read(m->process, &flags) < 0)
		return 0; /* it is gone: so the agent will say */
	n = libvirt_refusals(flags, why);
	for (size_t i = 0; i < n; i++)
		if (why[i]->engines & 1U << m->policy.engine)
			return -EPERM;
	m->devices_usec = now;
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

static int add_mapped(struct mapped *list, uint64_t at, uint64_t end, uint32_t slot)
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
			.addr = at, .n_pages = (uint32_t)((stop - at) / PAGE_BYTES), .slot = slot
		};
		slot += (uint32_t)((stop - at) / PAGE_BYTES);
		list->n_pages += (stop - at) / PAGE_BYTES;
		at = stop;
	}
	return 0;
}

/* The block at this address, as whose mappings others are to be; where no RAM is known any more the
 * first. */
static const struct ledger_block *block_at(const struct member *m, uint64_t addr)
{
	for (size_t i = 0; i < m->n_blocks; i++) {
		const struct ledger_block *b = m->blocks[i];

		if (addr >= b->start.addr && addr < hva_add_pages(b->start, b->n_pages).addr)
			return b;
	}
	return m->blocks[0];
}

/* Carries op out on all runs, in order of address; the pages done, or -errno. ret: NULL, or as many runs for
 * the results. */
static int64_t call_on_all(struct member *m, const struct ring_run *runs, size_t n_runs, enum ring_op op,
			   uint32_t flags, struct ring_run *ret)
{
	_cleanup_free_ uint8_t *payload = malloc(RING_PAYLOAD_BYTES);
	int64_t done = 0;

	if (!payload)
		return -ENOMEM;
	for (size_t i = 0; i < n_runs;) {
		uint64_t huge = runs[i].addr / HUGE_BYTES;
		const struct ledger_block *b = block_at(m, runs[i].addr);
		struct ring_merge *t = (struct ring_merge *)payload;
		struct ring_run *sent = (struct ring_run *)(t + 1);
		struct ring_run asked[HUGE_PAGES];
		uint32_t n = 0, pages = 0;
		int64_t r;

		while (i + n < n_runs && runs[i + n].addr / HUGE_BYTES == huge &&
		       block_at(m, runs[i + n].addr) == b) {
			pages += runs[i + n].n_pages;
			if (op == RING_RECLAIM && n > 0 && (n == RECLAIM_RUNS_MAX || pages > RECLAIM_PAGES_MAX))
				break;
			sent[n] = asked[n] = runs[i + n];
			n++;
		}
		*t = (struct ring_merge){
			.addr = asked[0].addr,
			.bytes = asked[n - 1].addr + asked[n - 1].n_pages * PAGE_BYTES - asked[0].addr,
			.n_runs = n,
			.flags = flags | remap_flags_of(m, b->vm_flags),
			.advice_mask = remap_advice_of(b->vm_flags),
			.policy = b->policy,
		};
		r = agent_call(m->agent, op, 1, 0, payload, (uint32_t)(sizeof(*t) + n * sizeof(*sent)));
		if (r >= 0)
			r = ring_runs_check(asked, sent, n);
		if (r < 0)
			return r;
		if (ret)
			memcpy(ret + i, asked, n * sizeof(*ret));
		done += r;
		i += n;
	}
	return done;
}

/*
 * (1) of the proof in daemon/agent/reclaim.c: no device writes to a page that it was told to before now. A
 * process without descriptors for direct I/O has none in flight: QEMU waits for what it asked of a disk before
 * it closes it. One that opens a disk from now on is seen by (2). What cannot be told counts as direct.
 */
static int wait_for_old_pins(struct member *m)
{
	uint64_t began_usec = now_usec(), quiet_usec;
	bool quiet = devices_direct_io(m->process) == 0;

	for (unsigned i = 0; i < PINS_TRIES && !quiet; i++)
		quiet = pins_quiet(&quiet_usec) == 1 && quiet_usec >= began_usec;
	m->pins_held = !quiet;
	return quiet ? 0 : -EBUSY;
}

/* SIGKILL after PROTECT leaves marks, which the next daemon ends with the userfaultfd. */
static int64_t reclaim_proven(struct member *m, const struct ring_run *runs, size_t n, struct ring_run *ret)
{
	int64_t r = call_on_all(m, runs, n, RING_PROTECT, 0, NULL);

	if (r >= 0)
		r = wait_for_old_pins(m);
	if (r >= 0)
		r = FAULT_ERRNO("remap-protected");
	if (r >= 0)
		r = call_on_all(m, runs, n, RING_RECLAIM, 0, ret);
	/* A copy with a mark looks like the store's page to the tracker. RECLAIM takes off those of
	 * the runs that it came to. */
	if (r < 0)
		(void)call_on_all(m, runs, n, RING_PROTECT, RING_PROTECT_OFF, NULL);
	return r;
}

/*
 * The copies in these mappings become anonymous memory; the pages done. hot: what the guest writes all the
 * time, so that (2) is never seen, where it does no direct I/O goes by that alone. For a device's write to be
 * lost, QEMU would have to open a disk anew, and the guest to read from it into just such a page, in
 * the tenth of a millisecond between the look and the transaction.
 */
static int64_t reclaim(struct member *m, const struct ring_run *runs, size_t n, bool hot, struct ring_run *ret)
{
	size_t portion = hot ? RECLAIM_RUNS_MAX : RECLAIM_PORTION_RUNS;
	int64_t done = 0;

	if (devices_direct_io(m->process) != 0) {
		portion = n; /* to look at the pins costs more */
		hot = false;
	}
	for (size_t i = 0; i < n; i += portion) {
		size_t some = MIN(portion, n - i);
		int64_t r;

		if (hot && devices_direct_io(m->process) == 0)
			r = call_on_all(m, runs + i, some, RING_RECLAIM, RING_RECLAIM_UNPINNED,
					ret ? ret + i : NULL);
		else
			r = reclaim_proven(m, runs + i, some, ret ? ret + i : NULL);
		if (r < 0)
			return r;
		done += r;
	}
	return done;
}

#define STORE_PATH "/memfd:" STORE_MEMFD_NAME

struct remap_list {
	struct mapped mapped;
	const struct member *m;
	enum remap_which which;
	uint64_t copies; /* pages of which the guest has a copy already */
	uint64_t n_pages; /* in all mappings of stores */
	struct kept stores; /* labels only */
	int stores_error;
	/* The mapping that is looked at. */
	hva start;
	slot_id slot;
};

static int note_pages(const struct page_run *run, void *userdata)
{
	struct remap_list *list = userdata;
	/* A copy that is swapped out is a copy; what is absent shows the slot when it is touched. */
	bool swapped = run->bits & PAGE_SWAPPED;
	bool copied = run->bits & PAGE_PRESENT && !(run->bits & PAGE_FILE);

	/* It comes in again, so it counts when memory is asked for. */
	if (copied)
		list->copies += run->n_pages;
	if (copied || swapped || list->which != REMAP_OWN)
		return 0;
	return add_mapped(&list->mapped, run->start.addr, hva_add_pages(run->start, run->n_pages).addr,
			  (uint32_t)(list->slot.n + ((run->start.addr - list->start.addr) >> PAGE_SHIFT)));
}

static void note_label(struct remap_list *list, const char *name)
{
	char label[STORE_LABEL_BYTES] = "";

	if (name[strlen(STORE_PATH)] == '-')
		(void)snprintf(label, sizeof(label), "%s", name + strlen(STORE_PATH "-"));
	/* Files that are not ours have any names. */
	if (strspn(label, "0123456789abcdef") == STORE_LABEL_BYTES - 1 &&
	    kept_add_store(&list->stores, label) < 0)
		list->stores_error = -ENOSPC;
}

static int note_mapping(const struct mapping *mapping, void *userdata)
{
	struct remap_list *list = userdata;
	const struct store *store = list->m->domain->store;
	uint64_t n = 0;
	bool own;
	int r;

	if (mapping->flags & VMF_SHARED || strncmp(mapping->name, STORE_PATH, strlen(STORE_PATH)) != 0)
		return 0;
	/* More than we can have made: QEMU's own, and perhaps of any size. */
	list->n_pages += mapping->n_pages;
	if (list->n_pages > list->m->ram_pages)
		return -E2BIG;
	own = store && store_mapping_slots(store, mapping, &list->slot, &n) && n == mapping->n_pages;
	if ((list->which == REMAP_OWN && !own) || (list->which == REMAP_FOREIGN && own))
		return 0;
	note_label(list, mapping->name);
	list->mapped.n_maps++;
	list->start = mapping->start;
	/* Of a copy that PROTECT marked the ioctl says that it is the store's. */
	r = pagemap_walk(list->m->process, mapping->start, mapping->n_pages, PAGEMAP_FORCE_FILE, note_pages,
			 list);
	if (r < 0 || list->which == REMAP_OWN)
		return r;
	return add_mapped(&list->mapped, mapping->start.addr, mapping_end(mapping).addr, 0);
}

int remap_list_new(const struct member *m, enum remap_which which, struct remap_list **ret,
		   uint64_t *ret_copies)
{
	struct remap_list *list = calloc(1, sizeof(*list));
	int r;

	if (!list)
		return -ENOMEM;
	list->m = m;
	list->which = which;
	r = maps_read(m->process->proc_fd, "maps", note_mapping, list);
	if (r < 0) {
		remap_list_free(list);
		return r;
	}
	*ret = list;
	*ret_copies = list->mapped.n_pages - MIN(list->copies, list->mapped.n_pages);
	return 0;
}

void remap_list_free(struct remap_list *list)
{
	if (!list)
		return;
	free(list->mapped.runs);
	free(list);
}

const struct ring_run *remap_list_runs(const struct remap_list *list, size_t *ret_n, uint64_t *ret_maps)
{
	*ret_n = list->mapped.n;
	*ret_maps = list->mapped.n_maps * 2;
	return list->mapped.runs;
}

int remap_list_note_stores(const struct remap_list *list, struct kept *kept)
{
	int r = list->stores_error;

	for (unsigned i = 0; i < list->stores.n_stores && r >= 0; i++)
		r = kept_add_store(kept, list->stores.stores[i]);
	return r;
}

uint64_t remap_list_pages(const struct remap_list *list)
{
	return list->mapped.n_pages;
}

int64_t remap_list_give_back(struct member *m, const struct remap_list *list, size_t *at,
			     uint64_t max_pages, bool hot)
{
	const struct ring_run *runs = list->mapped.runs + *at;
	uint64_t pages = 0;
	size_t n = 0;
	int64_t done;

	while (*at + n < list->mapped.n && (n == 0 || pages + runs[n].n_pages <= max_pages))
		pages += runs[n++].n_pages;
	if (n == 0)
		return 0;
	done = call_on_all(m, runs, n, RING_UNMERGE, 0, NULL);
	FAULT_POINT("remap-unmerged");
	/* Its pages are its own from here on. What is left is to make them anonymous again. */
	if (done >= 0)
		done = reclaim(m, runs, n, hot, NULL);
	if (done < 0 && done != -EBUSY)
		return done;
	*at += n;
	return (int64_t)pages;
}

/* --- while it stays -------------------------------------------------------------------------- */

struct copied {
	const struct member *m;
	uint64_t seen; /* up to here; two places may lie in one mapping */
	struct mapped *list;
	bool all; /* so far, in this mapping */
	uint64_t n_copied; /* mappings in the list */
	/* Copies to cut out of others, at most so many times. */
	const struct slot_map *orphans;
	struct mapped *cuts;
	uint64_t max_cuts;
	/* The mapping that is looked at. */
	hva start;
	slot_id slot;
};

static int note_run(const struct page_run *run, void *userdata)
{
	struct copied *c = userdata;

	/* Absent pages show the slot again when they are touched; so they are not copied. */
	if (!(run->bits & PAGE_PRESENT) || run->bits & PAGE_FILE)
		c->all = false;
	return c->all ? 0 : -ECANCELED;
}

/* Copies of slots that nobody shares. */
static int note_cut(const struct page_run *run, void *userdata)
{
	struct copied *c = userdata;
	uint64_t at = c->slot.n + ((run->start.addr - c->start.addr) >> PAGE_SHIFT), end = at + run->n_pages, n;
	slot_id first;
	int r = 0;

	if (!(run->bits & PAGE_PRESENT) || run->bits & PAGE_FILE)
		return 0;
	for (; r >= 0 && (n = slot_map_next_run(c->orphans, at, end, true, &first)) > 0; at = first.n + n) {
		uint64_t addr = run->start.addr + (first.n - (end - run->n_pages)) * PAGE_BYTES;

		if (c->cuts->n >= c->max_cuts)
			return -ECANCELED;
		r = add_mapped(c->cuts, addr, addr + n * PAGE_BYTES, first.n);
	}
	return r;
}

static bool has_orphans(const struct copied *c, slot_id first, uint64_t n)
{
	slot_id orphan;

	return c->orphans && c->cuts->n < c->max_cuts &&
	       slot_map_next_run(c->orphans, first.n, first.n + n, true, &orphan) > 0;
}

static int note_copied(const struct mapping *mapping, void *userdata)
{
	struct copied *c = userdata;
	slot_id first;
	uint64_t n;
	int r;

	if (mapping->start.addr < c->seen || !store_mapping_slots(c->m->domain->store, mapping, &first, &n))
		return 0;
	c->seen = mapping_end(mapping).addr;
	c->list->n_maps++;
	c->all = true;
	/* Most of them are short, and to ask what else is mapped there would take the longest. */
	r = pagemap_walk(c->m->process, mapping->start, mapping->n_pages, PAGEMAP_FORCE_FILE, note_run, c);
	if (r < 0 && r != -ECANCELED)
		return r;
	if (!c->all) {
		c->start = mapping->start;
		c->slot = first;
		r = has_orphans(c, first, n) ? pagemap_walk(c->m->process, mapping->start, mapping->n_pages,
							    PAGEMAP_FORCE_FILE, note_cut, c)
					     : 0;
		return r == -ECANCELED ? 0 : r;
	}
	c->n_copied++;
	return add_mapped(c->list, mapping->start.addr, mapping_end(mapping).addr, 0);
}

static int find_copied(struct member *m, const struct range_set *where, struct copied *c)
{
	_cleanup_close_ int fd = openat(m->process->proc_fd, "maps", O_RDONLY | O_CLOEXEC);
	struct range all = { 0, UINT64_MAX };
	const struct range *ranges = where ? where->ranges : &all;
	int r = fd < 0 ? (errno == ENOENT ? -ESRCH : -errno) : 0;

	for (size_t i = 0; i < (where ? where->n : 1) && r >= 0; i++)
		r = maps_query(fd, ranges[i].start, ranges[i].end, true, note_copied, c);
	if (r == -EOPNOTSUPP) {
		where = NULL;
		r = maps_read(m->process->proc_fd, "maps", note_copied, c);
	}
	if (!where)
		m->n_maps = c->list->n_maps * RUN_MAPS;
	return r;
}

static void note_remapped(const struct member *m, const struct mapped *list)
{
	for (size_t i = 0; i < list->n; i++)
		tracker_remapped(m->tracker, HVA(list->runs[i].addr), list->runs[i].n_pages);
}

static int64_t reclaim_copied(struct member *m, const struct copied *c, bool *ret_all)
{
	int64_t r = 0, cut = 0;

	if (c->list->n > 0) {
		r = reclaim(m, c->list->runs, c->list->n, false, NULL);
		*ret_all = r == (int64_t)c->list->n_pages;
		if (*ret_all)
			m->n_maps -= MIN(m->n_maps, c->n_copied * RUN_MAPS);
		note_remapped(m, c->list);
	}
	if (r >= 0 && c->cuts->n > 0) {
		m->n_maps += c->cuts->n * RUN_MAPS;
		cut = reclaim(m, c->cuts->runs, c->cuts->n, false, c->cuts->runs);
		note_remapped(m, c->cuts);
	}
	return r < 0 || cut < 0 ? r : r + cut;
}

int64_t remap_reclaim(struct member *m, const struct range_set *where, const struct slot_map *orphans,
		      bool *ret_all)
{
	struct mapped list = { 0 }, cuts = { 0 };
	struct copied c = { .m = m, .list = &list, .orphans = orphans, .cuts = &cuts };
	struct cgroup_room room;
	int64_t r;

	if (m->policy.max_maps > m->n_maps)
		c.max_cuts = (m->policy.max_maps - m->n_maps) / RUN_MAPS;
	r = find_copied(m, where, &c);
	*ret_all = r >= 0 && list.n == 0;
	/* It takes a second copy of a piece for a moment: not at the edge of the guest's limits. */
	if (r >= 0 && list.n + cuts.n > 0 && cgroup_room_read(m->process->proc_fd, &room) >= 0 &&
	    room.bytes >= RECLAIM_ROOM_BYTES)
		r = reclaim_copied(m, &c, ret_all);
	free(list.runs);
	free(cuts.runs);
	return r;
}

int64_t remap_reclaim_runs(struct member *m, struct ring_run *runs, size_t n)
{
	struct cgroup_room room;
	int r = cgroup_room_read(m->process->proc_fd, &room);

	if (r < 0)
		return r;
	return room.bytes < RECLAIM_ROOM_BYTES ? -ENOMEM : reclaim(m, runs, n, false, runs);
}
