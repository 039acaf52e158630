#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The manual pages: mandoc has nothing to say, and they name the options and commands that
# --help names, no more and no less.
set -u
src=${MEMSHARED_SRCDIR:-.}
build=${MEMSHARED_BUILDDIR:-.}
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

lint() {
	# That pages of ours are not installed here is no fault of theirs.
	mandoc -Tlint -W style "$1" 2>&1 |
		grep -v -e 'referenced manual not found: Xr memshare' -e 'outdated mandoc.db' >"$work/log"
	! [ -s "$work/log" ]
}

help_options() {
	"$build/$1" --help | sed 's/^usage.*//I' | grep -oE -e '--[a-z]+' | sort -u
}

manual_options() {
	grep -E '^\.It Fl' "$1" | grep -oE 'Fl -[a-z]+' | sed 's/Fl -/--/' | sort -u
}

# SAME: the two lists are, and not empty.
same() {
	diff "$work/help" "$work/manual" >"$work/log" && [ -s "$work/help" ]
}

echo 1..6
for page in memshared.8 memsharectl.1 memshared.conf.5; do
	if command -v mandoc >/dev/null; then
		lint "$src/man/$page"
		result $? "mandoc -Tlint $page"
	else
		n=$((n + 1))
		echo "ok $n - mandoc -Tlint $page # SKIP no mandoc here"
	fi
done
for page in memshared.8 memsharectl.1; do
	help_options "${page%.?}" >"$work/help"
	manual_options "$src/man/$page" >"$work/manual"
	same
	result $? "$page has the options of ${page%.?} --help"
done
"$build/memsharectl" --help | sed -n '/^Commands/,/^Options/s/^  \([a-z][a-z]*\).*/\1/p' |
	sort >"$work/help"
sed -n 's/^\.It Ic \([a-z][a-z]*\).*/\1/p' "$src/man/memsharectl.1" | sort >"$work/manual"
same
result $? "memsharectl.1 has the commands of memsharectl --help"
