/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * audit: which page frames do these processes have in common?
 *
 * usage: audit <LINES, each PID:START-END[,START-END...]     (addresses in hexadecimal)
 *
 * The judge of isolation and of savings: it asks only the kernel, through /proc/PID/pagemap
 * and /proc/kpageflags, and knows nothing of memshared. Prints one JSON object:
 *
 *   guests[]  for each process: pages asked about, present ones, swapped ones, those that map
 *             the kernel's zero page, those from a file or memfd, distinct frames, and
 *             "within": sharing between the process's own pages
 *   pairs[]   for each two processes with a frame in common: how many frames
 *   present, frames, sharers, shared, sharing    over all processes together
 *
 * A frame counts as shared when at least two of the pages asked about map it; sharing is
 * sharers - shared, as in KSM. The zero page is neither frame nor sharer here. Nothing is stopped:
 * for exact figures the processes must rest meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GUESTS_MAX    64
#define PM_PRESENT    (1ull << 63)
#define PM_SWAPPED    (1ull << 62)
#define PM_FILE	      (1ull << 61)
#define PM_PFN	      ((1ull << 55) - 1)
#define KPF_ZERO_PAGE (1ull << 24)
#define CHUNK	      4096

struct guest {
	long pid;
	uint64_t pages, present, swapped, zero, file, frames, within;
};

/* One present page: its frame and whose it is. */
struct use {
	uint64_t pfn;
	uint32_t guest;
};

static struct guest guests[GUESTS_MAX];
static unsigned int n_guests;
static struct use *uses;
static size_t n_uses, uses_room;
static uint64_t pairs[GUESTS_MAX][GUESTS_MAX];
static int kpageflags = -1;

