#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that get their pages back and stay enrolled, with engines remap and ksm."""
import contextlib
import threading
import time

import harness
import merging
from memorygroup import MemoryGroup

PAGE = 4096
MIX = "zero:10,dup:60,within:10,unique:15,fast:5"


def start(host, rate="512M", fault=None):
    return merging.start(host, engine="remap", daemon="UnmergeRate=" + rate, fault=fault)


def boot(host, n, first=0):
    guests = [host.guest("g%d" % (i + first), mib=48, uid=65534, mix=MIX) for i in range(n)]
    for g in guests:
        g.ready()
    return guests


def merged(host, daemon, least=3000):
    host.wait(lambda: daemon.totals()["sharing_pages"] >= least, 120, "%d pages are shared" % least)


def frames(host, guests):
    return host.audit(guests, ranges=lambda g: [g.ram()])


def is_private(host, guest, others=()):
    """No frame of the guest is there twice, and none is a file's."""
    seen = frames(host, [guest, *others])
    one = seen["guests"][0]
    assert one["file"] == 0 and one["within"] == 0, one
    assert not [p for p in seen["pairs"] if guest.pid in (p["a"], p["b"])], seen["pairs"]


def stays_unmerged(host, daemon, guest, other):
    status = daemon.guest(guest)
    assert status["unmerged"] and status["state"] == "enrolled", status
    assert status["shared_pages"] == 0 and status["zero_pages"] == 0, status
    assert "unmerged" in status["reason"], status
    before = status["passes"]
    merging.passes(host, daemon, other)
    assert daemon.guest(guest)["passes"] == before
    is_private(host, guest, [other])


@harness.test("remap: a guest is unmerged, stays so, and shares again when enrolled")
def one(host):
    guests = boot(host, 3)
    daemon = start(host)
    for g in guests:
        daemon.call("Enroll", pid=g.pid)
    merged(host, daemon)
    done = daemon.ctl("unmerge", guests[0].pid)
    assert [g["pid"] for g in done["guests"]] == [guests[0].pid], done
    stays_unmerged(host, daemon, guests[0], guests[1])
    assert daemon.totals()["sharing_pages"] > 1000
    for g in guests:
        g.check()
    daemon.ctl("unmerge", guests[0].pid)  # it is so already
    # Killed and started again: still unmerged.
    daemon.kill()
    daemon = start(host)
    for g in guests:
        host.wait(lambda g=g: daemon.guest(g)["state"] == "enrolled", 60, "they are in again")
    host.wait(lambda: daemon.guest(guests[0])["reason"].startswith("unmerged"), 60, "it is unmerged")
    stays_unmerged(host, daemon, guests[0], guests[1])
    daemon.ctl("enroll", guests[0].pid)
    assert not daemon.guest(guests[0]).get("unmerged")
    host.wait(lambda: daemon.guest(guests[0])["shared_pages"] > 1000, 60, "it shares again")
    for g in guests:
        g.check()
        daemon.call("Unenroll", pid=g.pid)
        g.check()


@harness.test("remap: a domain, then all, at the rate that is set")
def rate(host):
    guests = boot(host, 2)
    daemon = start(host, rate="16M")
    for g in guests:
        daemon.call("Enroll", pid=g.pid)
    merged(host, daemon)
    copies = sum(daemon.guest(g)["shared_pages"] for g in guests) * PAGE
    began = time.monotonic()
    daemon.ctl("unmerge", "--domain", "test")
    took = time.monotonic() - began
    harness.note("%d MiB of copies in %.1f s at 16 MiB/s" % (copies >> 20, took))
    # A bound from above is what a rate is; pieces and the burst are 4 MiB together.
    assert took >= (copies / (16 << 20)) * 0.8 - 1, took
    for g in guests:
        is_private(host, g)
        g.check()
    assert daemon.totals()["sharing_pages"] == 0
    nobody = daemon.ctl("unmerge", "--domain", "other", check=False)
    assert nobody.returncode == 1 and "no guest is enrolled in this domain" in nobody.stderr, nobody
    assert daemon.ctl("unmerge", check=False).returncode == 2
    for g in guests:
        daemon.call("Enroll", pid=g.pid)
    merged(host, daemon)
    # One is unenrolled and one killed while they are being unmerged: both calls are answered.
    answers = {}

    def ask(guest):
        try:
            answers[guest.name] = daemon.call("Unmerge", pid=guest.pid, timeout=200)
        except harness.CallError as error:
            answers[guest.name] = error
    threads = [threading.Thread(target=ask, args=(g,)) for g in guests]
    for t, g in zip(threads, guests):
        t.start()
        host.wait(lambda g=g: "being given back" in daemon.guest(g).get("reason", ""), 30,
                  "it is being unmerged")
    daemon.call("Unenroll", pid=guests[0].pid, timeout=200)
    guests[1].kill()
    for t in threads:
        t.join(200)
    harness.note(answers)
    assert len(answers) == 2, answers
    is_private(host, guests[0])
    guests[0].check()


