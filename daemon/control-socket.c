/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The listening socket, and how two daemons keep out of each other's way.
 *
 * A socket's name stays when its daemon is killed; bind() then fails although nobody listens.
 * Looking whether somebody does and removing the name are two steps, so that two daemons that
 * start at once could remove each other's. A lock file beside the socket makes them one: it
 * is held for as long as the daemon listens, and goes with the process however it dies. The
 * look (connect) is still made, for a listener that knows nothing of the lock.
 *
 * The lock file is removed on a clean exit. So whoever got a lock must see whether the file
 * that he locked still has its name: it may have been removed between his open and his lock.
 */
#include "daemon/control-private.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

static int fill_address(const char *path, struct sockaddr_un *ret)
{
	if (strlen(path) >= sizeof(ret->sun_path))
		return -ENAMETOOLONG;
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	strcpy(ret->sun_path, path);
	return 0;
}

/* 0 with the lock held in *ret_fd, -EADDRINUSE when another process has it. */
static int take_lock(const char *lock_path, int *ret_fd)
{
	for (;;) {
		_cleanup_close_ int fd = open(lock_path,
					      O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK,
					      0600);
		struct stat locked, named;

		if (fd < 0)
			return -errno;
		if (flock(fd, LOCK_EX | LOCK_NB) < 0)
			return errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
		if (fstat(fd, &locked) < 0)
			return -errno;
		if (stat(lock_path, &named) == 0 && named.st_dev == locked.st_dev &&
		    named.st_ino == locked.st_ino) {
			*ret_fd = TAKE_FD(fd);
			return 0;
		}
	}
}

/* Frees the name if nobody listens on it. */
static int remove_stale(const struct sockaddr_un *address)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (lstat(address->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* Refused is the only answer that says that nobody is there; a full queue (EAGAIN) or
	 * a listener of another kind (EPROTOTYPE) says the opposite. */
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ||
	    errno != ECONNREFUSED)
		return -EADDRINUSE;
	if (unlink(address->sun_path) < 0 && errno != ENOENT)
		return -errno;
	return 0;
}

/* Nobody can connect before listen(), so the mode is right from the first moment on. */
static int bind_and_listen(struct control_socket *s, const struct sockaddr_un *address, mode_t mode)
{
	struct stat st;

	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->fd < 0)
		return -errno;
	if (bind(s->fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
		return -errno;
	if (stat(address->sun_path, &st) < 0)
		return -errno;
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	if (chmod(address->sun_path, mode & 0777) < 0)
		return -errno;
	if (listen(s->fd, SOMAXCONN) < 0)
		return -errno;
	return 0;
}

int control_socket_open(struct control_socket *s, const char *path, mode_t mode)
{
	struct sockaddr_un address;
	int r = fill_address(path, &address);

	*s = (struct control_socket){ .lock_fd = -1, .fd = -1 };
	if (r < 0)
		return r;
	s->path = strdup(path);
	if (!s->path || asprintf(&s->lock_path, "%s.lock", path) < 0) {
		s->lock_path = NULL;
		control_socket_close(s);
		return -ENOMEM;
	}
	r = take_lock(s->lock_path, &s->lock_fd);
	if (r == 0)
		r = remove_stale(&address);
	if (r == 0)
		r = bind_and_listen(s, &address, mode);
	if (r < 0)
		control_socket_close(s);
	return r;
}

int control_socket_adopt(struct control_socket *s, int fd)
{
	int flags;

	if (sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0) <= 0)
		return -EINVAL;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	*s = (struct control_socket){ .lock_fd = -1, .fd = fd };
	return 0;
}

void control_socket_close(struct control_socket *s)
{
	struct stat st;

	if (s->path && s->ino && stat(s->path, &st) == 0 && st.st_dev == s->dev &&
	    st.st_ino == s->ino)
		(void)unlink(s->path);
	close_fdp(&s->fd);
	/* The name goes before the lock, while nobody else can hold it. */
	if (s->lock_fd >= 0)
		(void)unlink(s->lock_path);
	close_fdp(&s->lock_fd);
	free(s->path);
	free(s->lock_path);
	s->path = s->lock_path = NULL;
	s->ino = 0;
}
