/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CHECK: may ksmd run? Others that tune KSM, or whose memory it would merge with the domain's, say no; and so
 * does a QEMU that has its own memory write-protected for a background snapshot, of which ksmd
 * would destroy the record. Where the tracker has registered that memory, QEMU cannot.
 * To look at all processes of the host takes a worker, from milliseconds to seconds on old kernels.
 *
 * While ksmd runs they are looked at again and again, and what has come ends the round: ksmd may have
 * merged such memory for as long as a look, what is between two looks, and one batch of ksmd's take.
 */
#include "daemon/merge-ksm-private.h"

#include <fcntl.h>

#include "common/util.h"
#include "daemon/devices.h"
#include "daemon/mergeable.h"
#include "daemon/yield.h"

/* A process with as many mappings as it may have takes a second, before Linux 6.14. */
#define CHECK_MAX_USEC (20 * USEC_PER_SEC)
/* From one look to the next while ksmd runs. */
#define LOOK_AGAIN_USEC USEC_PER_SEC

static bool is_member(pid_t pid, void *userdata)
{
	const struct merge_ksm *mk = userdata;

	for (size_t i = 0; i < mk->n_members; i++)
		if (mk->members[i]->process->pid == pid)
			return process_alive(mk->members[i]->process);
	return false;
}

static int look_at_others(struct ksm_check *c, bool quick)
{
	_cleanup_close_ int proc_fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct mergeable_look look = {
		.proc_fd = proc_fd,
		.ours = is_member,
		.userdata = c->mk,
		.stop = &c->stop,
		.max_usec = CHECK_MAX_USEC,
		.quick = quick,
	};

	return mergeable_look(&look, c->refusal, sizeof(c->refusal));
}

static int look_at_members(struct ksm_check *c)
{
	for (size_t i = 0; i < c->mk->n_members; i++) {
		const struct member *m = c->mk->members[i];
		int r = tracker_is_exact(m->tracker) ? 0 : devices_have_userfaultfd(m->process);

		if (r == 0 || !process_alive(m->process))
			continue;
		(void)snprintf(c->refusal, sizeof(c->refusal), "pid %d: %s", m->process->pid,
			       r > 0 ? YIELD_QEMU_HAS_IT : "its descriptors cannot be read");
		return r < 0 ? r : -EBUSY;
	}
	return 0;
}

static bool has_inexact_tracker(const struct merge_ksm *mk)
{
	for (size_t i = 0; i < mk->n_members; i++)
		if (!tracker_is_exact(mk->members[i]->tracker))
			return true;
	return false;
}

static void check_run(struct work *w)
{
	struct ksm_check *c = (struct ksm_check *)w;

	c->error = ksm_check_free(c->mk->ksm, c->refusal, sizeof(c->refusal));
	if (c->error >= 0)
		c->error = look_at_members(c);
	if (c->error >= 0 && !c->allow_foreign)
		c->error = look_at_others(c, false);
}

static void check_done(struct work *w)
{
	struct ksm_check *c = (struct ksm_check *)w;
	struct merge_ksm *mk = c->mk;

	budget_charge(mk->cpu, c->work.cpu_nsec, now_usec());
	mk->stats.check_usec = now_usec() - c->began_usec;
	if (mk->cut) {
		merge_ksm_verify(mk);
		return;
	}
	memcpy(mk->stats.refusal, c->refusal, sizeof(c->refusal));
	if (c->error < 0)
		merge_ksm_finish_round(mk, c->error);
	else
		merge_ksm_mark(mk);
}

int merge_ksm_check(struct merge_ksm *mk)
{
	struct ksm_check *c = &mk->check;

	c->work = (struct work){ .run = check_run, .done = check_done };
	c->mk = mk;
	c->allow_foreign = mk->config.allow_foreign;
	c->stop = false;
	c->under_way = false;
	c->began_usec = now_usec();
	c->again_usec = c->began_usec + LOOK_AGAIN_USEC;
	c->refusal[0] = '\0';
	return work_submit(mk->pool, &c->work);
}

/* --- while ksmd runs ---------------------------------------------------------------- */

static void again_run(struct work *w)
{
	struct ksm_check *c = (struct ksm_check *)w;

	c->error = look_at_members(c);
	if (c->error >= 0 && !c->allow_foreign)
		c->error = look_at_others(c, true);
}

static void again_done(struct work *w)
{
	struct ksm_check *c = (struct ksm_check *)w;
	struct merge_ksm *mk = c->mk;

	budget_charge(mk->cpu, c->work.cpu_nsec, now_usec());
	c->under_way = false;
	c->again_usec = now_usec() + LOOK_AGAIN_USEC;
	if (c->error < 0 && c->error != -ECANCELED) {
		memcpy(mk->stats.refusal, c->refusal, sizeof(c->refusal));
		mk->cut = true;
	}
	if (mk->rested)
		merge_ksm_verify(mk);
}

void merge_ksm_check_again(struct merge_ksm *mk)
{
	struct ksm_check *c = &mk->check;

	if ((c->allow_foreign && !has_inexact_tracker(mk)) || c->under_way || mk->paused || now_usec() < c->again_usec)
		return;
	c->work = (struct work){ .run = again_run, .done = again_done };
	/* When the queue is full: at the next poll. */
	c->under_way = work_submit(mk->pool, &c->work) >= 0;
}
