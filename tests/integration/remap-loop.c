/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * remap-loop SECONDS ADVICE LONG_PINS PID:START:END...: engine remap's agent and store on real
 * guests, driven as hard as it goes by the simplest planner there is.
 *
 * Attaches to (or adopts the agents of) the guests, makes (or finds) a store that they have in
 * common, and goes through their memory: pages whose fingerprint was seen before are put into
 * the store and merged; now and then a block is unmerged or reclaimed, and slots that nobody maps
 * are dropped. May be killed at any time: the next one goes on. With SECONDS 0 it gives
 * everything back and takes the agents out.
 *
 * ADVICE is enum ring_advice of the RAM in decimal. LONG_PINS 1: the guests do direct I/O, so that
 * RECLAIM has to prove that nothing is in flight. Prints its sums as NAME=NUMBER.
 */
#include <inttypes.h>
#include <sys/ioctl.h>

#include "common/fingerprint.h"
#include "common/kernel-abi.h"
#include "common/parse.h"
#include "daemon/agent-remap.h"
#include "daemon/pins.h"
#include "tests/integration/attach-fixture.h"

#define GUESTS_MAX  4U
#define TABLE_SLOTS (1U << 20)
#define STORE_PAGES (1U << 18)
#define DOMAIN	    "remap-loop"

struct target {
	struct process process;
	struct agent_link *link;
	hva start;
	uint64_t n_pages;
};

/* Fingerprints seen, and the slot with that content. */
struct entry {
	uint64_t fingerprint;
	uint32_t slot; /* UINT32_MAX: seen once */
	bool used;
};

static struct target targets[GUESTS_MAX];
static size_t n_targets;
static struct entry *table;
static struct store *store;
static struct fingerprint_seed seed;
static uint32_t advice;
static bool direct_io;
static uint64_t random_state = 88172645463325252U;
static uint64_t merged, zeros, busy, stale, absent, copies, other, unmerged, reclaimed,
	reclaim_busy, reclaim_other, dropped, longest_nsec, waits_for_io;

static _noreturn_ void die(const char *what, int64_t error)
{
	(void)fprintf(stderr, "%s: %s\n", what, strerror((int)-error));
	exit(1);
}

static uint64_t random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static struct entry *lookup(uint64_t fingerprint)
{
	for (uint64_t i = fingerprint;; i++) {
		struct entry *e = &table[i % TABLE_SLOTS];

		if (!e->used || e->fingerprint == fingerprint)
			return e;
	}
}

/* --- set-up --------------------------------------------------------------------------------------
 */

static void agent_get(struct target *t)
{
	char reason[AGENT_REASON_MAX] = "";
	int r = agent_adopt(&t->process, reason, &t->link);

	for (int tries = 0; r == -ENOENT && tries < 50; tries++) {
		r = agent_attach(&t->process, reason, &t->link);
		if (r == -EBUSY)
			r = -ENOENT;
	}
	if (r < 0)
		die(reason[0] ? reason : "attach", r);
}

/* As the tracker makes it ready. */
static void uffd_get(struct target *t)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED,
	};
	int fd;

	(void)agent_close_uffd(t->link);
	fd = agent_open_uffd(t->link, true);
	if (fd < 0)
		die("userfaultfd", fd);
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		die("UFFDIO_API", -errno);
	(void)close(fd);
}

static void store_get(void)
{
	int fd, r = -ENOENT;

	for (size_t i = 0; i < n_targets && r == -ENOENT; i++)
		r = store_find(DOMAIN, &targets[i].process, &fd);
	r = r == 0 ? store_adopt(DOMAIN, STORE_PAGES, fd, &store)
		   : store_new(DOMAIN, STORE_PAGES, &store);
	if (r < 0)
		die("store", r);
}

/* What a store from before holds is known again by its content. */
static void store_learn(void)
{
	static uint8_t page[PAGE_BYTES];
	uint64_t n, from = 0;
	slot_id first;

	while ((n = store_next_used(store, from, &first)) > 0) {
		for (uint64_t i = 0; i < n; i++) {
			struct entry *e;

			if (store_read(store, SLOT_ID(first.n + i), 1, page) < 0)
				continue;
			e = lookup(fingerprint_page(&seed, page));
			*e = (struct entry){fingerprint_page(&seed, page), first.n + (uint32_t)i,
					    true};
		}
		from = first.n + n;
	}
}

