/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/kept.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/parse.h"
#include "common/util.h"

#define HEADER	   "memshared-guest 1"
#define UNFINISHED ".new"
#define ASKED_ORIGIN "memsharectl, before a restart"
#define NAME_BYTES 48U
/* User space ends here, with five levels of page tables. */
#define ADDRESS_END (UINT64_C(1) << 56)

void kept_done(struct kept *e)
{
	range_set_done(&e->ram);
	range_set_done(&e->marks);
}

/* --- text ---------------------------------------------------------------------------- */

/* What of the text is not read yet. */
struct text {
	const char *at, *end;
};

/* The next line, which must begin with key and a blank: what follows, as a string. False: it is
 * another line, or it does not fit; nothing was read then. */
static bool take_line(struct text *t, const char *key, char *ret, size_t size)
{
	const char *nl = memchr(t->at, '\n', (size_t)(t->end - t->at));
	size_t key_len = strlen(key), len = nl ? (size_t)(nl - t->at) : 0;

	if (!nl || len < key_len + 2 || memcmp(t->at, key, key_len) != 0 || t->at[key_len] != ' ')
		return false;
	len -= key_len + 1;
	if (len >= size || memchr(t->at + key_len + 1, '\0', len))
		return false;
	memcpy(ret, t->at + key_len + 1, len);
	ret[len] = '\0';
	t->at = nl + 1;
	return true;
}

static int parse_range(const char *s, uint64_t *ret_start, uint64_t *ret_end)
{
	size_t len = strlen(s), used, more;
	uint64_t start, end;

	if (parse_u64_prefix(s, len, 16, &start, &used) < 0 || s[used] != '-')
		return -EINVAL;
	used++;
	if (parse_u64_prefix(s + used, len - used, 16, &end, &more) < 0 || used + more != len)
		return -EINVAL;
	if (start >= end || end > ADDRESS_END || start % PAGE_BYTES || end % PAGE_BYTES)
		return -EINVAL;
	*ret_start = start;
	*ret_end = end;
	return 0;
}

/* Lines of this key, in order of address, with a gap between any two. */
static int take_ranges(struct text *t, const char *key, struct range_set *s)
{
	uint64_t start, end, last = 0;
	char value[NAME_BYTES];

	while (take_line(t, key, value, sizeof(value))) {
		int r = parse_range(value, &start, &end);

		if (r < 0 || (s->n > 0 && start <= last))
			return -EINVAL;
		r = range_set_add(s, start, end);
		if (r < 0)
			return r == -ENOMEM ? r : -EINVAL;
		last = end;
	}
	return 0;
}

/* Each field once, in their order, so that there is one text for one policy. */
static int take_asked(struct text *t, struct policy *p)
{
	char line[POLICY_VALUE_MAX + 32], reason[POLICY_REASON_MAX], *value;
	enum policy_field f, next = 0;

	while (take_line(t, "policy", line, sizeof(line))) {
		value = strchr(line, ' ');
		if (!value)
			return -EINVAL;
		*value++ = '\0';
		if (policy_field_from_string(line, &f) < 0 || f < next ||
		    policy_set(p, f, value, POLICY_SOURCE_RUNTIME, ASKED_ORIGIN, reason) < 0)
			return -EINVAL;
		next = f + 1;
	}
	return 0;
}

static int take_unmerged(struct text *t, bool *ret)
{
	char value[NAME_BYTES];

	*ret = take_line(t, "unmerged", value, sizeof(value));
	return *ret && !streq(value, "yes") ? -EINVAL : 0;
}

int kept_add_store(struct kept *e, const char *label)
{
	for (unsigned i = 0; i < e->n_stores; i++)
		if (streq(e->stores[i], label))
			return 0;
	if (e->n_stores == KEPT_STORES_MAX)
		return -ENOSPC;
	(void)snprintf(e->stores[e->n_stores++], STORE_LABEL_BYTES, "%s", label);
	return 0;
}

static int take_stores(struct text *t, struct kept *e)
{
	char value[NAME_BYTES];

	while (take_line(t, "store", value, sizeof(value))) {
		unsigned n = e->n_stores;

		if (strlen(value) != STORE_LABEL_BYTES - 1 ||
		    strspn(value, "0123456789abcdef") != STORE_LABEL_BYTES - 1 ||
		    kept_add_store(e, value) < 0 || e->n_stores == n)
			return -EINVAL;
	}
	return 0;
}

