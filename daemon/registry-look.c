/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/registry-private.h"

#include <fcntl.h>

#include "common/util.h"
#include "daemon/devices.h"
#include "daemon/libvirt-xml.h"
#include "daemon/qmp.h"

/* Guests that one look brings; the next look finds the others. */
#define LOOK_GUESTS_MAX 256U
/* For each question to a monitor; one that somebody else uses does not answer at all. */
#define MONITOR_TIMEOUT_USEC (150 * USEC_PER_MSEC)

static bool is_known(const struct look *l, const struct process *p)
{
	for (size_t i = 0; i < l->n_known; i++)
		if (l->known[i].pid == p->pid && l->known[i].start_ticks == p->start_ticks)
			return true;
	return false;
}

/* Memory that comes in, and a snapshot taken while the guest runs, are QEMU's own business with
 * userfaultfd, which serves one of us only. */
static bool needs_uffd(struct qmp *q)
{
	struct qmp_migration migration = { 0 };
	struct qmp_status status = { 0 };
	char reason[QMP_REASON_MAX];

	if (qmp_query_status(q, reason, &status) >= 0 && streq(status.status, "inmigrate"))
		return true;
	/* In postcopy the guest runs already. */
	return qmp_query_migration(q, reason, &migration) >= 0 &&
	       (migration.background_snapshot || strncmp(migration.status, "postcopy-", 9) == 0);
}

/* Are these backends all the memory that the guest has? */
static bool is_all_ram(struct qmp *q, const struct qmp_memdev *devs, size_t n_devs)
{
	uint64_t ram_bytes, sum = 0;
	char reason[QMP_REASON_MAX];

	for (size_t i = 0; i < n_devs; i++)
		sum += MIN(devs[i].size_bytes, UINT64_MAX - sum);
	return qmp_query_ram(q, reason, &ram_bytes) >= 0 && sum >= ram_bytes;
}

/* Asks QEMU for its memory backends and how it is. That a monitor does not answer is normal. */
static void ask_monitor(struct found *f)
{
	_cleanup_free_ struct qmp_memdev *devs = calloc(QMP_MEMDEVS_MAX, sizeof(*devs));
	char reason[QMP_REASON_MAX];
	size_t n_devs = 0;
	bool all = false;

	f->asked = true;
	for (size_t i = 0; devs && i < f->identity.cmdline.n_monitors && !f->answered; i++) {
		struct qmp *q;

		if (qmp_open(&f->process, f->identity.cmdline.monitors[i], MONITOR_TIMEOUT_USEC, reason,
			     &q) < 0)
			continue;
		f->answered = qmp_query_memdevs(q, reason, devs, &n_devs) >= 0;
		all = f->answered && f->memory.n_left_out == 0 && is_all_ram(q, devs, n_devs);
		f->needs_uffd = f->answered && needs_uffd(q);
		f->told = f->answered && qmp_query_devices(q, reason, &f->monitor) >= 0;
		qmp_close(q);
	}
	f->may_arrive = f->identity.cmdline.incoming && !f->answered;
	if (!f->answered ||
	    memory_confirm_blocks(f->memory.blocks, f->memory.n_blocks, devs, n_devs, all) || !all)
		return;
	/* One that is too small to be taken for RAM by itself. */
	f->memory.layout = 0;
	f->memory_error = memory_refresh_blocks(&f->process, devs, n_devs, &f->memory);
}

static void look_closer(const struct look *l, struct found *f)
{
	if (l->pid)
		f->memory = l->memory;
	f->memory_error = memory_refresh_blocks(&f->process, NULL, 0, &f->memory);
	if (devices_read(&f->process, &f->open) < 0)
		f->open = 0; /* it is gone */
	f->started = f->identity.cmdline.devices;
	for (size_t i = 0; i < f->memory.n_blocks; i++) {
		if (f->memory.blocks[i].flags_any & VMF_LOCKED)
			f->started |= LIBVIRT_LOCKED;
		if (f->memory.blocks[i].backing == BLOCK_SHARED)
			f->started |= LIBVIRT_SHARED_BLOCK;
	}
	/* Only when somebody wants something of this guest: others may want its monitor, too. */
	if (l->pid && l->done && f->memory_error >= 0)
		ask_monitor(f);
}

static int take_found(const struct proc_guest *g, void *userdata)
{
	struct look *l = userdata;
	struct found *f, *grown;
	int r;

	if (l->n_found == LOOK_GUESTS_MAX)
		return 1;
	grown = reallocarray(l->found, l->n_found + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	l->found = grown;
	f = &l->found[l->n_found];
	memset(f, 0, sizeof(*f));
	r = process_open(&f->process, g->pid);
	if (r < 0)
		return l->pid ? r : 1; /* gone already, which is normal, or too many files are open */
	if (!l->pid && is_known(l, &f->process)) {
		process_close(&f->process);
		return 0;
	}
	f->identity = *g;
	look_closer(l, f);
	l->n_found++;
	return 0;
}

/* A scanner tells each guest once; a look that somebody asked for has one of its own. */
static int look_at_all(struct look *l, int proc_fd)
{
	struct discover_proc *own = NULL;
	int r = 0;

	if (!l->scanner)
		r = discover_proc_new(&own);
	if (r >= 0)
		r = discover_proc_scan(own ? own : l->scanner, proc_fd, take_found, l);
	discover_proc_free(own);
	return r;
}

/* Devices that guests have open by now. */
static void look_at_devices(struct look *l)
{
	for (size_t i = 0; i < l->n_known; i++) {
		struct known *k = &l->known[i];
		struct process p;

		if (!k->again)
			continue;
		k->again = process_open(&p, k->pid) >= 0;
		if (!k->again)
			continue;
		k->again = p.start_ticks == k->start_ticks && devices_read(&p, &k->open) >= 0;
		process_close(&p);
	}
}

void look_run(struct work *w)
{
	struct look *l = (struct look *)w;
	_cleanup_close_ int proc_fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct proc_guest g;

	if (proc_fd < 0) {
		l->error = -errno;
		return;
	}
	if (!l->pid) {
		l->error = look_at_all(l, proc_fd);
		look_at_devices(l);
		return;
	}
	l->error = discover_proc_pid(proc_fd, l->pid, &g, l->reason);
	if (l->error >= 0)
		l->error = take_found(&g, l);
}
