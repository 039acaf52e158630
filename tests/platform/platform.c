/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/platform/platform.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/io.h"

#define WAIT_USEC (60 * USEC_PER_SEC)

/* --- memory ---------------------------------------------------------------------------------- */

static char *map_aligned(uint64_t bytes, uint64_t alignment)
{
	char *map = mmap(NULL, bytes + alignment, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *start = (char *)ALIGN_UP((uintptr_t)map, alignment);

	assert_ptr_not_equal(map, MAP_FAILED);
	if (start > map)
		(void)munmap(map, (size_t)(start - map));
	(void)munmap(start + bytes, alignment - (size_t)(start - map));
	return start;
}

char *map_pages(uint64_t n_pages)
{
	char *map = map_aligned(n_pages * PAGE_BYTES, PAGE_BYTES);

	(void)madvise(map, n_pages * PAGE_BYTES, MADV_NOHUGEPAGE);
	return map;
}

char *map_huge(uint64_t n_huge)
{
	char *map = map_aligned(n_huge * HUGE_BYTES, HUGE_BYTES);

	(void)madvise(map, n_huge * HUGE_BYTES, MADV_HUGEPAGE);
	return map;
}

bool collapse_huge(char *map, uint64_t n_huge)
{
	return madvise(map, n_huge * HUGE_BYTES, MADV_COLLAPSE) == 0;
}

void unmap_pages(char *map, uint64_t n_pages)
{
	(void)munmap(map, n_pages * PAGE_BYTES);
}

int make_store(uint64_t n_pages, int fill)
{
	int fd = must(memfd_create("platform-store", MFD_CLOEXEC));
	char page[PAGE_BYTES];

	for (uint64_t i = 0; i < n_pages; i++) {
		memset(page, fill + (int)i, sizeof(page));
		assert_int_equal(io_write_full(fd, page, sizeof(page)), 0);
	}
	return fd;
}

/* --- page maps ------------------------------------------------------------------------------- */

int pagemap_open(pid_t pid)
{
	char path[32];

	(void)snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	return must(open(path, O_RDONLY | O_CLOEXEC));
}

uint64_t page_look(int pagemap_fd, const void *page)
{
	struct page_region region;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)page,
		.end = (uintptr_t)page + PAGE_BYTES,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.return_mask = PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN | PAGE_IS_FILE |
			       PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_PFNZERO | PAGE_IS_HUGE,
	};
	int n = must(ioctl(pagemap_fd, PAGEMAP_SCAN, &arg));

	return n == 1 ? region.categories : ~UINT64_C(0);
}

uint64_t page_entry(int pagemap_fd, const void *page)
{
	uint64_t entry;
	off_t offset = (off_t)((uintptr_t)page / PAGE_BYTES * sizeof(entry));

	assert_int_equal(must(pread(pagemap_fd, &entry, sizeof(entry), offset)), sizeof(entry));
	return entry;
}

uint64_t page_frame(int pagemap_fd, const void *page)
{
	uint64_t entry = page_entry(pagemap_fd, page);

	return entry & PAGEMAP_ENTRY_PRESENT ? entry & PAGEMAP_ENTRY_PFN : 0;
}

uint64_t pages_arm(int pagemap_fd, const void *start, uint64_t n_pages)
{
	static struct page_region regions[256];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING,
		.start = (uintptr_t)start,
		.end = (uintptr_t)start + n_pages * PAGE_BYTES,
		.vec = (uintptr_t)regions,
		.vec_len = ARRAY_SIZE(regions),
		.category_mask = PAGE_IS_WRITTEN,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_WRITTEN,
	};
	uint64_t n = 0;

	while (arg.start < arg.end) {
		int r = must(ioctl(pagemap_fd, PAGEMAP_SCAN, &arg));

		for (int i = 0; i < r; i++)
			n += (regions[i].end - regions[i].start) / PAGE_BYTES;
		arg.start = arg.walk_end;
	}
	return n;
}

/* --- userfaultfd ----------------------------------------------------------------------------- */

