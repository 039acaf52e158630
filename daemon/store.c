/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <systemd/sd-daemon.h>

#include "common/fault.h"
#include "common/util.h"

/* SHRINK, because a mapping beyond the file's end is SIGBUS for the guest; SEAL, so that nobody
 * adds another (none could without write access; this is for our own bugs). */
#define STORE_SEALS (F_SEAL_SHRINK | F_SEAL_SEAL)
#define STORE_MODE  0400
/* A guest that has more is looked for a mapping. */
#define DESCRIPTORS_MAX 4096U

struct store {
	int fd;	      /* for writing: never leaves the daemon, but to systemd */
	int guest_fd; /* for reading */
	uint64_t capacity_pages;
	struct slot_map *slots; /* as many as the file has */
	dev_t dev;
	ino_t ino;
	char label[STORE_LABEL_BYTES];
};

/* --- identity of the file ----------------------------------------------------------------------
 */

static int label_of(const char *domain, char ret[STORE_LABEL_BYTES])
{
	uint8_t hash[EVP_MAX_MD_SIZE];

	if (EVP_Digest(domain, strlen(domain), hash, NULL, EVP_sha256(), NULL) != 1)
		return -EIO;
	for (size_t i = 0; i < (STORE_LABEL_BYTES - 1) / 2; i++)
		(void)snprintf(ret + 2 * i, 3, "%02x", hash[i]);
	return 0;
}

void store_fd_name(const char *domain, char ret[STORE_FD_NAME_MAX])
{
	char label[STORE_LABEL_BYTES] = "";

	(void)label_of(domain, label);
	(void)snprintf(ret, STORE_FD_NAME_MAX, STORE_FD_NAME "-%s", label);
}

static void fd_path(int fd, char ret[64])
{
	(void)snprintf(ret, 64, "/proc/self/fd/%d", fd);
}

/* Whether fd (O_PATH will do) is a memfd that only root, which is us, can have made so. */
static int file_check(int fd)
{
	struct statfs fs;
	struct stat st;

	if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || (st.st_mode & 07777) != STORE_MODE || st.st_uid != geteuid() ||
	    st.st_nlink != 0 || fs.f_type != TMPFS_MAGIC)
		return -EPERM;
	return 0;
}

/* Whether it is called what this domain's store is called. */
static int file_check_name(int fd, const char *label)
{
	char path[64], name[128], wanted[128];
	ssize_t n;

	fd_path(fd, path);
	n = readlink(path, name, sizeof(name) - 1);
	if (n < 0)
		return -errno;
	name[n] = '\0';
	(void)snprintf(wanted, sizeof(wanted), "/memfd:%s-%s (deleted)", STORE_MEMFD_NAME, label);
	return streq(name, wanted) ? 0 : -ENODEV;
}

/* --- making and finding ------------------------------------------------------------------------
 */

/* Takes over fd also on failure. */
static int store_wrap(int fd, const char *label, uint64_t capacity_pages, struct store **ret)
{
	struct store *s = calloc(1, sizeof(*s));
	struct stat st;
	char path[64];
	int r;

	if (!s) {
		(void)close(fd);
		return -ENOMEM;
	}
	s->fd = fd;
	s->guest_fd = -1;
	(void)snprintf(s->label, sizeof(s->label), "%s", label);
	fd_path(fd, path);
	s->guest_fd = open(path, O_RDONLY | O_CLOEXEC);
	r = s->guest_fd < 0 || fstat(fd, &st) < 0 ? -errno : 0;
	if (r == 0)
		r = slot_map_new((uint64_t)st.st_size >> PAGE_SHIFT, &s->slots);
	if (r == 0) {
		s->dev = st.st_dev;
		s->ino = st.st_ino;
		r = store_set_capacity(s, capacity_pages);
	}
	if (r < 0)
		store_free(s);
	else
		*ret = s;
	return r;
}

