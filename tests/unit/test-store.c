/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "common/kernel-abi.h"
#include "daemon/store.h"

#define CAPACITY 256U

static uint8_t pages[64 * PAGE_BYTES], back[64 * PAGE_BYTES];

static void fill(uint32_t n, uint8_t first)
{
	for (uint32_t i = 0; i < n; i++)
		memset(pages + i * PAGE_BYTES, first + (int)i, PAGE_BYTES);
}

static struct store *make(uint64_t capacity)
{
	struct store *s = NULL;

	assert_int_equal(store_new("tenant-a", capacity, &s), 0);
	return s;
}

/* Returns how many pages there was room for. */
static int64_t put(struct store *s, const uint8_t *from, uint32_t n_pages, slot_id after, slot_id *ret_first)
{
	int64_t n = store_reserve(s, n_pages, after, ret_first);

	if (n > 0)
		assert_int_equal(store_write(s, *ret_first, from, (uint32_t)n), n);
	return n;
}

static void keeps_pages(void **state _unused_)
{
	struct store *s = make(CAPACITY);
	slot_id a, b;

	fill(64, 1);
	assert_int_equal(put(s, pages, 16, SLOT_ID_NONE, &a), 16);
	assert_int_equal(put(s, pages + 16 * PAGE_BYTES, 4, SLOT_ID(a.n + 15), &b), 4);
	assert_int_equal(b.n, a.n + 16);
	assert_int_equal(store_used_pages(s), 20);
	assert_int_equal(store_read(s, a, 20, back), 0);
	assert_memory_equal(back, pages, 20 * PAGE_BYTES);
	assert_int_equal(store_drop(s, SLOT_ID(a.n + 2), 3), 0);
	assert_int_equal(store_used_pages(s), 17);
	assert_false(store_is_used(s, SLOT_ID(a.n + 2)));
	assert_true(store_is_used(s, SLOT_ID(a.n + 5)));
	assert_int_equal(store_read(s, SLOT_ID(a.n + 2), 1, back), 0);
	assert_int_equal(back[0], 0);
	/* Dropped means given back to the host. */
	struct stat st;
	assert_int_equal(fstat(store_guest_fd(s), &st), 0);
	assert_int_equal(st.st_blocks, 17 * PAGE_BYTES / 512);
	store_free(s);
}

/* What is reserved is in use, is nobody else's, and takes no memory until it is written. */
static void reserves(void **state _unused_)
{
	struct store *s = make(CAPACITY);
	slot_id a, b;
	struct stat st;

	assert_int_equal(store_reserve(s, 16, SLOT_ID_NONE, &a), 16);
	assert_int_equal(store_reserve(s, 16, a, &b), 16);
	assert_true(b.n >= a.n + 16 || b.n + 16 <= a.n);
	assert_int_equal(store_used_pages(s), 32);
	assert_int_equal(fstat(store_guest_fd(s), &st), 0);
	assert_int_equal(st.st_blocks, 0);
	assert_int_equal(store_write(s, b, pages, 4), 4);
	store_release(s, a, 16);
	store_release(s, b, 16);
	assert_int_equal(store_used_pages(s), 0);
	assert_int_equal(fstat(store_guest_fd(s), &st), 0);
	assert_int_equal(st.st_blocks, 0);
	store_free(s);
}

static void is_bounded(void **state _unused_)
{
	struct store *s = make(20);
	slot_id a;

	assert_int_equal(put(s, pages, 16, SLOT_ID_NONE, &a), 16);
	assert_false(store_is_full(s));
	assert_int_equal(put(s, pages, 16, SLOT_ID_NONE, &a), 4);
	assert_true(store_is_full(s));
	assert_int_equal(put(s, pages, 1, SLOT_ID_NONE, &a), -ENOSPC);
	assert_int_equal(store_set_capacity(s, 40), 0);
	assert_int_equal(store_file_bytes(s), 40 * PAGE_BYTES);
	assert_int_equal(put(s, pages, 64, SLOT_ID_NONE, &a), 20);
	/* Lowered below what is in use: full, and nothing is lost. */
	assert_int_equal(store_set_capacity(s, 10), 0);
	assert_int_equal(store_file_bytes(s), 40 * PAGE_BYTES);
	assert_int_equal(store_used_pages(s), 40);
	assert_int_equal(put(s, pages, 1, SLOT_ID_NONE, &a), -ENOSPC);
	assert_int_equal(store_drop(s, SLOT_ID(0), 31), 0);
	assert_int_equal(put(s, pages, 2, SLOT_ID_NONE, &a), 1);
	assert_int_equal(store_set_capacity(s, SLOT_MAP_MAX + 1), -E2BIG);
	store_free(s);
}

