/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the platform tests have in common: a look at one page, userfaultfds, a model guest,
 * and KSM and swap borrowed from the host.
 *
 * A platform test proves one thing that the kernel does and that memshared relies on. It skips
 * where the kernel lacks the feature, saying so, and fails where the kernel does otherwise.
 */
#pragma once

#include <sys/types.h>

#include "common/kernel-abi.h"
#include "common/units.h"
#include "tests/unit/unit.h"

/* Prints the reason, which the test runner puts into the TAP line, and skips. */
#define SKIP(...)                               \
	do {                                    \
		print_message(__VA_ARGS__);     \
		print_message("\n");            \
		skip();                         \
	} while (0)
#define SKIP_WITHOUT(feature)                                                               \
	do {                                                                                \
		if (!kernel_has(feature))                                                   \
			SKIP("this kernel lacks %s", kernel_feature_to_string(feature));    \
	} while (0)

/* Calls that must work for the test to mean anything. */
#define must(expression)                                                             \
	({                                                                           \
		__typeof__(expression) value_ = (expression);                        \
		if (value_ < 0)                                                      \
			fail_msg("%s: %s", #expression, strerror(errno));            \
		value_;                                                              \
	})

/* Private anonymous memory, small pages only, untouched. */
char *map_pages(uint64_t n_pages);
/* The same, aligned to 2 MiB, for huge pages if the kernel gives them. */
char *map_huge(uint64_t n_huge);
/* Collapses into huge pages what was written there. False where the kernel won't. */
bool collapse_huge(char *map, uint64_t n_huge);
void unmap_pages(char *map, uint64_t n_pages);
/* A memfd of n_pages, page i filled with byte fill + i; mapped nowhere. */
int make_store(uint64_t n_pages, int fill);

int pagemap_open(pid_t pid);
/* The categories (PAGE_IS_*, without SOFT_DIRTY) of one page; a page that the ioctl does not
 * report has ~0. */
uint64_t page_look(int pagemap_fd, const void *page);
/* Its entry in the pagemap file. */
uint64_t page_entry(int pagemap_fd, const void *page);
uint64_t page_frame(int pagemap_fd, const void *page);
/* Get and clear WRITTEN in a range, holes left alone: returns how many pages were cleared. */
uint64_t pages_arm(int pagemap_fd, const void *start, uint64_t n_pages);

/* A userfaultfd of ours with UFFDIO_API done, or -errno. */
int uffd_make(uint64_t features);
int uffd_register(int uffd, const void *start, uint64_t n_pages, uint64_t mode);

/*
 * A model guest: a child process that has all our memory at the same addresses, and calls
 * functions of ours when told to.
 */
struct guest {
	pid_t pid;
	int pidfd;
	int socket;
	int pagemap;
};

typedef int64_t guest_fn(uint64_t a, uint64_t b, uint64_t c);
void guest_start(struct guest *g);
/* Also right for a guest that never started or has died. */
void guest_stop(struct guest *g);
/* Runs fn there and returns what it returned. */
int64_t guest_call(struct guest *g, guest_fn *fn, uint64_t a, uint64_t b, uint64_t c);
/* The same in two steps: the guest is at it in between. */
void guest_send(struct guest *g, guest_fn *fn, uint64_t a, uint64_t b, uint64_t c);
int64_t guest_receive(struct guest *g);
/* A userfaultfd made by the guest, in our descriptor table; UFFDIO_API not yet done. */
int guest_uffd(struct guest *g);
/* Some functions to call there. */
int64_t guest_write(uint64_t page, uint64_t n_pages, uint64_t value);
int64_t guest_read(uint64_t page, uint64_t n_pages, uint64_t unused);
int64_t guest_close(uint64_t fd, uint64_t unused_b, uint64_t unused_c);
int64_t guest_madvise(uint64_t page, uint64_t n_pages, uint64_t advice);

/* KSM: locked for us, settings remembered; ksm_return() puts them back. Skips without KSM. */
void ksm_borrow(void);
void ksm_return(void);
void ksm_set(const char *name, const char *value);
uint64_t ksm_get(const char *name);
/* Waits until the pages of the process at these addresses have the same frame, or fails. */
void ksm_wait_equal_frames(int pagemap_fd, const void *a, const void *b);

/* Swap of our own (zram, or the device in $MEMSHARED_TEST_SWAP). Skips where it can't be had. */
void swap_borrow(void);
void swap_return(void);
/* Pages out what a guest has at these addresses, and waits for it; false when it won't go. */
bool swap_out(struct guest *g, char *start, uint64_t n_pages);
