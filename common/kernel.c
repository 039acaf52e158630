/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/kernel.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/io.h"
#include "common/kernel-probe.h"
#include "common/parse.h"
#include "common/util.h"

/* --- features -------------------------------------------------------------------------------- */

static const struct feature {
	const char *name;
	int (*probe)(void);
	const char *used_for;
	const char *comes_with;
} features[] = {
	[KERNEL_VM_READ] = { "vm-read", kernel_probe_vm_read, "reading guests' pages",
			     "root, or CAP_SYS_PTRACE" },
	[KERNEL_PAGE_FRAMES] = { "page-frames", kernel_probe_page_frames,
				 "engine ksm; zero pages without pagemap-scan",
				 "CAP_SYS_ADMIN" },
	[KERNEL_PAGEMAP_SCAN] = { "pagemap-scan", kernel_probe_pagemap_scan,
				  "tracker wp; fast page maps", "Linux 6.7" },
	[KERNEL_SCAN_SOFT_DIRTY] = { "scan-soft-dirty", kernel_probe_scan_soft_dirty,
				     "tracker softdirty at its fastest", "Linux 6.8" },
	[KERNEL_PROCMAP_QUERY] = { "procmap-query", kernel_probe_procmap_query,
				   "fast look-up of mappings", "Linux 6.11" },
	[KERNEL_SOFT_DIRTY] = { "soft-dirty", kernel_probe_soft_dirty, "tracker softdirty",
				"CONFIG_MEM_SOFT_DIRTY=y" },
	[KERNEL_UFFD] = { "uffd", kernel_probe_uffd, "tracker wp, engine remap",
			  "CONFIG_USERFAULTFD=y" },
	[KERNEL_UFFD_DEVICE] = { "uffd-device", kernel_probe_uffd_device,
				 "engine remap under KVM and vhost",
				 "Linux 6.1, /dev/userfaultfd" },
	[KERNEL_UFFD_WP_ASYNC] = { "uffd-wp-async", kernel_probe_uffd_wp_async, "tracker wp",
				   "Linux 6.7" },
	[KERNEL_UFFD_MOVE] = { "uffd-move", kernel_probe_uffd_move, "engine remap", "Linux 6.8" },
	[KERNEL_PIDFD_GETFD] = { "pidfd-getfd", kernel_probe_pidfd_getfd, "agent, tracker wp",
				 "Linux 5.6, CAP_SYS_PTRACE" },
	[KERNEL_PTRACE] = { "ptrace", kernel_probe_ptrace, "planting the agent",
			    "CAP_SYS_PTRACE, ptrace_scope < 3" },
	[KERNEL_SUSPEND_SECCOMP] = { "suspend-seccomp", kernel_probe_suspend_seccomp,
				     "planting the agent under a sandbox",
				     "CAP_SYS_ADMIN, no seccomp filter on us" },
	[KERNEL_SELF_MADVISE] = { "self-madvise", kernel_probe_self_madvise,
				  "advice for many ranges at once", "Linux 6.13" },
	[KERNEL_KSM] = { "ksm", kernel_probe_ksm, "engine ksm",
			 "CONFIG_KSM=y, /sys writable" },
	[KERNEL_KSM_STAT] = { "ksm-stat", kernel_probe_ksm_stat, "what KSM merged in each guest",
			      "Linux 6.4" },
	[KERNEL_PSI] = { "psi", kernel_probe_psi, "pressure = auto", "CONFIG_PSI=y, psi=1" },
};
static_assert(ARRAY_SIZE(features) == KERNEL_FEATURE_MAX, "a row for each feature");

/* An answer is 0 until it is known; then ANSWER_YES or the probe's -errno. Two threads that
 * probe at once find the same. */
#define ANSWER_YES 1
static _Atomic int answers[KERNEL_FEATURE_MAX];
static bool denied[KERNEL_FEATURE_MAX];
static int deny_error;

const char *kernel_feature_to_string(enum kernel_feature f)
{
	assert(f < KERNEL_FEATURE_MAX);
	return features[f].name;
}

static int deny_one(const char *name)
{
	for (size_t i = 0; i < KERNEL_FEATURE_MAX; i++)
		if (streq(name, features[i].name)) {
			denied[i] = true;
			return 0;
		}
	return -EINVAL;
}

static void deny_read(void)
{
	const char *e = getenv("MEMSHARED_KERNEL_DENY");
	_cleanup_free_ char *copy = e ? strdup(e) : NULL;
	char *save = NULL;

	if (e && !copy)
		deny_error = -ENOMEM;
	for (char *name = copy ? strtok_r(copy, ",", &save) : NULL; name;
	     name = strtok_r(NULL, ",", &save))
		if (deny_one(name) < 0)
			deny_error = -EINVAL;
}

int kernel_feature_error(enum kernel_feature f)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	int answer;

	assert(f < KERNEL_FEATURE_MAX);
	(void)pthread_once(&once, deny_read);
	if (denied[f])
		return -ECANCELED;
	answer = atomic_load_explicit(&answers[f], memory_order_relaxed);
	if (answer == 0) {
		int r = features[f].probe();

		answer = r < 0 ? r : ANSWER_YES;
		atomic_store_explicit(&answers[f], answer, memory_order_relaxed);
	}
	return answer == ANSWER_YES ? 0 : answer;
}

