/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CHECK: may ksmd run? Others that tune KSM, or whose memory it would merge with the domain's, say no.
 * To look at all processes of the host takes a worker, from milliseconds to seconds on old kernels.
 *
 * While ksmd runs they are looked at again and again, and what has come ends the round: ksmd may have
 * merged such memory for as long as a look, what is between two looks, and one batch of ksmd's take.
 */
#include "daemon/merge-ksm-private.h"

#include <fcntl.h>

#include "common/util.h"
#include "daemon/mergeable.h"

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

static void check_run(struct work *w)
{
	struct ksm_check *c = (struct ksm_check *)w;

	c->error = ksm_check_free(c->mk->ksm, c->refusal, sizeof(c->refusal));
	if (c->error >= 0 && !c->allow_foreign)
		c->error = look_at_others(c, false);
}

static void check_done(struct work *w)
{
	struct ksm_check *c = (struct ksm_check *)w;
	struct merge_ksm *mk = c->mk;

	budget_charge(mk->cpu, c->work.cpu_nsec, now_usec());
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
	c->again_usec = now_usec() + LOOK_AGAIN_USEC;
	c->refusal[0] = '\0';
	return work_submit(mk->pool, &c->work);
}

/* --- while ksmd runs ---------------------------------------------------------------- */

static void again_run(struct work *w)
{
	struct ksm_check *c = (struct ksm_check *)w;

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

	if (c->allow_foreign || c->under_way || mk->paused || now_usec() < c->again_usec)
		return;
	c->work = (struct work){ .run = again_run, .done = again_done };
	/* When the queue is full: at the next poll. */
	c->under_way = work_submit(mk->pool, &c->work) >= 0;
}
