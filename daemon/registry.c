/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/registry-private.h"

#include <sys/epoll.h>

#include "common/log.h"
#include "common/util.h"
#include "daemon/libvirt-xml.h"

/* So that a long listing leaves workers for passes. */
#define LOOKS_AT_ONCE 2U
/* Guests without memory that are looked at again in a turn. */
#define LOOKS_AGAIN 16U
/* The monitor of an enrolled guest is used for some milliseconds, so often. */
#define ASK_AGAIN_USEC (60 * USEC_PER_SEC)

struct registry {
	sd_event *event;
	struct work_pool *pool;
	registry_changed_fn *changed;
	void *userdata;
	struct guest *guests;
	size_t n_guests;
	sd_event_source *timer;
	struct discover_proc *scanner; /* of the timer's looks: one at a time */
	bool looking; /* such a look is under way */
	bool stopping;
	/* Looks at one process. */
	unsigned n_running, n_waiting;
	struct look *waiting, **last_waiting;
};

static void remove_guest(struct registry *reg, struct guest *g)
{
	struct guest **at = &reg->guests;

	while (*at && *at != g)
		at = &(*at)->next;
	assert(*at == g);
	*at = g->next;
	reg->n_guests--;
	g->exit_source = sd_event_source_disable_unref(g->exit_source);
	g->registry = NULL;
	guest_unref(g);
}

static void lose_guest(struct registry *reg, struct guest *g)
{
	(void)guest_apply(g, GUEST_EXITED, NULL);
	reg->changed(g, reg->userdata);
	remove_guest(reg, g);
}

static int on_exit_of(sd_event_source *s _unused_, int fd _unused_, uint32_t revents _unused_,
		      void *userdata)
{
	struct guest *g = userdata;

	lose_guest(g->registry, g);
	return 0;
}

/* Two looks may be under way, so what counts is what is known when they end. */
static bool is_same_memory(const struct guest_memory *a, const struct guest_memory *b)
{
	if (a->n_blocks != b->n_blocks)
		return false;
	for (size_t i = 0; i < a->n_blocks; i++)
		if (a->blocks[i].start.addr != b->blocks[i].start.addr ||
		    a->blocks[i].n_pages != b->blocks[i].n_pages ||
		    a->blocks[i].backing != b->blocks[i].backing)
			return false;
	return true;
}

/* What a look saw. The state follows only where no worker of the guest's is under way. True when it
 * looks different than before. */
static bool note_found(struct guest *g, const struct found *f)
{
	bool moved = f->memory_error >= 0 && !is_same_memory(&g->memory, &f->memory);
	bool changed = moved || (f->asked && g->needs_uffd != f->needs_uffd);
	uint32_t shown = guest_shows(g);
	char reason[GUEST_REASON_BYTES] = "";
	enum guest_event seen = GUEST_LOOK_REFUSED;

	g->shows[GUEST_SHOWS_OPEN] = f->open;
	g->shows[GUEST_SHOWS_STARTED] = f->started;
	if (f->told)
		g->shows[GUEST_SHOWS_MONITOR] = f->monitor;
	changed |= guest_shows(g) != shown;
	if (f->asked) {
		if (f->told || g->asked_usec)
			g->asked_usec = now_usec();
		g->needs_uffd = f->needs_uffd;
		g->may_arrive = f->may_arrive;
	}
	g->is_root = f->identity.is_root;
	g->own_program = f->identity.own_program;
	memcpy(g->claimed_uuid, f->identity.cmdline.uuid, sizeof(g->claimed_uuid));
	(void)guest_identify(g, GUEST_SOURCE_PROC, f->identity.cmdline.name,
			     f->identity.cmdline.uuid);
	if (f->memory_error >= 0)
		g->memory = f->memory;
	if (g->state != GUEST_FOUND && g->state != GUEST_READY && g->state != GUEST_REFUSED) {
		g->memory_changed |= moved;
		return changed;
	}
	if (f->memory_error < 0)
		(void)snprintf(reason, sizeof(reason), "its memory map cannot be read: %s",
			       strerror(-f->memory_error));
	else
		seen = guest_judge_memory(&g->memory, reason);
	(void)guest_apply(g, seen, reason);
	return changed;
}

