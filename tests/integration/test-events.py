#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to guests while they are tracked and merged: they are paused, saved and put back,
reset, their memory shrinks and grows, they write faster than anybody reads, they end.

Migration and snapshots in the background have a test of their own, as has all this with libvirt.
"""
import os

import harness
import merging
import tap

# Above the 32 MiB that are checked: room for as much again, and for the guest's kernel.
MEMORY = 176


def serve(host, engine="remap", more=""):
    return merging.start(host, engine=engine, daemon=more, policy="cow-backoff=1s")


def pair(host, daemon, **options):
    """Two enrolled guests that share, and how much."""
    guests = [host.guest(name, mib=32, memory_mib=MEMORY, **options) for name in ("one", "two")]
    for g in guests:
        g.ready()
        daemon.call("Enroll", pid=g.pid)
    return [*guests, merging.shares(host, daemon, *guests)]


def check(*guests):
    for g in guests:
        g.check()


def create(host, guest, **options):
    guest.qmp.call("blockdev-create", **{"job-id": "create", "options": options})
    host.wait(lambda: guest.qmp.call("query-jobs")[0]["status"] == "concluded", 60, "a disk is made")
    assert "error" not in guest.qmp.call("query-jobs")[0], guest.qmp.call("query-jobs")
    guest.qmp.call("job-dismiss", id="create")


def add_disk(host, guest):
    """One that takes a guest's saved states, and that it does not know of."""
    name = os.path.join(host.directory, "states.qcow2")
    create(host, guest, driver="file", filename=name, size=0)
    guest.qmp.call("blockdev-add", **{"driver": "file", "filename": name, "node-name": "file"})
    create(host, guest, driver="qcow2", file="file", size=1 << 30)
    guest.qmp.call("blockdev-add", **{"driver": "qcow2", "file": "file", "node-name": "states"})


