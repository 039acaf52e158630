/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/integration/remap-fixture.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "common/kernel-abi.h"
#include "common/util.h"
#include "daemon/agent/transaction.h"

static int uffd_open(void)
{
	_cleanup_close_ int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED,
	};
	_cleanup_close_ int fd = -1;

	if (device >= 0)
		fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	else
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
		return -errno;
	if (!(api.features & UFFD_FEATURE_MOVE))
		return -ENOSYS;
	return TAKE_FD(fd);
}

static int store_make(struct remap *r)
{
	char path[64];

	r->store_fd = memfd_create("memshared-store", MFD_CLOEXEC);
	if (r->store_fd < 0 || ftruncate(r->store_fd, (off_t)(r->slots * PAGE_BYTES)) < 0)
		return -errno;
	r->store = mmap(NULL, r->slots * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			r->store_fd, 0);
	if (r->store == MAP_FAILED)
		return -errno;
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", r->store_fd);
	r->agent.fds[RING_FD_STORE] = open(path, O_RDONLY | O_CLOEXEC);
	return r->agent.fds[RING_FD_STORE] < 0 ? -errno : 0;
}

int remap_open(struct remap *r, uint64_t slots)
{
	int q;

	*r = (struct remap){.slots = slots, .store_fd = -1};
	for (size_t i = 0; i < RING_FD_MAX; i++)
		r->agent.fds[i] = -1;
	r->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	r->payload = calloc(1, RING_PAYLOAD_BYTES);
	r->uffd = uffd_open();
	if (r->uffd < 0)
		return r->uffd;
	r->agent.fds[RING_FD_UFFD] = r->uffd;
	r->agent.uffd_kind = RING_UFFD_KERNEL;
	q = store_make(r);
	if (q < 0)
		return q;
	return (int)transaction_map_store(&r->agent, slots * PAGE_BYTES);
}

void remap_close(struct remap *r)
{
	transaction_release(&r->agent);
	close_fdp(&r->agent.fds[RING_FD_STORE]);
	close_fdp(&r->uffd);
	close_fdp(&r->store_fd);
	close_fdp(&r->pagemap);
	if (r->store && r->store != MAP_FAILED)
		(void)munmap(r->store, r->slots * PAGE_BYTES);
	free(r->payload);
}

int64_t remap_block(struct remap *r, enum ring_op op, void *addr, uint64_t n_pages, uint32_t flags,
		    uint32_t advice, struct ring_run *runs, uint32_t n_runs)
{
	struct ring_merge *m = (struct ring_merge *)r->payload;
	struct ring_run *v = (struct ring_run *)(m + 1);
	int64_t done;

	*m = (struct ring_merge){
		.addr = (uintptr_t)addr,
		.bytes = n_pages * PAGE_BYTES,
		.n_runs = n_runs,
		.flags = flags,
		.advice_mask = advice,
		.policy = r->policy,
	};
	memcpy(v, runs, n_runs * sizeof(*runs));
	done = transaction_run(&r->agent, op, r->payload, 1);
	memcpy(runs, v, n_runs * sizeof(*runs));
	r->last_wait_nsec = m->wait_nsec;
	r->last_wait_cpu_nsec = m->wait_cpu_nsec;
	r->last_advice_failed = m->advice_failed;
	r->last_result = m->result;
	return done;
}

struct ring_run remap_run(void *addr, uint64_t n_pages, uint32_t slot)
{
	return (struct ring_run){
		.addr = (uintptr_t)addr,
		.n_pages = (uint32_t)n_pages,
		.slot = slot,
		.result = -ECANCELED,
	};
}

uint32_t remap_find_mapped(struct remap *r _unused_, void *addr, uint64_t n_pages,
			   struct ring_run *runs, uint32_t max)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/maps", "re");
	uint64_t from = (uintptr_t)addr, to = from + n_pages * PAGE_BYTES;
	uint64_t start, end, offset;
	char line[512], perms[8];
	uint32_t n = 0;

	while (f && n < max && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %" SCNx64, &start, &end, perms,
			   &offset) != 4 ||
		    !strstr(line, "/memfd:memshared-store") || perms[3] != 'p')
			continue;
		if (end <= from || start >= to)
			continue;
		if (start < from) {
			offset += from - start;
			start = from;
		}
		end = MIN(end, to);
		runs[n++] = remap_run((void *)start, (end - start) / PAGE_BYTES,
				      (uint32_t)(offset / PAGE_BYTES));
	}
	return n;
}

uint32_t remap_count_maps(void *addr, uint64_t n_pages)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/maps", "re");
	uint64_t from = (uintptr_t)addr, to = from + n_pages * PAGE_BYTES, start, end;
	char line[512];
	uint32_t n = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%" SCNx64 "-%" SCNx64, &start, &end) == 2 && end > from &&
		    start < to)
			n++;
	return n;
}

/* Not advice: sd is set on every new mapping, mw/me/mr and um/uw/ui are not the guest's. */
static bool flag_is_advice(const char *flag)
{
	static const char *const ours[] = {"sd", "um", "uw", "ui", "mr", "mw", "me"};

	for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
		if (streq(flag, ours[i]))
			return false;
	return true;
}

void remap_vm_flags(const void *addr, char *ret, size_t size)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/smaps", "re");
	uint64_t start, end;
	char line[512];
	bool inside = false;

	ret[0] = '\0';
	while (f && fgets(line, sizeof(line), f)) {
		char *save, *word;

		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2)
			inside = (uintptr_t)addr >= start && (uintptr_t)addr < end;
		if (!inside || strncmp(line, "VmFlags:", 8) != 0)
			continue;
		for (word = strtok_r(line + 8, " \n", &save); word;
		     word = strtok_r(NULL, " \n", &save))
			if (flag_is_advice(word))
				(void)snprintf(ret + strlen(ret), size - strlen(ret), "%s ", word);
		return;
	}
}

int remap_track(struct remap *r, void *addr, uint64_t n_pages)
{
	struct uffdio_register reg = {
		.range = {(uintptr_t)addr, n_pages * PAGE_BYTES},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	return ioctl(r->uffd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

int64_t remap_collect(struct remap *r, void *addr, uint64_t n_pages)
{
	struct page_region regions[64];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING,
		.start = (uintptr_t)addr,
		.end = (uintptr_t)addr + n_pages * PAGE_BYTES,
		.vec = (uintptr_t)regions,
		.vec_len = ARRAY_SIZE(regions),
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	int64_t written = 0;

	while (arg.start < arg.end) {
		int n = ioctl(r->pagemap, PAGEMAP_SCAN, &arg);

		if (n < 0)
			return -errno;
		for (int i = 0; i < n; i++)
			written += (int64_t)((regions[i].end - regions[i].start) / PAGE_BYTES);
		arg.start = arg.walk_end;
	}
	return written;
}
