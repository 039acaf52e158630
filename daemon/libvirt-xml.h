/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a libvirt domain's XML says that matters here: who the guest is, its policy element,
 * and what its hardware and memory set-up forbid. The process itself is looked at
 * elsewhere (memory.h); each may know of a refusal that the other does not.
 *
 * The parser is pure and bounded; the text is what a tenant may have had a hand in.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/policy.h"

#define LIBVIRT_XML_MAX_BYTES  (4U << 20) /* libvirt's own bound for a string of its protocol */
#define LIBVIRT_METADATA_MAX   64U	  /* items kept for match-metadata, of more */
#define LIBVIRT_METADATA_BYTES 256U	  /* longer items are left out: a cut one could match */

enum libvirt_flag {
	LIBVIRT_UNREADABLE = 1 << 0,   /* the XML was refused: nothing else is known */
	LIBVIRT_NOSHAREPAGES = 1 << 1, /* <memoryBacking><nosharepages/> */
	LIBVIRT_LOCKED = 1 << 2,       /* <locked/> */
	LIBVIRT_HUGEPAGES = 1 << 3,    /* <hugepages/> */
	LIBVIRT_SHARED = 1 << 4,       /* shared access, of all memory or of a NUMA cell */
	LIBVIRT_FILE = 1 << 5,	       /* file or memfd behind the memory */
	LIBVIRT_SECURE = 1 << 6,       /* <launchSecurity>: encrypted memory */
	LIBVIRT_VFIO = 1 << 7,	       /* a PCI or mediated device, or NVMe by VFIO */
	LIBVIRT_VDPA = 1 << 8,
	LIBVIRT_VHOST_USER = 1 << 9, /* vhost-user or virtiofs */
	LIBVIRT_VIRTIO_MEM = 1 << 10,
	LIBVIRT_PAGE_REPORTING = 1 << 11, /* balloon with free page reporting */
	LIBVIRT_NVDIMM = 1 << 12,	  /* nvdimm, virtio-pmem: a file as memory */
	LIBVIRT_VHOST_SCSI = 1 << 13,	  /* vhost-scsi, or a vhost device that nobody knows here */
	/* Only processes show these. */
	LIBVIRT_SHARED_BLOCK = 1 << 14, /* of the RAM blocks one is shared */
	LIBVIRT_DIRECT_NET = 1 << 15,	/* direct I/O on a network file system */
	LIBVIRT_UNSEEN = 1 << 16,	/* more descriptors than are looked at */
	LIBVIRT_FLAGS_END = 1 << 17, /* of those that an engine refuses for */
	LIBVIRT_HAS_BALLOON = LIBVIRT_FLAGS_END, /* its process or monitor shows one, without page reporting */
};

struct libvirt_facts {
	char name[256], uuid[37];
	char title[256]; /* cut */
	int id;		 /* of this run of the domain; -1 when it does not run */
	uint32_t flags;	 /* enum libvirt_flag */
	bool has_policy; /* there is a <policy> element, good or not */
	/* From the element; after a malformed one policy_refuse()d, with the reason below. */
	struct policy policy;
	char policy_error[POLICY_REASON_MAX]; /* "" when the element is good or absent */
	/* For match-metadata, for each attribute and text of foreign elements:
	 * "{namespace}element/child@attribute=value" and "{namespace}element/child=text". */
	char **metadata;
	size_t n_metadata;
};

/* -EINVAL, -EFBIG or -ENOMEM; ret_reason (POLICY_REASON_MAX) says why. */
int libvirt_parse_xml(const char *buf, size_t len, struct libvirt_facts **ret,
		      char ret_reason[POLICY_REASON_MAX]);
/* What is left of a domain whose XML was refused: LIBVIRT_UNREADABLE, enabled=no. */
int libvirt_facts_unreadable(const char *name, const char *uuid, const char *reason,
			     struct libvirt_facts **ret);
void libvirt_facts_free(struct libvirt_facts *f);
void libvirt_facts_freep(struct libvirt_facts **f);
/* Points into f. backing: as the process shows it, or NULL to go by the XML. */
struct policy_subject libvirt_facts_subject(const struct libvirt_facts *f, const char *backing);

/* Why an engine does not serve the guest, and what would change that. */
struct libvirt_refusal {
	uint32_t flag;	  /* the fact that it follows from */
	uint32_t engines; /* 1 << enum policy_engine: those that it forbids */
	const char *why;
	const char *remedy;
};
#define LIBVIRT_REFUSALS_MAX 32U
/* Writes pointers to constants; returns how many. */
size_t libvirt_refusals(uint32_t flags, const struct libvirt_refusal *ret[LIBVIRT_REFUSALS_MAX]);