static bool target_parse(const char *text, struct target *t)
{
	uint64_t pid, start, end;

	if (sscanf(text, "%" SCNu64 ":%" SCNx64 ":%" SCNx64, &pid, &start, &end) != 3 ||
	    process_open(&t->process, (pid_t)pid) < 0)
		return false;
	t->start = HVA(start);
	t->n_pages = (end - start) >> PAGE_SHIFT;
	return true;
}

/* --- merging -------------------------------------------------------------------------------------
 */

static struct ring_run *run_of(struct remap_block *b, hva page, uint32_t slot)
{
	struct ring_run *last = b->head.n_runs ? &b->runs[b->head.n_runs - 1] : NULL;

	if (last && last->addr + ((uint64_t)last->n_pages << PAGE_SHIFT) == page.addr &&
	    (slot == RING_SLOT_ZERO ? last->slot == slot : last->slot + last->n_pages == slot)) {
		last->n_pages++;
		return last;
	}
	last = &b->runs[b->head.n_runs++];
	*last = (struct ring_run){.addr = page.addr, .n_pages = 1, .slot = slot};
	return last;
}

/* The slot for this content: known, or new if it was seen before, or UINT32_MAX - 1 for none. */
static uint32_t slot_for(const void *page, slot_id after)
{
	struct entry *e = lookup(fingerprint_page(&seed, page));
	slot_id s;

	if (!e->used) {
		*e = (struct entry){fingerprint_page(&seed, page), UINT32_MAX, true};
		return UINT32_MAX - 1;
	}
	if (e->slot == UINT32_MAX) {
		if (store_reserve(store, 1, after, &s) != 1 || store_write(store, s, page, 1) != 1)
			return UINT32_MAX - 1;
		e->slot = s.n;
	}
	return e->slot;
}

static void block_find(struct target *t, struct remap_block *b)
{
	static uint8_t pages[RING_BLOCK_BYTES];
	static uint64_t entries[HUGE_PAGES];
	hva start = HVA(b->head.addr);
	uint64_t n = b->head.bytes >> PAGE_SHIFT;
	slot_id after = SLOT_ID_NONE;

	if (pread(t->process.pagemap_fd, entries, n * 8, (off_t)(start.addr >> PAGE_SHIFT) * 8) !=
	    (ssize_t)(n * 8))
		return;
	for (uint64_t i = 0; i < n; i++) {
		uint8_t *page = pages + i * PAGE_BYTES;
		uint32_t slot = UINT32_MAX - 1;

		/* Present, and not a store's page already. */
		if (entries[i] >> 63 && !(entries[i] >> 61 & 1) &&
		    process_read_pages(&t->process, hva_add_pages(start, i), 1, page) == 1)
			slot = page_is_zero(page) ? RING_SLOT_ZERO : slot_for(page, after);
		after = slot >= UINT32_MAX - 1 ? SLOT_ID_NONE : SLOT_ID(slot);
		if (slot != UINT32_MAX - 1)
			(void)run_of(b, hva_add_pages(start, i), slot);
	}
}

static void note(const struct remap_block *b, enum ring_op op)
{
	longest_nsec = MAX(longest_nsec, b->head.wait_nsec);
	for (uint32_t i = 0; i < b->head.n_runs; i++) {
		const struct ring_run *r = &b->runs[i];

		if (op == RING_RECLAIM) {
			reclaimed += r->merged;
			reclaim_busy += r->result == -EBUSY;
			reclaim_other += r->result < 0 && r->result != -EBUSY;
		} else if (op == RING_UNMERGE) {
			unmerged += r->merged;
		} else if (op == RING_MERGE) {
			*(r->slot == RING_SLOT_ZERO ? &zeros : &merged) += r->merged;
			busy += r->result == -EBUSY;
			stale += r->result == -ESTALE;
			absent += r->result == -ENOENT;
			copies += r->result == -EINVAL; /* copied since it was merged */
			other += r->result < 0 && r->result != -EBUSY && r->result != -ESTALE &&
				 r->result != -ENOENT && r->result != -EINVAL;
		}
	}
}

