/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The memory of live processes with the shape of a guest, whatever happens to them meanwhile. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "daemon/memory.h"
#include "tests/unit/unit.h"

#define FAKE_BYTES MIB(64)

struct fake {
	pid_t pid;
	int to, from; /* pipes: a command, and that it is done */
	struct process p;
};

static unsigned char *map_ram(uint64_t bytes)
{
	/* With an inaccessible page at both ends, as QEMU makes it at one. */
	unsigned char *at = mmap(NULL, bytes + 2 * PAGE_BYTES, PROT_NONE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED || mprotect(at + PAGE_BYTES, bytes, PROT_READ | PROT_WRITE) < 0 ||
	    madvise(at + PAGE_BYTES, bytes, MADV_DONTFORK) < 0)
		_exit(1);
	return at + PAGE_BYTES;
}

/* Splits the block into as many mappings as there are pages in its first 8 MiB. */
static void split_ram(unsigned char *ram)
{
	for (uint64_t at = 0; at < MIB(8); at += 2 * PAGE_BYTES)
		if (madvise(ram + at, PAGE_BYTES, MADV_DONTDUMP) < 0)
			_exit(1);
}

static void map_store(unsigned char *ram)
{
	int fd = memfd_create("memshared-store", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)MIB(1)) < 0 ||
	    mmap(ram + MIB(32), MIB(1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) ==
		    MAP_FAILED ||
	    madvise(ram + MIB(32), MIB(1), MADV_DONTFORK) < 0)
		_exit(1);
}

/* As QEMU does for a helper script: the guest's memory is DONTFORK and stays behind. */
static void fork_child(int to)
{
	pid_t pid = fork();

	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			(void)pause();
	}
	(void)!write(to, &pid, sizeof(pid));
}

static _noreturn_ void fake_main(int from, int to)
{
	unsigned char *ram = map_ram(FAKE_BYTES), *dimm = NULL;
	char command;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)!write(to, "", 1);
	while (read(from, &command, 1) == 1) {
		switch (command) {
		case 's':
			split_ram(ram);
			break;
		case 'm':
			map_store(ram);
			break;
		case '+':
			dimm = map_ram(2 * FAKE_BYTES);
			break;
		case '-':
			(void)munmap(dimm, 2 * FAKE_BYTES);
			break;
		case 'f':
			fork_child(to);
			continue;
		case 'x':
			(void)execlp("sleep", "sleep", "1000", NULL);
			_exit(1);
		default:
			_exit(0);
		}
		(void)!write(to, "", 1);
	}
	_exit(0);
}

static void fake_wait(struct fake *f)
{
	char c;

	assert_int_equal(read(f->from, &c, 1), 1);
}

static void fake_do(struct fake *f, char command)
{
	assert_int_equal(write(f->to, &command, 1), 1);
	fake_wait(f);
}

static void fake_start(struct fake *f)
{
	int to[2], from[2];

	assert_int_equal(pipe(to), 0);
	assert_int_equal(pipe(from), 0);
	f->pid = fork();
	assert_true(f->pid >= 0);
	if (f->pid == 0) {
		(void)close(to[1]); /* so that the end of the commands shows */
		fake_main(to[0], from[1]);
	}
	(void)close(to[0]);
	(void)close(from[1]);
	f->to = to[1];
	f->from = from[0];
	fake_wait(f);
	assert_int_equal(process_open(&f->p, f->pid), 0);
}

static void fake_end(struct fake *f)
{
	(void)close(f->to);
	assert_int_equal(waitpid(f->pid, NULL, 0), f->pid);
	(void)close(f->from);
}

static int refresh(struct fake *f, struct guest_memory *mem)
{
	return memory_refresh_blocks(&f->p, NULL, 0, mem);
}

