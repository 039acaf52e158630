#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Engine remap under the whole daemon at full speed, on guests that check every byte.

MEMSHARED_TEST_SECONDS=600 makes the first case a long one.
"""
import contextlib
import os
import subprocess
import time

import harness
import remapping
import tap


@tap.test("two domains are merged, rewritten and let go for a while, with direct I/O and migration of pages",
          limit=1500)
def stress(host):
    a = remapping.boot(host, ["a-0", "a-1"])
    b = remapping.boot(host, ["b-0", "b-1"])
    guests = a + b
    remapping.compaction(host)
    daemon = remapping.start(host, remapping.domains("a", "b"))
    remapping.enrolled(host, daemon, guests)
    remapping.merged(host, daemon)
    common = most = leaves = 0
    deadline = time.monotonic() + remapping.seconds(15)
    for number in remapping.until(deadline):
        remapping.stir([guests[number % 4]], number // 4)
        common = max(common, remapping.apart(host, daemon, a, b))
        most = max(most, daemon.totals()["sharing_pages"])
        if number % 5 == 4:
            g = guests[number % 4]
            daemon.call("Unenroll", pid=g.pid, timeout=120)
            assert not remapping.ours(g), remapping.ours(g)[:3]
            leaves += 1
            remapping.enrolled(host, daemon, [g])
    tap.note("%d rounds, %d times a guest left and came back, up to %d pages shared, %d frames in "
             "common within the domains" % (number + 1, leaves, most, common))
    assert common > 100, "within the domains hardly anything was shared"
    remapping.check(guests)
    remapping.leave(daemon, guests)
    assert remapping.apart(host, daemon, a, b) == 0
    remapping.check(guests)


@tap.test("a guest that changes its domain shares no frame with the old one", limit=400)
def moves(host):
    one, two, three = guests = remapping.boot(host, ["a-0", "a-1", "b-0"])
    daemon = remapping.start(host, remapping.domains("a", "b"))
    remapping.enrolled(host, daemon, guests)
    host.wait(lambda: remapping.apart(host, daemon, [one, two], [three]) > 500, 60, "a's guests share frames")
    daemon.call("Enroll", pid=two.pid, domain="b", timeout=120)
    # At once, not only in the end: it left a before it entered b.
    remapping.apart(host, daemon, [one], [two, three])
    host.wait(lambda: remapping.apart(host, daemon, [one], [two, three]) > 500, 60, "b's guests share frames")
    assert daemon.guest(two)["domain"] == "b"
    remapping.check(guests)
    daemon.call("Enroll", pid=two.pid, domain="a", timeout=120)
    remapping.apart(host, daemon, [one, two], [three])
    host.wait(lambda: remapping.apart(host, daemon, [one, two], [three]) > 500, 60, "a's guests share again")
    remapping.check(guests)
    remapping.leave(daemon, guests)


@tap.test("the balloon takes merged pages from a guest, and gives them back", limit=300)
def balloon(host):
    guests = remapping.boot(host, ["test-0", "test-1"])
    daemon = remapping.start(host)
    remapping.enrolled(host, daemon, guests)
    remapping.merged(host, daemon)
    one = guests[0]
    full = one.qmp.call("query-balloon")["actual"]
    for _ in range(2):
        # A guest that has no driver for it leaves its balloon as it is.
        one.qmp.call("balloon", value=full - (48 << 20))
        try:
            host.wait(lambda: one.qmp.call("query-balloon")["actual"] < full - (8 << 20), 20,
                      "the guest gives pages up")
        except AssertionError as error:
            raise tap.Skip("the test guest's kernel has no balloon driver") from error
        remapping.check(guests)
        one.qmp.call("balloon", value=full)
        host.wait(lambda: one.qmp.call("query-balloon")["actual"] == full, 60, "it gets them back")
        remapping.stir(guests, 1)
    remapping.leave(daemon, guests)


def count_most_maps():
    """Of any process of this host."""
    most = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open("/proc/%s/maps" % pid, "rb") as file:
            most = max(most, sum(1 for _ in file))
    return most


@tap.test("a guest that may have few mappings is merged as far as they reach", limit=300)
def few_mappings(host):
    path = "/proc/sys/vm/max_map_count"
    with open(path, encoding="ascii") as file:
        before = file.read()

    def limit(value):
        with open(path, "w", encoding="ascii") as file:
            file.write(str(value))
    host.callback(limit, before.strip())
    # QEMU itself ends when it finds no room for a thread's stack: these do no I/O.
    guests = remapping.boot(host, ["test-0", "test-1"], mix=harness.DEFAULT_MIX)
    maps = max(len(g.smaps()) for g in guests)
    # Such a limit is the whole host's: it leaves every process that is running what it needs.
    most = max(maps, count_most_maps())
    limit(most + 400)
    daemon = remapping.start(host)
    remapping.enrolled(host, daemon, guests)
    host.wait(lambda: any(len(remapping.store_maps(g)) > 50 for g in guests), 60, "some are merged")
    limit(most + 150)
    tap.note("mappings of a guest, at most: %d before, %d merged; the limit is %d" % (
        maps, max(len(g.smaps()) for g in guests), most + 150))
    for number in range(4):
        remapping.stir(guests, number)
    limit(before.strip())
    for number in range(2):
        remapping.stir(guests, number)
    remapping.merged(host, daemon)
    remapping.leave(daemon, guests)


@tap.test("a second debugger looks at a guest again and again while it is merged", limit=300)
def debugger(host):
    guests = remapping.boot(host, ["test-0", "test-1"])
    daemon = remapping.start(host)
    tracer = subprocess.Popen(
        [harness.BUILD + "/tests/integration/ptrace-loop", *(str(g.pid) for g in guests)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    host.callback(tracer.kill)
    # Attaching is refused while somebody else traces the very thread: asked for again.
    remapping.enrolled(host, daemon, guests)
    remapping.merged(host, daemon)
    for number in range(3):
        remapping.stir(guests, number)
    out, _ = tracer.communicate("", timeout=60 * tap.SLOW)
    tap.note(out.strip())
    assert tracer.returncode == 0 and int(out.split()[0]) > 0, out
    remapping.check(guests)
    remapping.leave(daemon, guests)


@tap.test("guests under KVM, in real mode, are merged and let go", limit=400)
def kvm(host):
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise tap.Skip("no /dev/kvm here")
    host.quiet = True
    guests = [host.guest("test-%d" % i, kind="sector", accel="kvm", memory_mib=16, seed=i,
                         uid=remapping.NOBODY) for i in range(2)]
    for g in guests:
        try:
            g.ready(60)
        except RuntimeError as error:
            raise tap.Skip("no guest runs under KVM here: %s" % (g.log() or error)) from error
    daemon = remapping.start(host)
    remapping.enrolled(host, daemon, guests)
    for _ in range(2):
        # 28 pages are the same in both, and as many in each of them.
        remapping.merged(host, daemon, 50)
        for g in guests:  # slow ones, where KVM itself is emulated
            g.rounds(1)
            assert not g.serial.wrong, g.serial.wrong
    tap.note("%d pages shared, %d rounds" % (
        daemon.totals()["sharing_pages"], sum(g.serial.lines.count("round") for g in guests)))
    for g in guests:
        daemon.call("Unenroll", pid=g.pid, timeout=120)
        assert not remapping.ours(g), remapping.ours(g)[:3]
        g.rounds(1)
        assert not g.serial.wrong, g.serial.wrong


tap.main(harness.Host)