int uffd_make(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	_cleanup_close_ int fd = (int)syscall(__NR_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
		return -errno;
	return TAKE_FD(fd);
}

int uffd_register(int uffd, const void *start, uint64_t n_pages, uint64_t mode)
{
	struct uffdio_register reg = {
		.range = { (uintptr_t)start, n_pages * PAGE_BYTES },
		.mode = mode,
	};

	return ioctl(uffd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

/* --- the model guest ------------------------------------------------------------------------- */

struct guest_request {
	guest_fn *fn;
	uint64_t a, b, c;
};

_noreturn_ static void guest_main(int socket)
{
	struct guest_request q;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (read(socket, &q, sizeof(q)) == (ssize_t)sizeof(q)) {
		int64_t result = q.fn(q.a, q.b, q.c);

		if (write(socket, &result, sizeof(result)) != (ssize_t)sizeof(result))
			break;
	}
	_exit(0);
}

void guest_start(struct guest *g)
{
	int pair[2];

	*g = (struct guest){ .pidfd = -1, .socket = -1, .pagemap = -1 };
	(void)must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	(void)fflush(NULL);
	g->pid = must(fork());
	if (g->pid == 0) {
		(void)close(pair[0]);
		guest_main(pair[1]);
	}
	(void)close(pair[1]);
	g->socket = pair[0];
	g->pidfd = (int)must(syscall(__NR_pidfd_open, g->pid, 0));
	g->pagemap = pagemap_open(g->pid);
}

void guest_stop(struct guest *g)
{
	if (g->pid <= 0)
		return;
	(void)kill(g->pid, SIGKILL);
	(void)waitpid(g->pid, NULL, 0);
	close_fdp(&g->pidfd);
	close_fdp(&g->socket);
	close_fdp(&g->pagemap);
	g->pid = 0;
}

void guest_send(struct guest *g, guest_fn *fn, uint64_t a, uint64_t b, uint64_t c)
{
	struct guest_request q = { fn, a, b, c };

	assert_int_equal(must(write(g->socket, &q, sizeof(q))), sizeof(q));
}

int64_t guest_receive(struct guest *g)
{
	int64_t result;

	if (must(read(g->socket, &result, sizeof(result))) != (ssize_t)sizeof(result))
		fail_msg("the guest died");
	return result;
}

int64_t guest_call(struct guest *g, guest_fn *fn, uint64_t a, uint64_t b, uint64_t c)
{
	guest_send(g, fn, a, b, c);
	return guest_receive(g);
}

static int64_t make_uffd_there(uint64_t a _unused_, uint64_t b _unused_, uint64_t c _unused_)
{
	int fd = (int)syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	return fd < 0 ? -errno : fd;
}

int64_t guest_close(uint64_t fd, uint64_t b _unused_, uint64_t c _unused_)
{
	return close((int)fd) < 0 ? -errno : 0;
}

int guest_uffd(struct guest *g)
{
	int64_t there = guest_call(g, make_uffd_there, 0, 0, 0);
	int here;

	assert_true(there >= 0);
	here = (int)must(syscall(__NR_pidfd_getfd, g->pidfd, (int)there, 0));
	(void)guest_call(g, guest_close, (uint64_t)there, 0, 0);
	return here;
}

int64_t guest_write(uint64_t page, uint64_t n_pages, uint64_t value)
{
	for (uint64_t i = 0; i < n_pages; i++)
		*(volatile uint64_t *)(page + i * PAGE_BYTES) = value;
	return 0;
}

int64_t guest_read(uint64_t page, uint64_t n_pages, uint64_t unused _unused_)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < n_pages; i++)
		sum += *(volatile uint64_t *)(page + i * PAGE_BYTES);
	return (int64_t)(sum >> 1);
}

int64_t guest_madvise(uint64_t page, uint64_t n_pages, uint64_t advice)
{
	return madvise((void *)page, n_pages * PAGE_BYTES, (int)advice) < 0 ? -errno : 0;
}

/* --- KSM ------------------------------------------------------------------------------------- */

#define KSM_DIRECTORY "/sys/kernel/mm/ksm/"
/* The lock and its name are shared with tests/integration/ksm.py. */
#define KSM_LOCK "/run/lock/memshared-test-ksm.lock"

/* In the order in which they are put back. */
static const char *const ksm_settings[] = {
	"advisor_mode", "pages_to_scan", "sleep_millisecs", "smart_scan", "use_zero_pages", "run",
};
static char ksm_before[ARRAY_SIZE(ksm_settings)][64];
static int ksm_lock = -1;

void ksm_set(const char *name, const char *value)
{
	char path[128];

	(void)snprintf(path, sizeof(path), KSM_DIRECTORY "%s", name);
	(void)io_write_file(AT_FDCWD, path, value);
}

uint64_t ksm_get(const char *name)
{
	char path[128];
	uint64_t v = 0;

	(void)snprintf(path, sizeof(path), KSM_DIRECTORY "%s", name);
	(void)io_read_u64(AT_FDCWD, path, &v);
	return v;
}

/* "none [scan-time]" -> "scan-time"; a plain value stays as it is. */
static void strip_brackets(char *s)
{
	char *open = strchr(s, '['), *close = open ? strchr(open, ']') : NULL;

	if (close) {
		*close = '\0';
		memmove(s, open + 1, strlen(open + 1) + 1);
	}
}

/* A test that is told to end (its time is over) gives back what it borrowed. */
static void give_back(int signal)
{
	ksm_return();
	swap_return();
	_exit(128 + signal);
}

static void give_back_when_told(void)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		(void)sigaction(signals[i], &(struct sigaction){ .sa_handler = give_back }, NULL);
}