static void live(void **state _unused_)
{
	_cleanup_free_ struct guest_memory *mem = calloc(1, sizeof(*mem));
	struct ram_block found[RAM_BLOCKS_MAX];
	struct fake f;
	size_t n;

	fake_start(&f);
	assert_int_equal(refresh(&f, mem), 1);
	assert_int_equal(mem->n_blocks, 1);
	assert_int_equal(memory_total_pages(mem), FAKE_BYTES >> PAGE_SHIFT);
	assert_int_equal(refresh(&f, mem), 0);
	assert_int_equal(memory_find_blocks(&f.p, found, &n), 0);
	assert_int_equal(n, 1);
	assert_true(found[0].start.addr == mem->blocks[0].start.addr);

	/* Merging splits it, and it stays what it was: known from maps alone, and from smaps. */
	fake_do(&f, 's');
	fake_do(&f, 'm');
	assert_int_equal(refresh(&f, mem), 0);
	mem->layout = 0;
	assert_int_equal(refresh(&f, mem), 0);
	assert_true(mem->blocks[0].n_mappings > 1000);
	assert_int_equal(memory_total_pages(mem), FAKE_BYTES >> PAGE_SHIFT);

	fake_do(&f, '+');
	assert_int_equal(refresh(&f, mem), 1);
	assert_int_equal(mem->n_blocks, 2);
	assert_int_equal(refresh(&f, mem), 0);
	fake_do(&f, '-');
	assert_int_equal(refresh(&f, mem), 1);
	assert_int_equal(mem->n_blocks, 1);

	fake_end(&f);
	assert_int_equal(refresh(&f, mem), -ESRCH);
	assert_int_equal(memory_find_blocks(&f.p, found, &n), -ESRCH);
	assert_int_equal(mem->n_blocks, 1);
	process_close(&f.p);
}

static void forks(void **state _unused_)
{
	struct ram_block found[RAM_BLOCKS_MAX];
	struct process child;
	struct fake f;
	pid_t pid;
	size_t n;

	fake_start(&f);
	assert_int_equal(write(f.to, "f", 1), 1);
	assert_int_equal(read(f.from, &pid, sizeof(pid)), sizeof(pid));
	assert_int_equal(process_open(&child, pid), 0);
	assert_int_equal(memory_find_blocks(&child, found, &n), 0);
	assert_int_equal(n, 0);
	assert_int_equal(memory_find_blocks(&f.p, found, &n), 0);
	assert_int_equal(n, 1);
	process_close(&child);
	assert_int_equal(kill(pid, SIGKILL), 0);
	fake_end(&f);
	process_close(&f.p);
}

static void execs(void **state _unused_)
{
	_cleanup_free_ struct guest_memory *mem = calloc(1, sizeof(*mem));
	uint64_t deadline = now_usec() + 10 * USEC_PER_SEC;
	struct fake f;
	int r;

	fake_start(&f);
	assert_int_equal(refresh(&f, mem), 1);
	assert_int_equal(write(f.to, "x", 1), 1);
	do
		r = refresh(&f, mem);
	while (r >= 0 && now_usec() < deadline);
	assert_int_equal(r, -ESTALE);
	assert_int_equal(kill(f.pid, SIGKILL), 0);
	fake_end(&f);
	process_close(&f.p);
}

/* Killed while its maps are read, at a different moment each time. */
static void killed_any_time(void **state _unused_)
{
	_cleanup_free_ struct guest_memory *mem = calloc(1, sizeof(*mem));

	for (unsigned i = 0; i < 40; i++) {
		struct fake f;
		pid_t killer;
		int r;

		fake_start(&f);
		fake_do(&f, 's');
		killer = fork();
		assert_true(killer >= 0);
		if (killer == 0) {
			uint64_t until = now_usec() + UINT64_C(150) * i;

			while (now_usec() < until)
				;
			_exit(kill(f.pid, SIGKILL) < 0);
		}
		do {
			mem->layout = 0;
			r = refresh(&f, mem);
		} while (r >= 0);
		assert_int_equal(r, -ESRCH);
		assert_int_equal(waitpid(killer, NULL, 0), killer);
		fake_end(&f);
		process_close(&f.p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(live),
		cmocka_unit_test(forks),
		cmocka_unit_test(execs),
		cmocka_unit_test(killed_any_time),
	};

	return cmocka_run_group_tests_name("memory-live", tests, NULL, NULL);
}
