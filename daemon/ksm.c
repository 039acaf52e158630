/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/ksm.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>

#include "common/io.h"
#include "common/parse.h"
#include "common/util.h"

/* What we change, in the order in which it is put back: run last. advisor_mode is only read
 * (an active one refuses us), so it is not here. */
static const char *const setting_names[] = {
	"pages_to_scan", "sleep_millisecs", "smart_scan", "run",
};
_Static_assert(ARRAY_SIZE(setting_names) <= ARRAY_SIZE(((struct ksm *)NULL)->settings), "room");

#define STATE_HEADER   "memshared-ksm 1"
#define STATE_FILE_MAX 4096
#define BOOT_ID	       "/proc/sys/kernel/random/boot_id"
#define BOOT_BYTES     37
/* A ksm_stat is a dozen short lines. */
#define KSM_STAT_MAX 4096

/* A process by its name; a kernel thread has no executable, which nobody else can fake. */
static pid_t find_process(const char *name, bool kernel_thread)
{
	DIR *d = opendir("/proc");
	struct dirent *e;
	pid_t found = 0;

	while (d && !found && (e = readdir(d))) {
		char path[sizeof(e->d_name) + 8], comm[32], exe[8];
		uint32_t pid;

		if (parse_u32(e->d_name, 1, INT32_MAX, &pid) < 0)
			continue;
		(void)snprintf(path, sizeof(path), "%s/comm", e->d_name);
		if (io_read_line(dirfd(d), path, comm, sizeof(comm)) < 0 || !streq(comm, name))
			continue;
		(void)snprintf(path, sizeof(path), "%s/exe", e->d_name);
		if (!kernel_thread || readlinkat(dirfd(d), path, exe, sizeof(exe)) < 0)
			found = (pid_t)pid;
	}
	if (d)
		(void)closedir(d);
	return found;
}

/* One line of the state file, NAME=NUMBER. */
static int parse_setting(struct ksm_saved *settings, const char *line)
{
	const char *value = strchr(line, '=');
	uint64_t v;

	for (size_t i = 0; value && i < ARRAY_SIZE(setting_names); i++) {
		size_t len = strlen(setting_names[i]);

		if ((size_t)(value - line) != len || memcmp(line, setting_names[i], len) != 0)
			continue;
		if (settings[i].present || parse_u64(value + 1, 0, UINT64_MAX, &v) < 0)
			return -EINVAL;
		(void)snprintf(settings[i].text, sizeof(settings[i].text), "%" PRIu64, v);
		settings[i].present = true;
		return 0;
	}
	return -EINVAL;
}

/* The file's lines: STATE_HEADER, "boot ID", settings. */
int ksm_parse_state(char *text, const char *boot, struct ksm_saved *settings)
{
	char *save = NULL, *line = strtok_r(text, "\n", &save);
	int r = 0;

	if (!line || !streq(line, STATE_HEADER))
		return -EINVAL;
	line = strtok_r(NULL, "\n", &save);
	if (!line || strncmp(line, "boot ", 5) != 0)
		return -EINVAL;
	if (!streq(line + 5, boot))
		return -ESTALE;
	while (r == 0 && (line = strtok_r(NULL, "\n", &save)))
		r = parse_setting(settings, line);
	/* The last one that is written. */
	return r == 0 && !settings[ARRAY_SIZE(setting_names) - 1].present ? -EINVAL : r;
}

/* Settings of an earlier boot are none of this one's: the file outlives a power cut. */
static int load_state(struct ksm *k)
{
	struct ksm_saved settings[ARRAY_SIZE(k->settings)] = { 0 };
	_cleanup_free_ char *text = NULL;
	char boot[BOOT_BYTES];
	size_t len;
	int r = io_read_file(AT_FDCWD, k->state_path, STATE_FILE_MAX, &text, &len);

	if (r == 0)
		r = io_read_line(AT_FDCWD, BOOT_ID, boot, sizeof(boot));
	if (r == 0)
		r = strlen(text) == len ? ksm_parse_state(text, boot, settings) : -EINVAL;
	if (r == -ESTALE)
		(void)unlink(k->state_path);
	if (r == -ENOENT || r == -ESTALE)
		return 0;
	if (r == 0) {
		memcpy(k->settings, settings, sizeof(settings));
		k->saved = true;
	}
	return r;
}

