/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Planting an agent in a fake guest, using it, and taking it out without a trace. */
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/io.h"
#include "daemon/agent-private.h"
#include "tests/integration/attach-fixture.h"

#define ATTACHES 200

static struct fake_guest guest;
static char reason[AGENT_REASON_MAX];

static int stop_guest(void **state _unused_)
{
	fake_guest_stop(&guest);
	return 0;
}

static struct agent_link *attach(void)
{
	struct agent_link *a = NULL;
	int r = agent_attach(&guest.process, reason, &a);

	if (r < 0)
		fail_msg("not attached: %s (%s)", reason, strerror(-r));
	return a;
}

static void detach(struct agent_link *a)
{
	int r = agent_detach(a, reason);

	if (r < 0)
		fail_msg("not detached: %s (%s)", reason, strerror(-r));
}

static void assert_unharmed(void)
{
	struct guest_counters c;

	assert_true(fake_guest_ask(&guest, &c));
	assert_int_equal(c.eintr, 0);
	assert_int_equal(c.wrong, 0);
}

static void leaves_nothing(void **state _unused_)
{
	_cleanup_free_ char *before = NULL;

	fake_guest_start(&guest, "--idle", NULL);
	before = process_snapshot(guest.pid);
	for (int i = 0; i < 3; i++) {
		struct agent_link *a = attach();

		assert_int_equal(agent_ping(a), 0);
		detach(a);
		assert_unchanged(guest.pid, before);
	}
	assert_unharmed();
}

/* The status line of the thread that calls itself memshared. */
static void agent_is_quiet(void **state _unused_)
{
	_cleanup_free_ char *snapshot = NULL;
	struct agent_link *a;
	char *line;

	fake_guest_start(&guest, "--idle", NULL);
	a = attach();
	assert_int_equal(agent_ping(a), 0);
	snapshot = process_snapshot(guest.pid);
	line = strstr(snapshot, "Name:\tmemshared");
	assert_non_null(line);
	/* All but SIGKILL and SIGSTOP. */
	assert_non_null(strstr(line, "SigBlk:\tfffffffffffbfeff"));
	detach(a);
}

static void busy_guest(void **state _unused_)
{
	_cleanup_free_ char *before = NULL;
	static struct samples stopped, whole;

	fake_guest_start(&guest, NULL, NULL);
	fake_guest_let_work(&guest, 100);
	before = process_snapshot(guest.pid);
	for (int i = 0; i < ATTACHES; i++) {
		uint64_t began = now_usec();
		struct agent_link *a = attach();

		samples_add(&whole, now_usec() - began);
		samples_add(&stopped, agent_stopped_usec(a));
		assert_int_equal(agent_ping(a), 0);
		detach(a);
	}
	(void)samples_report(&whole, "attach, usec");
	(void)samples_report(&stopped, "thread stopped, usec");
	fake_guest_let_work(&guest, 1000);
	assert_unharmed();
	assert_unchanged_but_masks(guest.pid, before);
}

static void unprivileged(void **state _unused_)
{
	_cleanup_free_ char *before = NULL;
	struct agent_link *a;
	int fd;

	fake_guest_start(&guest, "--idle", "--uid=65534");
	before = process_snapshot(guest.pid);
	a = attach();
	fd = agent_open_uffd(a, false);
	assert_true(fd >= 0);
	(void)close(fd);
	detach(a);
	assert_unchanged(guest.pid, before);
}

/* The VmFlags line of the mapping that begins at addr. */
static void read_flags(uint64_t addr, char *ret, size_t size)
{
	_cleanup_free_ char *smaps = NULL;
	char path[32], wanted[32], *at, *flags;
	size_t len;

	(void)snprintf(path, sizeof(path), "/proc/%d/smaps", guest.pid);
	assert_int_equal(io_read_file(AT_FDCWD, path, MIB(16), &smaps, &len), 0);
	(void)snprintf(wanted, sizeof(wanted), "%lx-", (unsigned long)addr);
	at = strstr(smaps, wanted);
	assert_non_null(at);
	flags = strstr(at, "VmFlags:");
	assert_non_null(flags);
	(void)snprintf(ret, size, "%.*s", (int)strcspn(flags, "\n"), flags);
}

