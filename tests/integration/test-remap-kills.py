#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""SIGKILL of the daemon and of guests at any moment, under engine remap.

$MEMSHARED_TEST_KILLS: how often at random (default 20).
"""
import contextlib
import os
import random
import time

import harness
import remapping
import tap

KILLS = int(os.environ.get("MEMSHARED_TEST_KILLS", "20"))

# Every point that a daemon with engine remap passes, and how it is made to.
ENTERING = ("agent-planted", "agent-greeted", "enroll-attached", "enroll-noted", "enroll-unmarked")
MERGING = ("pass-scan", "store-written", "remap-before-batch", "urgency-realtime", "urgency-begun",
           "remap-batch-done")
TAKING_OVER = ("agent-adopted", "adopt-piece")
TIDYING = ("store-punched",)
LEAVING = ("giveback-piece", "remap-unmerged", "remap-protected", "agent-exit", "enroll-left")
MOVING = ("foreign-given-back",)


class Context(harness.Host):
    """Two guests that live through all daemons of this file."""

    def prepare(self):
        # With QEMU's marks for KSM, which are to be taken away and given back.
        self.pair = remapping.boot(self, ["test-0", "test-1"], machine="pc")
        remapping.compaction(self)

    def enroll(self, daemon):
        for g in self.pair:
            with contextlib.suppress(harness.CallError, OSError, RuntimeError):
                daemon.call("Enroll", pid=g.pid)


def dead(host, daemon, point):
    host.wait(lambda: not daemon.alive(), 90, "the daemon dies at " + point, interval=0.02)
    remapping.check(host.pair)


def recovered(host):
    """The next daemon takes the guests over and merges them; it."""
    daemon = remapping.start(host)
    remapping.enrolled(host, daemon, host.pair)
    remapping.merged(host, daemon, 500)
    host.wait(lambda: all(remapping.priorities(g) == {os.SCHED_OTHER} for g in host.pair), 60,
              "the agents have the priority of all threads again")
    return daemon


@tap.test("the daemon is killed at every fault point; the next one takes over", limit=900)
def points(host):
    for point in ENTERING:
        daemon = remapping.start(host, fault=point + ":kill")
        host.enroll(daemon)
        dead(host, daemon, point)
    remapping.leave(recovered(host), host.pair)
    for number, point in enumerate(MERGING + TIDYING + TAKING_OVER):
        if point in TAKING_OVER:
            recovered(host)
        daemon = remapping.start(host, fault=point + ":kill")
        host.enroll(daemon)
        for g in host.pair:
            if point not in TAKING_OVER:
                g.scramble(30, runs=True)
                g.rewrite(30, runs=True)
        dead(host, daemon, point)
        tap.note("killed at %s, number %d" % (point, number))
    for point in MOVING:
        recovered(host)
        daemon = remapping.start(host, remapping.POLICY % ("test", "test", "other"), point + ":kill")
        host.enroll(daemon)
        dead(host, daemon, point)
    for point in LEAVING:
        recovered(host)
        daemon = remapping.start(host, fault=point + ":kill")
        # It may have something to give back from before, and be dead at once.
        with contextlib.suppress(OSError, RuntimeError):
            remapping.enrolled(host, daemon, host.pair)
        for g in host.pair:
            with contextlib.suppress(harness.CallError, OSError, RuntimeError):
                daemon.call("Unenroll", pid=g.pid)
        dead(host, daemon, point)
    remapping.leave(recovered(host), host.pair)


@tap.test("it is killed while it yields to QEMU, and while it takes the memory back", limit=300)
def yielding(host):
    for point in ("yield-given", "yield-taken"):
        recovered(host)
        daemon = remapping.start(host, fault=point + ":kill")
        remapping.enrolled(host, daemon, host.pair)
        # Its answer may come before its end, or not at all.
        daemon.ctl("yield", "--seconds", 1, host.pair[0].pid, check=False)
        dead(host, daemon, point)
    remapping.leave(recovered(host), host.pair)


@tap.test("it is killed while it takes in memory that is plugged in", limit=300)
def growing(host):
    more = 128 << 20
    guest = remapping.boot(host, ["test-grows"], machine="pc", slots=",slots=1,maxmem=1G",
                           append="memhp_default_state=online swiotlb=512")[0]
    before = sum(end - start for start, end in guest.mergeable())
    daemon = remapping.start(host, fault="grow-unmarked:kill")
    remapping.enrolled(host, daemon, [guest])
    known = daemon.guest(guest)["ram_bytes"]
    guest.qmp.call("object-add", **{"qom-type": "memory-backend-ram", "id": "more", "size": more})
    guest.qmp.call("device_add", driver="pc-dimm", id="dimm", memdev="more")
    host.wait(lambda: not daemon.alive(), 90, "the daemon dies at grow-unmarked", interval=0.02)
    guest.check()
    daemon = remapping.start(host)
    remapping.enrolled(host, daemon, [guest])
    host.wait(lambda: daemon.guest(guest)["ram_bytes"] == known + more, 60, "the new memory is taken in")
    guest.move()
    remapping.leave(daemon, [guest])
    # All of it is as QEMU has marked it.
    after = sum(end - start for start, end in guest.mergeable())
    assert after >= before + more, (before, after)


@tap.test("without real-time priority for agents they merge all the same, and status says so", limit=120)
def ordinary(host):
    daemon = remapping.start(host, fault="urgency-realtime:EPERM")
    remapping.enrolled(host, daemon, host.pair)
    remapping.merged(host, daemon, 500)
    remap = daemon.call("Status")["remap"]
    assert not remap["urgent_batches"] and remap["other_batches"], remap
    assert "not permitted" in remap["other_reason"], remap
    remapping.leave(daemon, host.pair)


@tap.test("memory runs out at every place that can say so", limit=300)
def no_memory(host):
    daemon = remapping.start(host, fault="store-write:ENOMEM:1,store-write:ENOMEM:3,stable-alloc:ENOMEM:2,"
                             "hashtree-alloc:ENOMEM:2,store-punch:ENOMEM:1,pass-collected:ENOMEM:3")
    remapping.enrolled(host, daemon, host.pair)
    remapping.merged(host, daemon, 500)
    remapping.check(host.pair)
    remapping.leave(daemon, host.pair)


@tap.test("the daemon is killed at random, again and again", limit=60 + 30 * KILLS)
def at_random(host):
    kills, worst = 0, 0
    while kills < KILLS:
        daemon = remapping.start(host)
        host.enroll(daemon)
        time.sleep(random.choice([random.uniform(0, 0.2), random.uniform(0, 2)]))
        if kills % 3 == 0:
            for g in host.pair:
                g.serial.send("rewrite 10 runs")
        daemon.kill()
        kills += 1
        if kills % 5 == 0:
            worst = max([worst, *(g.check() for g in host.pair)])
    remapping.check(host.pair)
    tap.note("%d kills, longest wait for one page %d us" % (kills, worst))
    daemon = remapping.start(host)
    remapping.enrolled(host, daemon, host.pair)
    remapping.leave(daemon, host.pair)
    remapping.leave(recovered(host), host.pair)


@tap.test("guests are killed in the middle of it; the others stay right", limit=300)
def guests_killed(host):
    daemon = remapping.start(host)
    remapping.enrolled(host, daemon, host.pair)
    for number in range(3):
        victim = remapping.boot(host, ["test-v%d" % number], mib=16)[0]
        remapping.enrolled(host, daemon, [victim])
        time.sleep(random.uniform(0, 1))
        victim.kill()
        host.wait(lambda v=victim: not daemon.guest(v), 60, "the dead guest is forgotten")
        remapping.check(host.pair)
    remapping.merged(host, daemon, 500)
    remapping.leave(daemon, host.pair)
    assert daemon.totals()["sharing_pages"] == 0


tap.main(Context, shared=True)
