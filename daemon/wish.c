/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/wish.h"

#include "common/util.h"

#define BACKOFF_MIN_USEC (5 * USEC_PER_SEC)
#define BACKOFF_MAX_USEC (300 * USEC_PER_SEC)

const char *wish_voucher_to_string(enum wish_voucher v)
{
	static const char *const names[] = {
		[WISH_NOBODY] = "nobody",
		[WISH_ROOT] = "root",
		[WISH_CLIENT] = "client",
		[WISH_LIBVIRT] = "libvirt",
	};
	static_assert(ARRAY_SIZE(names) == WISH_VOUCHER_MAX, "a name for each");

	return names[v];
}

enum wish_voucher wish_voucher(const struct guest *g, const struct libvirt_facts *facts,
			       const struct policy *runtime)
{
	if (facts)
		return WISH_LIBVIRT;
	if (runtime->set & (1U << POLICY_FIELD_ENABLED) && runtime->enabled == POLICY_YES)
		return WISH_CLIENT;
	return g->is_root && !g->own_program ? WISH_ROOT : WISH_NOBODY;
}

/* Of the largest block: what the guest's memory is made of, by and large. */
static const char *backing_of(const struct guest *g)
{
	const struct ram_block *largest = NULL;

	for (size_t i = 0; i < g->memory.n_blocks; i++)
		if (!largest || g->memory.blocks[i].n_pages > largest->n_pages)
			largest = &g->memory.blocks[i];
	return largest ? block_backing_to_string(largest->backing) : NULL;
}

static void keep_alone(struct policy *p)
{
	char reason[POLICY_REASON_MAX];
	int r;

	if (p->source[POLICY_FIELD_DOMAIN] != POLICY_SOURCE_SECTION || streq(p->domain, POLICY_SELF))
		return;
	r = policy_set(p, POLICY_FIELD_DOMAIN, POLICY_SELF, POLICY_SOURCE_DEFAULT,
		       "nobody vouches for this guest: see memshared.conf(5), Trust", reason);
	assert(r == 0);
	(void)r;
}

void wish_resolve(const struct policy_section *sections, size_t n, const struct guest *g,
		  const struct libvirt_facts *facts, const struct policy *runtime, struct policy *ret)
{
	enum wish_voucher voucher = wish_voucher(g, facts, runtime);
	struct policy_subject who = { .backing = backing_of(g) };

	if (facts) {
		who = libvirt_facts_subject(facts, who.backing);
	} else if (voucher != WISH_NOBODY) {
		who.name = *g->name ? g->name : NULL;
		who.uuid = *g->uuid ? g->uuid : NULL;
	}
	policy_resolve(sections, n, &who, facts ? &facts->policy : NULL, runtime, ret);
	if (voucher == WISH_NOBODY)
		keep_alone(ret);
}

void wish_refuse_engines(struct guest *g, const struct libvirt_facts *facts)
{
	const struct libvirt_refusal *why[LIBVIRT_REFUSALS_MAX];
	size_t n = libvirt_refusals(guest_shows(g) | (facts ? facts->flags : 0), why);
	const uint32_t all = 1U << POLICY_ENGINE_REMAP | 1U << POLICY_ENGINE_KSM | 1U << POLICY_ENGINE_ZERO;

	for (unsigned e = 0; e < POLICY_ENGINE_MAX; e++) {
		/* "auto" can do without an engine as long as another is left. */
		uint32_t needed = e == POLICY_ENGINE_AUTO ? all : 1U << e;

		g->engine_refusal[e][0] = '\0';
		for (size_t i = 0; i < n && !*g->engine_refusal[e]; i++)
			if ((why[i]->engines & needed) == needed)
				(void)snprintf(g->engine_refusal[e], GUEST_REASON_BYTES, "%s (remedy: %s)",
					       why[i]->why, why[i]->remedy);
	}
}

bool wish_must_reenter(const struct policy *now, const struct policy *wanted)
{
	return !streq(now->domain, wanted->domain) || now->engine != wanted->engine ||
	       now->tracker != wanted->tracker || now->inject != wanted->inject ||
	       /* The tracker arms huge pages or leaves them whole. */
	       (now->thp_split == 0) != (wanted->thp_split == 0);
}

enum wish_step wish_step(const struct guest *g, const struct wish *w)
{
	bool wanted = w->policy->enabled == POLICY_YES && !w->refused;

	switch (g->state) {
	case GUEST_ENTERING:
	case GUEST_LEAVING:
		return WISH_WAIT;
	case GUEST_ENROLLED:
		if (!wanted)
			return WISH_LEAVE;
		if (w->held)
			return WISH_WAIT;
		if (w->moved || wish_must_reenter(w->entered, w->policy))
			return WISH_LEAVE;
		if (g->memory_changed)
			return WISH_GROW;
		return policy_equal(w->entered, w->policy) ? WISH_NOTHING : WISH_ADAPT;
	case GUEST_FOUND:
	case GUEST_READY:
	case GUEST_REFUSED:
		if (!wanted && !w->left_behind)
			return WISH_NOTHING;
		if (w->held || w->resting)
			return WISH_WAIT;
		return wanted ? WISH_ENTER : WISH_CLEAR;
	case GUEST_GONE:
	case GUEST_STATE_MAX:
		break;
	}
	return WISH_NOTHING;
}

uint64_t wish_backoff_usec(unsigned failures)
{
	uint64_t usec = BACKOFF_MIN_USEC;

	for (unsigned i = 1; i < failures && usec < BACKOFF_MAX_USEC; i++)
		usec *= 2;
	return failures ? MIN(usec, BACKOFF_MAX_USEC) : 0;
}