static void advises(void **state _unused_)
{
	struct ring_advise v[4], *many;
	struct agent_link *a;
	uint32_t n = (uint32_t)RING_ADVISE_MAX + 100;
	char flags[128];

	fake_guest_start(&guest, "--idle", NULL);
	a = attach();
	for (unsigned i = 0; i < 4; i++)
		v[i] = (struct ring_advise){ .addr = guest.ram + i * 4096, .bytes = 4096,
					     .advice = MADV_COLD };
	v[0].bytes = guest.ram_bytes;
	v[0].advice = MADV_NOHUGEPAGE;
	v[1].addr = 4096;
	v[2].advice = MADV_DONTNEED; /* would lose memory: the agent refuses */
	assert_int_equal(agent_advise(a, v, 4), 2);
	assert_int_equal(v[0].result, 0);
	assert_int_equal(v[1].result, -ENOMEM);
	assert_int_equal(v[2].result, -EINVAL);
	assert_int_equal(v[3].result, 0);
	read_flags(guest.ram, flags, sizeof(flags));
	assert_non_null(strstr(flags, " nh"));

	many = calloc(n, sizeof(*many));
	assert_non_null(many);
	for (uint32_t i = 0; i < n; i++)
		many[i] = (struct ring_advise){ .addr = guest.ram, .bytes = 4096,
						.advice = MADV_COLD, .result = 1 };
	assert_int_equal(agent_advise(a, many, n), n);
	assert_int_equal(many[n - 1].result, 0);
	free(many);
	assert_int_equal(agent_call(a, 4711, 0, 0, NULL, 0), -ENOSYS);
	assert_int_equal(agent_ping(a), 0);
	detach(a);
	assert_unharmed();
}

/* Registers the guest's RAM from here: only a userfaultfd made in the guest can. */
static void use_uffd(int fd)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .range = { guest.ram, guest.ram_bytes },
				       .mode = UFFDIO_REGISTER_MODE_MISSING };

	assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
	assert_int_equal(ioctl(fd, UFFDIO_REGISTER, &reg), 0);
	assert_int_equal(ioctl(fd, UFFDIO_UNREGISTER, &reg.range), 0);
}

static void userfaultfd(void **state _unused_)
{
	_cleanup_free_ char *before = NULL;
	struct agent_link *a;

	fake_guest_start(&guest, "--idle", NULL);
	before = process_snapshot(guest.pid);
	a = attach();
	for (int kernel = 0; kernel < 2; kernel++) {
		int fd;

		if (kernel && access("/dev/userfaultfd", R_OK) < 0) {
			print_message("# no /dev/userfaultfd: kernel faults not tried\n");
			continue;
		}
		fd = agent_open_uffd(a, kernel);
		if (fd == -ENOSYS)
			SKIP("this kernel has no userfaultfd");
		assert_true(fd >= 0);
		assert_int_equal(agent_open_uffd(a, kernel), -EEXIST);
		use_uffd(fd);
		assert_int_equal(agent_close_uffd(a), 0);
		(void)close(fd);
	}
	detach(a);
	assert_unchanged(guest.pid, before);
}

static void descriptors(void **state _unused_)
{
	_cleanup_free_ char *before = NULL, *with = NULL;
	struct agent_link *a;
	int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	fake_guest_start(&guest, "--idle", NULL);
	before = process_snapshot(guest.pid);
	a = attach();
	/* A second one for the same role takes the first's place. */
	assert_int_equal(agent_send_fd(a, RING_FD_STORE, fd), 0);
	assert_int_equal(agent_send_fd(a, RING_FD_STORE, fd), 0);
	with = process_snapshot(guest.pid);
	assert_non_null(strstr(with, "/etc/passwd"));
	assert_null(strstr(strstr(with, "/etc/passwd") + 1, "/etc/passwd"));
	assert_int_equal(agent_send_fd(a, RING_FD_SOCKET, fd), -EINVAL);
	assert_int_equal(agent_call(a, RING_CLOSE_FD, 0, RING_FD_SOCKET, NULL, 0), -EINVAL);
	assert_int_equal(agent_call(a, RING_CLOSE_FD, 0, 4711, NULL, 0), -EINVAL);
	assert_int_equal(agent_call(a, RING_RECEIVE_FD, 0, RING_FD_ARG(RING_FD_STORE, 1), NULL, 0),
			 -EAGAIN);
	detach(a);
	assert_unchanged(guest.pid, before);
	(void)close(fd);
}

