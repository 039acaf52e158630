#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What bounds the daemon: memory for its bookkeeping (TreeMemoryMax), and pressure, without which it rests."""
import threading

import harness
import merging
import remapping

MIB = 16
# So much is set aside for a guest of this size: 24 bytes a page. One MiB is enough for one of them, two
# for three.
RAM = (96 + MIB) << 20
RESERVED = RAM // harness.PAGE * 24


def configure(daemon, old, new):
    """Another value in the configuration, and a reload."""
    with open(daemon.config, encoding="utf-8") as file:
        text = file.read()
    assert old in text
    with open(daemon.config, "w", encoding="utf-8") as file:
        file.write(text.replace(old, new))
    daemon.ctl("reload")


def enrolled(daemon, guests):
    return [g for g in guests if daemon.guest(g).get("state") == "enrolled"]


def settled(host, daemon, guests, number):
    """Until so many of the guests are enrolled, and the others out with the reason."""
    def done():
        found = [daemon.guest(g) for g in guests]
        return (sum(g.get("state") == "enrolled" for g in found) == number and
                all(g.get("state") == "enrolled" or (
                    g.get("state") == "ready" and "TreeMemoryMax" in g.get("reason", ""))
                    for g in found))
    try:
        host.wait(done, 100, "%d guests are enrolled" % number)
    except AssertionError as error:
        raise AssertionError("%s: %s" % (error, [(daemon.guest(g).get("state"),
                                                  daemon.guest(g).get("reason"))
                                                 for g in guests])) from error
    assert daemon.totals()["reserved_bytes"] == number * RESERVED, daemon.totals()
    return enrolled(daemon, guests)


@harness.test("guests that enter at once are let in as far as TreeMemoryMax goes, and leave when it is lowered",
              limit=400)
def tree_memory(host):
    guests = [host.guest(name, mib=MIB, uid=65534) for name in ("one", "two", "three")]
    for g in guests:
        g.ready()
    daemon = merging.start(host, engine="remap", daemon="TreeMemoryMax=1M")
    refusals = []

    def enter(g):
        try:
            daemon.call("Enroll", pid=g.pid)
        except harness.CallError as error:
            refusals.append(str(error))
    threads = [threading.Thread(target=enter, args=[g]) for g in guests]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    first = enrolled(daemon, guests)
    assert len(first) == 1 and len(refusals) == 2, (first, refusals)
    assert all("TreeMemoryMax is 1.0 MiB" in r for r in refusals), refusals
    configure(daemon, "TreeMemoryMax=1M", "TreeMemoryMax=2M")
    others = [g for g in guests if g not in first]
    for g in others:
        daemon.call("Enroll", pid=g.pid)
    settled(host, daemon, guests, 3)
    merging.shares(host, daemon, *guests, least=100)
    # The first stays, whatever it shared with the others, and these come back when there is room.
    for _ in range(2):
        configure(daemon, "TreeMemoryMax=2M", "TreeMemoryMax=1M")
        assert settled(host, daemon, guests, 1) == first
        assert any("2 guests" in w for w in daemon.call("Status")["warnings"]), daemon.call("Status")
        for g in others:
            assert not remapping.ours(g), (remapping.ours(g), daemon.guest(g))
        for g in guests:
            g.check()
        configure(daemon, "TreeMemoryMax=1M", "TreeMemoryMax=2M")
        settled(host, daemon, guests, 3)
    configure(daemon, "TreeMemoryMax=2M", "TreeMemoryMax=1M")
    settled(host, daemon, guests, 1)
    # Its place is free for another.
    daemon.call("Unenroll", pid=first[0].pid)
    host.wait(lambda: len(enrolled(daemon, others)) == 1, 100, "another guest takes its place")
    for g in guests:
        g.check()


@harness.test("memory that is plugged in is taken in only as far as TreeMemoryMax goes, which status says",
              limit=300)
def plugged_in(host):
    one = host.guest("one", mib=MIB, uid=65534, slots=",slots=1,maxmem=1G").ready()
    daemon = merging.start(host, engine="remap", daemon="TreeMemoryMax=1M")
    daemon.call("Enroll", pid=one.pid)
    settled(host, daemon, [one], 1)
    one.qmp.call("object-add", **{"qom-type": "memory-backend-ram", "id": "more", "size": 128 << 20})
    one.qmp.call("device_add", driver="pc-dimm", id="dimm", memdev="more")

    def refused():
        return [r for r in daemon.guest(one)["refusals"] if "plugged in" in r and "TreeMemoryMax" in r]
    host.wait(refused, 60, "status says that the new memory is not taken in")
    assert daemon.guest(one)["state"] == "enrolled"
    assert daemon.totals()["reserved_bytes"] == RESERVED, daemon.totals()
    configure(daemon, "TreeMemoryMax=1M", "TreeMemoryMax=2M")
    host.wait(lambda: not refused(), 60, "there is room for it")
    host.wait(lambda: daemon.totals()["reserved_bytes"] == RESERVED + (128 << 20) // harness.PAGE * 24,
              60, "it is taken in")
    one.check()


def scanned(daemon, guest):
    """What a pass over the guest changes."""
    return [daemon.guest(guest)[k] for k in ("passes", "shared_pages", "cpu_usec")]


@harness.test("pressure=auto: works while little memory is available, rests and reads nothing while much is",
              limit=400)
def pressure(host):
    def state():
        return daemon.call("Status")["pressure"]

    def becomes(wanted, thresholds):
        host.wait(lambda: state()["state"] == wanted, 120, "it is " + wanted)
        said = state()
        assert said["mode"] == "auto" and thresholds in said["reason"], said
        assert "%d." % (said["available_bytes"] * 100 // said["total_bytes"]) in said["reason"], said
    one = host.guest("one", mib=MIB, uid=65534).ready()
    # Whatever is available here is less than this, and more than what comes then.
    working, resting = "100%:100%", "0%:0%"
    daemon = merging.start(host, engine="remap",
                           daemon="Pressure=auto\nPressureThresholds=%s" % working)
    daemon.call("Enroll", pid=one.pid)
    becomes("working", "(works below 100.0 %, rests above 100.0 %)")
    merging.shares(host, daemon, one, least=100)
    configure(daemon, working, resting)
    try:
        becomes("resting", "(works below 0.0 %, rests above 0.0 %)")
    except AssertionError as error:
        if float(state()["reason"].split()[-5]) < 0.25:
            raise
        raise harness.Skip("tasks wait for memory all the time here: " + state()["reason"]) from error
    # What was under way may end.
    last = []

    def still():
        last[:] = [*last[-1:], scanned(daemon, one)]
        return len(last) == 2 and last[0] == last[1]
    host.wait(still, 60, "nothing is under way", interval=3)
    before = last[1]
    one.rewrite(50)
    one.rounds(2)
    after = scanned(daemon, one)
    # Pages that are written cease to be shared, but nobody looks.
    assert after == before, (before, after)
    assert state()["state"] == "resting", state()
    configure(daemon, resting, working)
    becomes("working", "(works below 100.0 %, rests above 100.0 %)")
    merging.passes(host, daemon, one)
    merging.shares(host, daemon, one, least=100)
    one.check()


harness.main()