static void run_op(struct target *t, enum ring_op op, struct remap_block *b, uint32_t flags)
{
	int64_t r;

	b->head.flags = RING_MERGE_TRACK | flags;
	b->head.advice_mask = advice;
	r = agent_blocks(t->link, op, b, 1);
	if (r == -ESRCH)
		exit(0); /* the guest was killed: the test's doing */
	if (r != 1)
		die("batch", r);
	if (b->head.advice_failed)
		die("advice", -EIO);
	note(b, op);
}

struct lister {
	struct remap_block *block;
};

/* The store's mappings within the block. */
static int list_mapping(const struct mapping *m, void *userdata)
{
	struct remap_block *b = ((struct lister *)userdata)->block;
	uint64_t end = b->head.addr + b->head.bytes;
	uint64_t from = MAX(m->start.addr, b->head.addr), to = MIN(mapping_end(m).addr, end);
	slot_id first;
	uint64_t n;

	if (m->start.addr >= end)
		return -ECANCELED; /* seen all */
	if (from < to && store_mapping_slots(store, m, &first, &n))
		b->runs[b->head.n_runs++] = (struct ring_run){
			.addr = from,
			.n_pages = (uint32_t)((to - from) >> PAGE_SHIFT),
		};
	return 0;
}

static void block_list(struct target *t, struct remap_block *b)
{
	struct lister l = {b};
	int r = maps_read(t->process.proc_fd, "maps", list_mapping, &l);

	if (r < 0 && r != -ECANCELED && r != -ESRCH) /* a guest may be killed at any moment */
		die("maps", r);
}

/* Until all direct I/O from before now is over; false when that cannot be told in time. */
static bool wait_for_io(void)
{
	uint64_t begin = now_usec(), since;

	while (now_usec() < begin + 2 * USEC_PER_SEC) {
		int r = pins_quiet(&since);

		if (r < 0)
			return false;
		if (r > 0)
			return true;
		waits_for_io++;
		(void)usleep(1000);
	}
	return false;
}

static void block_reclaim(struct target *t, struct remap_block *b, uint32_t flags)
{
	if (direct_io) {
		run_op(t, RING_PROTECT, b, 0);
		if (!wait_for_io())
			return;
	} else {
		flags |= RING_RECLAIM_UNPINNED;
	}
	run_op(t, RING_RECLAIM, b, flags);
}

/* --- slots that nobody maps
 * ----------------------------------------------------------------------- */

static void drop_unmapped(void)
{
	struct slot_map *mapped = NULL;

	if (slot_map_new(STORE_PAGES, &mapped) < 0)
		die("slot map", -ENOMEM);
	for (size_t i = 0; i < n_targets; i++) {
		int r = store_mark_mapped(store, &targets[i].process, mapped);

		if (r < 0)
			die("maps", r);
	}
	for (uint32_t i = 0; i < TABLE_SLOTS; i++) {
		struct entry *e = &table[i];

		if (!e->used || e->slot == UINT32_MAX || slot_map_is_used(mapped, SLOT_ID(e->slot)))
			continue;
		if (store_drop(store, SLOT_ID(e->slot), 1) < 0)
			die("drop", -errno);
		e->slot = UINT32_MAX;
		dropped++;
	}
	slot_map_free(mapped);
}

/* ------------------------------------------------------------------------------------------------
 */

static void block_round(struct target *t, uint64_t number)
{
	static struct ring_run runs[REMAP_RUNS_MAX];
	struct remap_block b = {
		.head =
			{
				.addr = t->start.addr + number * RING_BLOCK_BYTES,
				.bytes = MIN(RING_BLOCK_BYTES, (t->n_pages << PAGE_SHIFT) -
								       number * RING_BLOCK_BYTES),
			},
		.runs = runs,
	};
	uint64_t dice = random_next() % 100;

	if (dice < 70) {
		block_find(t, &b);
		run_op(t, RING_MERGE, &b, 0);
		return;
	}
	block_list(t, &b);
	if (dice < 75)
		run_op(t, RING_UNMERGE, &b, 0);
	else
		block_reclaim(t, &b, dice < 85 ? RING_RECLAIM_WHOLE : 0);
}

