#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
# memshared while the wall clock jumps: runs in the machine of test-other-kernel.py, whose clock
# is nobody else's. Two QEMUs that are never started, half of their pages equal, are merged; then,
# after each jump, new duplicates are written, and must be merged in the usual time.
#
#   clock-jumps TRACKER
set -u
tracker=$1
[ "$tracker" = wp ] && engine=remap || engine=ksm
work=$(mktemp -d)
begun=$(date +%s)
pids=
n=0
export MEMSHARED_LIBEXECDIR=/x QEMU_MODULE_DIR=/x MEMSHARED_SOCKET=$work/socket
PAGES=8192 # 32 MiB

ended() {
	kill $pids
	wait
	jump 0
	rm -rf "$work"
}
trap ended EXIT

uptime_s() {
	sed 's/\..*//' /proc/uptime
}

result() { # STATUS DESCRIPTION
	n=$((n + 1))
	[ "$1" = 0 ] && echo "ok $n - $2" && return
	sed 's/^/# /' "$work/log"
	/x/memsharectl --socket "$work/socket" guests | sed 's/^/# /'
	echo "not ok $n - $2"
	exit 1
}

# CONDITION: holds within two minutes, by the clock that does not jump.
within() {
	end=$(($(uptime_s) + 120))
	until "$@"; do
		[ "$(uptime_s)" -lt $end ] || return 1
		usleep 200000
	done
}

ram() { # PID: the first address of its RAM; before it is merged
	sed -n 's/^\([0-9a-f]*\)-\([0-9a-f]*\) .*/\1 \2/p' "/proc/$1/maps" | while read -r first last; do
		[ $((0x$last - 0x$first)) = $((PAGES * 4096)) ] && echo "$first" && break
	done
}

fill() { # [ROUND UNIT SHARE]
	/x/fill "$one" "$one_ram" $PAGES 1 50 16 "$@" && /x/fill "$two" "$two_ram" $PAGES 2 50 16 "$@"
}

number() { # NAME: the least of both guests' values
	/x/memsharectl --socket "$work/socket" --json guests 2>/dev/null | grep -o "\"$1\": *[0-9]*" | grep -o '[0-9]*$' |
		sort -n | head -n 1
}

# These are false, too, while the daemon says nothing.
all_shared() {
	now=$(number shared_pages)
	[ "${now:-0}" -ge $((PAGES / 2)) ]
}

few_shared() {
	now=$(number shared_pages)
	[ "${now:-$PAGES}" -lt $((PAGES * 2 / 5)) ]
}

more_passes() { # BEFORE
	now=$(number passes)
	[ "${now:-0}" -gt $(($1 + 3)) ]
}

jump() { # SECONDS from the time that it was at first
	date -s "@$((begun + $1))" >/dev/null
}

# Half of the pages get new content, which has to be noticed, to age and to be merged.
merges_again() { # ROUND
	fill "$1" 16 50 && within few_shared && within all_shared && within more_passes "$(number passes)"
}

cat >"$work/conf" <<EOF
[Daemon]
StateDirectory=$work/state
CpuBudget=100%
PassInterval=1s
Pressure=always
[Libvirt]
Enabled=no
[Ksm]
Domain=clock
[Policy "clock"]
match-name=clock*
enabled=yes
domain=clock
engine=$engine
tracker=$tracker
min-age=2s
cow-backoff=2s
thp=split:1
EOF
qemu() { # NUMBER
	exec /x/qemu-system-x86_64 -L /x -S -accel tcg -m 32 -nodefaults -display none \
		-name "guest=clock$1" </dev/null >"$work/qemu$1" 2>&1
}
qemu 1 &
one=$!
qemu 2 &
two=$!
pids="$one $two"
echo 1..4
has_ram() { # PID
	[ -n "$(ram "$1")" ]
}
within has_ram $one && within has_ram $two || echo "# no RAM of the guests is found"
one_ram=$(ram $one)
two_ram=$(ram $two)
fill
/x/memshared --config "$work/conf" --socket "$work/socket" >"$work/log" 2>&1 &
pids="$pids $!"
within all_shared
result $? "$tracker: duplicates are merged"
jump 86400
merges_again 1
result $? "$tracker: so are new ones after the clock has jumped a day ahead"
jump -86400
merges_again 2
result $? "$tracker: and after it has jumped two days back"
jump -1000000000
merges_again 3
result $? "$tracker: and thirty years back"