int store_new(const char *domain, uint64_t capacity_pages, struct store **ret)
{
	char label[STORE_LABEL_BYTES], name[64];
	_cleanup_close_ int fd = -1;
	int r = label_of(domain, label);

	if (r < 0)
		return r;
	(void)snprintf(name, sizeof(name), "%s-%s", STORE_MEMFD_NAME, label);
	fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	/* Closed to others before anything is in it. */
	if (fd < 0 || fchmod(fd, STORE_MODE) < 0 || fcntl(fd, F_ADD_SEALS, STORE_SEALS) < 0)
		return -errno;
	return store_wrap(TAKE_FD(fd), label, capacity_pages, ret);
}

/* What holds data is in use. Swapped pages count as data. */
static int slots_rebuild(struct store *s)
{
	off_t end = (off_t)store_file_bytes(s), data = 0, hole;

	while (data < end) {
		data = lseek(s->fd, data, SEEK_DATA);
		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		hole = lseek(s->fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		slot_map_set(s->slots, SLOT_ID(data >> PAGE_SHIFT),
			     (uint64_t)(hole - data) >> PAGE_SHIFT, true);
		data = hole;
	}
	return 0;
}

int store_adopt(const char *domain, uint64_t capacity_pages, int fd, struct store **ret)
{
	_cleanup_close_ int owned = fd;
	char label[STORE_LABEL_BYTES];
	struct store *s;
	int r = label_of(domain, label), flags = fcntl(fd, F_GETFL);

	if (r < 0)
		return r;
	r = file_check(fd);
	if (r == 0 && ((flags & O_ACCMODE) != O_RDWR || fcntl(fd, F_GET_SEALS) != STORE_SEALS))
		r = -EPERM;
	if (r == 0)
		r = file_check_name(fd, label);
	if (r == 0)
		r = store_wrap(TAKE_FD(owned), label, capacity_pages, &s);
	if (r < 0)
		return r;
	r = slots_rebuild(s);
	if (r < 0)
		store_free(s);
	else
		*ret = s;
	return r;
}

struct finder {
	const struct process *process;
	char name[64]; /* as it stands in maps */
	const char *label;
	int fd;
};

/* what is within /proc/PID. It may go, or turn into another file, before it is opened: what was opened
 * is asked. */
static int find_open(struct finder *f, const char *what)
{
	_cleanup_close_ int seen = -1, fd = -1;
	char path[64];
	int r;

	/* O_PATH first: opening whatever it is might do something. */
	seen = openat(f->process->proc_fd, what, O_PATH | O_CLOEXEC);
	if (seen < 0)
		return -errno;
	r = file_check(seen);
	if (r < 0)
		return r;
	fd_path(seen, path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fcntl(fd, F_GET_SEALS) != STORE_SEALS)
		return -EPERM;
	r = file_check_name(fd, f->label);
	if (r < 0)
		return r;
	f->fd = TAKE_FD(fd);
	return 0;
}

static int find_look(const struct mapping *m, void *userdata)
{
	struct finder *f = userdata;

	char path[64];

	if (!streq(m->name, f->name))
		return 0;
	(void)snprintf(path, sizeof(path), "map_files/%" PRIx64 "-%" PRIx64, m->start.addr,
		       mapping_end(m).addr);
	/* A guest may call its own files so: those fail the check, and the search goes on. */
	return find_open(f, path) == 0 ? -ECANCELED : 0;
}

/* The agent holds one: sooner found than a mapping. 0 when there is none that is good. */
static int find_descriptor(struct finder *f)
{
	int fd = openat(f->process->proc_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	unsigned n = 0;
	struct dirent *e;
	int found = 0;

	if (!d) {
		close_fdp(&fd);
		return 0;
	}
	while (!found && n++ < DESCRIPTORS_MAX && (e = readdir(d))) {
		char name[128], path[16];
		ssize_t len = readlinkat(dirfd(d), e->d_name, name, sizeof(name) - 1);

		if (len < 0)
			continue;
		name[len] = '\0';
		(void)snprintf(path, sizeof(path), "fd/%.10s", e->d_name);
		found = streq(name, f->name) && find_open(f, path) == 0;
	}
	(void)closedir(d);
	return found;
}

int store_find(const char *domain, const struct process *p, int *ret_fd)
{
	char label[STORE_LABEL_BYTES];
	struct finder f = {.process = p, .label = label, .fd = -1};
	int r = label_of(domain, label);

	if (r < 0)
		return r;
	(void)snprintf(f.name, sizeof(f.name), "/memfd:%s-%s (deleted)", STORE_MEMFD_NAME, label);
	if (!find_descriptor(&f))
		r = maps_read(p->proc_fd, "maps", find_look, &f);
	if (f.fd < 0)
		return r < 0 ? r : -ENOENT;
	*ret_fd = f.fd;
	return 0;
}

void store_free(struct store *s)
{
	if (!s)
		return;
	close_fdp(&s->fd);
	close_fdp(&s->guest_fd);
	slot_map_free(s->slots);
	free(s);
}

int store_keep(const struct store *s)
{
	char text[STORE_FD_NAME_MAX + 32];

	(void)snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=" STORE_FD_NAME "-%s", s->label);
	return sd_pid_notify_with_fds(0, 0, text, &s->fd, 1);
}

int store_forget(const char *domain)
{
	char name[STORE_FD_NAME_MAX], text[STORE_FD_NAME_MAX + 32];

	store_fd_name(domain, name);
	(void)snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%s", name);
	return sd_notify(0, text);
}

int store_guest_fd(const struct store *s)
{
	return s->guest_fd;
}

uint64_t store_file_bytes(const struct store *s)
{
	return slot_map_size(s->slots) << PAGE_SHIFT;
}

const char *store_label(const struct store *s)
{
	return s->label;
}

/* --- capacity ------------------------------------------------------------------------------------
 */

uint64_t store_capacity_pages(const struct store *s)
{
	return s->capacity_pages;
}

int store_set_capacity(struct store *s, uint64_t capacity_pages)
{
	int r;

	if (capacity_pages > slot_map_size(s->slots)) {
		if (capacity_pages > SLOT_MAP_MAX)
			return -E2BIG;
		if (ftruncate(s->fd, (off_t)(capacity_pages << PAGE_SHIFT)) < 0)
			return -errno;
		/* On failure the file is larger than the map, which harms nothing. */
		r = slot_map_grow(s->slots, capacity_pages);
		if (r < 0)
			return r;
	}
	s->capacity_pages = capacity_pages;
	return 0;
}

uint64_t store_used_pages(const struct store *s)
{
	return slot_map_used(s->slots);
}

bool store_is_full(const struct store *s)
{
	return store_used_pages(s) >= s->capacity_pages;
}

bool store_is_used(const struct store *s, slot_id slot)
{
	return slot_map_is_used(s->slots, slot);
}

uint64_t store_next_used(const struct store *s, uint64_t from, slot_id *ret_first)
{
	return slot_map_next_run(s->slots, from, slot_map_size(s->slots), true, ret_first);
}

/* --- pages
 * ----------------------------------------------------------------------------------------- */

static off_t slot_offset(slot_id s)
{
	return (off_t)((uint64_t)s.n << PAGE_SHIFT);
}

static int slots_punch(const struct store *s, slot_id first, uint64_t n_pages)
{
	int r = FAULT_ERRNO("store-punch");

	if (r < 0)
		return r;
	return fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, slot_offset(first),
			 (off_t)(n_pages << PAGE_SHIFT)) < 0
		       ? -errno
		       : 0;
}

int64_t store_reserve(struct store *s, uint32_t n_pages, slot_id after, slot_id *ret_first)
{
	uint64_t used = store_used_pages(s);

	if (used >= s->capacity_pages)
		return -ENOSPC;
	n_pages = (uint32_t)MIN(n_pages, s->capacity_pages - used);
	return slot_map_take(s->slots, n_pages, after, slot_map_size(s->slots), ret_first);
}

void store_release(struct store *s, slot_id first, uint32_t n_pages)
{
	/* Free, whether or not the hole could be punched: what is left there is written over. */
	(void)slots_punch(s, first, n_pages);
	slot_map_set(s->slots, first, n_pages, false);
}

int64_t store_write(const struct store *s, slot_id first, const void *pages, uint32_t n_pages)
{
	uint64_t done = 0, bytes = (uint64_t)n_pages << PAGE_SHIFT;
	int r = FAULT_ERRNO("store-write");

	/* A daemon killed from here on leaves slots with data that no guest maps: the next one
	 * finds them in use (slots_rebuild) and drops them. */
	while (r == 0 && done < bytes) {
		ssize_t n = pwrite(s->fd, (const char *)pages + done, bytes - done,
				   slot_offset(first) + (off_t)done);

		if (n >= 0)
			done += (uint64_t)n;
		else if (errno != EINTR)
			r = errno == EFBIG || errno == EDQUOT ? -ENOMEM : -errno;
	}
	FAULT_POINT("store-written");
	return done >= PAGE_BYTES ? (int64_t)(done >> PAGE_SHIFT) : r;
}

int store_read(const struct store *s, slot_id first, uint32_t n_pages, void *ret_pages)
{
	uint64_t done = 0, bytes = (uint64_t)n_pages << PAGE_SHIFT;

	while (done < bytes) {
		ssize_t n = pread(s->fd, (char *)ret_pages + done, bytes - done,
				  slot_offset(first) + (off_t)done);

		if (n == 0)
			return -ENODATA;
		if (n > 0)
			done += (uint64_t)n;
		else if (errno != EINTR)
			return -errno;
	}
	return 0;
}

int store_drop(struct store *s, slot_id first, uint32_t n_pages)
{
	int r;

	/* The point of no return. Killed before it: in use still, dropped by the next daemon. */
	r = slots_punch(s, first, n_pages);
	FAULT_POINT("store-punched");
	if (r == 0)
		slot_map_set(s->slots, first, n_pages, false);
	return r;
}

/* --- mappings
 * --------------------------------------------------------------------------------------- */

bool store_mapping_slots(const struct store *s, const struct mapping *m, slot_id *ret_first,
			 uint64_t *ret_n)
{
	uint64_t first = m->offset_bytes >> PAGE_SHIFT, size = slot_map_size(s->slots);

	/* Shared ones are windows for reading (the agent's), which keep nothing. */
	if (m->flags & VMF_SHARED || m->inode != s->ino || m->dev_major != major(s->dev) ||
	    m->dev_minor != minor(s->dev) || first >= size)
		return false;
	*ret_first = SLOT_ID(first);
	*ret_n = MIN(m->n_pages, size - first);
	return true;
}

struct marker {
	const struct store *store;
	struct slot_map *mapped;
};

static int mark_mapping(const struct mapping *m, void *userdata)
{
	struct marker *k = userdata;
	slot_id first;
	uint64_t n;

	if (store_mapping_slots(k->store, m, &first, &n))
		slot_map_set(k->mapped, first, n, true);
	return 0;
}

int store_mark_mapped(const struct store *s, const struct process *p, struct slot_map *mapped)
{
	_cleanup_close_ int fd = openat(p->proc_fd, "maps", O_RDONLY | O_CLOEXEC);
	struct marker k = {.store = s, .mapped = mapped};
	int r = fd < 0 ? -errno : maps_query(fd, 0, UINT64_MAX, true, mark_mapping, &k);

	if (r == -EOPNOTSUPP)
		r = maps_read(p->proc_fd, "maps", mark_mapping, &k);
	return r == -ESRCH || r == -ENOENT ? 0 : r;
}
