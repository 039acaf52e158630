/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/attach/target.h"

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/syscall.h>

#include "common/io.h"
#include "common/parse.h"
#include "common/util.h"
#include "daemon/attach/tracee.h"

/* A status file: some 60 short lines, of which Groups: can have 65536 entries. */
#define STATUS_MAX_BYTES MIB(1)
/* The number of `processor' in a stat line of 52 fields. */
#define STAT_CPU_FIELD	39
#define STAT_MAX_BYTES	KIB(8)
/* "271 0x... (six arguments) 0x... 0x...": nine numbers. */
#define SYSCALL_LINE_MAX 256
/* Threads that are looked at: a guest with more has enough of them among the first. */
#define THREADS_MAX 4096

/* The text behind "\nKey:\t", or NULL. The kernel escapes newlines in Name:. */
static const char *find_field(const char *buf, size_t len, const char *key, size_t *ret_left)
{
	const char *at = memmem(buf, len, key, strlen(key));

	if (!at)
		return NULL;
	at += strlen(key);
	*ret_left = len - (size_t)(at - buf);
	return at;
}

static int find_number(const char *buf, size_t len, const char *key, uint64_t max, uint64_t *ret)
{
	size_t left, used;
	const char *at = find_field(buf, len, key, &left);
	uint64_t v;

	if (!at || parse_u64_prefix(at, left, 10, &v, &used) < 0 || v > max)
		return -EINVAL;
	*ret = v;
	return 0;
}

/* "CPU 0/KVM", "CPU 0/TCG", "ALL CPUs/TCG": what QEMU calls them with debug-threads=on. */
static bool is_vcpu_name(const char *buf, size_t len)
{
	const char *end = memchr(buf, '\n', len);

	if (!end || len < 5 || memcmp(buf, "Name:", 5) != 0)
		return false;
	len = (size_t)(end - buf);
	return memmem(buf, len, "CPU", 3) &&
	       (memmem(buf, len, "/KVM", 4) || memmem(buf, len, "/TCG", 4));
}

int thread_status_parse(const char *buf, size_t len, struct thread_status *ret)
{
	size_t left;
	const char *state = find_field(buf, len, "\nState:\t", &left);
	uint64_t tracer, seccomp = 0;

	if (!state || left < 1 || find_number(buf, len, "\nTracerPid:\t", INT_MAX, &tracer) < 0)
		return -EINVAL;
	/* Absent when the kernel was built without seccomp. */
	if (memmem(buf, len, "\nSeccomp:\t", 10) &&
	    find_number(buf, len, "\nSeccomp:\t", 2, &seccomp) < 0)
		return -EINVAL;
	*ret = (struct thread_status){
		.state = *state,
		.tracer = (pid_t)tracer,
		.seccomp = (unsigned)seccomp,
		.vcpu = is_vcpu_name(buf, len),
	};
	return 0;
}

int thread_syscall_parse(const char *buf, size_t len, int64_t *ret_nr)
{
	uint64_t nr;
	size_t used;

	/* "running", and "-1 ..." for a thread that sleeps outside of calls (a page fault). */
	if (parse_u64_prefix(buf, len, 10, &nr, &used) < 0 || nr > INT_MAX || used >= len ||
	    buf[used] != ' ')
		return -EAGAIN;
	*ret_nr = (int64_t)nr;
	return 0;
}

int thread_cpu_parse(const char *buf, size_t len, unsigned *ret_cpu)
{
	/* Behind the name, which can hold anything, come the state (field 3) and numbers. */
	const char *at = memrchr(buf, ')', len), *end = buf + len;
	uint64_t cpu;
	size_t used;

	for (unsigned field = 3; at && field <= STAT_CPU_FIELD; field++) {
		at = memchr(at + 1, ' ', (size_t)(end - at - 1));
		if (at && at + 1 == end)
			at = NULL;
	}
	if (!at || parse_u64_prefix(at + 1, (size_t)(end - at - 1), 10, &cpu, &used) < 0 ||
	    cpu > UINT32_MAX)
		return -EINVAL;
	*ret_cpu = (unsigned)cpu;
	return 0;
}