static uint64_t blocks_of(const struct target *t)
{
	return DIV_ROUND_UP(t->n_pages << PAGE_SHIFT, RING_BLOCK_BYTES);
}

static void work(uint64_t seconds)
{
	uint64_t deadline = now_usec() + seconds * USEC_PER_SEC, passes = 0;

	for (;; passes++) {
		for (size_t i = 0; i < n_targets; i++)
			for (uint64_t b = 0; b < blocks_of(&targets[i]); b++) {
				if (now_usec() > deadline) {
					(void)printf("passes=%" PRIu64 " ", passes);
					return;
				}
				block_round(&targets[i], b);
			}
		drop_unmapped();
	}
}

/* Everything back to anonymous memory, one mapping a block; tried for a while, as guests run. */
static void give_back(struct target *t)
{
	static struct ring_run runs[REMAP_RUNS_MAX];
	uint64_t deadline = now_usec() + 120 * USEC_PER_SEC;

	for (uint64_t i = 0; i < blocks_of(t); i++) {
		struct remap_block b;

		do {
			b = (struct remap_block){
				.head =
					{
						.addr = t->start.addr + i * RING_BLOCK_BYTES,
						.bytes = MIN(RING_BLOCK_BYTES,
							     (t->n_pages << PAGE_SHIFT) -
								     i * RING_BLOCK_BYTES),
					},
				.runs = runs,
			};
			block_list(t, &b);
			if (b.head.n_runs)
				block_reclaim(t, &b, 0);
			if (now_usec() > deadline)
				die("giving back", -ETIMEDOUT);
		} while (b.head.n_runs);
	}
}

/* A busy guest may not let a thread be borrowed at once. */
static void agent_remove(struct target *t)
{
	char reason[AGENT_REASON_MAX] = "";
	int r = agent_detach(t->link, reason);

	for (int tries = 0; r == -EBUSY && tries < 200; tries++) {
		r = agent_adopt(&t->process, reason, &t->link);
		if (r == -ENOENT)
			return;
		if (r == 0)
			r = agent_detach(t->link, reason);
	}
	if (r < 0)
		die(reason[0] ? reason : "detach", r);
}

int main(int argc, char **argv)
{
	uint64_t seconds, advice_word, long_pins;

	if (argc < 5 || argc > 4 + (int)GUESTS_MAX || parse_u64(argv[1], 0, 3600, &seconds) < 0 ||
	    parse_u64(argv[2], 0, UINT32_MAX, &advice_word) < 0 ||
	    parse_u64(argv[3], 0, 1, &long_pins) < 0)
		return 2;
	advice = (uint32_t)advice_word;
	direct_io = long_pins;
	for (int i = 4; i < argc; i++)
		if (!target_parse(argv[i], &targets[n_targets++]))
			return 3;
	table = calloc(TABLE_SLOTS, sizeof(*table));
	if (!table)
		return 4;
	random_state ^= now_usec();
	fingerprint_seed_init(&seed);
	store_get();
	store_learn();
	for (size_t i = 0; i < n_targets; i++) {
		int r;

		agent_get(&targets[i]);
		uffd_get(&targets[i]);
		r = agent_map_store(targets[i].link, store);
		if (r < 0)
			die("map store", r);
	}
	if (seconds)
		work(seconds);
	for (size_t i = 0; i < n_targets; i++) {
		if (seconds == 0) {
			give_back(&targets[i]);
			agent_remove(&targets[i]);
		} else {
			agent_leave(targets[i].link);
		}
	}
	(void)printf("merged=%" PRIu64 " zeros=%" PRIu64 " busy=%" PRIu64 " stale=%" PRIu64
		     " absent=%" PRIu64 " copies=%" PRIu64 " other=%" PRIu64 " unmerged=%" PRIu64
		     " reclaimed=%" PRIu64 " reclaim_busy=%" PRIu64 " reclaim_other=%" PRIu64
		     " dropped=%" PRIu64 " used=%" PRIu64 " longest_usec=%" PRIu64
		     " io_waits=%" PRIu64 "\n",
		     merged, zeros, busy, stale, absent, copies, other, unmerged, reclaimed,
		     reclaim_busy, reclaim_other, dropped, store_used_pages(store),
		     longest_nsec / 1000, waits_for_io);
	return 0;
}