static int reopen(int fd)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDWR | O_CLOEXEC);
}

static void is_adopted(void **state _unused_)
{
	struct store *s = make(CAPACITY), *again = NULL;
	slot_id a, run;
	int fd;

	fill(64, 1);
	assert_int_equal(put(s, pages, 64, SLOT_ID_NONE, &a), 64);
	assert_int_equal(store_drop(s, SLOT_ID(a.n + 10), 2), 0);
	fd = reopen(store_guest_fd(s));
	if (fd < 0)
		skip(); /* not root: the file is read-only to us, too */
	store_free(s);
	assert_int_equal(store_adopt("tenant-a", 32, fd, &again), 0);
	assert_int_equal(store_used_pages(again), 62);
	assert_int_equal(store_file_bytes(again), CAPACITY * PAGE_BYTES);
	assert_int_equal(store_next_used(again, 0, &run), 10);
	assert_int_equal(run.n, a.n);
	assert_int_equal(store_next_used(again, run.n + 10, &run), 52);
	assert_int_equal(run.n, a.n + 12);
	assert_int_equal(store_next_used(again, run.n + 52, &run), 0);
	assert_int_equal(store_read(again, SLOT_ID(a.n + 12), 52, back), 0);
	assert_memory_equal(back, pages + 12 * PAGE_BYTES, 52 * PAGE_BYTES);
	store_free(again);
}

