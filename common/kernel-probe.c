/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/kernel-probe.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "common/io.h"
#include "common/kernel-abi.h"
#include "common/units.h"
#include "common/util.h"

#define SCRATCH_PAGES 4U

/* Private anonymous memory of ours, small pages only, untouched. */
struct scratch {
	char *map;
};

static int scratch_open(struct scratch *s)
{
	s->map = mmap(NULL, SCRATCH_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s->map == MAP_FAILED) {
		s->map = NULL;
		return -errno;
	}
	(void)madvise(s->map, SCRATCH_PAGES * PAGE_BYTES, MADV_NOHUGEPAGE);
	return 0;
}

static void scratch_close(struct scratch *s)
{
	if (s->map)
		(void)munmap(s->map, SCRATCH_PAGES * PAGE_BYTES);
}
#define _cleanup_scratch_ _cleanup_(scratch_close)

static void scratch_touch(struct scratch *s, unsigned page)
{
	((volatile char *)s->map)[page * PAGE_BYTES] = 1;
}

static int own_pagemap_open(void)
{
	return open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
}

static int pagemap_entry(int fd, const void *page, uint64_t *ret)
{
	off_t offset = (off_t)((uintptr_t)page / PAGE_BYTES * sizeof(*ret));
	ssize_t n = pread(fd, ret, sizeof(*ret), offset);

	if (n < 0)
		return -errno;
	return n == sizeof(*ret) ? 0 : -ENODATA;
}

/* --- a child to look into -------------------------------------------------------------------- */

struct child {
	pid_t pid;
};

/* It sleeps with our memory, copied on write, until it is closed or we die. */
static int child_open(struct child *c)
{
	pid_t parent = getpid();

	c->pid = fork();
	if (c->pid < 0)
		return -errno;
	if (c->pid > 0)
		return 0;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() == parent)
		(void)pause();
	_exit(0);
}

static void child_close(struct child *c)
{
	if (c->pid <= 0)
		return;
	(void)kill(c->pid, SIGKILL);
	while (waitpid(c->pid, NULL, __WALL) < 0 && errno == EINTR)
		;
}
#define _cleanup_child_ _cleanup_(child_close)

int kernel_probe_vm_read(void)
{
	static const char text[] = "memshared";
	_cleanup_child_ struct child c = { 0 };
	char copy[sizeof(text)];
	struct iovec local = { copy, sizeof(copy) };
	struct iovec remote = { (void *)(uintptr_t)text, sizeof(text) };
	int r = child_open(&c);

	if (r < 0)
		return r;
	if (process_vm_readv(c.pid, &local, 1, &remote, 1, 0) < 0)
		return -errno;
	return memcmp(copy, text, sizeof(text)) == 0 ? 0 : -EIO;
}

static int seize_child(unsigned long options)
{
	_cleanup_child_ struct child c = { 0 };
	int r = child_open(&c);

	if (r < 0)
		return r;
	return ptrace(PTRACE_SEIZE, c.pid, NULL, (void *)options) < 0 ? -errno : 0;
}

int kernel_probe_ptrace(void)
{
	return seize_child(PTRACE_O_TRACESYSGOOD);
}

int kernel_probe_suspend_seccomp(void)
{
	return seize_child(PTRACE_O_SUSPEND_SECCOMP);
}

int kernel_probe_pidfd_getfd(void)
{
	_cleanup_child_ struct child c = { 0 };
	_cleanup_close_ int pidfd = -1, fd = -1, mine = -1;
	int r;

	mine = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (mine < 0)
		return -errno;
	r = child_open(&c);
	if (r < 0)
		return r;
	pidfd = (int)syscall(__NR_pidfd_open, c.pid, 0);
	if (pidfd < 0)
		return -errno;
	fd = (int)syscall(__NR_pidfd_getfd, pidfd, mine, 0);
	return fd < 0 ? -errno : 0;
}

