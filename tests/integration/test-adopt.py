#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores that outlive their daemon: what guests shared goes on, and the next daemon goes on with it."""
import contextlib
import os

import harness
import merging

PAGE = 4096

CONFIG = """\
[Daemon]
StateDirectory=%(state)s
CpuBudget=100%%
PassInterval=1s
Pressure=always

[Libvirt]
Enabled=no

[Policy "all"]
match-name=*
domain=%(domain)s
engine=remap
min-age=1s
thp=split:1
enabled=%(enabled)s
"""


def start(host, fault=None, domain="test", enabled="no"):
    return host.daemon(CONFIG % {"state": merging.state_directory(host), "domain": domain,
                                 "enabled": enabled},
                       environment={"MEMSHARED_FAULT": fault} if fault else None)


def boot(host, *names, **options):
    guests = [host.guest(name, mib=32, uid=65534, **options) for name in names]
    for g in guests:
        g.ready()
    return guests


def settled(host, daemon, least):
    """What is shared, once it grows no more."""
    last = [-1, 0]

    def rests():
        now = daemon.totals()["sharing_pages"]
        passes = min((g.get("passes", 0) for g in daemon.call("Guests")["guests"]
                      if g["state"] == "enrolled"), default=0)
        if now > last[0] + 16 or now < least:
            last[:] = [now, passes]
        return passes >= last[1] + 3 and daemon.totals()
    return host.wait(rests, 120, "%d pages are shared" % least)


