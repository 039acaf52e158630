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
#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define KEY_PREFIX	"memshared."
#define DISK_PATH	"/dev/vda"
#define DISK_BLOCKS_MAX 1024u

/* How many pages are checked between two writes, and between two looks at the console. */
#define FAST_EVERY    8
#define SLOW_EVERY    256
#define DISK_EVERY    512
#define CONSOLE_EVERY 256

/* Command loop: how finely, and up to what, single writes are told apart. */
#define LOOP_UNIT_NSEC 500
#define LOOP_UNITS_MAX 65536

struct verify {
	struct content content;
	struct page_state *pages;
	unsigned char *memory;
	int disk_fd;			  /* or -1 */
	size_t cursor[CONTENT_CLASS_MAX]; /* where the next page of a class to write is sought */
	unsigned long round, errors, rewrites;
	unsigned long duty;  /* percent of the time to work */
	uint64_t worst_usec; /* the longest single check since it was last reported */
	bool paused;
};

static void __attribute__((noreturn)) verify_end(void)
{
	if (getpid() == 1) {
		sync();
		reboot(RB_POWER_OFF);
	}
	_exit(0);
}

static void __attribute__((noreturn)) verify_fail(const char *what)
{
	console_say("fatal %s: %s", what, strerror(errno));
	verify_end();
}