@harness.test("remap: without the memory for it nothing is done, and the numbers are said")
def memory(host):
    guests = boot(host, 2)
    daemon = start(host, fault="giveback-memory:ENOMEM")
    for g in guests:
        daemon.call("Enroll", pid=g.pid)
    merged(host, daemon)
    before = daemon.totals()["sharing_pages"]
    done = daemon.ctl("unmerge", "--all", check=False)
    assert done.returncode == 1 and "MiB" in done.stderr and "free some memory" in done.stderr, done
    merging.passes(host, daemon, guests[0])
    assert daemon.totals()["sharing_pages"] > before * 0.9
    assert not daemon.guest(guests[0]).get("unmerged")
    done = daemon.ctl("unenroll", guests[0].pid, check=False)
    assert done.returncode == 1 and "stay shared" in done.stderr and "MiB" in done.stderr, done
    for g in guests:
        g.check()


@harness.test("remap: a guest's memory control group must have the room, too")
def group_memory(host):
    guests = boot(host, 2)
    daemon = start(host)
    group = MemoryGroup(host, guests[0].pid)
    for g in guests:
        daemon.call("Enroll", pid=g.pid)
    merged(host, daemon)
    # Its writes take copies: none while there is a limit that would have the kernel kill it.
    guests[0].pause()
    group.leave_room(20 << 20)
    done = daemon.ctl("unmerge", guests[0].pid, check=False)
    assert done.returncode == 1 and "control group /memshared-test" in done.stderr, done
    assert "raise its limit" in done.stderr, done
    assert daemon.guest(guests[0])["shared_pages"] >= 3000
    group.leave_room(None)
    guests[0].resume()
    daemon.ctl("unmerge", guests[0].pid)
    is_private(host, guests[0], [guests[1]])
    for g in guests:
        g.check()


@harness.test("remap: killed in the middle, the next daemon goes on")
def killed(host):
    guests = boot(host, 2)
    for fault in ("giveback-piece:kill", "remap-unmerged:kill"):
        daemon = start(host, fault=fault)
        for g in guests:
            with contextlib.suppress(harness.CallError):
                daemon.call("Enroll", pid=g.pid)
        merged(host, daemon)
        with contextlib.suppress(Exception):
            daemon.call("Unmerge", pid=guests[0].pid)
        merging.wait_dead(host, daemon)
        for g in guests:
            g.check()
        daemon = start(host)
        host.wait(lambda: daemon.guest(guests[1])["state"] == "enrolled" and
                  daemon.guest(guests[0]).get("reason", "").startswith("unmerged"),
                  90, "it is unmerged by the next daemon")
        stays_unmerged(host, daemon, guests[0], guests[1])
        daemon.kill()
        for g in guests:
            g.check()


@harness.test("ksm: a guest is unmerged, stays so, and shares again when enrolled")
def with_ksm(host):
    host.ksm()
    guests = boot(host, 2)
    daemon = merging.start(host)
    for g in guests:
        daemon.call("Enroll", pid=g.pid)
    host.wait(lambda: daemon.totals()["sharing_pages"] > 3000, 200, "they share")
    daemon.ctl("unmerge", guests[0].pid)
    assert not guests[0].mergeable()
    stays_unmerged(host, daemon, guests[0], guests[1])
    for g in guests:
        g.check()
    daemon.ctl("enroll", guests[0].pid)
    host.wait(lambda: daemon.guest(guests[0])["shared_pages"] > 1000, 200, "it shares again")
    for g in guests:
        g.check()


if __name__ == "__main__":
    harness.main()
