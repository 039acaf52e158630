/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/control-fixture.h"

#include <fcntl.h>
#include <sys/stat.h>

static void path_in_use(void **state)
{
	struct fixture *f = *state;
	struct control_config config = config_of(f);
	struct control *second = NULL;
	char lock[128];
	int fd;

	assert_int_equal(control_new(f->event, &config, &second), -EADDRINUSE);
	assert_null(second);
	/* Still so when the lock file was removed by somebody: the socket answers. */
	(void)snprintf(lock, sizeof(lock), "%s.lock", f->path);
	assert_int_equal(unlink(lock), 0);
	assert_int_equal(control_new(f->event, &config, &second), -EADDRINUSE);
	fd = connect_to(f->path);
	STILL_THERE(f, fd);
	(void)close(fd);
}

static void stale_socket_is_replaced(void **state)
{
	struct fixture *f = *state;
	struct control_config config = config_of(f);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct stat st;
	int fd;

	control_free(f->control);
	f->control = NULL;
	strcpy(address.sun_path, f->path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	(void)close(fd);
	config.mode = 0640;
	assert_int_equal(control_new(f->event, &config, &f->control), 0);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode, S_IFSOCK | 0640);
	fd = connect_to(f->path);
	STILL_THERE(f, fd);
	(void)close(fd);
}

static void bad_paths(void **state)
{
	struct fixture *f = *state;
	struct control_config config = config_of(f);
	struct control *second = NULL;
	char path[200], lock[220];

	(void)snprintf(path, sizeof(path), "%s/file", f->dir);
	config.path = path;
	assert_int_equal(close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)), 0);
	assert_int_equal(control_new(f->event, &config, &second), -EEXIST);
	assert_int_equal(unlink(path), 0);
	(void)snprintf(lock, sizeof(lock), "%s.lock", path);
	assert_int_equal(access(lock, F_OK), -1);

	(void)snprintf(path, sizeof(path), "%s/no/socket", f->dir);
	assert_int_equal(control_new(f->event, &config, &second), -ENOENT);
	memset(path, 'x', 150);
	path[0] = '/';
	path[150] = '\0';
	assert_int_equal(control_new(f->event, &config, &second), -ENAMETOOLONG);
	assert_null(second);
}

static void passed_socket(void **state)
{
	struct fixture *f = *state;
	struct control_config config = config_of(f);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int pair[2], fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	control_free(f->control);
	f->control = NULL;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	config.listen_fd = pair[0];
	assert_int_equal(control_new(f->event, &config, &f->control), -EINVAL);
	assert_int_equal(close(pair[0]), 0);
	(void)close(pair[1]);

	strcpy(address.sun_path, f->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 10), 0);
	config.listen_fd = fd;
	config.path = NULL;
	assert_int_equal(control_new(f->event, &config, &f->control), 0);
	fd = connect_to(f->path);
	STILL_THERE(f, fd);
	(void)close(fd);
	control_free(f->control);
	f->control = NULL;
	/* systemd's socket stays. */
	assert_int_equal(unlink(f->path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(path_in_use),
		test(stale_socket_is_replaced),
		test(bad_paths),
		test(passed_socket),
	};

	return cmocka_run_group_tests_name("control-socket", tests, NULL, NULL);
}