static uint64_t now_nsec(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t now_usec(void)
{
	return now_nsec() / 1000;
}

static uint64_t *page_words(const struct verify *v, size_t page)
{
	return (uint64_t *)(v->memory + page * CONTENT_PAGE_SIZE);
}

/* --- checking -------------------------------------------------------------- */

static void page_report(struct verify *v, size_t page, const unsigned char *expected)
{
	const unsigned char *got = v->memory + page * CONTENT_PAGE_SIZE;
	const struct page_state *s = &v->pages[page];
	size_t i = 0;

	while (i < CONTENT_PAGE_SIZE - 1 && expected[i] == got[i])
		i++;
	v->errors++;
	console_say("WRONG page %zu offset %zu expected %02x got %02x class %s generation %u", page,
		    i, expected[i], got[i], content_class_names[s->class], s->generation);
}

static void page_check(struct verify *v, size_t page)
{
	uint64_t expected[CONTENT_WORDS];
	uint64_t start, took;

	content_fill(&v->content, &v->pages[page], expected);
	start = now_usec();
	if (memcmp(expected, page_words(v, page), sizeof(expected))) {
		page_report(v, page, (unsigned char *)expected);
		memcpy(page_words(v, page), expected, sizeof(expected));
	}
	took = now_usec() - start;
	if (took > v->worst_usec)
		v->worst_usec = took;
}

/* --- writing --------------------------------------------------------------- */

/* The next page of a class, round and round; false when there is none. */
static bool page_next(struct verify *v, enum content_class class, size_t *ret_page)
{
	if (!v->content.n_class[class])
		return false;
	do
		v->cursor[class] = (v->cursor[class] + 1) % v->content.n_pages;
	while (v->pages[v->cursor[class]].class != class);
	*ret_page = v->cursor[class];
	return true;
}

static void fast_write(struct verify *v)
{
	size_t page, index;
	uint64_t word;

	if (!page_next(v, CONTENT_FAST, &page))
		return;
	page_check(v, page);
	v->pages[page].generation++;
	word = content_fast_word(&v->content, &v->pages[page], &index);
	page_words(v, page)[index] = word;
}

static void slow_write(struct verify *v)
{
	size_t page;

	if (!page_next(v, CONTENT_SLOW, &page))
		return;
	page_check(v, page);
	v->pages[page].generation++;
	content_fill(&v->content, &v->pages[page], page_words(v, page));
}

/* Reads pages [first, first + n) from the disk: neighbours, and so are their blocks. */
static void disk_read(struct verify *v, size_t first, size_t n)
{
	while (n) {
		uint32_t block = content_block(&v->content, &v->pages[first]);
		size_t now = 1;

		while (now < n && content_block(&v->content, &v->pages[first + now]) == block + now)
			now++;
		if (pread(v->disk_fd, page_words(v, first), now * CONTENT_PAGE_SIZE,
			  (off_t)block * CONTENT_PAGE_SIZE) != (ssize_t)(now * CONTENT_PAGE_SIZE))
			verify_fail("read " DISK_PATH);
		first += now;
		n -= now;
	}
}

/* Replaces the rest of a run of disk pages by other blocks. */
static void disk_write(struct verify *v)
{
	size_t first, end;

	if (!page_next(v, CONTENT_DISK, &first))
		return;
	for (end = first; end < v->content.n_pages && end < first + v->content.run_pages &&
			  v->pages[end].class == CONTENT_DISK;
	     end++) {
		page_check(v, end);
		v->pages[end].generation++;
		v->pages[end].scrambled = false;
	}
	disk_read(v, first, end - first);
	for (size_t page = first; page < end; page++)
		page_check(v, page);
	v->cursor[CONTENT_DISK] = end - 1;
}

static void memory_fill(struct verify *v)
{
	for (size_t i = 0; i < v->content.n_pages; i++)
		content_fill(&v->content, &v->pages[i], page_words(v, i));
}

/*
 * New content for a share of all pages. Which ones depends only on how many rewrites there
 * were before, so that guests given the same commands choose the same pages.
 */
static size_t memory_rewrite(struct verify *v, unsigned int percent, bool scramble, bool runs)
{
	size_t done = 0;

	v->rewrites++;
	for (size_t i = 0; i < v->content.n_pages; i++) {
		struct page_state *s = &v->pages[i];
		uint64_t unit = runs ? s->ident / v->content.run_pages : s->ident;

		if (content_mix64(v->rewrites << 40 ^ (uint64_t)s->class << 32 ^ unit) % 100 >=
		    percent)
			continue;
		page_check(v, i);
		s->generation++;
		s->scrambled = scramble;
		/* A zero page has to be dirtied, or nothing would have been written to it. */
		if (s->class == CONTENT_ZERO)
			*(volatile uint64_t *)page_words(v, i) = v->rewrites;
		content_fill(&v->content, s, page_words(v, i));
		done++;
	}
	return done;
}

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

static void memory_check(struct verify *v)
{
	v->worst_usec = 0;
	for (size_t i = 0; i < v->content.n_pages; i++)
		page_check(v, i);
	console_say("checked pages %zu errors %lu worst_usec %llu", v->content.n_pages, v->errors,
		    (unsigned long long)v->worst_usec);
}

static void cmd_check(struct verify *v, char *args)
{
	(void)args;
	memory_check(v);
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
	pages = memory_rewrite(v, (unsigned int)percent, scramble, strstr(end, "runs"));
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
	for (size_t i = 0; i < v->content.n_pages; i++)
		page_check(v, i);
	v->content.seed = strtoull(args, NULL, 10);
	memory_fill(v);
	console_say("filled seed %llu", (unsigned long long)v->content.seed);
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
			verify_fail("memory to write to");
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

/* What it leaves behind keeps its content until the kernel has another use for it. */
static void cmd_move(struct verify *v, char *args)
{
	size_t bytes = v->content.n_pages * CONTENT_PAGE_SIZE;
	unsigned char *old = v->memory;

	(void)args;
	for (size_t i = 0; i < v->content.n_pages; i++)
		page_check(v, i);
	v->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (v->memory == MAP_FAILED)
		verify_fail("memory to move to");
	madvise(v->memory, bytes, MADV_MERGEABLE);
	memcpy(v->memory, old, bytes);
	munmap(old, bytes);
	console_say("moved");
}

static void cmd_poke(struct verify *v, char *args)
{
	size_t page, offset;

	if (sscanf(args, "%zu %zu", &page, &offset) != 2 || page >= v->content.n_pages ||
	    offset >= CONTENT_PAGE_SIZE) {
		console_say("error page and offset expected");
		return;
	}
	v->memory[page * CONTENT_PAGE_SIZE + offset] ^= 0x55;
	console_say("poked");
}

static void cmd_quit(struct verify *v, char *args)
{
	(void)v;
	(void)args;
	console_say("bye");
	verify_end();
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
		for (size_t i = 0; i < v->content.n_pages; i++) {
			if (i % CONSOLE_EVERY == 0) {
				duty_rest(v, start);
				commands_run(v);
				start = now_usec();
			}
			page_check(v, i);
			if (i % FAST_EVERY == 0)
				fast_write(v);
			if (i % SLOW_EVERY == 0)
				slow_write(v);
			if (i % DISK_EVERY == 0)
				disk_write(v);
		}
		console_say("round %lu pages %zu errors %lu worst_usec %llu", ++v->round,
			    v->content.n_pages, v->errors, (unsigned long long)v->worst_usec);
		v->worst_usec = 0;
	}
}

/* --- start ----------------------------------------------------------------- */

/* The disk's first blocks get their known content, and stay as they are from then on. */
static void disk_prepare(struct verify *v)
{
	unsigned char *buffer;
	uint64_t bytes;
	uint32_t blocks;

	v->disk_fd = open(DISK_PATH, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (v->disk_fd < 0 || ioctl(v->disk_fd, BLKGETSIZE64, &bytes) < 0)
		verify_fail("open " DISK_PATH);
	for (blocks = DISK_BLOCKS_MAX; blocks > bytes / CONTENT_PAGE_SIZE;)
		blocks /= 2;
	if (!blocks)
		verify_fail("no room on " DISK_PATH);
	v->content.disk_blocks = blocks;

	buffer = aligned_alloc(CONTENT_PAGE_SIZE, (size_t)blocks * CONTENT_PAGE_SIZE);
	if (!buffer)
		verify_fail("disk buffer");
	for (uint32_t b = 0; b < blocks; b++)
		content_fill_block(b, (uint64_t *)(buffer + (size_t)b * CONTENT_PAGE_SIZE));
	if (pwrite(v->disk_fd, buffer, (size_t)blocks * CONTENT_PAGE_SIZE, 0) !=
	    (ssize_t)blocks * CONTENT_PAGE_SIZE)
		verify_fail("write " DISK_PATH);
	free(buffer);
}

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
		v->content.seed = strtoull(value, NULL, 10);
	else if (len == 3 && !memcmp(word, "mib", len))
		v->content.n_pages = (strtoull(value, NULL, 10) << 20) / CONTENT_PAGE_SIZE;
	else if (len == 3 && !memcmp(word, "run", len))
		v->content.run_pages = (uint32_t)strtoul(value, NULL, 10);
	else if (len == 4 && !memcmp(word, "duty", len))
		v->duty = strtoul(value, NULL, 10);
	else if (len == 5 && !memcmp(word, "pause", len))
		v->paused = value[0] == '1';
	else if (len == 3 && !memcmp(word, "mix", len) &&
		 !content_parse_mix(value, v->content.percent)) {
		errno = EINVAL;
		verify_fail("mixture");
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
		verify_fail("/proc/cmdline");
	fclose(f);
	for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
		option_set(v, word);
}

static void memory_prepare(struct verify *v)
{
	struct content *c = &v->content;
	size_t bytes = c->n_pages * CONTENT_PAGE_SIZE;

	errno = EINVAL;
	if (!c->n_pages || !c->run_pages || !v->duty || v->duty > 100)
		verify_fail("mib, run and duty must not be zero");
	v->pages = calloc(c->n_pages, sizeof(*v->pages));
	v->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!v->pages || v->memory == MAP_FAILED)
		verify_fail("memory");
	/* Also as an ordinary process: merge me. In a guest this goes to a ksmd that rests. */
	madvise(v->memory, bytes, MADV_MERGEABLE);
	content_layout(c, v->pages);
}

int main(int argc, char **argv)
{
	static struct verify v = {
		.disk_fd = -1,
		.duty = 100,
		.content =
			{
				.seed = 1,
				.n_pages = (16 << 20) / CONTENT_PAGE_SIZE,
				.run_pages = 16,
				.percent =
					{
						[CONTENT_ZERO] = 10,
						[CONTENT_DUP] = 40,
						[CONTENT_WITHIN] = 10,
						[CONTENT_UNIQUE] = 30,
						[CONTENT_SLOW] = 5,
						[CONTENT_FAST] = 5,
					},
			},
	};

	if (getpid() == 1)
		start_as_init(&v);
	else
		console_open(NULL);
	for (int i = 1; getpid() != 1 && i < argc; i++)
		option_set(&v, argv[i]);
	if (v.content.percent[CONTENT_DISK])
		disk_prepare(&v);
	memory_prepare(&v);
	memory_fill(&v);
	console_say(
		"ready pages %zu seed %llu base %p zero %zu dup %zu within %zu unique %zu near %zu "
		"slow %zu fast %zu disk %zu",
		v.content.n_pages, (unsigned long long)v.content.seed, (void *)v.memory,
		v.content.n_class[CONTENT_ZERO], v.content.n_class[CONTENT_DUP],
		v.content.n_class[CONTENT_WITHIN], v.content.n_class[CONTENT_UNIQUE],
		v.content.n_class[CONTENT_NEAR], v.content.n_class[CONTENT_SLOW],
		v.content.n_class[CONTENT_FAST], v.content.n_class[CONTENT_DISK]);
	verify_loop(&v);
}