/* What is compared and what is mapped must be one file. */
static void another_store(void **state _unused_)
{
	_cleanup_free_ char *with = NULL, *without = NULL;
	struct agent_link *a;
	int fds[2];

	fake_guest_start(&guest, "--idle", NULL);
	a = attach();
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = memfd_create("another-store", MFD_CLOEXEC);
		assert_true(fds[i] >= 0 && ftruncate(fds[i], PAGE_BYTES) == 0);
	}
	assert_int_equal(agent_send_fd(a, RING_FD_STORE, fds[0]), 0);
	assert_int_equal(agent_call(a, RING_MAP_STORE, 0, PAGE_BYTES, NULL, 0), 0);
	with = process_snapshot(guest.pid);
	assert_non_null(strstr(with, "another-store (deleted)"));
	assert_int_equal(agent_send_fd(a, RING_FD_STORE, fds[1]), 0);
	without = process_snapshot(guest.pid);
	print_message("# %zu and %zu bytes\n", strlen(with), strlen(without));
	assert_true(strlen(without) < strlen(with));
	detach(a);
	(void)close(fds[0]);
	(void)close(fds[1]);
}

/* Another daemon's, or QEMU's: they would have stale batches carried out for hours. */
static void impossible_numbers(void **state _unused_)
{
	struct agent_link *a;
	uint32_t right;

	fake_guest_start(&guest, "--idle", NULL);
	a = attach();
	right = a->ring->published;
	__atomic_store_n(&a->ring->published, right + RING_BATCHES + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&a->ring->published, right - 1, __ATOMIC_RELEASE);
	(void)syscall(SYS_futex, &a->ring->published, FUTEX_WAKE, 1, NULL, NULL, 0);
	(void)poll(NULL, 0, 50);
	assert_int_equal(__atomic_load_n(&a->ring->done, __ATOMIC_ACQUIRE), right);
	assert_int_equal(agent_ping(a), 0);
	detach(a);
	assert_unharmed();
}

static void adopted(void **state _unused_)
{
	_cleanup_free_ char *before = NULL;
	struct agent_link *a, *b = NULL;

	fake_guest_start(&guest, "--idle", NULL);
	before = process_snapshot(guest.pid);
	assert_int_equal(agent_adopt(&guest.process, reason, &b), -ENOENT);
	a = attach();
	assert_int_equal(agent_attach(&guest.process, reason, &b), -EEXIST);
	agent_leave(a);
	for (int i = 0; i < 3; i++) {
		if (agent_adopt(&guest.process, reason, &b) < 0)
			fail_msg("not adopted: %s", reason);
		assert_int_equal(agent_ping(b), 0);
		if (i < 2)
			agent_leave(b);
	}
	detach(b);
	assert_unchanged(guest.pid, before);
	assert_unharmed();
}

/* --- rings that no daemon of ours made ------------------------------------------------------- */

enum fake_ring { RING_UNSEALED, RING_SHORT, RING_NO_MAGIC, RING_RUNAWAY, RING_NO_SOCKET, RING_MUTE,
		 RING_ABANDONED, RING_FAKE_MAX };