@harness.test("guests that are paused, saved, put back and reset stay right, and merge again", limit=400)
def states(host):
    daemon = serve(host)
    one, two = (host.guest(name, mib=32).ready() for name in ("one", "two"))
    add_disk(host, one)
    # A guest that stands still is enrolled and merged like any other.
    one.qmp.call("stop")
    for g in (one, two):
        daemon.call("Enroll", pid=g.pid)
    before = merging.shares(host, daemon, one, two)
    one.qmp.call("cont")
    check(one, two)

    def monitor(command):
        said = one.qmp.call("human-monitor-command", **{"command-line": command})
        assert not said.strip(), "%s: %s" % (command, said)
    monitor("savevm then")
    one.scramble(100, runs=True)
    two.rewrite(50, runs=True)
    merging.passes(host, daemon, one, 2)
    # QEMU writes to all of its memory that is not as it was; the guest never knows.
    monitor("loadvm then")
    check(one, two)
    # Both have the same content again, of which the trees hold what one of them had before.
    two.rewrite(100)
    one.rewrite(50, runs=True)
    one.rewrite(100)
    merging.shares(host, daemon, one, two, least=before // 2)
    check(one, two)

    one.qmp.call("set-action", reboot="reset")
    one.qmp.call("system_reset")
    one.ready()
    merging.shares(host, daemon, one, least=before // 2)
    check(one, two)

    # The end that a guest chooses itself.
    both = daemon.call("Status")["totals"]["sharing_pages"]
    one.ended = True
    one.serial.send("quit")
    assert one.end() == 0
    host.wait(lambda: not daemon.guest(one), 60, "the guest that ended is forgotten")
    merging.passes(host, daemon, two, 2)
    check(two)
    totals = daemon.call("Status")["totals"]
    assert totals["guests"] == 1 and totals["sharing_pages"] < both, (both, totals)


def balloon(host, guest, mib):
    guest.qmp.call("balloon", value=mib << 20)
    host.wait(lambda: guest.qmp.call("query-balloon")["actual"] == mib << 20, 120,
              "guest %s has %d MiB" % (guest.name, mib))


def store_resident(guest):
    """Shared pages that the process has in its page tables."""
    return sum(m["Rss"] << 10 for m in guest.smaps()
               if "memshared-store" in m["path"] and m["mode"][3] == "p") // harness.PAGE


@harness.test("a balloon takes merged pages and gives them back", limit=300)
def ballooned(host):
    daemon = serve(host)
    one, two, before = pair(host, daemon)
    one.rounds(1)
    one.pause()
    # What it leaves behind, shared for the most part, is free to the guest's kernel.
    one.move()
    mapped = store_resident(one)
    balloon(host, one, MEMORY - 72)
    left = store_resident(one)
    tap.note("shared pages: %d; in the page tables: %d, with the balloon %d" % (before, mapped, left))
    assert mapped - left > 1000, "hardly a shared page went to the balloon"
    # Quiet memory is looked at once in 16 passes.
    host.wait(lambda: daemon.guest(one)["unmapped_pages"] > (mapped - left) * 0.9, 60,
              "what the balloon took is no saving")
    told, saved = daemon.guest(one), daemon.totals()
    tap.note("of %d shared pages %d are unmapped" % (told["shared_pages"], told["unmapped_pages"]))
    assert told["unmapped_pages"] < (mapped - left) * 1.1 + 100, told
    net = (saved["sharing_pages"] - saved["unmapped_pages"] + saved["zero_pages"]) * harness.PAGE
    assert saved["saved_bytes"] == net - saved["overhead_bytes"], saved
    one.resume()
    check(one, two)
    balloon(host, one, MEMORY)
    # Into what the balloon gave back, among others.
    one.move()
    host.wait(lambda: daemon.guest(one)["unmapped_pages"] < told["unmapped_pages"], 60,
              "what the guest has again is counted again")
    one.rewrite(50)
    two.rewrite(50)
    check(one, two)
    merging.shares(host, daemon, one, two, least=before // 2)
    check(one, two)


def outside(guest, mappings):
    """Pages of these mappings that are not in the memory that the guest began with."""
    start, end = guest.ram()
    return sum(m["end"] - m["start"] for m in mappings
               if not start <= m["start"] < end) // harness.PAGE


def marked(guest):
    return [m for m in guest.smaps() if "mg" in m.get("flags", ())]


def plugged(host, engine):
    daemon = serve(host, engine)
    one, two, before = pair(host, daemon, slots=",slots=1,maxmem=1G",
                            append="memhp_default_state=online swiotlb=512")
    merging.passes(host, daemon, one, 1)
    for g in (one, two):
        g.qmp.call("object-add", **{"qom-type": "memory-backend-ram", "id": "more",
                                    "size": 128 << 20})
        g.qmp.call("device_add", driver="pc-dimm", id="dimm", memdev="more")
    for g in (one, two):
        host.wait(lambda g=g: daemon.guest(g)["ram_bytes"] == (MEMORY + 128) << 20, 60,
                  "the new memory of guest %s is known" % g.name)
        # QEMU had marked it for KSM.
        host.wait(lambda g=g: outside(g, marked(g)) < 1000, 60, "it is taken in")
    # Nothing is given back for that.
    assert min(daemon.guest(g)["shared_pages"] for g in (one, two)) > before * 0.8
    # The guest's kernel takes memory from above 4 GiB first.
    for g in (one, two):
        g.move()
    check(one, two)
    for g in (one, two):
        def merged(g=g):
            return outside(g, marked(g) if engine == "ksm" else [
                m for m in g.smaps() if "memshared-store" in m["path"] and m["mode"][3] == "p"])
        host.wait(lambda merged=merged: merged() > 2000, 120, "the new memory is merged")
        tap.note("guest %s: %d pages of the new memory are served" % (g.name, merged()))
    merging.shares(host, daemon, one, two, least=before // 2)
    check(one, two)
    for g in (one, two):
        g.rewrite(30)
        daemon.call("Unenroll", pid=g.pid)
    check(one, two)
    # QEMU's own mark is on all of it again.
    for g in (one, two):
        assert outside(g, marked(g)) >= (128 << 20) // harness.PAGE, outside(g, marked(g))


@harness.test("memory that is plugged in is tracked and merged", limit=300)
def plugged_remap(host):
    plugged(host, "remap")


@harness.test("the same with the kernel's KSM", limit=300)
def plugged_ksm(host):
    host.ksm().set(run=0)
    plugged(host, "ksm")


@harness.test("guests that write faster than memshared may read are merged where they rest", limit=300)
def fast(host):
    # Each guest writes to half of its pages again and again: more than these in any second.
    limit = 3000
    daemon = serve(host, more="PagesPerSecond=%d" % limit)
    guests = [host.guest(name, mib=32, mix="dup:30,unique:20,fast:50", duty=100)
              for name in ("one", "two")]
    for g in guests:
        g.ready()
        daemon.call("Enroll", pid=g.pid)
    merging.shares(host, daemon, *guests, least=1500)
    for g in guests:
        merging.passes(host, daemon, g, 2)
    check(*guests)


if __name__ == "__main__":
    harness.main()
