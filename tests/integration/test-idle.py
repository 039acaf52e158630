#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A host where nothing can be shared: what the daemon goes on doing for guests that write nothing, or that
write the same again and again."""
import re
import shutil
import signal
import subprocess

import harness
import merging

MIB = 32
PASSES = 20
DISCOVERY = "readlinkat openat read close getdents64 newfstatat fcntl".split()
INTERVAL = "PassInterval=100ms"


def counts(daemon, guest):
    g = daemon.guest(guest)
    return g["passes"], g["read_pages"]


def over(host, daemon, guest, number):
    """Pages that each of the next passes reads."""
    passes, read = counts(daemon, guest)
    host.wait(lambda: counts(daemon, guest)[0] >= passes + number, 120, "%d passes" % number, 0.5)
    now = counts(daemon, guest)
    return (now[1] - read) / (now[0] - passes)


def still(host):
    """A guest of unique pages, but for what its kernel has, that stands still."""
    one = host.guest("one", mib=MIB, uid=65534, mix="unique:100").ready()
    one.qmp.call("stop")
    return one


def system_calls(host, daemon, guest):
    """By name, those of so many passes, less what it takes to ask for their number; None without strace."""
    if not shutil.which("strace"):
        harness.note("no strace: system calls are not counted")
        return None
    path = host.directory + "/strace"
    with subprocess.Popen(["strace", "-f", "-qq", "-c", "-o", path, "-p", str(daemon.pid)]) as strace:
        try:
            over(host, daemon, guest, PASSES)
        finally:
            strace.send_signal(signal.SIGINT)
    with open(path, encoding="ascii") as file:
        return {m[2]: int(m[1]) for m in re.finditer(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$",
                                                     file.read(), re.M) if m[2] != "total"}


@harness.test("a guest without duplicates that writes nothing: no page is read, and hardly a system call made",
              limit=300)
def wp(host):
    one = still(host)
    daemon = merging.start(host, engine="remap", daemon=INTERVAL)
    daemon.call("Enroll", pid=one.pid)
    assert daemon.guest(one)["tracker"] == "wp", daemon.guest(one)
    host.wait(lambda: over(host, daemon, one, PASSES) == 0, 100, "all pages are known")
    passes, cpu = counts(daemon, one)[0], daemon.cpu_seconds()
    assert over(host, daemon, one, PASSES) == 0
    passes, cpu = counts(daemon, one)[0] - passes, daemon.cpu_seconds() - cpu
    harness.note("%.2f ms of CPU a pass over %d MiB" % (cpu / passes * 1e3, 96 + MIB))
    calls = system_calls(host, daemon, one)
    harness.note("system calls of %d passes: %s" % (PASSES, calls))
    if calls:
        assert "process_vm_readv" not in calls, calls
        # Less those of discovery, which looks at /proc at its own pace.
        rest = {k: v for k, v in calls.items() if k not in DISCOVERY}
        assert sum(rest.values()) < 100 * PASSES, calls
    one.qmp.call("cont")
    one.check()


@harness.test("with tracker rehash, which has to read them, quiet pages are read ever more rarely, and what "
              "is written then is found", limit=400)
def rehash(host):
    host.ksm().set(run=0)
    one = still(host)
    daemon = merging.start(host, daemon=INTERVAL, policy="tracker=rehash\ncow-backoff=1s")
    daemon.call("Enroll", pid=one.pid)
    host.wait(lambda: daemon.guest(one)["passes"] > 2, 60, "passes")
    present = daemon.guest(one)["present_bytes"] // harness.PAGE
    assert present > MIB << 8, present
    host.wait(lambda: over(host, daemon, one, 32) < present / 12, 200, "quiet pages are read more rarely")
    harness.note("of %d pages %d are read in a pass" % (present, over(host, daemon, one, 32)))
    one.qmp.call("cont")
    # Now it gets what another guest has, all over its quiet memory.
    two = host.guest("two", mib=MIB, uid=65534, mix="unique:100").ready()
    daemon.call("Enroll", pid=two.pid)
    for g in (one, two):
        g.command("fill 99", "^filled")
    merging.shares(host, daemon, one, two, least=MIB * 256 * 3 // 4)
    for g in (one, two):
        g.check()


@harness.test("pages that are written again and again just after they were read are read less and less often",
              limit=400)
def written_again(host):
    pages = 16 << 8
    one = host.guest("one", mib=16, uid=65534, mix="unique:100").ready()
    one.pause()
    # After three passes that found a page unwritten it is read.
    daemon = merging.start(host, engine="remap", daemon="PassInterval=300ms", policy="min-age=900ms")
    daemon.call("Enroll", pid=one.pid)
    host.wait(lambda: over(host, daemon, one, 4) < pages / 100, 100, "all pages are known")
    reads = []
    for _ in range(6):
        before = counts(daemon, one)[1]
        one.scramble(100)
        merging.passes(host, daemon, one, 6)
        reads.append(counts(daemon, one)[1] - before)
    harness.note("of %d pages that are written each time are read: %s" % (pages, reads))
    assert reads[0] > pages * 3 // 4, reads
    assert sum(reads[2:]) < pages * 2, reads
    # Not for ever.
    before = counts(daemon, one)[1]
    host.wait(lambda: counts(daemon, one)[1] - before > pages * 3 // 4, 100, "they are read in the end")
    one.check()


harness.main()