bool kernel_has(enum kernel_feature f)
{
	return kernel_feature_error(f) == 0;
}

int kernel_probe_all(void)
{
	for (unsigned f = 0; f < KERNEL_FEATURE_MAX; f++)
		(void)kernel_feature_error(f);
	return deny_error;
}

/* --- settings -------------------------------------------------------------------------------- */

static const char *const thp_names[] = {
	[KERNEL_THP_ABSENT] = "absent",
	[KERNEL_THP_NEVER] = "never",
	[KERNEL_THP_MADVISE] = "madvise",
	[KERNEL_THP_ALWAYS] = "always",
};
static_assert(ARRAY_SIZE(thp_names) == KERNEL_THP_MAX, "a name for each mode");

const char *kernel_thp_to_string(enum kernel_thp t)
{
	assert(t < KERNEL_THP_MAX);
	return thp_names[t];
}

/* "always [madvise] never": the one in brackets. */
static enum kernel_thp read_thp(int root_fd)
{
	char line[64], *open, *close;

	if (io_read_line(root_fd, "sys/kernel/mm/transparent_hugepage/enabled", line,
			 sizeof(line)) < 0)
		return KERNEL_THP_ABSENT;
	open = strchr(line, '[');
	close = open ? strchr(open, ']') : NULL;
	if (!close)
		return KERNEL_THP_ABSENT;
	*close = '\0';
	for (unsigned t = 0; t < KERNEL_THP_MAX; t++)
		if (streq(open + 1, thp_names[t]))
			return t;
	return KERNEL_THP_ABSENT;
}

/* "SwapTotal:       123 kB" */
static uint64_t read_swap_bytes(int root_fd)
{
	static const char key[] = "SwapTotal:";
	_cleanup_free_ char *text = NULL;
	size_t len, used;
	uint64_t kib;
	char *p;

	if (io_read_file(root_fd, "proc/meminfo", 65536, &text, &len) < 0)
		return 0;
	p = strstr(text, key);
	if (!p)
		return 0;
	p += strlen(key);
	p += strspn(p, " ");
	if (parse_u64_prefix(p, strlen(p), 10, &kib, &used) < 0 || kib > UINT64_MAX / 1024)
		return 0;
	return kib * 1024;
}

/* "0-3,8": the number of nodes named; 1 where there is no such file. */
static unsigned read_numa_nodes(int root_fd)
{
	char line[256];
	const char *p = line;
	uint64_t n = 0;

	if (io_read_line(root_fd, "sys/devices/system/node/online", line, sizeof(line)) < 0)
		return 1;
	while (*p) {
		uint64_t first, last;
		size_t used;

		if (parse_u64_prefix(p, strlen(p), 10, &first, &used) < 0)
			return 1;
		p += used;
		last = first;
		if (*p == '-') {
			p++;
			if (parse_u64_prefix(p, strlen(p), 10, &last, &used) < 0)
				return 1;
			p += used;
		}
		/* Linux knows at most 1024 nodes. */
		if (last < first || last > 1023)
			return 1;
		n += last - first + 1;
		if (*p == ',')
			p++;
		else if (*p)
			return 1;
	}
	return n > 0 && n <= 1024 ? (unsigned)n : 1;
}

static bool has_word(const char *line, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = line; (p = strstr(p, word)); p += len)
		if ((p == line || p[-1] == ' ') && (p[len] == '\0' || p[len] == ' '))
			return true;
	return false;
}

unsigned kernel_memcg_version(int root_fd)
{
	char line[256];

	if (io_read_line(root_fd, "sys/fs/cgroup/cgroup.controllers", line, sizeof(line)) >= 0 &&
	    has_word(line, "memory"))
		return 2;
	return faccessat(root_fd, "sys/fs/cgroup/memory/memory.usage_in_bytes", F_OK, 0) == 0 ? 1 :
												0;
}

/* "[none] scan-time" or "none [scan-time]" */
static bool read_ksm_advisor(int root_fd)
{
	char line[64];

	return io_read_line(root_fd, "sys/kernel/mm/ksm/advisor_mode", line, sizeof(line)) >= 0 &&
	       !strstr(line, "[none]");
}

void kernel_settings_read(int root_fd, struct kernel_settings *ret)
{
	*ret = (struct kernel_settings){
		.thp = read_thp(root_fd),
		.swap_bytes = read_swap_bytes(root_fd),
		.numa_nodes = read_numa_nodes(root_fd),
		.memcg_version = kernel_memcg_version(root_fd),
		.ksm_advisor = read_ksm_advisor(root_fd),
	};
	if (io_read_u64(root_fd, "proc/sys/vm/max_map_count", &ret->max_map_count) < 0)
		ret->max_map_count = 0;
	if (io_read_line(root_fd, "proc/sys/kernel/osrelease", ret->release,
			 sizeof(ret->release)) < 0)
		strcpy(ret->release, "unknown");
}

/* --- what follows ---------------------------------------------------------------------------- */