/* What the process of a fake ring does; it ends with its parent. */
static void show_fake_ring(enum fake_ring kind)
{
	size_t bytes = kind == RING_SHORT ? RING_HEADER_BYTES : RING_BYTES;
	int fd = memfd_create(RING_MEMFD_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING), pair[2];
	struct ring_header *h;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (ftruncate(fd, (off_t)bytes) < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
		_exit(1);
	if (kind != RING_UNSEALED)
		(void)fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW);
	h = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (h == MAP_FAILED)
		_exit(1);
	h->magic = kind == RING_NO_MAGIC ? 1 : RING_MAGIC;
	h->version = RING_VERSION;
	h->published = kind == RING_RUNAWAY ? 1000 : 0;
	h->exit_word = kind == RING_ABANDONED ? 0 : (uint32_t)getpid();
	for (unsigned i = 0; i < RING_FD_MAX; i++)
		h->agent.fds[i] = kind == RING_NO_SOCKET ? fd : pair[1];
	/* Ranges that are the process's own, for whoever believes them. */
	h->agent.ring_addr = (uintptr_t)h;
	h->agent.code_addr = (uintptr_t)show_fake_ring & ~4095UL;
	h->agent.code_bytes = 4096;
	h->agent.private_addr = (uintptr_t)&fd & ~4095UL;
	h->agent.private_bytes = 4096;
	for (;;)
		(void)poll(NULL, 0, -1);
}

static bool maps_ring(pid_t pid)
{
	_cleanup_free_ char *snapshot = process_snapshot(pid);

	return strstr(snapshot, "rw-s 00000000 00:01") && strstr(snapshot, RING_MEMFD_NAME);
}

static void hostile_rings(void **state _unused_)
{
	static const struct {
		enum fake_ring kind;
		int error;
	} rings[] = {
		{ RING_UNSEALED, -EPROTO },  { RING_SHORT, -EPROTO },
		{ RING_NO_MAGIC, -EPROTO },  { RING_RUNAWAY, -EPROTO },
		{ RING_NO_SOCKET, -EPROTO }, { RING_MUTE, -ETIMEDOUT },
		{ RING_ABANDONED, -ENOENT },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rings); i++) {
		struct process p = PROCESS_INIT;
		struct agent_link *a = NULL;
		pid_t pid = fork();
		int64_t nr = 0;
		int r;

		if (pid == 0)
			show_fake_ring(rings[i].kind);
		wait_until(maps_ring(pid) && sleeps_in_call(pid, &nr));
		assert_int_equal(process_open(&p, pid), 0);
		assert_int_equal(agent_attach(&p, reason, &a), -EEXIST);
		r = agent_adopt(&p, reason, &a);
		print_message("# ring %zu: %s\n", i, reason);
		assert_int_equal(r, rings[i].error);
		/* Believed or not: it lives. */
		wait_until(sleeps_in_call(pid, &nr));
		assert_true(process_alive(&p));
		assert_true(maps_ring(pid) == (rings[i].kind != RING_ABANDONED));
		(void)kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
		process_close(&p);
	}
}

/* --- refusals -------------------------------------------------------------------------------- */

static void refused(int error, const char *why)
{
	struct agent_link *a = NULL;
	int r = agent_attach(&guest.process, reason, &a);

	assert_null(a);
	print_message("# refused: %s\n", reason);
	assert_int_equal(r, error);
	assert_non_null(strstr(reason, why));
}