int kept_parse(const char *buf, size_t len, const char *boot, struct kept *ret)
{
	struct text t = { buf, buf + len };
	char theirs[KEPT_BOOT_BYTES];
	struct kept e = { 0 };
	int r;

	if (len > KEPT_BYTES_MAX || len < sizeof(HEADER) ||
	    memcmp(buf, HEADER "\n", sizeof(HEADER)) != 0)
		return -EINVAL;
	t.at += sizeof(HEADER);
	if (!take_line(&t, "boot", theirs, sizeof(theirs)))
		return -EINVAL;
	if (!streq(theirs, boot))
		return -ESTALE;
	policy_init_empty(&e.asked);
	r = take_asked(&t, &e.asked);
	if (r >= 0)
		r = take_unmerged(&t, &e.unmerged);
	if (r >= 0)
		r = take_stores(&t, &e);
	if (r >= 0)
		r = take_ranges(&t, "ram", &e.ram);
	if (r >= 0)
		r = take_ranges(&t, "mark", &e.marks);
	if (r >= 0 && t.at != t.end)
		r = -EINVAL;
	if (r < 0)
		kept_done(&e);
	else
		*ret = e;
	return r;
}

static void put_ranges(FILE *f, const char *key, const struct range_set *s)
{
	for (size_t i = 0; i < s->n; i++)
		(void)fprintf(f, "%s %" PRIx64 "-%" PRIx64 "\n", key, s->ranges[i].start,
			      s->ranges[i].end);
}

int kept_format(const struct kept *e, const char *boot, char **ret, size_t *ret_len)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return -ENOMEM;
	(void)fprintf(f, HEADER "\nboot %s\n", boot);
	for (enum policy_field i = 0; i < POLICY_FIELD_MAX; i++) {
		char value[POLICY_VALUE_MAX];

		if (!(e->asked.set & 1U << i))
			continue;
		policy_format(&e->asked, i, value);
		(void)fprintf(f, "policy %s %s\n", policy_field_to_string(i), value);
	}
	if (e->unmerged)
		(void)fputs("unmerged yes\n", f);
	for (unsigned i = 0; i < e->n_stores; i++)
		(void)fprintf(f, "store %s\n", e->stores[i]);
	put_ranges(f, "ram", &e->ram);
	put_ranges(f, "mark", &e->marks);
	if (fclose(f) != 0) {
		free(text);
		return -ENOMEM;
	}
	*ret = text;
	*ret_len = len;
	return 0;
}

static int add_all(struct range_set *to, const struct range_set *from)
{
	int r = 0;

	for (size_t i = 0; i < from->n && r >= 0; i++)
		r = range_set_add(to, from->ranges[i].start, from->ranges[i].end);
	return r;
}

int kept_inherit(struct kept *e, const struct kept *earlier,
		      const struct range_set *marked_now)
{
	int r = add_all(&e->marks, marked_now);

	if (!earlier || r < 0)
		return r;
	for (size_t i = 0; i < earlier->ram.n && r >= 0; i++)
		r = range_set_remove(&e->marks, earlier->ram.ranges[i].start, earlier->ram.ranges[i].end);
	if (r >= 0)
		r = add_all(&e->marks, &earlier->marks);
	if (r >= 0)
		r = add_all(&e->ram, &earlier->ram);
	return r;
}

/* --- files --------------------------------------------------------------------------- */