/* A memfd that looks like the store of tenant-a but for one thing. */
static int make_impostor(const char *label, mode_t mode, int seals)
{
	char name[64];
	int fd;

	(void)snprintf(name, sizeof(name), "%s-%s", STORE_MEMFD_NAME, label);
	fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, PAGE_BYTES), 0);
	assert_int_equal(fchmod(fd, mode), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static void refuses_impostors(void **state _unused_)
{
	struct store *s = make(1), *other = NULL;
	const char *label = store_label(s);
	const int seals = F_SEAL_SHRINK | F_SEAL_SEAL;
	char path[] = "/tmp/memshared-store-XXXXXX";
	int fd;

	assert_int_equal(store_adopt("tenant-a", 1, make_impostor(label, 0600, seals), &other),
			 -EPERM);
	assert_int_equal(
		store_adopt("tenant-a", 1, make_impostor(label, 0400, F_SEAL_SHRINK), &other),
		-EPERM);
	assert_int_equal(store_adopt("tenant-a", 1, make_impostor("0", 0400, seals), &other),
			 -ENODEV);
	assert_int_equal(store_adopt("tenant-b", 1, make_impostor(label, 0400, seals), &other),
			 -ENODEV);
	fd = mkostemp(path, O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fchmod(fd, 0400), 0);
	(void)unlink(path);
	assert_true(store_adopt("tenant-a", 1, fd, &other) < 0);
	if (geteuid() == 0) {
		fd = make_impostor(label, 0400, seals);
		assert_int_equal(fchown(fd, 65534, 65534), 0);
		assert_int_equal(store_adopt("tenant-a", 1, fd, &other), -EPERM);
	}
	/* Ours, but open for reading only. */
	assert_int_equal(store_adopt("tenant-a", 1, dup(store_guest_fd(s)), &other), -EPERM);
	assert_null(other);
	store_free(s);
}

/* --- a guest that has the store ----------------------------------------------------------------
 */

struct child {
	pid_t pid;
	int socket;
	struct process process;
};

/* Tells its parent that it is ready, then waits for the parent to close the socket. */
static void child_ready_and_wait(int socket)
{
	char c = 'r';

	if (write(socket, &c, 1) == 1)
		(void)!read(socket, &c, 1);
	_exit(0);
}

static void child_start(struct child *c, void (*fn)(void *arg), void *arg)
{
	int pair[2];
	char ready;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	c->pid = fork();
	if (c->pid == 0) {
		(void)close(pair[0]);
		fn(arg);
		child_ready_and_wait(pair[1]);
	}
	assert_true(c->pid > 0);
	(void)close(pair[1]);
	c->socket = pair[0];
	assert_int_equal(read(c->socket, &ready, 1), 1);
	assert_int_equal(process_open(&c->process, c->pid), 0);
}

static void child_stop(struct child *c)
{
	(void)close(c->socket);
	assert_int_equal(waitpid(c->pid, NULL, 0), c->pid);
	process_close(&c->process);
}

static void map_some(void *arg)
{
	int fd = store_guest_fd(arg);

	(void)mmap(NULL, 4 * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 8 * PAGE_BYTES);
	(void)mmap(NULL, PAGE_BYTES, PROT_READ, MAP_PRIVATE, fd, 60 * PAGE_BYTES);
	(void)mmap(NULL, CAPACITY * PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	(void)mmap(NULL, 8 * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd,
		   (CAPACITY - 2) * PAGE_BYTES);
}

static void sees_what_is_mapped(void **state _unused_)
{
	struct store *s = make(CAPACITY), *other = NULL;
	struct slot_map *mapped = NULL;
	struct child c;
	slot_id a;

	assert_int_equal(put(s, pages, 64, SLOT_ID_NONE, &a), 64);
	assert_int_equal(store_new("tenant-b", CAPACITY, &other), 0);
	child_start(&c, map_some, s);
	assert_int_equal(slot_map_new(CAPACITY, &mapped), 0);
	assert_int_equal(store_mark_mapped(other, &c.process, mapped), 0);
	assert_int_equal(slot_map_used(mapped), 0);
	assert_int_equal(store_mark_mapped(s, &c.process, mapped), 0);
	/* Not the window, and nothing behind the file's end. */
	assert_int_equal(slot_map_used(mapped), 4 + 1 + 2);
	assert_true(slot_map_is_used(mapped, SLOT_ID(8)));
	assert_true(slot_map_is_used(mapped, SLOT_ID(11)));
	assert_true(slot_map_is_used(mapped, SLOT_ID(60)));
	assert_true(slot_map_is_used(mapped, SLOT_ID(CAPACITY - 1)));
	child_stop(&c);
	slot_map_free(mapped);
	store_free(other);
	store_free(s);
}

struct fakes {
	struct store *s;
	int fd;
};

static void map_fake_first(void *arg)
{
	struct fakes *f = arg;

	/* Lower addresses come first in maps. */
	(void)mmap((void *)0x10000000, PAGE_BYTES, PROT_READ, MAP_PRIVATE | MAP_FIXED, f->fd, 0);
	map_some(f->s);
}

static void is_found_in_guest(void **state _unused_)
{
	struct store *s = make(CAPACITY), *again = NULL;
	struct fakes f = {.s = s, .fd = make_impostor(store_label(s), 0600, F_SEAL_SHRINK)};
	struct child c;
	slot_id a;
	int fd, r;

	fill(64, 1);
	assert_int_equal(put(s, pages, 64, SLOT_ID_NONE, &a), 64);
	child_start(&c, map_fake_first, &f);
	store_free(s);
	(void)close(f.fd);
	assert_int_equal(store_find("tenant-b", &c.process, &fd), -ENOENT);
	r = store_find("tenant-a", &c.process, &fd);
	if (r == -ENOENT && geteuid() != 0) {
		child_stop(&c);
		print_message("opening /proc/PID/map_files needs root\n");
		skip();
	}
	assert_int_equal(r, 0);
	assert_int_equal(store_adopt("tenant-a", CAPACITY, fd, &again), 0);
	child_stop(&c);
	assert_int_equal(store_used_pages(again), 64);
	assert_int_equal(store_read(again, a, 64, back), 0);
	assert_memory_equal(back, pages, 64 * PAGE_BYTES);
	store_free(again);
}

/* --- systemd's descriptor store ------------------------------------------------------------------
 */

static void is_kept_by_systemd(void **state _unused_)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	char text[256] = "", wanted[STORE_FD_NAME_MAX];
	union {
		struct cmsghdr head;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {text, sizeof(text) - 1};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct store *s = make(CAPACITY), *again = NULL;
	int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), fd;
	slot_id a;

	assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
	assert_int_equal(store_keep(s), 0);
	(void)snprintf(addr.sun_path, sizeof(addr.sun_path), "/tmp/memshared-notify-%d", getpid());
	assert_int_equal(bind(sock, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(setenv("NOTIFY_SOCKET", addr.sun_path, 1), 0);
	assert_int_equal(put(s, pages, 3, SLOT_ID_NONE, &a), 3);
	assert_true(store_keep(s) > 0);
	assert_true(recvmsg(sock, &msg, MSG_CMSG_CLOEXEC) > 0);
	store_fd_name("tenant-a", wanted);
	assert_non_null(strstr(text, "FDSTORE=1"));
	assert_non_null(strstr(text, wanted));
	assert_int_equal(control.head.cmsg_type, SCM_RIGHTS);
	memcpy(&fd, CMSG_DATA(&control.head), sizeof(fd));
	store_free(s);
	assert_int_equal(store_adopt("tenant-a", CAPACITY, fd, &again), 0);
	assert_int_equal(store_used_pages(again), 3);
	assert_true(store_forget("tenant-a") > 0);
	memset(text, 0, sizeof(text));
	assert_true(recv(sock, text, sizeof(text) - 1, 0) > 0);
	assert_non_null(strstr(text, "FDSTOREREMOVE=1"));
	assert_non_null(strstr(text, wanted));
	(void)unsetenv("NOTIFY_SOCKET");
	(void)unlink(addr.sun_path);
	(void)close(sock);
	store_free(again);
}

/* --- every way to write that we know -------------------------------------------------------------
 */

#define MUST_FAIL(expression)                                                                      \
	do {                                                                                       \
		if ((long)(expression) >= 0) {                                                     \
			(void)fprintf(stderr, "worked: %s\n", #expression);                        \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)
#define MMAP(prot, flags) (mmap(NULL, PAGE_BYTES, prot, flags, fd, 0) == MAP_FAILED ? -1 : 0)

static void try_descriptor(int fd)
{
	static const char junk[PAGE_BYTES] = {'x'};
	struct iovec iov = {(void *)junk, sizeof(junk)};
	int full = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), pipes[2];
	off_t zero = 0;

	MUST_FAIL(write(fd, junk, 1));
	MUST_FAIL(pwrite(fd, junk, 1, 0));
	MUST_FAIL(pwritev2(fd, &iov, 1, 0, RWF_HIPRI));
	MUST_FAIL(sendfile(fd, full, &zero, 10));
	MUST_FAIL(copy_file_range(full, NULL, fd, NULL, 10, 0));
	if (pipe2(pipes, O_CLOEXEC) == 0 && write(pipes[1], junk, 1) == 1)
		MUST_FAIL(splice(pipes[0], NULL, fd, NULL, 1, 0));
	MUST_FAIL(ftruncate(fd, 0));
	MUST_FAIL(ftruncate(fd, 1 << 30));
	MUST_FAIL(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_BYTES));
	MUST_FAIL(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, PAGE_BYTES));
	MUST_FAIL(fallocate(fd, 0, 0, PAGE_BYTES));
	MUST_FAIL(fchmod(fd, 0666));
	MUST_FAIL(fchown(fd, getuid(), getgid()));
	MUST_FAIL(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
	MUST_FAIL(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
	/* F_SETFL says yes to anything, and does not change what matters. */
	(void)fcntl(fd, F_SETFL, O_RDWR | O_APPEND);
	MUST_FAIL(write(fd, junk, 1));
	(void)fcntl(fd, F_SETFL, 0);
}

static void try_reopening(int fd)
{
	static const int flags[] = {O_RDWR, O_WRONLY, O_RDONLY | O_TRUNC, O_RDWR | O_TRUNC};
	char path[128];
	void *map = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		MUST_FAIL(open(path, flags[i]));
		(void)snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd);
		MUST_FAIL(open(path, flags[i]));
		(void)snprintf(path, sizeof(path), "/dev/fd/%d", fd);
		MUST_FAIL(open(path, flags[i]));
		(void)snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx",
			       (unsigned long)map, (unsigned long)map + PAGE_BYTES);
		MUST_FAIL(open(path, flags[i]));
	}
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	MUST_FAIL(truncate(path, 0));
	MUST_FAIL(chmod(path, 0666));
	MUST_FAIL(linkat(fd, "", AT_FDCWD, "/tmp/memshared-linked", AT_EMPTY_PATH));
	MUST_FAIL(linkat(AT_FDCWD, path, AT_FDCWD, "/tmp/memshared-linked", AT_SYMLINK_FOLLOW));
}

static void try_mappings(int fd)
{
	char *map = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	char *copy = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	struct iovec from = {(char[]){'x'}, 1}, to = {map, 1};
	int mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC), uffd;
	struct uffdio_api api = {.api = UFFD_API};

	if (map == MAP_FAILED || copy == MAP_FAILED)
		_exit(2);
	MUST_FAIL(MMAP(PROT_READ | PROT_WRITE, MAP_SHARED));
	MUST_FAIL(MMAP(PROT_WRITE, MAP_SHARED_VALIDATE));
	MUST_FAIL(mprotect(map, PAGE_BYTES, PROT_READ | PROT_WRITE));
	MUST_FAIL(process_vm_writev(getpid(), &from, 1, &to, 1, 0));
	if (mem >= 0)
		MUST_FAIL(pwrite(mem, "x", 1, (off_t)(uintptr_t)map));
	MUST_FAIL(madvise(map, PAGE_BYTES, MADV_REMOVE));
	MUST_FAIL(madvise(map, PAGE_BYTES, MADV_POPULATE_WRITE));
	MUST_FAIL(madvise(copy, PAGE_BYTES, MADV_REMOVE));
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0) {
		struct uffdio_register r = {
			.range = {(uintptr_t)map, PAGE_BYTES},
			.mode = UFFDIO_REGISTER_MODE_MISSING,
		};

		MUST_FAIL(ioctl(uffd, UFFDIO_REGISTER, &r));
	}
	/* Private writing is what guests do: allowed, and nobody else's business. */
	copy[0] = 'x';
	if (mem >= 0)
		(void)pwrite(mem, "y", 1, (off_t)(uintptr_t)copy);
}