static int check_identity(const struct process *p, const struct target_identity *expected,
			  char *reason)
{
	unsigned char ident[EI_NIDENT];
	_cleanup_close_ int exe = openat(p->proc_fd, "exe", O_RDONLY | O_CLOEXEC);

	if (expected->start_ticks && expected->start_ticks != p->start_ticks) {
		(void)snprintf(reason, REASON_MAX, "another process has this pid now");
		return -ESTALE;
	}
	if (expected->exe_ino &&
	    (expected->exe_ino != p->exe_ino || expected->exe_dev != p->exe_dev)) {
		(void)snprintf(reason, REASON_MAX, "it runs another executable now (%s)", p->exe);
		return -ESTALE;
	}
	/* Without memory it has no executable: it is on its way out. */
	if (exe < 0 && (errno == ENOENT || errno == ESRCH)) {
		(void)snprintf(reason, REASON_MAX, "it has exited");
		return -ESRCH;
	}
	if (exe < 0 || io_read_full(exe, ident, sizeof(ident)) < 0 ||
	    memcmp(ident, ELFMAG, SELFMAG) != 0 || ident[EI_CLASS] != ELFCLASS64) {
		(void)snprintf(reason, REASON_MAX, "%s is not a 64-bit program", p->exe);
		return -EOPNOTSUPP;
	}
	return 0;
}

