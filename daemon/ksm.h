/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host's KSM: its settings, its counters, ksmd, and who else uses it.
 *
 * KSM is the host's, not ours: settings are saved (in memory and in a state file, so that a
 * daemon that was killed does not lose them) before the first change and put back by
 * ksm_restore(). run=0 stops ksmd and keeps what is merged.
 *
 * Everything goes through a directory descriptor of /sys/kernel/mm/ksm, so that tests can feed
 * a fake one. Thread: any, one at a time.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct ksm {
	int dir_fd;	  /* /sys/kernel/mm/ksm */
	pid_t ksmd;	  /* its thread, 0 when not found */
	char *state_path; /* where the saved settings are; NULL: nowhere */
	int state_error;  /* why what is at state_path cannot be read */
	bool saved;	  /* settings[] hold what the host had */
	struct ksm_saved {
		char text[32];
		bool present;
	} settings[8];
};

struct ksm_counters {
	uint64_t pages_shared, pages_sharing, pages_unshared, pages_volatile;
	uint64_t full_scans, pages_scanned, zero_pages;
};

/* -EOPNOTSUPP: no KSM in this kernel. If a state file of this boot is there (an earlier daemon was
 * killed), the settings in it count as the host's; one of another boot is removed. */
int ksm_open(struct ksm *k, const char *sys_path, const char *state_path);
void ksm_close(struct ksm *k);
/* Why ksmd cannot be driven now, in words with the remedy; 0 or -EBUSY (an active advisor,
 * ksmtuned running), -EPERM. */
int ksm_check_free(const struct ksm *k, char *ret_reason, size_t size);
/* Saves the host's settings if that is not done yet, then sets ours and run=1.
 * pages_to_scan pages, then sleep_msec, over and over. */
int ksm_start(struct ksm *k, uint32_t pages_to_scan, uint32_t sleep_msec);
/* Changes the pace of a running ksmd. */
int ksm_set_pace(struct ksm *k, uint32_t pages_to_scan, uint32_t sleep_msec);
/* run=0: what is merged stays. */
int ksm_stop(struct ksm *k);
/* Puts back what the host had; run goes back to 0 at most if we merged while it was 0. */
int ksm_restore(struct ksm *k);
int ksm_read_counters(const struct ksm *k, struct ksm_counters *ret);
/* CPU time of ksmd so far; 0 when it can't be told. */
uint64_t ksm_cpu_nsec(const struct ksm *k);

/* Pure parser of the state file, into as many settings as struct ksm has; text is changed. -EINVAL, or
 * -ESTALE: of another boot than this one. settings are undefined then. */
int ksm_parse_state(char *text, const char *boot, struct ksm_saved *settings);

/* Pages of this process that KSM merged (ksm_merging_pages of ksm_stat) and its metadata
 * entries (ksm_rmap_items, 64 bytes each). */
int ksm_process_counts(int proc_pid_fd, uint64_t *ret_merging_pages, uint64_t *ret_rmap_items);

/* Pure parser of ksm_stat. -EINVAL when it is not one; absent fields are UINT64_MAX. */
struct ksm_stat {
	uint64_t rmap_items, zero_pages, merging_pages;
	int mergeable; /* 1, 0, -1 not told */
};
int ksm_parse_stat(const char *buf, size_t len, struct ksm_stat *ret);
/* -ENODATA for what has no memory: a kernel thread, a zombie. -ENOENT before Linux 6.1, or it has gone. */
int ksm_read_stat(int proc_pid_fd, struct ksm_stat *ret);
