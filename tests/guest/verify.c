// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * verify: a guest that checks its own memory.
 *
 * Theory of operation
 *
 * As process 1 of an initramfs this program fills memory with a known mixture (content.h),
 * goes through it for ever, checks every page against what it must hold, and meanwhile keeps
 * writing to some of them: one word of a fast page, a whole slow page, a disk block read by
 * direct I/O. Every page is checked before it is written, so that no write covers up a wrong
 * byte. Whatever the host does to the guest's memory meanwhile must not show.
 *
 * It is driven by lines on the serial console and answers in lines; see commands[] below. The
 * lines that come by themselves:
 *
 *   ready pages N seed S base ADDRESS zero N dup N ...
 *   round R pages N errors E worst_usec U     after each round; E counts from the start
 *   WRONG page P offset O expected X got Y class C generation G
 *   fatal REASON                              and the guest ends
 *
 * A page found wrong is put right, so each corruption is reported once.
 *
 * Parameters come from the kernel's command line as memshared.KEY=VALUE:
 *
 *   seed=N  mib=N  mix=CLASS:PERCENT,...  run=PAGES  pause=1 (do not begin to check)
 *   duty=PERCENT (of a processor to use, so that others get on too; default 100)
 *
 * Started as an ordinary process it takes the same words from its arguments and talks on
 * standard input and output: a stand-in for a guest that starts in a millisecond.
 */
#include "console.h"
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KEY_PREFIX "memshared."

/* How many pages are checked between two writes, and between two looks at the console. */
#define FAST_EVERY    8
#define SLOW_EVERY    256
#define DISK_EVERY    512
#define CONSOLE_EVERY 256

/* Command loop: how finely, and up to what, single writes are told apart. */
#define LOOP_UNIT_NSEC 500
#define LOOP_UNITS_MAX 65536

struct verify {
	struct memory memory;
	unsigned long round;
	unsigned long duty; /* percent of the time to work */
	bool paused;
};

/* --- commands -------------------------------------------------------------- */

/* In nanoseconds, rounded up to a unit; of a histogram of n. */
static uint64_t percentile(const uint32_t *took, uint64_t n, unsigned int permille)
{
	uint64_t seen = 0;
	size_t i = 0;

	while (i < LOOP_UNITS_MAX - 1 && (seen += took[i]) * 1000 < n * permille)
		i++;
	return (i + 1) * LOOP_UNIT_NSEC;
}

static void cmd_check(struct verify *v, char *args)
{
	(void)args;
	v->memory.worst_usec = 0;
	memory_check(&v->memory);
	console_say("checked pages %zu errors %lu worst_usec %llu", v->memory.content.n_pages,
		    v->memory.errors, (unsigned long long)v->memory.worst_usec);
}

static void cmd_pause(struct verify *v, char *args)
{
	(void)args;
	v->paused = true;
	console_say("paused");
}

static void cmd_resume(struct verify *v, char *args)
{
	(void)args;
	v->paused = false;
	console_say("resumed");
}

static void rewrite(struct verify *v, char *args, bool scramble)
{
	char *end;
	unsigned long percent = strtoul(args, &end, 10);
	size_t pages;

	if (end == args || percent > 100) {
		console_say("error percentage expected");
		return;
	}
	pages = memory_rewrite(&v->memory, (unsigned int)percent, scramble, strstr(end, "runs"));
	console_say("rewrote pages %zu", pages);
}

static void cmd_rewrite(struct verify *v, char *args)
{
	rewrite(v, args, false);
}

static void cmd_scramble(struct verify *v, char *args)
{
	rewrite(v, args, true);
}

static void cmd_fill(struct verify *v, char *args)
{
	memory_check(&v->memory);
	v->memory.content.seed = strtoull(args, NULL, 10);
	memory_fill(&v->memory);
	console_say("filled seed %llu", (unsigned long long)v->memory.content.seed);
}

/*
 * Writes to memory of its own, page after page, as fast as it can, and says how many pages and how
 * long single ones took: what being tracked and merged costs a guest. The content is not checked.
 */