static void traced(void **state _unused_)
{
	_cleanup_free_ char *before = NULL;
	struct agent_link *a;
	int ready[2];
	pid_t tracer;
	char c;

	fake_guest_start(&guest, "--idle", NULL);
	before = process_snapshot(guest.pid);
	assert_int_equal(pipe(ready), 0);
	tracer = fork();
	if (tracer == 0) {
		(void)ptrace(PTRACE_SEIZE, guest.pid, NULL, NULL);
		(void)!write(ready[1], "x", 1);
		for (;;)
			(void)pause();
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	refused(-EBUSY, "being traced by test-attach (pid ");
	(void)kill(tracer, SIGKILL);
	(void)waitpid(tracer, NULL, 0);
	(void)close(ready[0]);
	(void)close(ready[1]);
	assert_unchanged(guest.pid, before);
	a = attach();
	detach(a);
}

static char guest_state(void)
{
	struct process_stat s;

	return process_read_stat(guest.process.proc_fd, &s) < 0 ? '?' : s.state;
}

static void stopped(void **state _unused_)
{
	struct agent_link *a;

	fake_guest_start(&guest, "--idle", NULL);
	(void)kill(guest.pid, SIGSTOP);
	wait_until(guest_state() == 'T');
	refused(-EBUSY, "stopped");
	(void)kill(guest.pid, SIGCONT);
	wait_until(guest_state() == 'S');
	a = attach();
	detach(a);
	/* It was stopped and continued with the agent's remains gone; ppoll went on. */
	assert_unharmed();
}

static void not_expected(void **state _unused_)
{
	uint64_t start;

	fake_guest_start(&guest, "--idle", NULL);
	start = guest.process.start_ticks;
	guest.process.start_ticks = start + 1;
	refused(-ESTALE, "another process");
	guest.process.start_ticks = start;
	guest.process.exe_ino++;
	refused(-ESTALE, "another executable");
	guest.process.exe_ino--;
}

static void dead(void **state _unused_)
{
	fake_guest_start(&guest, "--idle", NULL);
	(void)kill(guest.pid, SIGKILL);
	wait_until(guest_state() == 'Z');
	refused(-ESRCH, "");
	assert_int_not_equal(strlen(reason), 0);
}

/* A process of ours whose threads never sleep in a restartable call. */
static void never_sleeps(void **state _unused_)
{
	struct agent_link *a = NULL;
	struct process p = PROCESS_INIT;
	pid_t pid = fork();

	if (pid == 0)
		for (;;)
			(void)sched_yield();
	assert_int_equal(process_open(&p, pid), 0);
	assert_int_equal(agent_attach(&p, reason, &a), -EBUSY);
	assert_non_null(strstr(reason, "no thread sleeps"));
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	process_close(&p);
}

/* 32-bit code: mov $29 (pause), %eax; int $0x80; jmp back. */
static const uint8_t elf32[] = {
	0x7f, 'E', 'L', 'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* ident */
	2, 0, 3, 0, 1, 0, 0, 0, 0x54, 0x80, 0x04, 0x08, 52, 0, 0, 0, /* type, machine, entry */
	0, 0, 0, 0, 0, 0, 0, 0, 52, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0, 0, /* one program header */
	1, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x04, 0x08, 0, 0x80, 0x04, 0x08, /* load */
	0x5d, 0, 0, 0, 0x5d, 0, 0, 0, 5, 0, 0, 0, 0, 0x10, 0, 0,
	0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7,
};

static void of_32_bits(void **state _unused_)
{
	struct agent_link *a = NULL;
	struct process p = PROCESS_INIT;
	int fd = memfd_create("elf32", MFD_CLOEXEC), status, r;
	pid_t pid;

	assert_int_equal(io_write_full(fd, elf32, sizeof(elf32)), 0);
	pid = fork();
	if (pid == 0) {
		char name[] = "elf32", *argv[] = { name, NULL };

		(void)fexecve(fd, argv, argv + 1);
		_exit(errno == ENOEXEC ? 77 : 1);
	}
	(void)close(fd);
	wait_until(waitpid(pid, &status, WNOHANG) == pid ||
		   (process_open(&p, pid) == 0 &&
		    (strncmp(p.exe, "memfd:elf32", 11) == 0 || (process_close(&p), false))));
	if (p.pid == 0)
		SKIP("this kernel runs no 32-bit programs");
	r = agent_attach(&p, reason, &a);
	print_message("# refused: %s\n", reason);
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	process_close(&p);
	assert_int_equal(r, -EOPNOTSUPP);
	assert_non_null(strstr(reason, "64-bit"));
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_teardown(fn, stop_guest)
	const struct CMUnitTest tests[] = {
		TEST(leaves_nothing), TEST(agent_is_quiet), TEST(busy_guest),	TEST(unprivileged),
		TEST(advises),	      TEST(userfaultfd),    TEST(descriptors),	TEST(adopted),
		TEST(another_store),  TEST(impossible_numbers),
		TEST(hostile_rings),
		TEST(traced),	      TEST(stopped),	    TEST(not_expected), TEST(dead),
		TEST(never_sleeps),   TEST(of_32_bits),
	};

	attach_tests_begin();
	return cmocka_run_group_tests_name("attach", tests, NULL, NULL);
}