int ksm_open(struct ksm *k, const char *sys_path, const char *state_path)
{
	*k = (struct ksm){ .dir_fd = open(sys_path, O_PATH | O_DIRECTORY | O_CLOEXEC) };
	if (k->dir_fd < 0)
		return errno == ENOENT ? -EOPNOTSUPP : -errno;
	if (state_path) {
		k->state_path = strdup(state_path);
		if (!k->state_path) {
			ksm_close(k);
			return -ENOMEM;
		}
		k->state_error = load_state(k);
	}
	k->ksmd = find_process("ksmd", true);
	return 0;
}

void ksm_close(struct ksm *k)
{
	close_fdp(&k->dir_fd);
	free(k->state_path);
	k->state_path = NULL;
}

/* The advisor's file shows all modes with the active one in brackets. */
static bool advisor_active(const struct ksm *k)
{
	char line[128];

	return io_read_line(k->dir_fd, "advisor_mode", line, sizeof(line)) == 0 &&
	       !strstr(line, "[none]");
}

int ksm_check_free(const struct ksm *k, char *ret_reason, size_t size)
{
	pid_t tuner;

	if (faccessat(k->dir_fd, "run", W_OK, 0) < 0) {
		(void)snprintf(ret_reason, size,
			       "/sys/kernel/mm/ksm/run is not writable: run as root, with /sys writable");
		return -EPERM;
	}
	if (advisor_active(k)) {
		(void)snprintf(ret_reason, size,
			       "a KSM advisor sets ksmd's pace: echo none > /sys/kernel/mm/ksm/advisor_mode");
		return -EBUSY;
	}
	/* ksmtuned is a shell script: its process has the name of the script. */
	tuner = find_process("ksmtuned", false);
	if (tuner > 0) {
		(void)snprintf(ret_reason, size,
			       "ksmtuned (pid %d) turns KSM's knobs: systemctl disable --now ksmtuned",
			       (int)tuner);
		return -EBUSY;
	}
	return 0;
}

/* Written before the first change; a rename makes it whole or not there at all. */
static int save_state(struct ksm *k)
{
	_cleanup_free_ char *tmp = NULL;
	_cleanup_fclose_ FILE *f = NULL;
	char boot[BOOT_BYTES];
	int r;

	if (!k->state_path)
		return 0;
	r = io_read_line(AT_FDCWD, BOOT_ID, boot, sizeof(boot));
	if (r < 0)
		return r;
	if (asprintf(&tmp, "%s.new", k->state_path) < 0)
		return -ENOMEM;
	f = fopen(tmp, "we");
	if (!f)
		return -errno;
	(void)fprintf(f, STATE_HEADER "\nboot %s\n", boot);
	for (size_t i = 0; i < ARRAY_SIZE(setting_names); i++)
		if (k->settings[i].present)
			(void)fprintf(f, "%s=%s\n", setting_names[i], k->settings[i].text);
	if (fflush(f) != 0 || ferror(f))
		return -EIO;
	return rename(tmp, k->state_path) < 0 ? -errno : 0;
}

static int save_settings(struct ksm *k)
{
	if (k->saved)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(setting_names); i++) {
		int r = io_read_line(k->dir_fd, setting_names[i], k->settings[i].text,
				     sizeof(k->settings[i].text));

		if (r < 0 && r != -ENOENT) /* smart_scan came with Linux 6.7 */
			return r;
		k->settings[i].present = r == 0;
	}
	k->saved = true;
	return save_state(k);
}

int ksm_set_pace(struct ksm *k, uint32_t pages_to_scan, uint32_t sleep_msec)
{
	int r = io_write_u64(k->dir_fd, "pages_to_scan", pages_to_scan);

	return r < 0 ? r : io_write_u64(k->dir_fd, "sleep_millisecs", sleep_msec);
}

int ksm_start(struct ksm *k, uint32_t pages_to_scan, uint32_t sleep_msec)
{
	int r = save_settings(k);

	if (r < 0)
		return r;
	r = ksm_set_pace(k, pages_to_scan, sleep_msec);
	if (r < 0)
		return r;
	/* Smart scan skips pages that did not merge at once; ours are proven duplicates that may
	 * only have had to wait for their twin. */
	r = io_write_u64(k->dir_fd, "smart_scan", 0);
	if (r < 0 && r != -ENOENT)
		return r;
	return io_write_u64(k->dir_fd, "run", 1);
}

