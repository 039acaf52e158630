/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Why a guest cannot be enrolled under a policy, in words. */
#include "daemon/enrolment-private.h"

#include "common/kernel.h"
#include "common/util.h"

/* What the ledger and the trees take for a page: so much is reserved, from when its guest begins to
 * enter. */
#define TREE_PAGE_BYTES 24U

/* A trust domain has one engine: its guests share one store, or the kernel's tree. */
static bool other_engine(const struct manager *mgr, const struct guest *g, const char *domain,
			 enum policy_engine engine)
{
	for (const struct member *m = mgr->members; m; m = m->next)
		if (m->guest != g && streq(m->domain->name, domain) && m->domain->engine != engine)
			return true;
	return false;
}

/* Why no engine of this daemon can serve the guest under this policy. */
static bool engine_refuses(const struct manager *mgr, const struct guest *g, const struct policy *p,
			   char ret_reason[GUEST_REASON_BYTES])
{
	const size_t size = GUEST_REASON_BYTES;
	enum policy_engine engine = enroll_engine(mgr, p);

	if (*g->engine_refusal[engine])
		(void)snprintf(ret_reason, size, "%s", g->engine_refusal[engine]);
	else if (other_engine(mgr, g, p->domain, engine))
		(void)snprintf(ret_reason, size,
			       "the other guests of domain %s are served by another engine than %s",
			       p->domain, policy_engine_to_string(engine));
	else if (policy_engine_transacts(engine) && !kernel_allows_engine_remap())
		(void)snprintf(ret_reason, size,
			       "this kernel does not offer what engine %s needs: memshared --check "
			       "says what", policy_engine_to_string(engine));
	else if (policy_engine_transacts(engine))
		return false;
	else if (!mgr->merge_ksm)
		(void)snprintf(ret_reason, size, "engine ksm: %s", mgr->ksm_reason);
	else if (!streq(p->domain, mgr->config->ksm_domain))
		(void)snprintf(ret_reason, size,
			       "engine ksm serves domain %s only (KSM has one tree for the whole host), and "
			       "this guest is in domain %s",
			       mgr->config->ksm_domain, p->domain);
	else
		return false;
	return true;
}

uint64_t enrolment_tree_memory_max(const struct manager *mgr)
{
	uint64_t max = mgr->config->tree_memory_max_bytes;

	return max ? max : mgr->pressure.last.total_bytes / 100;
}

static uint64_t reserved_bytes(const struct member *m)
{
	uint64_t pages = m->growing_pages;

	for (size_t i = 0; i < m->n_blocks; i++)
		pages += m->blocks[i]->n_pages;
	return pages * TREE_PAGE_BYTES;
}

uint64_t enrolment_reserved_bytes(const struct manager *mgr)
{
	uint64_t bytes = 0;

	for (const struct member *m = mgr->members; m; m = m->next)
		bytes += reserved_bytes(m);
	for (const struct guest *g = registry_guests(mgr->registry); g; g = g->next)
		if (g->state == GUEST_ENTERING)
			bytes += memory_total_pages(&g->memory) * TREE_PAGE_BYTES;
	return bytes;
}

bool enrolment_exceeds_memory(const struct manager *mgr, uint64_t n_pages,
			      char ret_reason[GUEST_REASON_BYTES])
{
	uint64_t max = enrolment_tree_memory_max(mgr);
	uint64_t need = MAX(enrolment_reserved_bytes(mgr), manager_overhead_bytes(mgr)) +
			n_pages * TREE_PAGE_BYTES;

	if (need <= max || max == 0)
		return false;
	(void)snprintf(ret_reason, GUEST_REASON_BYTES,
		       "the daemon's bookkeeping would need %.1f MiB with it, and TreeMemoryMax is %.1f MiB: "
		       "raise that, or unenroll another guest",
		       (double)need / (1 << 20), (double)max / (1 << 20));
	return true;
}

/* Of the members, from the one enrolled first on (the last of the list), those stay whose
 * reservations fit. Returns what m and the ones before it that stay need; *ret_fits is for m. */
static uint64_t fit_in_order(const struct member *m, uint64_t max, bool *ret_fits)
{
	bool fits;
	uint64_t before = m->next ? fit_in_order(m->next, max, &fits) : 0;

	*ret_fits = before + reserved_bytes(m) <= max;
	return *ret_fits ? before + reserved_bytes(m) : before;
}

/* TreeMemoryMax may be less than when the member entered. */
static bool must_make_room(const struct manager *mgr, const struct member *m,
			   char ret_reason[GUEST_REASON_BYTES])
{
	uint64_t max = enrolment_tree_memory_max(mgr);
	bool fits = true;

	if (max > 0)
		(void)fit_in_order(m, max, &fits);
	if (!fits)
		(void)snprintf(ret_reason, GUEST_REASON_BYTES,
			       "TreeMemoryMax is %.1f MiB now, which the guests that were enrolled before it "
			       "need: raise that, or unenroll another guest",
			       (double)max / (1 << 20));
	return !fits;
}

bool enrolment_refuses(const struct guest *g, const struct policy *p, char ret_reason[GUEST_REASON_BYTES])
{
	const struct enrolment *e = g->enrolment;

	if (p->enabled != POLICY_YES)
		return false;
	if (*e->tied_to && !streq(e->tied_to, p->domain)) {
		(void)snprintf(ret_reason, GUEST_REASON_BYTES,
			       "pages of its former domain %s could not be given back: until it is enrolled "
			       "and unenrolled there again it enters no other",
			       e->tied_to);
		return true;
	}
	if (engine_refuses(e->mgr, g, p, ret_reason))
		return true;
	switch (g->state) {
	case GUEST_ENROLLED:
		return g->member && must_make_room(e->mgr, g->member, ret_reason);
	case GUEST_ENTERING: /* is reserved for */
	case GUEST_LEAVING:
		return false;
	default:
		return enrolment_exceeds_memory(e->mgr, memory_total_pages(&g->memory), ret_reason);
	}
}