bool kernel_allows_agent(void)
{
	return kernel_has(KERNEL_PTRACE) && kernel_has(KERNEL_PIDFD_GETFD) &&
	       kernel_has(KERNEL_VM_READ);
}

bool kernel_allows_tracker_wp(void)
{
	return kernel_allows_agent() && kernel_has(KERNEL_PAGEMAP_SCAN) &&
	       kernel_has(KERNEL_UFFD_WP_ASYNC) && kernel_has(KERNEL_UFFD);
}

bool kernel_allows_tracker_softdirty(void)
{
	return kernel_has(KERNEL_SOFT_DIRTY);
}

/* The agent gives the advice, and frames say what ksmd has merged. */
bool kernel_allows_engine_ksm(void)
{
	return kernel_allows_agent() && kernel_has(KERNEL_KSM) && kernel_has(KERNEL_PAGE_FRAMES);
}

/* It works with the tracker's userfaultfd. */
bool kernel_allows_engine_remap(void)
{
	return kernel_allows_tracker_wp() && kernel_has(KERNEL_UFFD_DEVICE) &&
	       kernel_has(KERNEL_UFFD_MOVE);
}

bool kernel_allows_daemon(void)
{
	return kernel_allows_engine_ksm() || kernel_allows_engine_remap();
}

/* --- the table ------------------------------------------------------------------------------- */

#define ROW "%-17s %-16s %-50s %s\n"

static void print_feature(FILE *f, enum kernel_feature i)
{
	int r = kernel_feature_error(i);
	char answer[32] = "yes";

	if (r == -ECANCELED)
		strcpy(answer, "denied");
	else if (r < 0)
		(void)snprintf(answer, sizeof(answer), "no: %s", strempty(strerrorname_np(-r)));
	(void)fprintf(f, ROW, features[i].name, answer, features[i].used_for,
		      features[i].comes_with);
}

static void print_settings(FILE *f, const struct kernel_settings *s)
{
	char n[32];

	(void)fprintf(f, ROW, "release", s->release, "", "");
	(void)snprintf(n, sizeof(n), "%llu", (unsigned long long)s->max_map_count);
	(void)fprintf(f, ROW, "max-map-count", n, "bounds the mappings that engine remap may make",
		      "sysctl vm.max_map_count");
	(void)fprintf(f, ROW, "thp", kernel_thp_to_string(s->thp),
		      "guests with huge pages: see thp in the policy",
		      "/sys/kernel/mm/transparent_hugepage/enabled");
	(void)snprintf(n, sizeof(n), "%lluM", (unsigned long long)(s->swap_bytes / MIB(1)));
	(void)fprintf(f, ROW, "swap", n, "swapped pages are left alone", "swapon");
	(void)snprintf(n, sizeof(n), "%u", s->numa_nodes);
	(void)fprintf(f, ROW, "numa-nodes", n, "pages are shared across nodes", "hardware");
	(void)snprintf(n, sizeof(n), s->memcg_version > 0 ? "v%u" : "no", s->memcg_version);
	(void)fprintf(f, ROW, "memcg", n, "limits of the service and of the store",
		      "systemd, cgroup2");
	(void)fprintf(f, ROW, "ksm-advisor", s->ksm_advisor ? "on" : "off",
		      "on: the kernel refuses engine ksm's settings",
		      "/sys/kernel/mm/ksm/advisor_mode");
}

static void print_consequence(FILE *f, const char *name, bool works, const char *needs)
{
	(void)fprintf(f, ROW, name, works ? "yes" : "no", "", needs);
}

void kernel_print(FILE *f)
{
	_cleanup_close_ int root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct kernel_settings settings;

	kernel_settings_read(root_fd, &settings);
	(void)fprintf(f, ROW, "FEATURE", "HERE", "USED FOR", "COMES WITH");
	for (unsigned i = 0; i < KERNEL_FEATURE_MAX; i++)
		print_feature(f, i);
	(void)fprintf(f, "\n" ROW, "SETTING", "VALUE", "USED FOR", "CHANGED BY");
	print_settings(f, &settings);
	(void)fprintf(f, "\n" ROW, "FOLLOWS", "WORKS", "", "NEEDS");
	print_consequence(f, "agent", kernel_allows_agent(), "vm-read ptrace pidfd-getfd");
	print_consequence(f, "tracker wp", kernel_allows_tracker_wp(),
			  "agent pagemap-scan uffd uffd-wp-async");
	print_consequence(f, "tracker softdirty", kernel_allows_tracker_softdirty(), "soft-dirty");
	print_consequence(f, "tracker rehash", kernel_has(KERNEL_VM_READ), "vm-read");
	print_consequence(f, "engine ksm", kernel_allows_engine_ksm(),
			  "agent ksm page-frames");
	/* Engine zero does what remap does, without a store. */
	print_consequence(f, "engine remap", kernel_allows_engine_remap(),
			  "tracker wp uffd-device uffd-move");
	print_consequence(f, "engine zero", kernel_allows_engine_remap(),
			  "tracker wp uffd-device uffd-move");
	print_consequence(f, "daemon", kernel_allows_daemon(), "an engine");
}