static void cmd_loop(struct verify *v, char *args)
{
	static uint32_t took[LOOP_UNITS_MAX]; /* how many lasted so many units; the last: or longer */
	static unsigned char *memory;
	static size_t n_pages;
	unsigned long mib, seconds;
	uint64_t start, end, now, n = 0, worst = 0;

	(void)v;
	if (sscanf(args, "%lu %lu", &mib, &seconds) != 2 || !mib || !seconds) {
		console_say("error MiB and seconds expected");
		return;
	}
	if (!memory) {
		n_pages = (mib << 20) / CONTENT_PAGE_SIZE;
		memory = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		if (memory == MAP_FAILED)
			console_fail("memory to write to");
	}
	memset(took, 0, sizeof(took));
	start = now = now_nsec();
	end = start + seconds * 1000000000ull;
	while (now < end) {
		uint64_t before = now, units;

		memset(memory + n % n_pages * CONTENT_PAGE_SIZE, (int)(n / n_pages + 1), CONTENT_PAGE_SIZE);
		n++;
		now = now_nsec();
		units = (now - before) / LOOP_UNIT_NSEC;
		took[units < LOOP_UNITS_MAX ? units : LOOP_UNITS_MAX - 1]++;
		if (now - before > worst)
			worst = now - before;
	}
	console_say("looped pages %llu p50 %llu p99 %llu p999 %llu p100 %llu", (unsigned long long)n,
		    (unsigned long long)percentile(took, n, 500),
		    (unsigned long long)percentile(took, n, 990),
		    (unsigned long long)percentile(took, n, 999), (unsigned long long)worst);
}

static void cmd_move(struct verify *v, char *args)
{
	(void)args;
	memory_move(&v->memory);
	console_say("moved");
}

static void cmd_poke(struct verify *v, char *args)
{
	size_t page, offset;

	if (sscanf(args, "%zu %zu", &page, &offset) != 2 || page >= v->memory.content.n_pages ||
	    offset >= CONTENT_PAGE_SIZE) {
		console_say("error page and offset expected");
		return;
	}
	v->memory.bytes[page * CONTENT_PAGE_SIZE + offset] ^= 0x55;
	console_say("poked");
}

static void cmd_quit(struct verify *v, char *args)
{
	(void)v;
	(void)args;
	console_say("bye");
	console_end();
}

static const struct command {
	const char *name;
	void (*run)(struct verify *v, char *args);
} commands[] = {
	{"check", cmd_check},	    /* one complete round without writes: "checked ..." */
	{"pause", cmd_pause},	    /* touch no memory until the next command: "paused" */
	{"resume", cmd_resume},	    /* go on: "resumed" */
	{"rewrite", cmd_rewrite},   /* PERCENT [runs]: new content of the same class */
	{"scramble", cmd_scramble}, /* PERCENT [runs]: new content, equal to nothing */
	{"fill", cmd_fill},	    /* SEED: everything anew for another seed */
	{"loop", cmd_loop},	    /* MIB SECONDS: write as fast as it can: "looped ..." (ns) */
	{"move", cmd_move},	    /* the same content in other memory: "moved" */
	{"poke", cmd_poke},	    /* PAGE OFFSET: spoil a byte, to test the check itself */
	{"quit", cmd_quit},
};

/* Carries out what has come in; while paused, waits for more. */
static void commands_run(struct verify *v)
{
	char *l;

	while ((l = console_read(v->paused))) {
		size_t i, len = strcspn(l, " ");

		for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
			if (strlen(commands[i].name) == len && !memcmp(commands[i].name, l, len))
				break;
		if (i < sizeof(commands) / sizeof(commands[0]))
			commands[i].run(v, l + len);
		else if (len)
			console_say("error unknown command");
	}
}

/* Rests for as long as the work since start asks for. */
static void duty_rest(const struct verify *v, uint64_t start)
{
	if (v->duty < 100)
		usleep((useconds_t)((now_usec() - start) * (100 - v->duty) / v->duty));
}

static void __attribute__((noreturn)) verify_loop(struct verify *v)
{
	uint64_t start = now_usec();

	for (;;) {
		for (size_t i = 0; i < v->memory.content.n_pages; i++) {
			if (i % CONSOLE_EVERY == 0) {
				duty_rest(v, start);
				commands_run(v);
				start = now_usec();
			}
			memory_check_page(&v->memory, i);
			if (i % FAST_EVERY == 0)
				memory_write_fast(&v->memory);
			if (i % SLOW_EVERY == 0)
				memory_write_slow(&v->memory);
			if (i % DISK_EVERY == 0)
				memory_write_disk(&v->memory);
		}
		console_say("round %lu pages %zu errors %lu worst_usec %llu", ++v->round,
			    v->memory.content.n_pages, v->memory.errors, (unsigned long long)v->memory.worst_usec);
		v->memory.worst_usec = 0;
	}
}