void ksm_borrow(void)
{
	char path[128];

	if (access(KSM_DIRECTORY "run", W_OK) < 0)
		SKIP("no KSM here, or we may not set it");
	(void)mkdir("/run/lock", 0755);
	ksm_lock = must(open(KSM_LOCK, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	(void)must(flock(ksm_lock, LOCK_EX));
	give_back_when_told();
	for (size_t i = 0; i < ARRAY_SIZE(ksm_settings); i++) {
		(void)snprintf(path, sizeof(path), KSM_DIRECTORY "%s", ksm_settings[i]);
		if (io_read_line(AT_FDCWD, path, ksm_before[i], sizeof(ksm_before[i])) < 0)
			ksm_before[i][0] = '\0';
		strip_brackets(ksm_before[i]);
	}
}

void ksm_return(void)
{
	if (ksm_lock < 0)
		return;
	ksm_set("advisor_mode", "none");
	for (size_t i = 1; i < ARRAY_SIZE(ksm_settings); i++)
		if (*ksm_before[i])
			ksm_set(ksm_settings[i], ksm_before[i]);
	if (*ksm_before[0])
		ksm_set(ksm_settings[0], ksm_before[0]);
	close_fdp(&ksm_lock);
}

void ksm_wait_equal_frames(int pagemap_fd, const void *a, const void *b)
{
	uint64_t deadline = now_usec() + WAIT_USEC;

	/* KSM tells nobody when it has merged: its state is polled. */
	while (page_frame(pagemap_fd, a) == 0 ||
	       page_frame(pagemap_fd, a) != page_frame(pagemap_fd, b)) {
		if (now_usec() > deadline)
			fail_msg("KSM merged nothing within a minute");
		(void)usleep(10000);
	}
}

/* --- swap ------------------------------------------------------------------------------------ */

#define SWAP_BYTES MIB(64)

static char swap_path[64];
static int64_t zram_number = -1;

static void write_swap_header(const char *path, uint64_t bytes)
{
	_cleanup_close_ int fd = must(open(path, O_WRONLY | O_CLOEXEC));
	struct {
		char boot[1024];
		uint32_t version, last_page, n_bad_pages;
		char rest[PAGE_BYTES - 1024 - 12 - 10];
		char magic[10];
	} __attribute__((packed)) header = {
		.version = 1,
		.last_page = (uint32_t)(bytes / PAGE_BYTES) - 1,
	};

	static_assert(sizeof(header) == PAGE_BYTES, "one page");
	memcpy(header.magic, "SWAPSPACE2", 10);
	assert_int_equal(io_write_full(fd, &header, sizeof(header)), 0);
	(void)must(fsync(fd));
}

static bool make_zram(void)
{
	char path[64];
	uint64_t n;

	if (io_read_u64(AT_FDCWD, "/sys/class/zram-control/hot_add", &n) < 0)
		return false;
	zram_number = (int64_t)n;
	(void)snprintf(path, sizeof(path), "/sys/block/zram%lld/disksize", (long long)n);
	(void)snprintf(swap_path, sizeof(swap_path), "/dev/zram%lld", (long long)n);
	return io_write_u64(AT_FDCWD, path, SWAP_BYTES) == 0;
}

void swap_borrow(void)
{
	const char *device = getenv("MEMSHARED_TEST_SWAP");

	if (device)
		(void)snprintf(swap_path, sizeof(swap_path), "%s", device);
	else if (geteuid() != 0 || !make_zram())
		SKIP("no swap can be made: neither zram nor $MEMSHARED_TEST_SWAP");
	/* zram's node may appear a moment after the device. */
	for (uint64_t deadline = now_usec() + WAIT_USEC;
	     access(swap_path, F_OK) < 0 && now_usec() < deadline;)
		(void)usleep(1000);
	give_back_when_told();
	write_swap_header(swap_path, SWAP_BYTES);
	/* Lowest priority: nobody else's pages go there unless memory runs out. */
	if (swapon(swap_path, 0) < 0) {
		int error = errno;

		swap_return();
		SKIP("swapon %s: %s", swap_path, strerror(error));
	}
}

void swap_return(void)
{
	if (!*swap_path)
		return;
	(void)swapoff(swap_path);
	*swap_path = '\0';
	if (zram_number >= 0)
		(void)io_write_u64(AT_FDCWD, "/sys/class/zram-control/hot_remove",
				   (uint64_t)zram_number);
	zram_number = -1;
}

bool swap_out(struct guest *g, char *start, uint64_t n_pages)
{
	uint64_t deadline = now_usec() + WAIT_USEC / 6, i = 0;

	/* Reclaim may skip pages that are busy just then: ask again. */
	while (i < n_pages && now_usec() < deadline) {
		assert_int_equal(
			guest_call(g, guest_madvise, (uintptr_t)start, n_pages, MADV_PAGEOUT), 0);
		for (i = 0; i < n_pages; i++)
			if (!(page_entry(g->pagemap, start + i * PAGE_BYTES) &
			      PAGEMAP_ENTRY_SWAPPED))
				break;
	}
	return i == n_pages;
}
