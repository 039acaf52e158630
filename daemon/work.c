/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/work.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

#include "common/util.h"

struct queue {
	struct work *head, **tail;
};

struct work_pool {
	/* Immutable after work_pool_new(). */
	pthread_t threads[WORK_THREADS_MAX];
	unsigned n_threads;
	int event_fd; /* readable when finished is not empty */
	sd_event_source *source;

	/* Under lock. */
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct queue todo, finished;
	bool stop;

	/* Owned by the loop's thread. */
	unsigned n_pending; /* submitted, done() not yet called */
};

static void queue_init(struct queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
}

static void queue_push(struct queue *q, struct work *w)
{
	w->next = NULL;
	*q->tail = w;
	q->tail = &w->next;
}

static struct work *queue_pop(struct queue *q)
{
	struct work *w = q->head;

	if (w) {
		q->head = w->next;
		if (!q->head)
			q->tail = &q->head;
	}
	return w;
}

static void *worker(void *userdata)
{
	struct work_pool *p = userdata;

	(void)pthread_mutex_lock(&p->lock);
	for (;;) {
		struct work *w = queue_pop(&p->todo);
		uint64_t start, one = 1;

		if (!w) {
			if (p->stop)
				break;
			(void)pthread_cond_wait(&p->wake, &p->lock);
			continue;
		}
		(void)pthread_mutex_unlock(&p->lock);
		start = thread_cpu_nsec();
		w->run(w);
		w->cpu_nsec = thread_cpu_nsec() - start;
		(void)pthread_mutex_lock(&p->lock);
		queue_push(&p->finished, w);
		/* Cannot block: the counter is far from its limit. */
		(void)!write(p->event_fd, &one, sizeof(one));
	}
	(void)pthread_mutex_unlock(&p->lock);
	return NULL;
}

static void finish_all(struct work_pool *p)
{
	for (;;) {
		struct work *w;

		(void)pthread_mutex_lock(&p->lock);
		w = queue_pop(&p->finished);
		(void)pthread_mutex_unlock(&p->lock);
		if (!w)
			return;
		p->n_pending--;
		w->done(w);
	}
}

static int on_finished(sd_event_source *s _unused_, int fd, uint32_t revents _unused_,
		       void *userdata)
{
	uint64_t n;

	(void)!read(fd, &n, sizeof(n));
	finish_all(userdata);
	return 0;
}

/* Signals belong to the loop: workers start with all of them blocked. */
static int start_threads(struct work_pool *p, unsigned n_threads)
{
	sigset_t all, old;
	int r = 0;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	while (r == 0 && p->n_threads < n_threads) {
		r = -pthread_create(&p->threads[p->n_threads], NULL, worker, p);
		if (r == 0)
			p->n_threads++;
	}
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

int work_pool_new(sd_event *event, unsigned n_threads, struct work_pool **ret)
{
	struct work_pool *p;
	int r;

	assert(n_threads >= 1 && n_threads <= WORK_THREADS_MAX);
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	queue_init(&p->todo);
	queue_init(&p->finished);
	(void)pthread_mutex_init(&p->lock, NULL);
	(void)pthread_cond_init(&p->wake, NULL);
	p->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = p->event_fd < 0 ? -errno : 0;
	if (r == 0)
		r = sd_event_add_io(event, &p->source, p->event_fd, 1 /* EPOLLIN */, on_finished, p);
	if (r >= 0)
		r = start_threads(p, n_threads);
	if (r < 0) {
		work_pool_free(p);
		return r;
	}
	*ret = p;
	return 0;
}

void work_pool_free(struct work_pool *p)
{
	if (!p)
		return;
	(void)pthread_mutex_lock(&p->lock);
	p->stop = true;
	(void)pthread_cond_broadcast(&p->wake);
	(void)pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->n_threads; i++)
		(void)pthread_join(p->threads[i], NULL);
	finish_all(p);
	(void)sd_event_source_unref(p->source);
	close_fdp(&p->event_fd);
	(void)pthread_cond_destroy(&p->wake);
	(void)pthread_mutex_destroy(&p->lock);
	free(p);
}

int work_submit(struct work_pool *p, struct work *w)
{
	if (p->n_pending >= WORK_QUEUE_MAX)
		return -EAGAIN;
	p->n_pending++;
	(void)pthread_mutex_lock(&p->lock);
	queue_push(&p->todo, w);
	(void)pthread_cond_signal(&p->wake);
	(void)pthread_mutex_unlock(&p->lock);
	return 0;
}

unsigned work_pending(const struct work_pool *p)
{
	return p->n_pending;
}