static void __attribute__((noreturn)) die(const char *what)
{
	fprintf(stderr, "audit: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* The zero frames are few and often seen: remember the last one, and the last that is none. */
static bool pfn_is_zero(uint64_t pfn)
{
	static uint64_t zero = UINT64_MAX, other = UINT64_MAX;
	uint64_t flags;

	if (pfn == zero || pfn == other)
		return pfn == zero;
	if (pread(kpageflags, &flags, sizeof(flags), (off_t)(pfn * sizeof(flags))) != sizeof(flags))
		die("/proc/kpageflags");
	*(flags & KPF_ZERO_PAGE ? &zero : &other) = pfn;
	return flags & KPF_ZERO_PAGE;
}

static void use_add(uint64_t pfn, uint32_t guest)
{
	if (n_uses == uses_room) {
		uses_room = uses_room ? uses_room * 2 : 65536;
		uses = reallocarray(uses, uses_room, sizeof(*uses));
		if (!uses)
			die("memory");
	}
	uses[n_uses++] = (struct use){.pfn = pfn, .guest = guest};
}

static void range_read(struct guest *g, int pagemap, uint64_t start, uint64_t end)
{
	static uint64_t entries[CHUNK];
	uint64_t page_size = (uint64_t)sysconf(_SC_PAGESIZE);

	g->pages += (end - start) / page_size;
	for (uint64_t page = start / page_size; page < end / page_size;) {
		uint64_t left = end / page_size - page;
		size_t want = (left < CHUNK ? left : CHUNK) * sizeof(entries[0]);
		ssize_t n = pread(pagemap, entries, want, (off_t)(page * sizeof(entries[0])));

		if (n <= 0 || n % (ssize_t)sizeof(entries[0]))
			die("pagemap");
		n /= (ssize_t)sizeof(entries[0]);
		for (ssize_t i = 0; i < n; i++) {
			uint64_t e = entries[i];

			g->swapped += !!(e & PM_SWAPPED);
			if (!(e & PM_PRESENT))
				continue;
			if (!(e & PM_PFN)) {
				errno = EPERM;
				die("page frame numbers are hidden");
			}
			g->present++;
			g->file += !!(e & PM_FILE);
			if (pfn_is_zero(e & PM_PFN))
				g->zero++;
			else
				use_add(e & PM_PFN, (uint32_t)(g - guests));
		}
		page += (uint64_t)n;
	}
}

static void guest_read(const char *spec)
{
	struct guest *g = &guests[n_guests++];
	char path[64], *p;
	int fd;

	g->pid = strtol(spec, &p, 10);
	snprintf(path, sizeof(path), "/proc/%ld/pagemap", g->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(path);
	while (*p == ':' || *p == ',') {
		uint64_t start = strtoull(p + 1, &p, 16), end = 0;

		if (*p == '-')
			end = strtoull(p + 1, &p, 16);
		if (end <= start) {
			errno = EINVAL;
			die(spec);
		}
		range_read(g, fd, start, end);
	}
	if (*p) {
		errno = EINVAL;
		die(spec);
	}
	close(fd);
}

static int use_compare(const void *a, const void *b)
{
	const struct use *x = a, *y = b;

	if (x->pfn != y->pfn)
		return x->pfn < y->pfn ? -1 : 1;
	return x->guest < y->guest ? -1 : x->guest > y->guest;
}

/* uses[first, end) are all uses of one frame, ordered by guest. */
static void frame_count(size_t first, size_t end)
{
	uint32_t users[GUESTS_MAX];
	size_t n_users = 0;

	for (size_t i = first; i < end; i++) {
		struct guest *g = &guests[uses[i].guest];

		if (i > first && uses[i].guest == uses[i - 1].guest) {
			g->within++;
			continue;
		}
		g->frames++;
		for (size_t u = 0; u < n_users; u++)
			pairs[users[u]][uses[i].guest]++;
		users[n_users++] = uses[i].guest;
	}
}

static void report(uint64_t frames, uint64_t sharers, uint64_t shared)
{
	const char *comma = "";

	printf("{\"guests\":[");
	for (unsigned int i = 0; i < n_guests; i++) {
		const struct guest *g = &guests[i];

		printf("%s{\"pid\":%ld,\"pages\":%" PRIu64 ",\"present\":%" PRIu64
		       ",\"swapped\":%" PRIu64 ",\"zero\":%" PRIu64 ",\"file\":%" PRIu64
		       ",\"frames\":%" PRIu64 ",\"within\":%" PRIu64 "}",
		       i ? "," : "", g->pid, g->pages, g->present, g->swapped, g->zero, g->file,
		       g->frames, g->within);
	}
	printf("],\"pairs\":[");
	for (unsigned int a = 0; a < n_guests; a++)
		for (unsigned int b = a + 1; b < n_guests; b++)
			if (pairs[a][b]) {
				printf("%s{\"a\":%ld,\"b\":%ld,\"frames\":%" PRIu64 "}", comma,
				       guests[a].pid, guests[b].pid, pairs[a][b]);
				comma = ",";
			}
	printf("],\"present\":%zu,\"frames\":%" PRIu64 ",\"sharers\":%" PRIu64
	       ",\"shared\":%" PRIu64 ",\"sharing\":%" PRIu64 "}\n",
	       n_uses, frames, sharers, shared, sharers - shared);
}

int main(void)
{
	uint64_t frames = 0, sharers = 0, shared = 0;
	char *line = NULL;
	size_t size = 0;

	kpageflags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	if (kpageflags < 0)
		die("/proc/kpageflags");
	for (unsigned n = 0; getline(&line, &size, stdin) > 0; n++) {
		if (n == GUESTS_MAX) {
			fprintf(stderr, "audit: more than %d processes\n", GUESTS_MAX);
			return 2;
		}
		line[strcspn(line, "\n")] = '\0';
		guest_read(line);
	}
	free(line);
	if (n_uses)
		qsort(uses, n_uses, sizeof(*uses), use_compare);
	for (size_t first = 0, end; first < n_uses; first = end) {
		for (end = first + 1; end < n_uses && uses[end].pfn == uses[first].pfn; end++)
			;
		frames++;
		if (end - first > 1) {
			sharers += end - first;
			shared++;
		}
		frame_count(first, end);
	}
	report(frames, sharers, shared);
	return 0;
}
