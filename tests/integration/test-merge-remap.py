#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Engine remap on real guests that check their own memory."""
import contextlib
import os
import signal
import time

import harness
import merging
import remapping

MIB = 1 << 20
PAGE = 4096

CONFIG = """\
[Daemon]
StateDirectory=%s
CpuBudget=100%%
PassInterval=1s
Pressure=always

[Policy "all"]
match-name=*
domain=test
engine=remap
min-age=1s
thp=split:1
"""


def start(host, more=""):
    return host.daemon(CONFIG % (host.directory + "/state") + more)


def settled(host, daemon, least=1000, timeout=90):
    """Waits until ksmd is stopped and what is shared does not grow any more."""
    last = [0, time.monotonic()]

    def rests():
        status = daemon.call("Status")
        sharing = status["totals"]["sharing_pages"]
        if abs(sharing - last[0]) > max(16, last[0] // 200):
            last[:] = [sharing, time.monotonic()]
        return sharing >= least and time.monotonic() - last[1] > 3 and status
    return host.wait(rests, timeout, "merging settles with %d pages or more" % least)


def enrolled(host, daemon, guest):
    """Until it is in; a daemon takes in by itself what an earlier one had."""
    def is_in():
        state = {g["pid"]: g["state"] for g in daemon.call("Guests")["guests"]}.get(guest.pid)
        if state == "ready":
            with contextlib.suppress(harness.CallError):
                daemon.call("Enroll", pid=guest.pid)
        return state == "enrolled"
    host.wait(is_in, 60, "guest %s is enrolled" % guest.name)


def sharers(host, guest):
    """Pages of the guest that map the store and were not copied since: what is not anonymous.

    A slot is in the page table only once its page was looked at, so present pages won't do.
    """
    ranges = [(m["start"], m["end"]) for m in guest.smaps()
              if "memshared-store" in m["path"] and m["mode"] == "rw-p"]
    if not ranges:
        return 0
    seen = host.audit([guest], ranges=lambda g: ranges)["guests"][0]
    return seen["pages"] - (seen["present"] - seen["file"]) - seen["swapped"]


def ram_mappings(guest):
    start, end = guest.ram()
    return [m for m in guest.smaps()
            if "dc" in m["flags"] and m["start"] < end and m["end"] > start]


def tracked(guest):
    """Whether all anonymous mappings of its RAM have the tracker's registration, also those made since."""
    return all("uw" in m["flags"] for m in ram_mappings(guest) if not m["path"])


def flags(guest):
    """What marks the mappings of its RAM, but for who maps them and what is ours."""
    return {frozenset(m["flags"]) - {"ac", "sd", "mg", "mr", "mw", "me", "um", "uw", "ui"}
            for m in ram_mappings(guest)}


def policies(guest):
    """Memory policies of the anonymous mappings of its RAM."""
    starts, found = {m["start"] for m in ram_mappings(guest)}, set()
    with contextlib.suppress(FileNotFoundError), \
            open("/proc/%d/numa_maps" % guest.pid, encoding="ascii") as file:
        for line in file:
            address, policy = line.split()[:2]
            if int(address, 16) in starts and "file=" not in line:
                found.add(policy)
    return found


# One guest whose memory has more to it than that of the others.
BOUND = {"reserve": False}
if os.path.exists("/proc/self/numa_maps"):
    BOUND.update({"host-nodes": [0], "policy": "bind", "dump": False})


@harness.test("three guests are merged, verified, and checked by themselves")
def merge(host):
    guests = [host.guest("g%d" % i, mib=64, uid=65534, backend=BOUND if i == 0 else None)
              for i in range(3)]
    for g in guests:
        g.ready()
    before = [(flags(g), policies(g)) for g in guests]
    harness.note("flags and policies: %s" % before)
    daemon = start(host)
    for g in guests:
        daemon.call("Enroll", pid=g.pid)
    status = settled(host, daemon)
    assert status["remap"]["merged_pages"] >= status["totals"]["shared_pages"], status["remap"]
    assert sum(status["remap"]["freezes"]) and status["remap"]["freeze_max_usec"], status["remap"]
    remap = status["remap"]
    assert sum(remap["freezes_cpu"]) == sum(remap["freezes"]), remap
    # A host may refuse real-time priority; then it is said.
    assert remap["urgent_batches"] + remap["other_batches"] > 0, remap
    assert bool(remap["other_batches"]) == ("other_reason" in remap), remap
    harness.note("batches at real-time priority: %(urgent_batches)d, at another: %(other_batches)d" % remap)
    host.wait(lambda: all(remapping.priorities(g) == {os.SCHED_OTHER} for g in guests), 60,
              "idle agents have the priority of all threads")
    assert status["cpu"]["agents_usec"], status["cpu"]
    assert not status["warnings"], status["warnings"]
    for g in guests:
        g.pause()
    merging.sums_up(host, daemon)
    for g in guests:
        g.resume()

    def agree():
        known = {g["pid"]: g["shared_pages"] for g in daemon.call("Guests")["guests"]}
        pairs = [(known[g.pid], sharers(host, g)) for g in guests]
        # Pages are written all the time, and a pass notices only later.
        return all(abs(a - b) <= b // 100 + 32 for a, b in pairs) and pairs
    harness.note("sharers by memshared, by the mappings: %s"
                 % host.wait(agree, 60, "both count the same"))
    for g, was in zip(guests, before):
        g.check()
        assert (flags(g), policies(g)) == was, (g.name, was, flags(g), policies(g))
    for g in guests:
        daemon.call("Unenroll", pid=g.pid)
        g.check()
    for g, was in zip(guests, before):
        assert sharers(host, g) == 0
        assert (flags(g), policies(g)) == was, (g.name, was, flags(g), policies(g))
        left = [m for m in g.smaps() if m["path"].startswith("/memfd:memshared")
                or m["path"].endswith("memshared-agent.bin")]
        assert not left, left[:3]


@harness.test("root's QEMU could write to what its domain shares: status says so")
def root(host):
    guests = [host.guest("g%d" % i, mib=16, uid=uid) for i, uid in enumerate((None, 65534))]
    daemon = start(host)
    daemon.call("Enroll", pid=guests[0].ready().pid)
    assert daemon.call("Status")["warnings"] == []
    daemon.call("Enroll", pid=guests[1].ready().pid)
    assert daemon.call("Status")["warnings"][0].startswith(
        "domain test: QEMU of 1 guests runs as root"), daemon.call("Status")["warnings"]


@harness.test("a guest that rewrites what was merged does not wear the store out")
def churn(host):
    guests = [host.guest("g%d" % i, mib=32, uid=65534) for i in range(2)]
    for g in guests:
        g.ready()
    daemon = start(host, "cow-backoff=10s\n")
    for g in guests:
        daemon.call("Enroll", pid=g.pid)
    first = settled(host, daemon)
    merged, first = first["remap"]["merged_pages"], first["totals"]
    for _ in range(2):
        for g in guests:
            # Other content and back again: a copy for each page, then equal pages once more.
            g.scramble(50, runs=True)
            g.rewrite(50, runs=True)
            g.check()

    def recovered():
        status = daemon.call("Status")
        now = status["totals"]
        return (status["remap"]["merged_pages"] > merged
                and now["sharing_pages"] > first["sharing_pages"] * 0.9
                and now["shared_pages"] < first["shared_pages"] * 1.15 and now)
    now = host.wait(recovered, 150, "sharing as before, and slots freed")
    harness.note("first %s, after %s" % (first, now))
    for g in guests:
        g.check()
    # Single pages of long mappings: those are cut while the guests check every byte. How much of it
    # comes back, and when, is for the bench (bench-engine-remap.py churn).
    merged = daemon.call("Status")["remap"]["merged_pages"]
    for _ in range(2):
        for g in guests:
            g.scramble(50)
            g.rewrite(50)
            g.check()
    host.wait(lambda: daemon.call("Status")["remap"]["merged_pages"] > merged, 60, "pages merge again")
    harness.note("single pages: first %s, after %s" % (first, daemon.totals()))
    host.wait(lambda: all(tracked(g) for g in guests), 20, "what was made anonymous again is tracked")
    for g in guests:
        g.check()


@harness.test("a few slots that nobody maps any more are freed as soon as it is calm")
def orphans(host):
    guests = [host.guest("g%d" % i, mib=32, uid=65534, mix="zero:10,dup:80,unique:10") for i in range(2)]
    for g in guests:
        g.ready()
    daemon = start(host)
    for g in guests:
        daemon.call("Enroll", pid=g.pid)
    settled(host, daemon)
    guests[1].kill()
    host.wait(lambda: daemon.totals()["guests"] == 1, 60, "the other guest is gone")
    before, passes = daemon.totals()["shared_pages"], daemon.guest(guests[0])["passes"]
    # Fewer than a sweep would be worth while more is going on.
    written = guests[0].scramble(2, runs=True)
    host.wait(lambda: daemon.totals()["shared_pages"] <= before - written // 2, 50, "their slots are freed")
    harness.note("%d slots, %d pages written: %d slots after %d passes" % (
        before, written, daemon.totals()["shared_pages"], daemon.guest(guests[0])["passes"] - passes))
    guests[0].check()


@harness.test("where it cannot be proven that no device writes to copies, they stay, and count as the guest's own")
def unproven(host):
    guests = remapping.boot(host, ["test-%d" % i for i in range(2)], mix="zero:10,dup:80,unique:10")
    daemon = remapping.start(host, fault="remap-protected:EBUSY")
    remapping.enrolled(host, daemon, guests)
    settled(host, daemon)
    # So often that some are written between the pass before and the look for what can be reclaimed.
    for _ in range(10):
        guests[0].scramble(20, runs=True)
        guests[0].rewrite(20, runs=True)
    guests[0].scramble(20, runs=True)

    def agree():
        known, mapped = daemon.guest(guests[0])["shared_pages"], sharers(host, guests[0])
        return abs(known - mapped) <= mapped // 100 + 32 and (known, mapped)
    passes = daemon.guest(guests[0])["passes"]
    host.wait(lambda: daemon.guest(guests[0])["passes"] > passes + 20, 60, "copies were tried again and again")
    harness.note("sharers by memshared, by the mappings: %s" % (host.wait(agree, 30, "both count the same"),))
    assert remapping.store_maps(guests[0])
    # When they leave, what is left after a second is taken for what they write all the time.
    remapping.leave(daemon, guests)


@harness.test("while memory of the host is pinned, guests with direct I/O do not leave, and it is said what to do")
def pins(host):
    one, two = remapping.boot(host, ["test-%d" % i for i in range(2)])
    # As with a registered buffer of io_uring somewhere. A real one would hinder other tests, too.
    daemon = remapping.start(host, fault="pins-held:EBUSY")
    remapping.enrolled(host, daemon, [one, two])
    remapping.merged(host, daemon)
    one.scramble(50, runs=True)
    host.wait(lambda: any("pinned" in w and "cache=writeback" in w for w in daemon.call("Status")["warnings"]),
              60, "status says what is in the way")
    try:
        daemon.call("Unenroll", pid=one.pid, timeout=120)
        assert False, "it has left"
    except harness.CallError as error:
        assert "holds memory pinned" in str(error), error
    remapping.check([one, two])
    assert sharers(host, one) == 0
    # It is tried again by itself, though no libvirt says that it is nobody's.

    def tries():
        with open(daemon.log, encoding="utf-8") as file:
            return file.read().count("could not be given back")
    before = tries()
    host.wait(lambda: tries() > before, 60, "another try")
    daemon = remapping.start(host)
    remapping.enrolled(host, daemon, [two])
    assert not any("pinned" in w for w in daemon.call("Status")["warnings"])
    remapping.leave(daemon, [one, two])


@harness.test("a store that is full says so, and takes the rest when its bound is raised")
def full(host):
    guests = remapping.boot(host, ["test-%d" % i for i in range(2)], mix="zero:10,dup:80,unique:10")
    # 512 slots; the guests have several times as many pages in common.
    daemon = remapping.start(host, remapping.domains("test") + "\n[Remap]\nStoreMax=2M\n")
    remapping.enrolled(host, daemon, guests)

    def warned():
        return [w for w in daemon.call("Status")["warnings"] if "full" in w]
    host.wait(warned, 90, "status says that the store is full")
    assert "domain test" in warned()[0] and "StoreMax=" in warned()[0], warned()
    # What is in it merges with others up to the last, and it stays within its bound.
    passes = daemon.guest(guests[0])["passes"]
    host.wait(lambda: daemon.guest(guests[0])["passes"] > passes + 20, 60, "twenty more passes")
    totals = daemon.totals()
    assert 400 <= totals["shared_pages"] <= 512 and totals["sharing_pages"] >= 400, totals
    remapping.check(guests)
    with open(daemon.config, encoding="ascii") as file:
        text = file.read()
    with open(daemon.config, "w", encoding="ascii") as file:
        file.write(text.replace("StoreMax=2M", "StoreMax=64M"))
    daemon.ctl("reload")
    host.wait(lambda: daemon.totals()["sharing_pages"] > totals["sharing_pages"] + 1000 and not warned(), 120,
              "the rest is merged, too")
    harness.note("full: %s, then: %s" % (totals, daemon.totals()))
    remapping.leave(daemon, guests)


@harness.test("different pages that have the same fingerprint are never merged")
def collisions(host):
    # Where there are but 65,536 of them, every tenth page or so meets another by chance.
    guests = remapping.boot(host, ["test-%d" % i for i in range(2)])
    daemon = remapping.start(host, fault="fingerprint-short:EIO")
    for g in guests:
        daemon.call("Enroll", pid=g.pid)
    status = host.wait(lambda: (s := daemon.call("Status"))["remap"]["different_pages"] > 100
                       and s["totals"]["sharing_pages"] > 500 and s, 90, "pages are refused, and pages are merged")
    harness.note("refused: %d, sharing: %d" % (status["remap"]["different_pages"],
                                               status["totals"]["sharing_pages"]))
    for g in guests:
        g.check()
        daemon.call("Unenroll", pid=g.pid)
        g.check()


@harness.test("a second daemon keeps its hands off a guest that the first one has")
def two_daemons(host):
    guest = host.guest("g0", mib=16, uid=65534).ready()
    first = start(host)
    first.call("Enroll", pid=guest.pid)
    merged = settled(host, first, least=100)["totals"]["sharing_pages"]
    second = host.daemon(CONFIG % (host.directory + "/state2"))
    try:
        second.call("Enroll", pid=guest.pid)
        assert False, "it was let in twice"
    except harness.CallError as error:
        assert "another memshared daemon is at work in it" in str(error), error
    guest.check()
    assert first.totals()["sharing_pages"] > merged // 2
    first.kill()
    second.call("Enroll", pid=guest.pid)
    guest.check()
    second.call("Unenroll", pid=guest.pid)
    guest.check()


@harness.test("killed daemons and killed guests harm nobody")
def kills(host):
    guests = [host.guest("g%d" % i, mib=32, uid=65534) for i in range(3)]
    for g in guests:
        g.ready()
    for point in ("remap-before-batch", "remap-batch-done", "enroll-attached"):
        daemon = host.daemon(CONFIG % (host.directory + "/state"),
                             environment={"MEMSHARED_FAULT": point + ":kill"})
        for g in guests[:2]:
            with contextlib.suppress(Exception):
                daemon.call("Enroll", pid=g.pid)
        host.wait(lambda: not daemon.alive(), 60, "the daemon dies at " + point)
        for g in guests[:2]:
            g.check()
    daemon = start(host)
    for g in guests:
        enrolled(host, daemon, g)
    host.wait(lambda: daemon.totals()["sharing_pages"] > 100, 60, "the next daemon merges")
    guests[2].kill()
    for g in guests[:2]:
        g.check()
        daemon.call("Unenroll", pid=g.pid)
        g.check()
        assert sharers(host, g) == 0


@harness.test("a guest that dies in the middle of a batch holds up nobody else")
def dies_in_batch(host):
    guests = [host.guest("g%d" % i, mib=32, uid=65534).ready() for i in range(3)]
    daemon = host.daemon(CONFIG % (host.directory + "/state"),
                         environment={"MEMSHARED_FAULT": "remap-batch-done:stop:1"})
    daemon.call("Enroll", pid=guests[0].pid)
    merging.wait_stopped(host, daemon)
    guests[0].kill()
    daemon.signal(signal.SIGCONT)
    host.wait(lambda: not daemon.guest(guests[0]), 30, "the daemon sees that it is gone")
    assert daemon.call("Status")["cpu"]["agents_usec"] < 60 * 1000000
    for g in guests[1:]:
        enrolled(host, daemon, g)
    host.wait(lambda: daemon.totals()["sharing_pages"] > 100, 60, "the others merge")
    for g in guests[1:]:
        g.check()


if __name__ == "__main__":
    harness.main()
