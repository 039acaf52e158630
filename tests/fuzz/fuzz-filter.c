/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Any bytes as a seccomp filter, and as the lines of /proc that choose a thread. */
#include "common/util.h"
#include "daemon/attach/needs.h"
#include "daemon/attach/target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t n = size / sizeof(struct sock_filter);
	_cleanup_free_ struct sock_filter *program = malloc(n ? n * sizeof(*program) : 1);
	struct seccomp_data call = { .nr = 1, .arch = 0xc000003e, .args = { 1, 2, 3, 4, 5, 6 } };
	const char *text = size ? (const char *)data : "";
	uint32_t verdict, denied;
	struct thread_status s;
	char reason[160];
	struct needs needs;
	unsigned cpu;
	int64_t nr;

	if (!program)
		abort();
	if (n > 0)
		memcpy(program, data, n * sizeof(*program));
	(void)filter_run(program, n, &call, &verdict);
	needs_init(&needs);
	needs_ask(&needs, program, n);
	(void)needs_judge(&needs, true, &denied, reason, sizeof(reason));
	if (thread_status_parse(text, size, &s) == 0 && (s.tracer < 0 || s.seccomp > 2))
		abort();
	(void)thread_cpu_parse(text, size, &cpu);
	if (thread_syscall_parse(text, size, &nr) == 0 && nr < 0)
		abort();
	return 0;
}