int ksm_stop(struct ksm *k)
{
	return io_write_u64(k->dir_fd, "run", 0);
}

int ksm_restore(struct ksm *k)
{
	int r = 0;

	if (!k->saved)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(setting_names); i++)
		if (k->settings[i].present) {
			int q = io_write_file(k->dir_fd, setting_names[i], k->settings[i].text);

			r = r < 0 ? r : q;
		}
	if (r == 0) {
		k->saved = false;
		if (k->state_path)
			(void)unlink(k->state_path);
	}
	return r;
}

int ksm_read_counters(const struct ksm *k, struct ksm_counters *ret)
{
	struct ksm_counters c = { 0 };
	const struct {
		const char *name;
		uint64_t *to;
		bool optional;
	} files[] = {
		{ "pages_shared", &c.pages_shared, false },
		{ "pages_sharing", &c.pages_sharing, false },
		{ "pages_unshared", &c.pages_unshared, false },
		{ "pages_volatile", &c.pages_volatile, false },
		{ "full_scans", &c.full_scans, false },
		{ "pages_scanned", &c.pages_scanned, true }, /* Linux 6.6 */
		{ "ksm_zero_pages", &c.zero_pages, true },   /* Linux 6.6 */
	};

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		int r = io_read_u64(k->dir_fd, files[i].name, files[i].to);

		if (r < 0 && !(files[i].optional && r == -ENOENT))
			return r;
	}
	*ret = c;
	return 0;
}

uint64_t ksm_cpu_nsec(const struct ksm *k)
{
	char path[48], line[96];
	uint64_t nsec;
	size_t used;

	/* schedstat: nanoseconds on the CPU, waiting, and the number of time slices. */
	(void)snprintf(path, sizeof(path), "/proc/%d/schedstat", (int)k->ksmd);
	if (k->ksmd <= 0 || io_read_line(AT_FDCWD, path, line, sizeof(line)) < 0 ||
	    parse_u64_prefix(line, strlen(line), 10, &nsec, &used) < 0)
		return 0;
	return nsec;
}

int ksm_parse_stat(const char *buf, size_t len, struct ksm_stat *ret)
{
	struct ksm_stat s = { UINT64_MAX, UINT64_MAX, UINT64_MAX, -1 };
	const char *end = buf + len;
	bool any = false;

	for (const char *line = buf; line < end;) {
		const char *nl = memchr(line, '\n', (size_t)(end - line));
		const char *stop = nl ? nl : end;
		const char *sp = memchr(line, ' ', (size_t)(stop - line));
		size_t name_len, used;
		uint64_t v;

		if (!sp)
			return -EINVAL;
		name_len = (size_t)(sp - line);
		if (name_len == 14 && memcmp(line, "ksm_mergeable:", 14) == 0) {
			s.mergeable = stop - sp == 4 && memcmp(sp, " yes", 4) == 0;
		} else if (parse_u64_prefix(sp + 1, (size_t)(stop - sp - 1), 10, &v, &used) == 0) {
			if (name_len == 14 && memcmp(line, "ksm_rmap_items", 14) == 0)
				s.rmap_items = v;
			else if (name_len == 14 && memcmp(line, "ksm_zero_pages", 14) == 0)
				s.zero_pages = v;
			else if (name_len == 17 && memcmp(line, "ksm_merging_pages", 17) == 0)
				s.merging_pages = v;
		}
		any = true;
		line = stop + 1;
	}
	if (!any)
		return -EINVAL;
	*ret = s;
	return 0;
}

int ksm_read_stat(int proc_pid_fd, struct ksm_stat *ret)
{
	_cleanup_free_ char *buf = NULL;
	size_t len;
	int r = io_read_file(proc_pid_fd, "ksm_stat", KSM_STAT_MAX, &buf, &len);

	if (r < 0)
		return r;
	return len == 0 ? -ENODATA : ksm_parse_stat(buf, len, ret);
}

int ksm_process_counts(int proc_pid_fd, uint64_t *ret_merging_pages, uint64_t *ret_rmap_items)
{
	struct ksm_stat s;
	int r = ksm_read_stat(proc_pid_fd, &s);

	if (r < 0)
		return r;
	if (s.merging_pages == UINT64_MAX || s.rmap_items == UINT64_MAX)
		return -EOPNOTSUPP;
	*ret_merging_pages = s.merging_pages;
	*ret_rmap_items = s.rmap_items;
	return 0;
}