/* An unprivileged process, as a QEMU under libvirt is: another user, no capabilities. */
static void attack(int fd)
{
	if (setgroups(0, NULL) < 0 || setresgid(65534, 65534, 65534) < 0 ||
	    setresuid(65534, 65534, 65534) < 0)
		_exit(3);
	/* As after an exec: its own files in /proc are its own, and no easier to keep from it. */
	if (prctl(PR_SET_DUMPABLE, 1) < 0)
		_exit(4);
	try_descriptor(fd);
	try_reopening(fd);
	try_mappings(fd);
	_exit(0);
}

static void cannot_be_written_by_guests(void **state _unused_)
{
	struct store *s;
	int status;
	slot_id a;
	pid_t pid;

	if (geteuid() != 0) {
		print_message("needs root, to become somebody else\n");
		skip();
	}
	s = make(CAPACITY);
	fill(16, 1);
	assert_int_equal(put(s, pages, 16, SLOT_ID_NONE, &a), 16);
	pid = fork();
	if (pid == 0)
		attack(store_guest_fd(s));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_int_equal(store_read(s, a, 16, back), 0);
	assert_memory_equal(back, pages, 16 * PAGE_BYTES);
	store_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keeps_pages),
		cmocka_unit_test(reserves),
		cmocka_unit_test(is_bounded),
		cmocka_unit_test(is_adopted),
		cmocka_unit_test(refuses_impostors),
		cmocka_unit_test(sees_what_is_mapped),
		cmocka_unit_test(is_found_in_guest),
		cmocka_unit_test(is_kept_by_systemd),
		cmocka_unit_test(cannot_be_written_by_guests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