int kernel_probe_self_madvise(void)
{
	_cleanup_scratch_ struct scratch s = { 0 };
	_cleanup_close_ int pidfd = -1;
	int r = scratch_open(&s);

	if (r < 0)
		return r;
	pidfd = (int)syscall(__NR_pidfd_open, getpid(), 0);
	if (pidfd < 0)
		return -errno;

	struct iovec v[2] = { { s.map, PAGE_BYTES }, { s.map + 2 * PAGE_BYTES, PAGE_BYTES } };

	return syscall(__NR_process_madvise, pidfd, v, 2, MADV_DONTFORK, 0) < 0 ? -errno : 0;
}

/* --- page maps ------------------------------------------------------------------------------- */

int kernel_probe_page_frames(void)
{
	_cleanup_scratch_ struct scratch s = { 0 };
	_cleanup_close_ int fd = own_pagemap_open();
	uint64_t entry;
	int r = scratch_open(&s);

	if (r < 0)
		return r;
	if (fd < 0)
		return -errno;
	scratch_touch(&s, 0);
	r = pagemap_entry(fd, s.map, &entry);
	if (r < 0)
		return r;
	return entry & PAGEMAP_ENTRY_PFN ? 0 : -EPERM;
}

/* The categories of one page; PM_SCAN_* flags act on it when it was written. */
static int scan_page(int fd, const void *page, uint64_t flags, uint64_t wanted,
		     uint64_t *ret_categories)
{
	struct page_region region = { 0 };
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = flags,
		.start = (uintptr_t)page,
		.end = (uintptr_t)page + PAGE_BYTES,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = flags ? PAGE_IS_WRITTEN : 0,
		.return_mask = wanted,
	};

	if (ioctl(fd, PAGEMAP_SCAN, &arg) < 0)
		return -errno;
	*ret_categories = region.categories;
	return 0;
}

static int probe_scan(uint64_t category)
{
	_cleanup_scratch_ struct scratch s = { 0 };
	_cleanup_close_ int fd = own_pagemap_open();
	uint64_t categories;
	int r = scratch_open(&s);

	if (r < 0)
		return r;
	if (fd < 0)
		return -errno;
	scratch_touch(&s, 0);
	r = scan_page(fd, s.map, 0, category, &categories);
	if (r < 0)
		return r;
	return categories & category ? 0 : -EOPNOTSUPP;
}

int kernel_probe_pagemap_scan(void)
{
	return probe_scan(PAGE_IS_PRESENT);
}

/* A page written since it was mapped is soft-dirty, if the kernel knows soft-dirty at all. */
int kernel_probe_scan_soft_dirty(void)
{
	return probe_scan(PAGE_IS_SOFT_DIRTY);
}

int kernel_probe_procmap_query(void)
{
	_cleanup_scratch_ struct scratch s = { 0 };
	_cleanup_close_ int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	struct procmap_query q = { .size = sizeof(q) };
	int r = scratch_open(&s);

	if (r < 0)
		return r;
	q.query_addr = (uintptr_t)s.map;
	if (fd < 0 || ioctl(fd, PROCMAP_QUERY, &q) < 0)
		return -errno;
	return q.vma_start <= q.query_addr && q.query_addr < q.vma_end ? 0 : -EIO;
}

/* Clears the marks of our own memory: that is ours to do, and nobody else looks at them. */
int kernel_probe_soft_dirty(void)
{
	_cleanup_scratch_ struct scratch s = { 0 };
	_cleanup_close_ int fd = own_pagemap_open();
	uint64_t clean, dirty;
	int r = scratch_open(&s);

	if (r < 0)
		return r;
	if (fd < 0)
		return -errno;
	scratch_touch(&s, 0);
	r = io_write_file(AT_FDCWD, "/proc/self/clear_refs", "4");
	if (r >= 0)
		r = pagemap_entry(fd, s.map, &clean);
	scratch_touch(&s, 0);
	if (r >= 0)
		r = pagemap_entry(fd, s.map, &dirty);
	if (r < 0)
		return r;
	return !(clean & PAGEMAP_ENTRY_SOFT_DIRTY) && (dirty & PAGEMAP_ENTRY_SOFT_DIRTY) ?
		       0 :
		       -EOPNOTSUPP;
}

/* --- userfaultfd ----------------------------------------------------------------------------- */

