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

int devices_read(const struct process *p, uint32_t *ret)
{
	int fd = openat(p->proc_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	uint32_t flags = 0;
	struct dirent *e;

	if (!d) {
		int r = -errno;

		close_fdp(&fd);
		return r;
	}
	for (unsigned n = 0; n < DEVICES_FDS_MAX && (e = readdir(d)); n++) {
		char link[128];
		ssize_t len = readlinkat(dirfd(d), e->d_name, link, sizeof(link) - 1);

		if (len <= 0)
			continue;
		link[len] = '\0';
		flags |= devices_of_link(link);
	}
	(void)closedir(d);
	*ret = flags;
	return 0;
}
