/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/stores.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include "common/io.h"
#include "common/log.h"
#include "common/util.h"

#define NOTE_BYTES     256
#define UNFINISHED     ".new"
#define BOOT_ID	       "/proc/sys/kernel/random/boot_id"
/* systemd gives no more than FileDescriptorStoreMax. */
#define INHERITED_MAX 4096U

struct stores {
	int dir_fd; /* of the notes */
	struct inherited {
		char name[STORE_FD_NAME_MAX];
		int fd;
	} *inherited;
	size_t n_inherited;
	/* Names of stores in use. */
	char (*used)[STORE_FD_NAME_MAX];
	size_t n_used;
};

int stores_new(const char *state_directory, struct stores **ret)
{
	_cleanup_free_ char *path = NULL;
	struct stores *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->dir_fd = -1;
	if (asprintf(&path, "%s/stores", state_directory) < 0) {
		free(s);
		return -ENOMEM;
	}
	if (mkdir(path, 0700) == 0 || errno == EEXIST)
		s->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (s->dir_fd < 0) {
		int r = -errno;

		free(s);
		return r;
	}
	*ret = s;
	return 0;
}

static void remove_inherited(struct stores *s, size_t i)
{
	close_fdp(&s->inherited[i].fd);
	s->inherited[i] = s->inherited[--s->n_inherited];
}

void stores_free(struct stores *s)
{
	if (!s)
		return;
	while (s->n_inherited > 0)
		remove_inherited(s, 0);
	close_fdp(&s->dir_fd);
	free(s->inherited);
	free(s->used);
	free(s);
}

void stores_inherit(struct stores *s, const char *fd_name, int fd)
{
	struct inherited *grown = NULL;

	if (s->n_inherited < INHERITED_MAX && strlen(fd_name) < STORE_FD_NAME_MAX)
		grown = reallocarray(s->inherited, s->n_inherited + 1, sizeof(*grown));
	if (!grown) {
		(void)close(fd);
		return;
	}
	s->inherited = grown;
	s->inherited[s->n_inherited].fd = fd;
	strcpy(s->inherited[s->n_inherited++].name, fd_name);
}

/* --- notes --------------------------------------------------------------------------- */

/* What tells this file, and its domain, from any other that there is or was. */
static int describe(const char *domain, int fd, char ret[NOTE_BYTES])
{
	char boot[64];
	struct statx st;
	int r = io_read_line(AT_FDCWD, BOOT_ID, boot, sizeof(boot));

	if (r < 0)
		return r;
	if (statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &st) < 0)
		return -errno;
	if (!(st.stx_mask & STATX_BTIME))
		st.stx_btime = (struct statx_timestamp){ 0 };
	(void)snprintf(ret, NOTE_BYTES,
		       "memshared-store 1\ndomain %s\nboot %s\nfile %" PRIu32 ":%" PRIu32 " %" PRIu64 " %" PRId64
		       ".%09" PRIu32 "\n",
		       domain, boot, st.stx_dev_major, st.stx_dev_minor, (uint64_t)st.stx_ino,
		       (int64_t)st.stx_btime.tv_sec, st.stx_btime.tv_nsec);
	return 0;
}

