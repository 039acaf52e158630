/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Trust domains come with their first member and go with their last, and so do their stores, but
 * for those of an earlier daemon, which are adopted.
 */
#include "common/log.h"
#include "common/util.h"
#include "daemon/adopt.h"
#include "daemon/enrolment.h"
#include "daemon/manager.h"
#include "daemon/stores.h"

void manager_inherit(struct manager *mgr, const char *fd_name, int fd)
{
	stores_inherit(mgr->stores, fd_name, fd);
}

static void adopted(struct domain *d, uint64_t n_slots, void *userdata)
{
	struct manager *mgr = userdata;

	if (mgr->stopping)
		return;
	d->adopting = false;
	log_info("domain %s: %llu shared pages of an earlier daemon are adopted", d->name,
		 (unsigned long long)n_slots);
	for (struct member *m = mgr->members; m; m = m->next)
		if (m->domain == d)
			manager_entered_domain(mgr, m);
	manager_leave_domain(mgr, d);
	manager_schedule(mgr);
}

void manager_entered_domain(struct manager *mgr, struct member *m)
{
	struct log_guest who = member_log(m);

	if (!m->found || m->domain->adopting || m->gone)
		return;
	if (adopt_member(mgr->ledger, m) < 0)
		log_full(LOG_WARNING, &who, "there is no memory to count what it shares already");
}

static void bound_store(const struct manager *mgr, struct store *s)
{
	uint64_t pages = mgr->config->store_max_bytes / PAGE_BYTES;
	int r = store_set_capacity(s, MIN(pages ? pages : UINT64_MAX, store_file_bytes(s) / PAGE_BYTES));

	assert(r == 0); /* it never grows by that, see below */
	(void)r;
}

void manager_bound_stores(struct manager *mgr)
{
	for (struct domain *d = mgr->domains; d; d = d->next)
		if (d->store)
			bound_store(mgr, d->store);
}

/* The domain's store: as stores_get(). Its file and its map are made for as much as there is memory: workers
 * go by their size, and so the bound may change at any time. */
static int open_store(struct manager *mgr, struct domain *d)
{
	int r = stores_get(mgr->stores, d->store_name, (uint64_t)sysconf(_SC_PHYS_PAGES), mgr->store_users,
			   mgr->n_store_users, &d->store);

	if (r >= 0)
		bound_store(mgr, d->store);
	return r;
}

static int make_domain(struct manager *mgr, const char *name, const char *store_name,
		       enum policy_engine engine, struct domain **ret)
{
	struct domain *d;
	int r = domain_new(mgr->ledger, name, engine, &d);

	if (r < 0)
		return r;
	d->store_name = strdup(store_name);
	r = d->store_name ? 0 : -ENOMEM;
	if (r >= 0 && engine == POLICY_ENGINE_REMAP)
		r = open_store(mgr, d);
	if (r > STORES_NEW) {
		log_info("domain %s: %s has kept the store of an earlier daemon", name,
			 r == STORES_FROM_SYSTEMD ? "systemd" : "a guest");
		d->adopted = d->strangers = true;
		r = adopt_start(&mgr->pass_env, d, adopted, mgr);
		d->adopting = r >= 0;
		d->n_members += d->adopting;
	}
	if (r < 0) {
		domain_free(d);
		return r;
	}
	/* A new store is in order; what an earlier daemon left is looked at as a whole as soon as it is calm. */
	if (!d->adopted)
		d->next_tidy_usec = manager_next_whole_tidy(mgr, now_usec());
	d->next = mgr->domains;
	mgr->domains = d;
	*ret = d;
	return 0;
}

int manager_enter_domain(struct manager *mgr, const char *name, const char *store_name,
			 enum policy_engine engine, struct domain **ret)
{
	struct domain *d = mgr->domains;
	int r;

	while (d && !streq(d->name, name))
		d = d->next;
	if (d && d->engine != engine)
		return -EXDEV;
	if (!d) {
		r = make_domain(mgr, name, store_name, engine, &d);
		if (r < 0)
			return r;
	}
	d->n_members++;
	*ret = d;
	return 0;
}

void manager_note_stranger(struct manager *mgr, const struct member *m)
{
	struct domain *d = m->domain;
	struct kept_store_user *grown;

	if (!d->store)
		return;
	d->strangers = true;
	for (size_t i = 0; i < mgr->n_store_users; i++)
		if (mgr->store_users[i].pid == m->process->pid &&
		    mgr->store_users[i].start_ticks == m->process->start_ticks &&
		    streq(mgr->store_users[i].store, store_label(d->store)))
			return;
	grown = reallocarray(mgr->store_users, mgr->n_store_users + 1, sizeof(*grown));
	if (!grown) {
		d->store_lost = true;
		return;
	}
	mgr->store_users = grown;
	grown += mgr->n_store_users++;
	*grown = (struct kept_store_user){ .pid = m->process->pid, .start_ticks = m->process->start_ticks };
	(void)snprintf(grown->store, sizeof(grown->store), "%s", store_label(d->store));
}

void manager_leave_domain(struct manager *mgr, struct domain *d)
{
	struct domain **at = &mgr->domains;

	if (!d || --d->n_members > 0)
		return;
	while (*at != d)
		at = &(*at)->next;
	*at = d->next;
	if (d->store)
		stores_drop(mgr->stores, d->store_name);
	domain_free(d);
}
