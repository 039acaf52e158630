/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/refusal.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/major.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "common/io.h"
#include "common/parse.h"
#include "common/util.h"
#include "daemon/maps.h"
#include "daemon/memory.h"
#include "daemon/qemu-cmdline.h"

/* Descriptors looked at; a QEMU has some dozens, with many disks and queues some hundreds. */
#define DESCRIPTORS_MAX 16384U
#define FDINFO_MAX	4096U
#define CEPH_SUPER_MAGIC 0x00c36400

const char *refusal_of_descriptor(const char *target)
{
	static const struct {
		const char *start, *reason;
	} table[] = {
		{ "/dev/vfio/", "a VFIO device reaches its memory by physical address: detach the device" },
		{ "anon_inode:[vfio", "a VFIO device reaches its memory by physical address: detach the device" },
		{ "anon_inode:kvm-vfio", "a VFIO device reaches its memory by physical address: detach the device" },
		{ "/dev/iommu", "an IOMMU maps its memory for a device: detach the device" },
		{ "/dev/vhost-vdpa", "a vDPA device reaches its memory by physical address: detach the device" },
		{ "/dev/infiniband/", "RDMA reaches its memory by physical address: detach the device" },
		{ "/dev/sev", "its memory is encrypted, so no page equals another: run it without" },
		{ "/dev/sgx", "it uses SGX: run it without" },
		/* Why these and not that: devices.c. */
		{ "/dev/vhost-net", NULL },
		{ "/dev/vhost-vsock", NULL },
		{ "/dev/vhost-", "vhost-scsi does I/O to its memory in a way that does not show: use "
				 "virtio-scsi, or engine=ksm" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (strncmp(target, table[i].start, strlen(table[i].start)) == 0)
			return table[i].reason;
	return NULL;
}

const char *refusal_of_argument(const char *argument, enum policy_engine engine)
{
	static const struct {
		const char *part, *reason;
		bool discards; /* which does no harm to a hole: it reads as zeros before and after */
	} table[] = {
		{ "free-page-reporting=on",
		  "free page reporting is on: set freePageReporting='off' at its memballoon", true },
		{ "\"free-page-reporting\":true",
		  "free page reporting is on: set freePageReporting='off' at its memballoon", true },
		{ "virtio-mem", "a virtio-mem device unplugs memory page by page: use pc-dimm", true },
		{ "hv-balloon", "an hv-balloon device unplugs memory page by page: use pc-dimm", true },
		{ "vfio-pci", "a VFIO device reaches its memory by physical address: detach the device",
		  false },
		{ "sev-guest", "its memory is encrypted, so no page equals another: run it without", false },
		{ "sev-snp-guest", "its memory is encrypted, so no page equals another: run it without", false },
		{ "tdx-guest", "its memory is encrypted, so no page equals another: run it without", false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (strstr(argument, table[i].part) &&
		    !(table[i].discards && engine == POLICY_ENGINE_ZERO))
			return table[i].reason;
	return NULL;
}

bool refusal_of_file_system(uint64_t type)
{
	return type == NFS_SUPER_MAGIC || type == V9FS_MAGIC || type == CEPH_SUPER_MAGIC ||
	       type == SMB_SUPER_MAGIC || type == CIFS_SUPER_MAGIC || type == SMB2_SUPER_MAGIC ||
	       type == FUSE_SUPER_MAGIC;
}

bool refusal_is_direct(const char *buf, size_t len)
{
	static const char start[] = "flags:\t";
	uint64_t flags = 0;

	for (const char *line = buf, *end = buf + len; line < end;) {
		const char *nl = memchr(line, '\n', (size_t)(end - line));
		const char *stop = nl ? nl : end;

		if ((size_t)(stop - line) > sizeof(start) - 1 && memcmp(line, start, sizeof(start) - 1) == 0) {
			/* Octal, as the kernel prints it. */
			for (const char *p = line + sizeof(start) - 1; p < stop && *p >= '0' && *p <= '7'; p++)
				flags = flags << 3 | (uint64_t)(*p - '0');
			return flags & O_DIRECT;
		}
		line = stop + 1;
	}
	return true;
}

static int refuse(char *ret_reason, const char *reason)
{
	(void)snprintf(ret_reason, REFUSAL_BYTES, "%s", reason);
	return -EPERM;
}

/* Opened for direct I/O, or perhaps so. */
static bool is_direct(int fdinfo_dir, const char *name, const char *target)
{
	_cleanup_free_ char *info = NULL;
	size_t len;
	int r;

	if (target[0] != '/')
		return false;
	r = io_read_file(fdinfo_dir, name, FDINFO_MAX, &info, &len);
	return r < 0 ? r != -ENOENT : refusal_is_direct(info, len);
}

/* Commands for a device that say themselves where in memory its data go (SG_IO, QEMU's scsi-block and
 * scsi-generic; NVMe), for which no descriptor need be open for direct I/O. */
static bool is_passthrough(int fd_dir, const char *name, const char *target)
{
	struct stat st;

	if (strncmp(target, "/dev/bsg/", 9) == 0 || strncmp(target, "/dev/nvme", 9) == 0 ||
	    strncmp(target, "/dev/ng", 7) == 0)
		return true;
	if (target[0] != '/')
		return false;
	if (fstatat(fd_dir, name, &st, 0) < 0)
		return errno != ENOENT;
	return S_ISBLK(st.st_mode) || (S_ISCHR(st.st_mode) && major(st.st_rdev) == SCSI_GENERIC_MAJOR);
}

/* What to do with each descriptor: 0 to go on. */
typedef int descriptor_fn(int fd_dir, int fdinfo_dir, const char *name, const char *target,
			  char *ret_reason);

static int check_descriptor(int fd_dir, int fdinfo_dir, const char *name, const char *target,
			    char *ret_reason)
{
	const char *reason = refusal_of_descriptor(target);
	_cleanup_close_ int fd = -1;
	struct statfs fs;

	if (reason)
		return refuse(ret_reason, reason);
	if (!is_direct(fdinfo_dir, name, target))
		return 0;
	fd = openat(fd_dir, name, O_PATH | O_CLOEXEC);
	if (fd < 0 || fstatfs(fd, &fs) < 0 || !refusal_of_file_system((uint64_t)fs.f_type))
		return 0;
	return refuse(ret_reason, "it does direct I/O on a network file system, which does not show what "
				  "memory it pins: use cache=writeback");
}

static int find_direct(int fd_dir, int fdinfo_dir, const char *name, const char *target,
		       char *ret_reason _unused_)
{
	return streq(target, "anon_inode:[io_uring]") || is_passthrough(fd_dir, name, target) ||
	       is_direct(fdinfo_dir, name, target);
}

static int each_descriptor(const struct process *p, descriptor_fn *fn, char *ret_reason)
{
	int fd_dir = openat(p->proc_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int fdinfo_dir = openat(p->proc_fd, "fdinfo", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd_dir >= 0 ? fdopendir(fd_dir) : NULL;
	struct dirent *e;
	unsigned n = 0;
	int r = 0;

	if (!d || fdinfo_dir < 0) {
		r = -errno;
		if (d)
			(void)closedir(d);
		else
			close_fdp(&fd_dir);
		return r;
	}
	while (r == 0 && (e = readdir(d))) {
		char target[256];
		ssize_t len;

		if (e->d_name[0] == '.')
			continue;
		if (++n > DESCRIPTORS_MAX) {
			r = -E2BIG;
			break;
		}
		len = readlinkat(dirfd(d), e->d_name, target, sizeof(target) - 1);
		if (len < 0)
			continue; /* closed meanwhile */
		target[len] = '\0';
		r = fn(dirfd(d), fdinfo_dir, e->d_name, target, ret_reason);
	}
	(void)closedir(d);
	return r;
}

int refusal_direct_io(const struct process *p)
{
	return each_descriptor(p, find_direct, NULL);
}

static int check_arguments(const struct process *p, enum policy_engine engine,
			   char ret_reason[REFUSAL_BYTES])
{
	_cleanup_free_ char *buf = NULL;
	size_t len;
	int r = io_read_file(p->proc_fd, "cmdline", QEMU_CMDLINE_MAX_BYTES, &buf, &len);

	if (r < 0)
		return r;
	/* io_read_file() ends the text with a NUL, so the last argument ends too. */
	for (const char *a = buf; a < buf + len; a += strlen(a) + 1) {
		const char *reason = refusal_of_argument(a, engine);

		if (reason)
			return refuse(ret_reason, reason);
	}
	return 0;
}

static int check_memory(const struct process *p, char ret_reason[REFUSAL_BYTES])
{
	struct ram_block blocks[RAM_BLOCKS_MAX];
	size_t n;
	int r = memory_find_blocks(p, blocks, &n);

	for (size_t i = 0; i < n && r == 0; i++) {
		if (blocks[i].flags_any & VMF_LOCKED)
			r = refuse(ret_reason, "its memory is locked: remove <locked/>, or -overcommit mem-lock");
		else if (blocks[i].backing == BLOCK_SHARED)
			r = refuse(ret_reason, "another process maps its memory too (vhost-user, virtiofs): "
					       "remapping here would split what the two see");
	}
	return r;
}

int refusal_of_remap(const struct process *p, enum policy_engine engine, char ret_reason[REFUSAL_BYTES])
{
	int r = check_memory(p, ret_reason);

	if (r == 0)
		r = each_descriptor(p, check_descriptor, ret_reason);
	if (r == 0)
		r = check_arguments(p, engine, ret_reason);
	return r;
}
