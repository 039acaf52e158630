/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/fault.h"

#include <signal.h>
#include <stdatomic.h>

#include "common/parse.h"
#include "common/util.h"

#define FAULTS_MAX 16

struct fault {
	char name[48];
	int error; /* 0: raise signal */
	int signal;
	uint64_t nth; /* 0 means every passage */
	_Atomic uint64_t passages;
};

bool fault_active;
static struct fault faults[FAULTS_MAX];
static size_t n_faults;

static int parse_action(const char *s, struct fault *f)
{
	static const struct {
		const char *name;
		int error;
	} actions[] = {
		{ "ENOMEM", -ENOMEM }, { "EIO", -EIO },
		{ "EBUSY", -EBUSY },   { "EPERM", -EPERM },   { "ESRCH", -ESRCH },
		{ "ENOSYS", -ENOSYS }, { "EINVAL", -EINVAL }, { "ENOSPC", -ENOSPC },
	};

	f->signal = streq(s, "kill") ? SIGKILL : streq(s, "stop") ? SIGSTOP : 0;
	for (size_t i = 0; i < ARRAY_SIZE(actions); i++)
		if (streq(s, actions[i].name))
			f->error = actions[i].error;
	return f->signal || f->error ? 0 : -EINVAL;
}

static int parse_fault(char *spec, struct fault *f)
{
	char *save = NULL, *name = strtok_r(spec, ":", &save), *action = strtok_r(NULL, ":", &save),
	     *nth = strtok_r(NULL, ":", &save);

	if (!name || !action || strlen(name) >= sizeof(f->name))
		return -EINVAL;
	strcpy(f->name, name);
	if (nth && parse_u64(nth, 1, UINT64_MAX, &f->nth) < 0)
		return -EINVAL;
	return parse_action(action, f);
}

int fault_init(void)
{
	const char *e = getenv("MEMSHARED_FAULT");
	_cleanup_free_ char *copy = NULL;
	char *save = NULL;

	if (!e || !*e)
		return 0;
	copy = strdup(e);
	if (!copy)
		return -ENOMEM;
	for (char *spec = strtok_r(copy, ",", &save); spec; spec = strtok_r(NULL, ",", &save)) {
		int r = n_faults < FAULTS_MAX ? parse_fault(spec, &faults[n_faults]) : -EINVAL;

		if (r < 0)
			return r;
		n_faults++;
	}
	fault_active = n_faults > 0;
	return 0;
}

int fault_hit(const char *name)
{
	for (size_t i = 0; i < n_faults; i++) {
		struct fault *f = &faults[i];

		if (!streq(f->name, name))
			continue;
		if (atomic_fetch_add(&f->passages, 1) + 1 != f->nth && f->nth != 0)
			continue;
		if (f->error)
			return f->error;
		(void)raise(f->signal);
	}
	return 0;
}
