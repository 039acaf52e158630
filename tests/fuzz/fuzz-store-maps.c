/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Any text as /proc/PID/maps: every file mapping in it is taken for one of the store, and the
 * slots that it keeps in use lie within the store. */
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "common/util.h"
#include "daemon/store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SLOTS 1000U

static struct store *store;
static struct stat st;

static int look(const struct mapping *seen, void *userdata _unused_)
{
	struct mapping m = *seen;
	slot_id first = SLOT_ID(0);
	uint64_t n = 0;

	if (m.inode == 0) {
		if (store_mapping_slots(store, &m, &first, &n))
			abort();
		return 0;
	}
	m.inode = st.st_ino;
	m.dev_major = major(st.st_dev);
	m.dev_minor = minor(st.st_dev);
	if (!store_mapping_slots(store, &m, &first, &n))
		return 0;
	if (m.flags & VMF_SHARED || n == 0 || n > m.n_pages || first.n + n > SLOTS ||
	    (uint64_t)first.n << PAGE_SHIFT > m.offset_bytes)
		abort();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct maps_reader reader;
	size_t used;

	if (!store &&
	    (store_new("fuzz", SLOTS, &store) < 0 || fstat(store_guest_fd(store), &st) < 0))
		abort();
	maps_reader_init(&reader, look, NULL);
	if (maps_feed(&reader, size ? (const char *)data : "", size, &used) == 0)
		(void)maps_end(&reader);
	return 0;
}
