/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Why a guest cannot be enrolled under a policy, in words. */
#include "daemon/enrolment-private.h"

#include "common/kernel.h"
#include "common/util.h"

/* What the ledger and the trees take for a page at most, unless it is shared. */
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

bool enrolment_exceeds_memory(const struct manager *mgr, uint64_t n_pages,
			      char ret_reason[GUEST_REASON_BYTES])
{
	uint64_t max = enrolment_tree_memory_max(mgr);
	uint64_t need = manager_overhead_bytes(mgr) + n_pages * TREE_PAGE_BYTES;

	if (need <= max || max == 0)
		return false;
	(void)snprintf(ret_reason, GUEST_REASON_BYTES,
		       "the daemon's bookkeeping would need %llu MiB with this guest, and TreeMemoryMax is "
		       "%llu MiB",
		       (unsigned long long)(need >> 20), (unsigned long long)(max >> 20));
	return true;
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
	return engine_refuses(e->mgr, g, p, ret_reason) ||
	       (g->state != GUEST_ENROLLED && enrolment_exceeds_memory(e->mgr, memory_total_pages(&g->memory), ret_reason));
}