def stores(guest):
    """Inodes of the stores that a guest maps, and which slots of each."""
    found = {}
    with open("/proc/%d/maps" % guest.pid, encoding="ascii", errors="replace") as file:
        for line in file:
            area, mode, offset, _, inode, *name = line.split(None, 5)
            if name and name[0].startswith("/memfd:memshared-store") and mode == "rw-p":
                begin, end = (int(n, 16) for n in area.split("-"))
                first = int(offset, 16) // PAGE
                found.setdefault(inode, set()).update(range(first, first + (end - begin) // PAGE))
    return found


def store_pages(guests):
    """Slots of the only store that these guests have, as the kernel counts them; and its inode."""
    inodes = set().union(*(stores(g) for g in guests))
    assert len(inodes) == 1, inodes
    inode = inodes.pop()
    for g in guests:
        fds = "/proc/%d/fd/" % g.pid
        for fd in os.listdir(fds):
            with contextlib.suppress(FileNotFoundError):
                if "memfd:memshared-store" in os.readlink(fds + fd):
                    return os.stat(fds + fd).st_blocks * 512 // PAGE, inode
    raise AssertionError("no guest holds the store")


def notes(host):
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(os.path.join(merging.state_directory(host), "stores"))
    return []


def pairs(host, guests):
    """Frames that each two guests have in common, by pids."""
    seen = host.audit(guests, ranges=lambda g: [g.ram()])
    return {frozenset((p["a"], p["b"])): p["frames"] for p in seen["pairs"]}


def nothing_left(host, guests):
    """The guests have left: nothing of ours is in them or kept about them."""
    assert not merging.kept(host), merging.kept(host)
    for g in guests:
        left = [m["path"] for m in g.smaps() if m["path"].startswith("/memfd:memshared") or
                m["path"].endswith("memshared-agent.bin")]
        assert not left, left[:3]
        g.check()


@harness.test("a daemon that is killed: the next one has the store, and merges onto its slots")
def killed(host):
    one, two, late = boot(host, "one", "two", "late")
    daemon = start(host)
    for g in (one, two):
        daemon.call("Enroll", pid=g.pid)
    before = settled(host, daemon, 3000)
    pages, inode = store_pages([one, two])
    daemon.kill()
    # What they share goes on, and what they write meanwhile is theirs.
    assert pairs(host, [one, two])
    for g in (one, two):
        g.check()
    daemon = start(host)
    merging.wait_enrolled(host, daemon, [one, two])
    host.wait(lambda: daemon.totals()["sharing_pages"] > before["sharing_pages"] * 0.9, 30,
              "it counts what they share")
    after = settled(host, daemon, 3000)
    harness.note("before %s, after %s" % (before, after))
    assert store_pages([one, two])[1] == inode and set(stores(one)) == {inode} == set(stores(two))
    assert abs(after["sharing_pages"] - before["sharing_pages"]) < before["sharing_pages"] * 0.1
    # A guest that comes later finds what is there.
    daemon.call("Enroll", pid=late.pid)
    more = settled(host, daemon, after["sharing_pages"] + 1500)
    seen = pairs(host, [one, two, late])
    harness.note("with one more %s; frames in common %s" % (more, seen))
    assert set(stores(late)) == {inode}
    assert len(seen) == 3 and min(seen.values()) > 1000, seen
    assert more["shared_pages"] < pages * 1.3, (more, pages)
    for g in (one, two, late):
        g.check()
    # Slots whose pages are gone with a guest, or rewritten, are freed also when nobody saw it.
    daemon.kill()
    pages = store_pages([one, two])[0]
    late.kill()
    two.kill()
    one.scramble(80, runs=True)
    daemon = start(host)
    merging.wait_enrolled(host, daemon, [one])

    def tidy():
        now = store_pages([one])[0], len(stores(one)[inode])
        return now[0] <= now[1] * 1.02 and now
    harness.note("%d slots before, now there are and are mapped: %s" % (
        pages, host.wait(tidy, 90, "slots that nobody maps are freed")))
    one.check()
    daemon.call("Unenroll", pid=one.pid)
    assert not notes(host), notes(host)
    nothing_left(host, [one])


@harness.test("killed wherever a store is between two states")
def points(host):
    guests = boot(host, "one", "two")
    for fault in ("store-written", "remap-batch-done", "adopt-piece", "store-punched"):
        daemon = start(host, fault=fault + ":kill")
        for g in guests:
            with contextlib.suppress(Exception):
                daemon.call("Enroll", pid=g.pid)
        with contextlib.suppress(ConnectionRefusedError, FileNotFoundError, AssertionError):
            if fault == "store-punched":
                guests[0].scramble(50, runs=True)
        merging.wait_dead(host, daemon)
        for g in guests:
            g.check()
    daemon = start(host)
    merging.wait_enrolled(host, daemon, guests)
    settled(host, daemon, 2000)
    # Whatever dead daemons had put there is known again or freed.
    host.wait(lambda: daemon.totals()["shared_pages"] <= store_pages(guests)[0] * 1.02, 60,
              "all slots are accounted for")
    for g in guests:
        daemon.call("Unenroll", pid=g.pid)
    nothing_left(host, guests)


@harness.test("guests that have changed their domain, or are not wanted, get their pages back first")
def moved(host):
    guests = boot(host, "one", "two")
    # A rule alone puts nobody into a domain whom nobody vouches for: these are asked for by hand.
    daemon = start(host)
    for g in guests:
        daemon.call("Enroll", pid=g.pid, domain="first")
    settled(host, daemon, 2000)
    inode = store_pages(guests)[1]
    daemon.stop()
    assert len(merging.kept(host)) == 2 and notes(host)
    # One of them in another domain, by the word of what is kept; and no memory for copies.
    rewrite_kept(host, guests[0], "policy domain first", "policy domain second")
    daemon = start(host, fault="giveback-memory:ENOMEM")
    merging.wait_enrolled(host, daemon, guests)
    host.wait(lambda: "cannot be given back yet" in
              daemon.guest(guests[0]).get("reason", ""), 30, "it waits for memory")
    status = daemon.guest(guests[0])
    assert status["domain"] == "second" and status["passes"] == 0 and "MiB" in status["reason"], status
    assert set(stores(guests[0])) == {inode}
    for g in guests:
        g.check()
    daemon.kill()
    daemon = start(host)
    merging.wait_enrolled(host, daemon, guests)
    host.wait(lambda: inode not in stores(guests[0]), 60, "it has its pages back")
    host.wait(lambda: not daemon.guest(guests[0]).get("reason"), 60, "it goes on")
    settled(host, daemon, 1000)
    assert not pairs(host, guests), pairs(host, guests)
    for g in guests:
        g.check()
    daemon.kill()
    # Nobody wants them any more.
    for g in guests:
        rewrite_kept(host, g, "policy enabled yes", "policy enabled no")
    daemon = start(host)
    host.wait(lambda: not merging.kept(host), 60, "they have left")
    for g in guests:
        assert daemon.guest(g)["state"] == "ready", daemon.guest(g)
    nothing_left(host, guests)


def rewrite_kept(host, guest, old, new):
    """Another word in what is kept about a guest, while no daemon runs."""
    directory = os.path.join(merging.state_directory(host), "guests")
    name, = (n for n in os.listdir(directory) if n.startswith("%d-" % guest.pid))
    path = os.path.join(directory, name)
    with open(path, encoding="ascii") as file:
        text = file.read()
    assert old in text, text
    with open(path, "w", encoding="ascii") as file:
        file.write(text.replace(old, new))


if __name__ == "__main__":
    harness.main()