static int add_guest(struct registry *reg, struct found *f)
{
	struct guest *g;
	int r;

	if (reg->n_guests >= REGISTRY_GUESTS_MAX)
		return -ENOSPC;
	r = guest_new(&f->process, GUEST_SOURCE_PROC, &g);
	if (r < 0)
		return r;
	(void)note_found(g, f);
	g->registry = reg;
	r = sd_event_add_io(reg->event, &g->exit_source, g->process.pidfd, EPOLLIN, on_exit_of, g);
	if (r < 0) {
		guest_unref(g);
		return r;
	}
	g->next = reg->guests;
	reg->guests = g;
	reg->n_guests++;
	reg->changed(g, reg->userdata);
	return 0;
}

static int take_look_at(struct registry *reg, struct found *f)
{
	struct guest *g = registry_find(reg, f->process.pid);
	int r;

	/* Its pid has been used again, or it has executed another program: as good as an exit. */
	if (g && (!guest_is(g, f->process.pid, f->process.start_ticks) ||
		  g->process.exe_dev != f->process.exe_dev || g->process.exe_ino != f->process.exe_ino)) {
		lose_guest(reg, g);
		g = NULL;
	}
	if (g) {
		if (note_found(g, f))
			reg->changed(g, reg->userdata);
		return 0;
	}
	r = add_guest(reg, f);
	if (r < 0)
		LOG_RATELIMITED(LOG_WARNING, NULL, "guest %d is not watched: %s", (int)f->identity.pid,
				strerror(-r));
	return r;
}

static void take_devices(struct registry *reg, const struct known *k)
{
	struct guest *g = k->again ? registry_find(reg, k->pid) : NULL;

	if (!g || !guest_is(g, k->pid, k->start_ticks) || g->shows[GUEST_SHOWS_OPEN] == k->open)
		return;
	g->shows[GUEST_SHOWS_OPEN] = k->open;
	reg->changed(g, reg->userdata);
}

static void look_free(struct look *l)
{
	for (size_t i = 0; i < l->n_found; i++)
		process_close(&l->found[i].process);
	free(l->found);
	free(l->known);
	free(l);
}

static void look_finish(struct look *l)
{
	struct guest *g = NULL;

	if (l->pid && l->error >= 0)
		g = registry_find(l->reg, l->pid);
	if (l->pid && l->error >= 0 && !g)
		l->error = -ESRCH;
	if (l->done)
		l->done(g, l->error, l->reason, l->userdata);
	look_free(l);
}

static void run_waiting(struct registry *reg);

static void look_done(struct work *w)
{
	struct look *l = (struct look *)w;
	struct registry *reg = l->reg;

	for (size_t i = 0; i < l->n_found; i++)
		if (take_look_at(reg, &l->found[i]) < 0 && l->scanner)
			discover_proc_forget(reg->scanner, l->found[i].identity.pid);
	for (size_t i = 0; i < l->n_known; i++)
		take_devices(reg, &l->known[i]);
	if (l->scanner)
		reg->looking = false;
	if (l->pid)
		reg->n_running--;
	look_finish(l);
	run_waiting(reg);
}

/* A known guest's memory is compared to what is known at the last moment before the look. */
static void run_waiting(struct registry *reg)
{
	while (reg->waiting && reg->n_running < LOOKS_AT_ONCE && !reg->stopping) {
		struct look *l = reg->waiting;
		struct guest *g = registry_find(reg, l->pid);

		if (g)
			l->memory = g->memory;
		if (work_submit(reg->pool, &l->work) < 0)
			return; /* the queue is full, so some other job ends and the timer comes by */
		reg->waiting = l->next;
		if (!reg->waiting)
			reg->last_waiting = &reg->waiting;
		reg->n_waiting--;
		reg->n_running++;
	}
}

static struct look *look_new(struct registry *reg, pid_t pid, registry_looked_fn *done, void *userdata)
{
	struct look *l = calloc(1, sizeof(*l));

	if (l)
		*l = (struct look){
			.work = { .run = look_run, .done = look_done },
			.reg = reg,
			.scanner = pid || done ? NULL : reg->scanner,
			.pid = pid,
			.done = done,
			.userdata = userdata,
		};
	return l;
}

int registry_look_at(struct registry *reg, pid_t pid, registry_looked_fn *done, void *userdata)
{
	struct look *l;

	if (reg->n_waiting == REGISTRY_WAITING_MAX || reg->stopping)
		return -EAGAIN;
	l = look_new(reg, pid, done, userdata);
	if (!l)
		return -ENOMEM;
	*reg->last_waiting = l;
	reg->last_waiting = &l->next;
	reg->n_waiting++;
	run_waiting(reg);
	return 0;
}