/* Opens one with features (which must all be there) and registers pages of the scratch. */
static int uffd_open(uint64_t features)
{
	_cleanup_close_ int fd =
		(int)syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
		return -errno;
	return TAKE_FD(fd);
}

static int uffd_register(int fd, const void *start, uint64_t n_pages, uint64_t mode)
{
	struct uffdio_register reg = {
		.range = { (uintptr_t)start, n_pages * PAGE_BYTES },
		.mode = mode,
	};

	return ioctl(fd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

int kernel_probe_uffd(void)
{
	_cleanup_scratch_ struct scratch s = { 0 };
	_cleanup_close_ int fd = uffd_open(0);
	int r = scratch_open(&s);

	if (r < 0)
		return r;
	return fd < 0 ? fd : uffd_register(fd, s.map, SCRATCH_PAGES, UFFDIO_REGISTER_MODE_MISSING);
}

int kernel_probe_uffd_device(void)
{
	_cleanup_close_ int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd = -1;

	if (dev < 0)
		return -errno;
	fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC);
	return fd < 0 ? -errno : 0;
}

int kernel_probe_uffd_wp_async(void)
{
	_cleanup_scratch_ struct scratch s = { 0 };
	_cleanup_close_ int pagemap = own_pagemap_open(), fd = -1;
	uint64_t before, after;
	int r = scratch_open(&s);

	if (r < 0)
		return r;
	if (pagemap < 0)
		return -errno;
	fd = uffd_open(UFFD_FEATURE_WP_ASYNC);
	if (fd < 0)
		return fd;
	r = uffd_register(fd, s.map, SCRATCH_PAGES, UFFDIO_REGISTER_MODE_WP);
	if (r < 0)
		return r;
	scratch_touch(&s, 0);
	r = scan_page(pagemap, s.map, PM_SCAN_WP_MATCHING, PAGE_IS_WRITTEN, &before);
	if (r >= 0)
		r = scan_page(pagemap, s.map, 0, PAGE_IS_WRITTEN, &before);
	/* Resolved by the kernel; were it not, we would wait for ourselves. API said it is. */
	scratch_touch(&s, 0);
	if (r >= 0)
		r = scan_page(pagemap, s.map, 0, PAGE_IS_WRITTEN, &after);
	if (r < 0)
		return r;
	return !(before & PAGE_IS_WRITTEN) && (after & PAGE_IS_WRITTEN) ? 0 : -EIO;
}

int kernel_probe_uffd_move(void)
{
	_cleanup_scratch_ struct scratch s = { 0 };
	_cleanup_close_ int fd = -1;
	int r = scratch_open(&s);

	if (r < 0)
		return r;
	fd = uffd_open(UFFD_FEATURE_MOVE);
	if (fd < 0)
		return fd;
	scratch_touch(&s, 0);
	r = uffd_register(fd, s.map + PAGE_BYTES, 1, UFFDIO_REGISTER_MODE_MISSING);
	if (r < 0)
		return r;

	struct uffdio_move move = {
		.dst = (uintptr_t)s.map + PAGE_BYTES,
		.src = (uintptr_t)s.map,
		.len = PAGE_BYTES,
	};

	return ioctl(fd, UFFDIO_MOVE, &move) < 0 ? -errno : 0;
}

/* --- ksm, pressure --------------------------------------------------------------------------- */

int kernel_probe_ksm(void)
{
	_cleanup_close_ int fd = open("/sys/kernel/mm/ksm/run", O_WRONLY | O_CLOEXEC);

	return fd < 0 ? -errno : 0;
}

int kernel_probe_ksm_stat(void)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = io_read_file(AT_FDCWD, "/proc/self/ksm_stat", 4096, &text, &len);

	if (r < 0)
		return r;
	return strstr(text, "ksm_merging_pages") ? 0 : -EOPNOTSUPP;
}

int kernel_probe_psi(void)
{
	char line[128];
	int r = io_read_line(AT_FDCWD, "/proc/pressure/memory", line, sizeof(line));

	if (r < 0)
		return r;
	return strncmp(line, "some ", 5) == 0 ? 0 : -EOPNOTSUPP;
}
