/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The main of each fuzz target in `make check`: no fuzzer, only what it would begin with.
 *
 * fuzz-NAME runs every file of tests/fuzz/corpus/NAME (or those given as arguments), each
 *   - as it is,
 *   - cut short at up to CUTS places,
 *   - with up to four bytes changed, MUTATIONS times, always the same ones,
 * in a buffer that ends where the input ends, so that AddressSanitizer sees every step beyond.
 * A target reports by dying (assert, abort, a sanitizer). TAP, one line for each file.
 *
 * With --enable-fuzz and CC=clang the same targets are libFuzzer programs, without this file.
 */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>

#include "common/io.h"
#include "common/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CUTS	  256U
#define MUTATIONS 256U
/* A larger file would be cut short by nobody's reader in reasonable time. */
#define INPUT_MAX_BYTES MIB(4)
/* Large inputs are tried less often: a file's share of bytes run through its target. */
#define BUDGET_BYTES MIB(8)

static void run_copy(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	if (size > 0)
		memcpy(copy, data, size);
	(void)LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

/* xorshift64: the same numbers in every run. */
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void run_mutated(const uint8_t *data, size_t size, unsigned times)
{
	uint64_t random = UINT64_C(0x6d656d7368617265);
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	for (unsigned i = 0; size > 0 && i < times; i++) {
		unsigned n = 1 + (unsigned)(next_random(&random) % 4);

		memcpy(copy, data, size);
		while (n-- > 0) {
			uint64_t v = next_random(&random);

			copy[(v >> 8) % size] = (uint8_t)v;
		}
		(void)LLVMFuzzerTestOneInput(copy, size);
	}
	free(copy);
}

static int replay_file(int dir_fd, const char *name)
{
	_cleanup_free_ char *buf = NULL;
	const uint8_t *data;
	size_t len, times;
	int r = io_read_file(dir_fd, name, INPUT_MAX_BYTES, &buf, &len);

	if (r < 0)
		return r;
	data = (const uint8_t *)buf;
	times = MIN(BUDGET_BYTES / (len + 1), (size_t)CUTS);
	run_copy(data, len);
	for (size_t i = 0; i < MIN(times, len); i++)
		run_copy(data, len * i / MIN(times, len));
	run_mutated(data, len, (unsigned)MIN(times, (size_t)MUTATIONS));
	return 0;
}

static bool report(unsigned n, int r, const char *name)
{
	if (r < 0)
		printf("not ok %u - %s: %s\n", n, name, strerror(-r));
	else
		printf("ok %u - %s\n", n, name);
	return r == 0;
}

static int is_input(const struct dirent *e)
{
	return e->d_name[0] != '.';
}

/* $MEMSHARED_SRCDIR/tests/fuzz/corpus/NAME for a program called fuzz-NAME. */
static int replay_corpus(const char *program)
{
	const char *base = strrchr(program, '/'), *src = getenv("MEMSHARED_SRCDIR");
	struct dirent **names = NULL;
	char path[PATH_MAX];
	bool good = true;
	int n, dir_fd;

	base = base ? base + 1 : program;
	if (strncmp(base, "fuzz-", 5) == 0)
		base += 5;
	(void)snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/%s", src ? src : ".", base);
	n = scandir(path, &names, is_input, alphasort);
	dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (n <= 0 || dir_fd < 0) {
		printf("1..1\nnot ok 1 - no corpus in %s\n", path);
		return EXIT_FAILURE;
	}
	printf("1..%d\n", n);
	for (int i = 0; i < n; i++) {
		/* Shown before, for the case that the target dies. */
		printf("# %s\n", names[i]->d_name);
		(void)fflush(stdout);
		good &= report((unsigned)i + 1, replay_file(dir_fd, names[i]->d_name),
			       names[i]->d_name);
		free(names[i]);
	}
	free(names);
	(void)close(dir_fd);
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
	bool good = true;

	run_copy(NULL, 0);
	if (argc < 2)
		return replay_corpus(argv[0]);
	printf("1..%d\n", argc - 1);
	for (int i = 1; i < argc; i++)
		good &= report((unsigned)i, replay_file(AT_FDCWD, argv[i]), argv[i]);
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