int kept_open_dir(const char *state_directory)
{
	_cleanup_free_ char *path = NULL;
	int fd;

	if (asprintf(&path, "%s/guests", state_directory) < 0)
		return -ENOMEM;
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

static int read_boot(char ret[KEPT_BOOT_BYTES])
{
	return io_read_line(AT_FDCWD, "/proc/sys/kernel/random/boot_id", ret, KEPT_BOOT_BYTES);
}

static void name_of(const struct process *p, char ret[NAME_BYTES])
{
	(void)snprintf(ret, NAME_BYTES, "%d-%" PRIu64, (int)p->pid, p->start_ticks);
}

static int load_name(int dir_fd, const char *name, struct kept *ret)
{
	char boot[KEPT_BOOT_BYTES];
	_cleanup_free_ char *buf = NULL;
	size_t len;
	int r = read_boot(boot);

	if (r >= 0)
		r = io_read_file(dir_fd, name, KEPT_BYTES_MAX, &buf, &len);
	if (r < 0)
		return r == -EFBIG ? -EINVAL : r;
	return kept_parse(buf, len, boot, ret);
}

int kept_load(int dir_fd, const struct process *p, struct kept *ret)
{
	char name[NAME_BYTES];

	name_of(p, name);
	return load_name(dir_fd, name, ret);
}

/* SIGKILL leaves the old file or the new one, and perhaps an unfinished one beside it. What the
 * host loses in a power cut means nothing after it: no fsync. */
int kept_store(int dir_fd, const struct process *p, const struct kept *e)
{
	char name[NAME_BYTES], tmp[NAME_BYTES + sizeof(UNFINISHED)], boot[KEPT_BOOT_BYTES];
	_cleanup_free_ char *text = NULL;
	_cleanup_close_ int fd = -1;
	size_t len;
	int r = read_boot(boot);

	if (r >= 0)
		r = kept_format(e, boot, &text, &len);
	if (r < 0)
		return r;
	if (len > KEPT_BYTES_MAX)
		return -ENOSPC;
	name_of(p, name);
	(void)snprintf(tmp, sizeof(tmp), "%s" UNFINISHED, name);
	(void)unlinkat(dir_fd, tmp, 0);
	fd = openat(dir_fd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	r = io_write_full(fd, text, len);
	if (r >= 0 && renameat(dir_fd, tmp, dir_fd, name) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(dir_fd, tmp, 0);
	return r < 0 ? r : 0;
}

/* Stores what was loaded and changed. */
static int store_again(int dir_fd, const struct process *p, struct kept *k)
{
	int r = kept_store(dir_fd, p, k);

	kept_done(k);
	return r;
}

int kept_set_asked(int dir_fd, const struct process *p, const struct policy *asked)
{
	struct kept k = { 0 };
	int r = kept_load(dir_fd, p, &k);

	if (r < 0)
		return r;
	k.asked = *asked;
	return store_again(dir_fd, p, &k);
}

int kept_set_unmerged(int dir_fd, const struct process *p, bool unmerged)
{
	struct kept k = { 0 };
	int r = kept_load(dir_fd, p, &k);

	if (r < 0)
		return r;
	k.unmerged = unmerged;
	return store_again(dir_fd, p, &k);
}

int kept_set_store(int dir_fd, const struct process *p, const char *label)
{
	struct kept k = { 0 };
	int r = kept_load(dir_fd, p, &k);

	if (r < 0)
		return r;
	k.n_stores = 0;
	if (label)
		(void)kept_add_store(&k, label);
	return store_again(dir_fd, p, &k);
}

void kept_remove(int dir_fd, const struct process *p)
{
	char name[NAME_BYTES];

	name_of(p, name);
	(void)unlinkat(dir_fd, name, 0);
}

static int parse_name(const char *name, uint64_t *ret_pid, uint64_t *ret_ticks)
{
	size_t used;

	if (parse_u64_prefix(name, strlen(name), 10, ret_pid, &used) < 0 || *ret_pid == 0 ||
	    *ret_pid > INT32_MAX || name[used] != '-')
		return -EINVAL;
	return parse_u64(name + used + 1, 0, UINT64_MAX, ret_ticks);
}

/* Does the process that the file is named for still run, since this boot? */
static bool is_current(int dir_fd, const char *name)
{
	struct kept e = { 0 };
	struct process_stat stat;
	_cleanup_close_ int fd = -1;
	char path[NAME_BYTES];
	uint64_t pid, ticks;

	if (parse_name(name, &pid, &ticks) < 0)
		return false;
	(void)snprintf(path, sizeof(path), "/proc/%" PRIu64, pid);
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || process_read_stat(fd, &stat) < 0 || stat.start_ticks != ticks)
		return false;
	/* One that can't be read still says that the guest was enrolled. */
	if (load_name(dir_fd, name, &e) == -ESTALE)
		return false;
	kept_done(&e);
	return true;
}

struct users {
	struct kept_store_user *v;
	size_t n;
};

static int add_user(struct users *u, uint64_t pid, uint64_t ticks, const char *label)
{
	struct kept_store_user *grown = reallocarray(u->v, u->n + 1, sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	u->v = grown;
	u->v[u->n] = (struct kept_store_user){ .pid = (pid_t)pid, .start_ticks = ticks };
	(void)snprintf(u->v[u->n++].store, STORE_LABEL_BYTES, "%s", label);
	return 0;
}

static int add_users(int dir_fd, const char *name, struct users *u)
{
	struct kept e = { 0 };
	uint64_t pid, ticks;
	int r = parse_name(name, &pid, &ticks), q;

	if (r < 0)
		return 0;
	q = load_name(dir_fd, name, &e);
	if (q == -ENOENT || q == -ESTALE)
		return 0;
	r = q < 0 ? add_user(u, pid, ticks, "") : 0;
	for (unsigned i = 0; i < e.n_stores && q >= 0 && r >= 0; i++)
		r = add_user(u, pid, ticks, e.stores[i]);
	kept_done(&e);
	return r;
}

int kept_store_users(int dir_fd, struct kept_store_user **ret, size_t *ret_n)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct users u = { NULL, 0 };
	struct dirent *e;

	if (!d) {
		r = -errno;
		close_fdp(&fd);
		return r;
	}
	while (r >= 0 && (errno = 0, e = readdir(d)))
		if (e->d_name[0] != '.')
			r = add_users(dir_fd, e->d_name, &u);
	if (r >= 0 && errno != 0)
		r = -errno;
	(void)closedir(d);
	if (r < 0) {
		free(u.v);
		return r;
	}
	*ret = u.v;
	*ret_n = u.n;
	return 0;
}

unsigned kept_sweep(int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	unsigned n = 0;

	if (!d) {
		close_fdp(&fd);
		return 0;
	}
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		if (is_current(dir_fd, e->d_name))
			n++;
		else
			(void)unlinkat(dir_fd, e->d_name, 0);
	}
	(void)closedir(d);
	return n;
}
