/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/grow.h"

#include "common/fault.h"
#include "common/log.h"
#include "common/util.h"
#include "daemon/numa.h"

struct grow {
	struct work work; /* must be first */
	struct manager *mgr;
	struct member *m; /* a reference */
	struct ram_block blocks[RAM_BLOCKS_MAX];
	size_t n_blocks;
	struct numa_range policies[RAM_BLOCKS_MAX]; /* of the blocks */
	int error;
	enroll_done_fn *done;
	void *userdata;
};

/* --- which ------------------------------------------------------------------------------- */

static bool is_block(const struct ram_block *b, const struct ledger_block *l)
{
	return b->start.addr == l->start.addr && b->n_pages == l->n_pages;
}

/* Those that engines serve and the member has not; -EXDEV when some of the member's went. */
static int find_new(const struct member *m, struct ram_block ret[RAM_BLOCKS_MAX], size_t *ret_n)
{
	const struct guest_memory *memory = &m->guest->memory;
	size_t known = 0, n = 0;

	for (size_t i = 0; i < memory->n_blocks; i++) {
		const struct ram_block *b = &memory->blocks[i];
		bool had = false;

		if (*b->refusal)
			continue;
		for (size_t k = 0; k < m->n_blocks && !had; k++)
			had = is_block(b, m->blocks[k]);
		if (had)
			known++;
		else
			ret[n++] = *b;
	}
	*ret_n = n;
	return known == m->n_blocks && known + n <= RAM_BLOCKS_MAX ? 0 : -EXDEV;
}

int64_t grow_pages(const struct member *m)
{
	struct ram_block blocks[RAM_BLOCKS_MAX];
	int64_t pages = 0;
	size_t n;
	int r = find_new(m, blocks, &n);

	for (size_t i = 0; i < n; i++)
		pages += (int64_t)blocks[i].n_pages;
	return r < 0 ? r : pages;
}

/* --- the worker ---------------------------------------------------------------------------- */

/* As when a guest enters: engine remap must be able to put them back. */
static int find_policies(struct grow *g)
{
	int r;

	for (size_t i = 0; i < g->n_blocks; i++)
		g->policies[i] = (struct numa_range){ g->blocks[i].start, g->blocks[i].n_pages, 0 };
	r = numa_read(g->m->process->proc_fd, g->policies, g->n_blocks);
	return g->m->policy.engine == POLICY_ENGINE_REMAP ? r : 0;
}

static int arm_all(struct grow *g)
{
	for (size_t i = 0; i < g->n_blocks; i++) {
		int r = tracker_arm(g->m->tracker, g->blocks[i].start, g->blocks[i].n_pages);

		if (r < 0)
			return r;
	}
	return 0;
}

static void disarm_all(struct grow *g)
{
	for (size_t i = 0; i < g->n_blocks; i++)
		(void)tracker_disarm(g->m->tracker, g->blocks[i].start, g->blocks[i].n_pages);
}

static void grow_run(struct work *w)
{
	struct grow *g = (struct grow *)w;
	struct range_set ram = { 0 };

	g->error = find_policies(g);
	for (size_t i = 0; i < g->n_blocks && g->error >= 0; i++)
		g->error = range_set_add(&ram, g->blocks[i].start.addr,
					 hva_add_pages(g->blocks[i].start, g->blocks[i].n_pages).addr);
	if (g->error >= 0)
		g->error = merge_ksm_grow(g->m, g->mgr->guests_fd, &ram);
	FAULT_POINT("grow-unmarked");
	if (g->error >= 0)
		g->error = arm_all(g);
	if (g->error < 0)
		disarm_all(g);
	range_set_done(&ram);
}

/* --- the loop ------------------------------------------------------------------------------- */

static int admit(struct grow *g)
{
	struct member *m = g->m;
	size_t before = m->n_blocks;

	for (size_t i = 0; i < g->n_blocks; i++) {
		int r = ledger_add_block(g->mgr->ledger, m, g->blocks[i].start, g->blocks[i].n_pages,
					 &m->blocks[m->n_blocks]);

		if (r < 0) {
			while (m->n_blocks > before)
				ledger_remove_block(g->mgr->ledger, m->blocks[--m->n_blocks]);
			return r;
		}
		m->blocks[m->n_blocks]->vm_flags = g->blocks[i].flags;
		m->blocks[m->n_blocks++]->policy = g->policies[i].policy;
	}
	return 0;
}

static void grow_done(struct work *w)
{
	struct grow *g = (struct grow *)w;
	struct manager *mgr = g->mgr;
	struct member *m = g->m;
	struct log_guest who = member_log(m);

	m->busy = false;
	m->growing_pages = 0;
	m->counts.cpu_nsec += w->cpu_nsec;
	if (g->error >= 0 && !m->gone && !mgr->stopping) {
		g->error = admit(g);
		if (g->error < 0)
			disarm_all(g);
		else
			log_full(LOG_INFO, &who, "has more memory: %zu new blocks are taken in", g->n_blocks);
	}
	if (!mgr->stopping) {
		if (g->error == -ESRCH)
			m->gone = true;
		if (m->gone)
			enroll_finish_leaving(mgr, m);
		else
			g->done(m->guest, g->error, g->error < 0 ? strerror(-g->error) : "", g->userdata);
		manager_schedule(mgr);
	}
	member_unref(m);
	free(g);
}

int grow_start(struct manager *mgr, struct member *m, enroll_done_fn *done, void *userdata)
{
	struct grow *g;
	int r;

	if (m->busy && mgr->merge_ksm)
		merge_ksm_cut(mgr->merge_ksm, m);
	if (m->busy || m->gone || m->yield.state != YIELD_NO)
		return -EBUSY;
	g = calloc(1, sizeof(*g));
	if (!g)
		return -ENOMEM;
	*g = (struct grow){
		.work = { .run = grow_run, .done = grow_done },
		.mgr = mgr,
		.m = m,
		.done = done,
		.userdata = userdata,
	};
	r = find_new(m, g->blocks, &g->n_blocks);
	if (r >= 0)
		r = work_submit(mgr->pool, &g->work);
	if (r < 0) {
		free(g);
		return r;
	}
	m->busy = true;
	for (size_t i = 0; i < g->n_blocks; i++)
		m->growing_pages += g->blocks[i].n_pages;
	(void)member_ref(m);
	return 0;
}
