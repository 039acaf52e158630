/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/devices.h"

#include <dirent.h>
#include <fcntl.h>

#include "common/util.h"
#include "daemon/libvirt-xml.h"

static const struct {
	const char *part; /* of the link's text; the guest may be in a container */
	uint32_t flag;
} devices[] = {
	{ "/dev/vfio/", LIBVIRT_VFIO },
	{ "anon_inode:[vfio-device]", LIBVIRT_VFIO },
	{ "/dev/infiniband/", LIBVIRT_VFIO },
	{ "/dev/vhost-vdpa-", LIBVIRT_VDPA },
	{ "/dev/sev", LIBVIRT_SECURE },
	{ "/dev/sgx_vepc", LIBVIRT_SECURE },
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

/* Calls fn for the link of each descriptor, until it returns other than 0. That, 0, or -errno. */
static int foreach_link(const struct process *p, int (*fn)(const char *link, void *userdata), void *userdata)
{
	int fd = openat(p->proc_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;

	if (!d) {
		r = -errno;
		close_fdp(&fd);
		return r;
	}
	for (unsigned n = 0; n < DEVICES_FDS_MAX && r == 0 && (e = readdir(d)); n++) {
		char link[128];
		ssize_t len = readlinkat(dirfd(d), e->d_name, link, sizeof(link) - 1);

		if (len <= 0)
			continue;
		link[len] = '\0';
		r = fn(link, userdata);
	}
	(void)closedir(d);
	return r;
}

static int add_flags(const char *link, void *userdata)
{
	*(uint32_t *)userdata |= devices_of_link(link);
	return 0;
}

int devices_read(const struct process *p, uint32_t *ret)
{
	*ret = 0;
	return foreach_link(p, add_flags, ret);
}

static int is_userfaultfd(const char *link, void *userdata _unused_)
{
	return streq(link, "anon_inode:[userfaultfd]");
}

int devices_have_userfaultfd(const struct process *p)
{
	return foreach_link(p, is_userfaultfd, NULL);
}