int registry_look(struct registry *reg, registry_looked_fn *done, void *userdata)
{
	struct look *l = look_new(reg, 0, done, userdata);
	int r = l ? 0 : -ENOMEM;

	if (r < 0)
		return r;
	l->known = calloc(MAX(reg->n_guests, (size_t)1), sizeof(struct known));
	if (!l->known)
		r = -ENOMEM;
	for (struct guest *g = reg->guests; g && r >= 0; g = g->next)
		l->known[l->n_known++] = (struct known){
			.pid = g->process.pid,
			.start_ticks = g->process.start_ticks,
			.again = g->state == GUEST_ENROLLED || guest_shows(g) % LIBVIRT_FLAGS_END,
		};
	if (r >= 0)
		r = work_submit(reg->pool, &l->work);
	if (r < 0)
		look_free(l);
	return r;
}

/* Those that were found while QEMU was starting, without memory yet. */
static void look_again(struct registry *reg)
{
	unsigned n = 0;

	for (struct guest *g = reg->guests; g && n < LOOKS_AGAIN; g = g->next)
		if (g->state == GUEST_REFUSED && g->memory.n_blocks == 0)
			n += registry_look_at(reg, g->process.pid, NULL, NULL) >= 0;
}

static void on_asked(struct guest *g _unused_, int r _unused_, const char *reason _unused_, void *userdata _unused_)
{
}

/* A balloon or virtio-mem that is plugged in shows nowhere else. Under libvirt, which says so, the monitor is
 * libvirt's. */
static void ask_again(struct registry *reg)
{
	uint64_t now = now_usec();
	unsigned n = 0;

	for (struct guest *g = reg->guests; g && n < LOOKS_AGAIN; g = g->next)
		if ((g->state == GUEST_ENROLLED || g->shows[GUEST_SHOWS_MONITOR]) && g->asked_usec &&
		    now - g->asked_usec >= ASK_AGAIN_USEC)
			n += registry_look_at(reg, g->process.pid, on_asked, NULL) >= 0;
}

static int on_look_timer(sd_event_source *s, uint64_t usec _unused_, void *userdata)
{
	struct registry *reg = userdata;

	if (!reg->looking)
		reg->looking = registry_look(reg, NULL, NULL) >= 0;
	if (reg->n_waiting == 0) {
		look_again(reg);
		ask_again(reg);
	}
	run_waiting(reg);
	(void)sd_event_source_set_time_relative(s, REGISTRY_LOOK_USEC);
	return sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

int registry_new(sd_event *event, struct work_pool *pool, registry_changed_fn *changed,
		 void *userdata, struct registry **ret)
{
	struct registry *reg = calloc(1, sizeof(*reg));
	int r;

	if (!reg)
		return -ENOMEM;
	*reg = (struct registry){
		.event = event,
		.pool = pool,
		.changed = changed,
		.userdata = userdata,
		.last_waiting = &reg->waiting,
	};
	r = discover_proc_new(&reg->scanner);
	if (r >= 0)
		r = sd_event_add_time_relative(event, &reg->timer, CLOCK_MONOTONIC, 0, USEC_PER_SEC,
					       on_look_timer, reg);
	if (r < 0) {
		discover_proc_free(reg->scanner);
		free(reg);
		return r;
	}
	*ret = reg;
	return 0;
}

void registry_stop(struct registry *reg)
{
	struct look *l;

	if (!reg)
		return;
	reg->stopping = true;
	while ((l = reg->waiting)) {
		reg->waiting = l->next;
		l->error = -ECANCELED;
		(void)snprintf(l->reason, sizeof(l->reason), "the daemon is stopping");
		look_finish(l);
	}
	reg->last_waiting = &reg->waiting;
	reg->n_waiting = 0;
}

void registry_free(struct registry *reg)
{
	if (!reg)
		return;
	while (reg->guests)
		remove_guest(reg, reg->guests);
	(void)sd_event_source_unref(reg->timer);
	discover_proc_free(reg->scanner);
	free(reg);
}

struct guest *registry_find(const struct registry *reg, pid_t pid)
{
	for (struct guest *g = reg->guests; g; g = g->next)
		if (g->process.pid == pid && g->state != GUEST_GONE)
			return g;
	return NULL;
}

struct guest *registry_guests(const struct registry *reg)
{
	return reg->guests;
}
