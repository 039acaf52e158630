#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# A jump of the host's wall clock changes nothing: nothing here reads it or waits by it.
set -u
src=${MEMSHARED_SRCDIR:-.}
build=${MEMSHARED_BUILDDIR:-.}
others='\b(CLOCK_(REALTIME|TAI|BOOTTIME)[A-Z_]*|(gettimeofday|timespec_get|[gs]etitimer|alarm|ftime) ?\(|time ?\(NULL|time ?\(&)'
imports='^(time|gettimeofday|timespec_get|ftime|setitimer|alarm|localtime(_r)?|gmtime(_r)?|mktime)$'

echo 1..2
if found=$(grep -nErI "$others" "$src/common" "$src/daemon" "$src/client"); then
	echo "$found" | sed 's/^/# /'
	echo "not ok 1 - every clock is monotonic or counts CPU time"
else
	echo "ok 1 - every clock is monotonic or counts CPU time"
fi
if ! command -v nm >/dev/null; then
	echo "ok 2 # SKIP no nm"
	exit
fi
for program in memshared memsharectl memshared-attach; do
	nm -D --undefined-only "$build/$program" | sed "s/.* U //; s/@.*//" | grep -E "$imports" |
		sed "s/^/# $program imports /"
done >"${TMPDIR:-/tmp}/test-clock.$$"
cat "${TMPDIR:-/tmp}/test-clock.$$"
if [ -s "${TMPDIR:-/tmp}/test-clock.$$" ]; then
	echo "not ok 2 - no program imports a call that reads the wall clock"
else
	echo "ok 2 - no program imports a call that reads the wall clock"
fi
rm -f "${TMPDIR:-/tmp}/test-clock.$$"