/* SIGKILL leaves the old note or the new one; without the right one the store is not adopted. */
static int write_note(const struct stores *s, const char *domain, const char *name, int fd)
{
	char text[NOTE_BYTES], tmp[STORE_FD_NAME_MAX + sizeof(UNFINISHED)];
	_cleanup_close_ int note = -1;
	int r = describe(domain, fd, text);

	if (r < 0)
		return r;
	(void)snprintf(tmp, sizeof(tmp), "%s" UNFINISHED, name);
	(void)unlinkat(s->dir_fd, tmp, 0);
	note = openat(s->dir_fd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (note < 0)
		return -errno;
	r = io_write_full(note, text, strlen(text));
	if (r >= 0 && renameat(s->dir_fd, tmp, s->dir_fd, name) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(s->dir_fd, tmp, 0);
	return r < 0 ? r : 0;
}

/* Is it the file that the note is about? */
static bool is_noted(const struct stores *s, const char *domain, const char *name, int fd)
{
	_cleanup_free_ char *noted = NULL;
	char text[NOTE_BYTES];
	size_t len;

	return describe(domain, fd, text) == 0 && io_read_file(s->dir_fd, name, NOTE_BYTES, &noted, &len) == 0 &&
	       streq(noted, text);
}

/* --- finding ------------------------------------------------------------------------- */

/* Takes fd over. */
static int adopt(const struct stores *s, const char *name, const char *fd_name, int fd,
		 uint64_t capacity_pages, struct store **ret)
{
	if (!is_noted(s, name, fd_name, fd)) {
		(void)close(fd);
		return -EPERM;
	}
	return store_adopt(name, capacity_pages, fd, ret);
}

/* From a guest that an earlier daemon had handed it to. */
static int find_in(const struct stores *s, const char *name, const char *fd_name, uint64_t capacity_pages,
		   const struct kept_store_user *user, struct store **ret)
{
	struct process p;
	int fd, r = process_open(&p, user->pid);

	if (r < 0)
		return r;
	r = p.start_ticks == user->start_ticks ? store_find(name, &p, &fd) : -ESRCH;
	process_close(&p);
	return r < 0 ? r : adopt(s, name, fd_name, fd, capacity_pages, ret);
}

static int find(struct stores *s, const char *name, const char *fd_name, uint64_t capacity_pages,
		const struct kept_store_user *users, size_t n_users, struct store **ret)
{
	const char *label = fd_name + strlen(STORE_FD_NAME "-");
	int fd;

	for (size_t i = 0; i < s->n_inherited;) {
		if (!streq(s->inherited[i].name, fd_name)) {
			i++;
			continue;
		}
		fd = TAKE_FD(s->inherited[i].fd);
		remove_inherited(s, i);
		if (adopt(s, name, fd_name, fd, capacity_pages, ret) == 0)
			return STORES_FROM_SYSTEMD;
	}
	/* Without a note there is nothing to be found. */
	if (faccessat(s->dir_fd, fd_name, F_OK, 0) < 0)
		return STORES_NEW;
	for (size_t i = 0; i < n_users; i++)
		if ((!*users[i].store || streq(users[i].store, label)) &&
		    find_in(s, name, fd_name, capacity_pages, &users[i], ret) == 0)
			return STORES_FROM_GUEST;
	return STORES_NEW;
}

int stores_get(struct stores *s, const char *name, uint64_t capacity_pages,
	       const struct kept_store_user *users, size_t n_users, struct store **ret)
{
	char fd_name[STORE_FD_NAME_MAX], (*grown)[STORE_FD_NAME_MAX];
	struct store *store = NULL;
	int found, r;

	store_fd_name(name, fd_name);
	grown = reallocarray(s->used, s->n_used + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	s->used = grown;
	found = find(s, name, fd_name, capacity_pages, users, n_users, &store);
	r = found != STORES_NEW ? 0 : store_new(name, capacity_pages, &store);
	if (r < 0)
		return r;
	r = write_note(s, name, fd_name, store_guest_fd(store));
	if (r < 0)
		log_warning("the store %s cannot be noted: a later daemon will make a new one: %s", fd_name,
			    strerror(-r));
	r = store_keep(store);
	if (r < 0)
		log_warning("systemd did not take the store %s: a later daemon will look for it in guests: %s",
			    fd_name, strerror(-r));
	strcpy(s->used[s->n_used++], fd_name);
	*ret = store;
	return found;
}

void stores_drop(struct stores *s, const char *name)
{
	char fd_name[STORE_FD_NAME_MAX];

	store_fd_name(name, fd_name);
	for (size_t i = 0; i < s->n_used; i++)
		if (streq(s->used[i], fd_name)) {
			if (i + 1 < s->n_used)
				memcpy(s->used[i], s->used[s->n_used - 1], STORE_FD_NAME_MAX);
			s->n_used--;
			break;
		}
	(void)store_forget(name);
	(void)unlinkat(s->dir_fd, fd_name, 0);
}

static bool is_used(const struct stores *s, const char *fd_name)
{
	for (size_t i = 0; i < s->n_used; i++)
		if (streq(s->used[i], fd_name))
			return true;
	return false;
}

void stores_drop_unclaimed(struct stores *s)
{
	int fd = openat(s->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	while (s->n_inherited > 0) {
		if (!is_used(s, s->inherited[0].name))
			(void)sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", s->inherited[0].name);
		remove_inherited(s, 0);
	}
	if (!d) {
		close_fdp(&fd);
		return;
	}
	while ((e = readdir(d)))
		if (e->d_name[0] != '.' && !is_used(s, e->d_name))
			(void)unlinkat(s->dir_fd, e->d_name, 0);
	(void)closedir(d);
}
