/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Trust domain: the set of guests that may share pages with each other, and the trees that
 * serve it. Pages of different domains never meet: each domain has its own trees and store, nothing
 * here takes two domains, and fingerprints are keyed by the domain, so that equal pages of two have
 * nothing in common that could be found.
 *
 * A page that was read comes in by domain_offer(); what became of it goes back through the
 * ledger. Owned by the daemon's loop.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/fingerprint.h"
#include "daemon/ledger.h"
#include "daemon/policy.h"
#include "daemon/stable.h"
#include "daemon/unstable.h"

#define DOMAIN_NAME_MAX 64

struct store;

struct domain {
	char *name; /* "self:PID" for a guest alone */
	struct fingerprint_seed seed; /* its own, and this daemon's */
	struct ledger *ledger; /* the daemon's */
	struct unstable *unstable; /* engine zero: no trees, nothing is ever looked for */
	struct stable *stable;
	char *store_name; /* of the store: for a guest alone "self:PID-START", which no other will have */
	struct store *store; /* engine remap: the shared pages; NULL where the kernel has them */
	unsigned n_members; /* those that enter or leave just now included */
	enum policy_engine engine; /* of all members: never AUTO */
	uint64_t zeros;	     /* pages in state ZEROS */
	uint64_t holes;	     /* pages in state HOLE */
	uint64_t candidates; /* pages in state CANDIDATE */
	uint64_t offered;    /* pages that became CANDIDATE or ZEROS, ever */
	uint64_t offered_last_round; /* the same when the last round of the engine began */
	uint64_t last_round_usec;    /* when it ended */
	uint64_t offered_before, offered_before_usec; /* some passes ago, and when (monotonic) */
	bool wave; /* so much was offered at once that the next round is not to wait for more */
	uint64_t next_round_usec;    /* not before: the last one was refused */
	unsigned round_backoff;	     /* rounds in a row that gained next to nothing, bounded */
	bool round_running;
	bool round_merges; /* with ksmd */
	bool fold_due;	   /* since the last one */
	/* Engine ksm: no pass before an audit (merge-ksm.h). A member yielded, all its pages count as
	 * written, those that KSM has merged too: frames tell what is still shared. */
	bool audit_wanted;
	/* Engine ksm: frames are to tell what is shared no more; passes need not wait for that. */
	bool audit_due;
	uint64_t next_audit_usec; /* not before */
	/* The store is an earlier daemon's. */
	bool adopted;
	bool adopting;	/* its slots are being read: no member is read or merged until that is done */
	/* Guests that are no members may map the store: an earlier daemon let them in, or they left and
	 * could not give everything back. */
	bool strangers;
	unsigned n_strangers; /* as of the last tidying */
	/* A guest that maps the store cannot be looked after: none of its slots is freed any more. */
	bool store_lost;
	uint64_t next_tidy_usec; /* engine remap: when the store is next tidied as a whole */
	uint64_t last_tidy_usec;
	bool untidy; /* something has changed since the whole was tidied, or could not be done then */
	uint64_t moved; /* pages that came to share, or ceased to, since then */
	bool unswept;	/* slots without sharers were left then: few, and more were to come */
	uint64_t orphans_left; /* records without sharers after the last sweep */
	struct domain *next;
};

int domain_new(struct ledger *l, const char *name, enum policy_engine engine, struct domain **ret);
void domain_free(struct domain *d);

enum domain_verdict {
	DOMAIN_UNIQUE,	  /* now in the unstable tree */
	DOMAIN_CANDIDATE, /* equal (by fingerprint) to a shared page */
	DOMAIN_PAIR,	  /* equal (by fingerprint) to *ret_twin, a page in the unstable tree; then
			     domain_join(), and the claim on the twin is to be given up */
	DOMAIN_LATER,	  /* equal (by fingerprint) to *ret_twin, which another page is joining: still YOUNG, to
			     be offered again when that is over */
	DOMAIN_LEFT_OUT,  /* a tree refused it (too many with this fingerprint, no memory) */
};

/* What follows will be offered soon: its look-ups' cache misses overlap (hashtree.h). */
void domain_prefetch(const struct domain *d, uint64_t fingerprint);
/* A YOUNG page was read and has this fingerprint. It is UNSTABLE, CANDIDATE or YOUNG afterwards,
 * or PAIRING for DOMAIN_PAIR (until domain_join() or domain_forget_*()). */
enum domain_verdict domain_offer(struct domain *d, struct ledger_block *b, page_id page,
				 uint64_t fingerprint, page_id *ret_twin);
/* The page was read and holds zeros. */
void domain_offer_zeros(struct domain *d, struct ledger_block *b, page_id page);
/* Two pages have this fingerprint: both become candidates of a new record, or (-EEXIST) of the one that there
 * is. slot is the store's copy, SLOT_ID_NONE without a store. Other errors as stable_insert(). */
int domain_join(struct domain *d, uint64_t fingerprint, slot_id slot, struct ledger_block *b1, page_id p1,
		struct ledger_block *b2, page_id p2);
/* The page equals this record's: it waits for the engine. */
void domain_make_candidate(struct domain *d, struct ledger_block *b, page_id page, record_id r);
/* Takes the page out of the trees and makes it YOUNG with this wait, or ABSENT. The page was
 * written or went away. */
void domain_forget_young(struct domain *d, struct ledger_block *b, page_id page, unsigned wait);
void domain_forget_absent(struct domain *d, struct ledger_block *b, page_id page);
/* The engine merged the page: CANDIDATE (or ZEROS) -> SHARED. */
void domain_merged(struct domain *d, struct ledger_block *b, page_id page, record_id record);
/* The engine made a hole of a page of zeros: ZEROS -> HOLE. */
void domain_made_hole(struct domain *d, struct ledger_block *b, page_id page);
/* Memory of the trees. */
uint64_t domain_bytes(const struct domain *d);