/* --- start ----------------------------------------------------------------- */

static void modules_load(void)
{
	FILE *list = fopen("/modules/list", "re");
	char name[256];

	while (list && fgets(name, sizeof(name), list)) {
		int fd;

		name[strcspn(name, "\n")] = '\0';
		fd = open(name, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
			console_say("module %s: %s", name, strerror(errno));
		close(fd);
	}
	if (list)
		fclose(list);
}

static void option_set(struct verify *v, const char *word)
{
	const char *value = strchr(word, '=');
	size_t len;

	if (strncmp(word, KEY_PREFIX, strlen(KEY_PREFIX)) || !value)
		return;
	word += strlen(KEY_PREFIX);
	len = (size_t)(value++ - word);
	if (len == 4 && !memcmp(word, "seed", len))
		v->memory.content.seed = strtoull(value, NULL, 10);
	else if (len == 3 && !memcmp(word, "mib", len))
		v->memory.content.n_pages = (strtoull(value, NULL, 10) << 20) / CONTENT_PAGE_SIZE;
	else if (len == 3 && !memcmp(word, "run", len))
		v->memory.content.run_pages = (uint32_t)strtoul(value, NULL, 10);
	else if (len == 4 && !memcmp(word, "duty", len))
		v->duty = strtoul(value, NULL, 10);
	else if (len == 5 && !memcmp(word, "pause", len))
		v->paused = value[0] == '1';
	else if (len == 3 && !memcmp(word, "mix", len) &&
		 !content_parse_mix(value, v->memory.content.percent)) {
		errno = EINVAL;
		console_fail("mixture");
	}
}

static void start_as_init(struct verify *v)
{
	static char line[4096];
	FILE *f;

	mount("proc", "/proc", "proc", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	klogctl(8, NULL, 1); /* keep the kernel's messages out of ours */
	console_open("/dev/ttyS0");
	modules_load();
	f = fopen("/proc/cmdline", "re");
	if (!f || !fgets(line, sizeof(line), f))
		console_fail("/proc/cmdline");
	fclose(f);
	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
		option_set(v, word);
}

int main(int argc, char **argv)
{
	static struct verify v = {
		.memory = {
			.disk_fd = -1,
			.content = {
				.seed = 1,
				.n_pages = (16 << 20) / CONTENT_PAGE_SIZE,
				.run_pages = 16,
				.percent = {
					[CONTENT_ZERO] = 10,
					[CONTENT_DUP] = 40,
					[CONTENT_WITHIN] = 10,
					[CONTENT_UNIQUE] = 30,
					[CONTENT_SLOW] = 5,
					[CONTENT_FAST] = 5,
				},
			},
		},
		.duty = 100,
	};

	if (getpid() == 1)
		start_as_init(&v);
	else
		console_open(NULL);
	for (int i = 1; getpid() != 1 && i < argc; i++)
		option_set(&v, argv[i]);
	if (v.memory.content.percent[CONTENT_DISK])
		memory_open_disk(&v.memory);
	errno = EINVAL;
	if (!v.duty || v.duty > 100)
		console_fail("duty must be 1 to 100");
	memory_prepare(&v.memory);
	memory_fill(&v.memory);
	console_say(
		"ready pages %zu seed %llu base %p zero %zu dup %zu within %zu unique %zu near %zu "
		"slow %zu fast %zu disk %zu",
		v.memory.content.n_pages, (unsigned long long)v.memory.content.seed, (void *)v.memory.bytes,
		v.memory.content.n_class[CONTENT_ZERO], v.memory.content.n_class[CONTENT_DUP],
		v.memory.content.n_class[CONTENT_WITHIN], v.memory.content.n_class[CONTENT_UNIQUE],
		v.memory.content.n_class[CONTENT_NEAR], v.memory.content.n_class[CONTENT_SLOW],
		v.memory.content.n_class[CONTENT_FAST], v.memory.content.n_class[CONTENT_DISK]);
	verify_loop(&v);
}
