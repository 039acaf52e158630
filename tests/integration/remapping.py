# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of engine remap under the whole daemon have in common."""
import contextlib
import os
import signal
import threading
import time

import harness

NOBODY = 65534
# Every class of page, those that direct I/O brings in included (verify.c).
MIX = "zero:10,dup:35,within:10,unique:20,slow:10,fast:10,disk:5"

CONFIG = """\
[Daemon]
StateDirectory=%s
CpuBudget=200%%
PassInterval=200ms
Pressure=always

%s
"""

POLICY = """\
[Policy "%s"]
match-name=%s*
domain=%s
engine=remap
min-age=0s
cow-backoff=0s
thp=split:1
"""


def seconds(default):
    """How long a case works; MEMSHARED_TEST_SECONDS makes all of a file's share so much."""
    return float(os.environ.get("MEMSHARED_TEST_SECONDS", default))


def domains(*names):
    """A configuration in which guests called NAME-... are in domain NAME."""
    return "\n".join(POLICY % (n, n + "-", n) for n in names)


def start(host, policies=None, fault=None):
    """A daemon for these domains (default: "test"), which takes the place of an earlier one."""
    host.kill_daemon()
    return host.daemon(CONFIG % (host.directory + "/state", policies or domains("test")),
                       environment={"MEMSHARED_FAULT": fault} if fault else None)


def boot(host, names, **options):
    """Guests that check their own memory, ready. ksmd, which other tests may drive, has no part in
    them."""
    options = {"mib": 32, "uid": NOBODY, "mix": MIX, "machine": "pc,mem-merge=off", **options}
    guests = [host.guest(n, **options) for n in names]
    for g in guests:
        # Where it is does not change, but its mappings do while they are read.
        g.ram_range = g.ready().ram()
    return guests


def compaction(host, interval=0.2):
    """From here on the kernel moves pages of all processes about, as where it looks for large ones."""
    path = "/proc/sys/vm/compact_memory"
    ended = threading.Event()
    if not os.access(path, os.W_OK):
        harness.note("no page is migrated meanwhile: %s cannot be written" % path)
        return

    def compact():
        while not ended.wait(interval):
            with open(path, "w", encoding="ascii") as file:
                file.write("1")
    thread = threading.Thread(target=compact, daemon=True)
    thread.start()

    def end():
        ended.set()
        thread.join()
    host.callback(end)


def enrolled(host, daemon, guests):
    """Until these are in; a daemon takes in by itself what an earlier one had."""
    for g in guests:
        def is_in(g=g):
            if daemon.guest(g).get("state") == "ready":
                with contextlib.suppress(harness.CallError):
                    daemon.call("Enroll", pid=g.pid)
            return daemon.guest(g).get("state") == "enrolled"
        try:
            host.wait(is_in, 60, "guest %s is enrolled" % g.name)
        except AssertionError as error:
            raise AssertionError("%s; status %s" % (error, daemon.guest(g))) from error


def merged(host, daemon, least=1000, timeout=90):
    """Until so many frames are saved."""
    host.wait(lambda: daemon.totals()["sharing_pages"] >= least, timeout,
              "%d pages share" % least)


def store_maps(guest):
    """The private mappings of a store that the guest's process has: (start, end)."""
    return [(m["start"], m["end"]) for m in guest.smaps()
            if "memshared-store" in m["path"] and m["mode"] == "rw-p"]


def ours(guest):
    """Mappings of ours in the guest's process, of whatever kind."""
    return [m["path"] for m in guest.smaps() if m["path"].startswith("/memfd:memshared")
            or m["path"].endswith("memshared-agent.bin")]


def check(guests):
    for g in guests:
        g.check()


def leave(daemon, guests):
    """Everybody gets everything back, and nothing of ours stays."""
    for g in guests:
        daemon.call("Unenroll", pid=g.pid, timeout=120)
        g.check()
        assert not ours(g), ours(g)[:3]


def stir(guests, number):
    """One of many things that guests do: for a loop that counts its rounds."""
    for g in guests:
        if number % 4 == 0:
            g.scramble(20, runs=True)
        elif number % 4 == 1:
            g.rewrite(30)
        elif number % 4 == 2:
            g.rewrite(10, runs=True)
        g.check()


def until(deadline):
    """Counts rounds until the time is over; at least one."""
    number = 0
    while number == 0 or time.monotonic() < deadline:
        yield number
        number += 1


def priorities(guest):
    """Scheduling policies of memshared's threads in a guest; between two batches an ordinary one."""
    tasks, found = "/proc/%d/task/" % guest.pid, set()
    for tid in os.listdir(tasks):
        with contextlib.suppress(OSError), open(tasks + tid + "/comm", encoding="ascii") as file:
            if file.read().strip() == "memshared":
                found.add(os.sched_getscheduler(int(tid)) & ~os.SCHED_RESET_ON_FORK)
    return found


def _across(host, first, second):
    audit = host.audit([*first, *second], ranges=lambda g: [g.ram_range])
    pids = {g.pid for g in first}
    across = [p for p in audit["pairs"] if (p["a"] in pids) != (p["b"] in pids)]
    return across, sum(p["frames"] for p in audit["pairs"]) - sum(p["frames"] for p in across)


def apart(host, daemon, first, second):
    """No frame is mapped by guests of both lists, over every page of both. Frames in common within
    either list."""
    across, common = _across(host, first, second)
    if not across:
        return common
    # Page maps are read one after the other: a frame may have changed hands meanwhile. Not
    # while the daemon and the guests stand still.
    guests = [*first, *second]
    daemon.signal(signal.SIGSTOP)
    try:
        for g in guests:
            g.qmp.call("stop")
        # The agents end what they were asked for, meanwhile.
        for _ in range(2):
            across, _ = _across(host, first, second)
    finally:
        for g in guests:
            g.qmp.call("cont")
        daemon.signal(signal.SIGCONT)
    assert not across, "domains share frames: %s" % across
    return common