int target_open(struct target *t, pid_t pid, const struct target_identity *expected, char *reason)
{
	int r;

	*t = TARGET_INIT;
	r = process_open(&t->process, pid);
	if (r == -ESRCH)
		(void)snprintf(reason, REASON_MAX, "no process %d", pid);
	else if (r == -ENOEXEC)
		(void)snprintf(reason, REASON_MAX, "%d is a zombie or a kernel thread", pid);
	else if (r < 0)
		(void)snprintf(reason, REASON_MAX, "cannot open process %d: %s", pid, strerror(-r));
	if (r < 0)
		return r == -ENOEXEC ? -ESRCH : r;
	r = check_identity(&t->process, expected, reason);
	if (r == 0) {
		t->task_fd = openat(t->process.proc_fd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		r = t->task_fd < 0 ? -errno : 0;
		if (r < 0)
			(void)snprintf(reason, REASON_MAX, "cannot list its threads: %s",
				       strerror(-r));
	}
	if (r < 0)
		target_close(t);
	return r;
}

void target_close(struct target *t)
{
	close_fdp(&t->task_fd);
	process_close(&t->process);
}

static int read_status(const struct target *t, pid_t tid, struct thread_status *ret)
{
	_cleanup_free_ char *buf = NULL;
	char path[32];
	size_t len;
	int r;

	(void)snprintf(path, sizeof(path), "%d/status", tid);
	r = io_read_file(t->task_fd, path, STATUS_MAX_BYTES, &buf, &len);
	if (r == -ENOENT)
		return -ESRCH;
	return r < 0 ? r : thread_status_parse(buf, len, ret);
}

/* "being traced by gdb (pid 123)" */
static void say_tracer(pid_t tracer, char *reason)
{
	char path[32], comm[32], name[32];

	(void)snprintf(path, sizeof(path), "/proc/%d/comm", tracer);
	if (io_read_line(AT_FDCWD, path, comm, sizeof(comm)) < 0)
		strcpy(comm, "another program");
	process_copy_printable(name, sizeof(name), comm, strlen(comm));
	(void)snprintf(reason, REASON_MAX, "being traced by %s (pid %d)", name, tracer);
}

int target_check_thread(const struct target *t, pid_t tid, struct thread_status *ret, char *reason)
{
	struct thread_status s;
	int r = read_status(t, tid, &s);

	if (r < 0) {
		(void)snprintf(reason, REASON_MAX, "cannot read its status: %s", strerror(-r));
		return r;
	}
	if (s.tracer != 0) {
		say_tracer(s.tracer, reason);
		return -EBUSY;
	}
	switch (s.state) {
	case 'Z':
	case 'X':
		(void)snprintf(reason, REASON_MAX, "it has exited");
		return -ESRCH;
	case 'T':
	case 't':
		(void)snprintf(reason, REASON_MAX, "it is stopped");
		return -EBUSY;
	default:
		if (ret)
			*ret = s;
		return 0;
	}
}

int target_check(const struct target *t, char *reason)
{
	int r = process_check(&t->process);

	if (r < 0) {
		(void)snprintf(reason, REASON_MAX, "%s",
			       r == -ESTALE ? "it runs another executable now" : "it has exited");
		return r;
	}
	return target_check_thread(t, t->process.pid, NULL, reason);
}

bool target_has_thread(const struct target *t, pid_t tid)
{
	char path[16];

	(void)snprintf(path, sizeof(path), "%d", tid);
	return faccessat(t->task_fd, path, F_OK, 0) == 0;
}

bool target_thread_sleeps(const struct target *t, pid_t tid, int64_t *ret_nr)
{
	char path[32], line[SYSCALL_LINE_MAX];
	int64_t nr;

	(void)snprintf(path, sizeof(path), "%d/syscall", tid);
	if (io_read_line(t->task_fd, path, line, sizeof(line)) < 0 ||
	    thread_syscall_parse(line, strlen(line), &nr) < 0 || !tracee_call_restartable(nr))
		return false;
	*ret_nr = nr;
	return true;
}

int target_thread_cpu(const struct target *t, pid_t tid, unsigned *ret_cpu)
{
	_cleanup_free_ char *buf = NULL;
	char path[32];
	size_t len;
	int r;

	(void)snprintf(path, sizeof(path), "%d/stat", tid);
	r = io_read_file(t->task_fd, path, STAT_MAX_BYTES, &buf, &len);
	return r < 0 ? r : thread_cpu_parse(buf, len, ret_cpu);
}

/*
 * Which thread is better to borrow. They are all restarted rightly; they differ in what a
 * wrong result would do if memshared-attach were killed: a poller looks at its descriptors
 * and finds nothing, a reader takes it for bytes.
 */
static unsigned call_rank(int64_t nr)
{
	switch (nr) {
	case SYS_ppoll:
		return 0;
	case SYS_poll:
		return 1;
	case SYS_clock_nanosleep:
	case SYS_nanosleep:
		return 2;
	case SYS_restart_syscall: /* poll, nanosleep or futex */
		return 3;
	case SYS_futex:
		return 4;
	default:
		return 5;
	}
}
#define CALL_RANKS 6U

struct candidates {
	pid_t tids[THREADS_MAX];
	uint8_t ranks[THREADS_MAX];
	size_t n;
};

static void list_candidates(const struct target *t, struct candidates *c)
{
	int fd = openat(t->process.proc_fd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!dir) {
		close_fdp(&fd);
		return;
	}
	while (c->n < THREADS_MAX && (e = readdir(dir))) {
		struct thread_status s;
		uint32_t tid;
		int64_t nr;

		if (parse_u32(e->d_name, 1, INT_MAX, &tid) < 0 ||
		    !target_thread_sleeps(t, (pid_t)tid, &nr) ||
		    read_status(t, (pid_t)tid, &s) < 0 || s.vcpu || s.state != 'S')
			continue;
		c->ranks[c->n] = (uint8_t)call_rank(nr);
		c->tids[c->n++] = (pid_t)tid;
	}
	(void)closedir(dir);
}

size_t target_find_threads(const struct target *t, pid_t *ret_tids, size_t max)
{
	_cleanup_free_ struct candidates *c = calloc(1, sizeof(*c));
	size_t n = 0;

	if (!c)
		return 0;
	list_candidates(t, c);
	for (unsigned rank = 0; rank < CALL_RANKS; rank++)
		for (size_t i = 0; i < c->n && n < max; i++)
			if (c->ranks[i] == rank)
				ret_tids[n++] = c->tids[i];
	return n;
}
