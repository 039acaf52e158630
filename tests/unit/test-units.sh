#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The systemd units: systemd understands them whole, and they keep what the attach needs.
set -u
src=${MEMSHARED_SRCDIR:-.}
build=${MEMSHARED_BUILDDIR:-.}
service=$build/systemd/memshared.service
socket=$src/systemd/memshared.socket
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
n=0

result() { # STATUS DESCRIPTION
	n=$((n + 1))
	if [ "$1" = 0 ]; then
		echo "ok $n - $2"
	else
		sed 's/^/# /' "$work/log"
		echo "not ok $n - $2"
	fi
}

# Verified with the programs of the build, because none need be installed.
verify() {
	mkdir -p "$work/units" &&
		sed -e "s|^\(Exec[A-Za-z]*=\)[^ ]*/\(memshare[a-z]*\)|\1$build/\2|" \
			"$service" >"$work/units/memshared.service" &&
		cp "$socket" "$work/units/" &&
		SYSTEMD_LOG_LEVEL=warning systemd-analyze --man=no verify \
			"$work/units/memshared.service" "$work/units/memshared.socket" \
			>"$work/log" 2>&1 &&
		# What it says of other units of this machine is not about ours.
		! grep memshared "$work/log"
}

# Each option that makes systemd 252 or later install a seccomp filter.
no_seccomp() {
	! grep -nE '^(SystemCall(Filter|Architectures|Log)|RestrictAddressFamilies|RestrictNamespaces|RestrictRealtime|RestrictSUIDSGID|RestrictFileSystems|MemoryDenyWriteExecute|LockPersonality|PrivateDevices|ProtectClock|ProtectHostname|ProtectKernelLogs|ProtectKernelModules|ProtectKernelTunables|ProtectProc|DynamicUser)=' \
		"$service" >"$work/log"
}

# The socket's path is the one that the client uses by default.
same_socket() {
	path=$(sed -n 's/^ListenStream=//p' "$socket")
	echo "$path" >"$work/log"
	"$build/memsharectl" --help | grep -qF "($path)"
}

echo 1..3
if command -v systemd-analyze >/dev/null; then
	verify
	result $? "systemd-analyze verify finds nothing to say"
else
	n=1
	echo "ok 1 - systemd-analyze verify # SKIP no systemd-analyze here"
fi
no_seccomp
result $? "nothing in the service installs a seccomp filter or hides /proc and /sys"
same_socket
result $? "socket unit and client name the same socket"
