/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/devices.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/major.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "common/io.h"
#include "common/util.h"
#include "daemon/libvirt-xml.h"

#define FDINFO_MAX	 4096U
#define CEPH_SUPER_MAGIC 0x00c36400

static const struct {
	const char *part; /* of the link's text; the guest may be in a container */
	uint32_t flag;
} devices[] = {
	{ "/dev/vfio/", LIBVIRT_VFIO },
	{ "anon_inode:[vfio", LIBVIRT_VFIO },
	{ "anon_inode:kvm-vfio", LIBVIRT_VFIO },
	{ "/dev/iommu", LIBVIRT_VFIO },
	{ "/dev/infiniband/", LIBVIRT_VFIO },
	{ "/dev/vhost-vdpa-", LIBVIRT_VDPA },
	{ "/dev/sev", LIBVIRT_SECURE },
	{ "/dev/sgx", LIBVIRT_SECURE },
	/* These copy from and to memory by the process's page tables; vhost-net may send from pages that
	 * it holds, which are as they were when the guest gave them. */
	{ "/dev/vhost-net", 0 },
	{ "/dev/vhost-vsock", 0 },
	/* vhost-scsi, and what is new. */
	{ "/dev/vhost-", LIBVIRT_VHOST_SCSI },
};

uint32_t devices_of_link(const char *link)
{
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
		if (strstr(link, devices[i].part))
			return devices[i].flag;
	return 0;
}

bool devices_hide_io(uint64_t type)
{
	return type == NFS_SUPER_MAGIC || type == V9FS_MAGIC || type == CEPH_SUPER_MAGIC ||
	       type == SMB_SUPER_MAGIC || type == CIFS_SUPER_MAGIC || type == SMB2_SUPER_MAGIC ||
	       type == FUSE_SUPER_MAGIC;
}

bool devices_is_direct(const char *buf, size_t len)
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

/* Opened for direct I/O, or perhaps so. */
static bool is_direct(int fdinfo_dir, const char *name, const char *target)
{
	_cleanup_free_ char *info = NULL;
	size_t len;
	int r;

	if (target[0] != '/')
		return false;
	r = io_read_file(fdinfo_dir, name, FDINFO_MAX, &info, &len);
	return r < 0 ? r != -ENOENT : devices_is_direct(info, len);
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

/* A descriptor, as links in these two directories. 0 to go on. */
typedef int descriptor_fn(int fd_dir, int fdinfo_dir, const char *name, const char *target, uint32_t *flags);

static int note_flags(int fd_dir, int fdinfo_dir, const char *name, const char *target, uint32_t *flags)
{
	_cleanup_close_ int fd = -1;
	struct statfs fs;

	*flags |= devices_of_link(target);
	if (!is_direct(fdinfo_dir, name, target))
		return 0;
	fd = openat(fd_dir, name, O_PATH | O_CLOEXEC);
	if (fd >= 0 && fstatfs(fd, &fs) >= 0 && devices_hide_io((uint64_t)fs.f_type))
		*flags |= LIBVIRT_DIRECT_NET;
	return 0;
}

static int find_direct(int fd_dir, int fdinfo_dir, const char *name, const char *target, uint32_t *flags _unused_)
{
	return streq(target, "anon_inode:[io_uring]") || is_passthrough(fd_dir, name, target) ||
	       is_direct(fdinfo_dir, name, target);
}

static int each_descriptor(const struct process *p, descriptor_fn *fn, uint32_t *flags)
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
		if (++n > DEVICES_FDS_MAX) {
			r = -E2BIG;
			break;
		}
		len = readlinkat(dirfd(d), e->d_name, target, sizeof(target) - 1);
		if (len < 0)
			continue; /* closed meanwhile */
		target[len] = '\0';
		r = fn(dirfd(d), fdinfo_dir, e->d_name, target, flags);
	}
	(void)closedir(d);
	return r;
}

int devices_read(const struct process *p, uint32_t *ret)
{
	uint32_t flags = 0;
	int r = each_descriptor(p, note_flags, &flags);

	if (r == -E2BIG)
		flags |= LIBVIRT_UNSEEN;
	else if (r < 0)
		return r;
	*ret = flags;
	return 0;
}

int devices_direct_io(const struct process *p)
{
	return each_descriptor(p, find_direct, NULL);
}

static int is_userfaultfd(int fd_dir _unused_, int fdinfo_dir _unused_, const char *name _unused_, const char *target,
			  uint32_t *flags _unused_)
{
	return streq(target, "anon_inode:[userfaultfd]");
}

int devices_have_userfaultfd(const struct process *p)
{
	return each_descriptor(p, is_userfaultfd, NULL);
}
