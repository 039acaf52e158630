# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of merging have in common: a daemon that works hard, and how to tell that it
has done so, or that a guest is as QEMU had it.
"""
import collections
import contextlib
import os
import time

import harness
import ksm

DOMAIN = "test"

CONFIG = """\
[Daemon]
StateDirectory=%(state)s
CpuBudget=100%%
PassInterval=1s
Pressure=always
%(daemon)s

[Ksm]
Domain=%(ksm_domain)s
AllowForeign=%(foreign)s
# Few wake-ups of ksmd, whose low priority makes each of them wait where tests run side by side.
PagesToScan=10000
%(ksm)s

[Policy "all"]
match-name=*
domain=test
engine=%(engine)s
min-age=1s
thp=split:1
%(policy)s
"""


def state_directory(host):
    """The same for all daemons of a test."""
    return os.path.join(host.directory, "state")


def start(host, foreign="yes", daemon="", ksm="", policy="", fault=None, state=None, environment=None,
          engine="ksm"):
    """A daemon for domain "test". fault: see common/fault.h.

    foreign: by default guests of other tests, which may run at the same time, are no hindrance;
    where counters of the whole host are compared say "no" and wait with alone(). A daemon that
    an earlier test left behind is killed.
    """
    host.kill_daemon()
    environment = dict(environment or {})
    if fault:
        environment["MEMSHARED_FAULT"] = fault
    return host.daemon(CONFIG % {"state": state or state_directory(host), "foreign": foreign,
                                 "daemon": daemon, "ksm": ksm, "policy": policy, "engine": engine,
                                 "ksm_domain": DOMAIN if engine == "ksm" else ""},
                       environment=environment)


def wait_enrolled(host, daemon, guests):
    """Waits until the daemon has let these guests in, by itself or as it was told."""
    for g in guests:
        host.wait(lambda g=g: daemon.guest(g).get("state") == "enrolled",
                  30, "guest %s is enrolled" % g.name)


def shares(host, daemon, *guests, least=3000):
    """Waits until each of the guests maps that many shared pages; the fewest."""
    def now():
        return min(daemon.guest(g).get("shared_pages", 0) for g in guests)
    host.wait(lambda: now() >= least, 120, "%d pages of each guest are shared" % least)
    return now()


def passes(host, daemon, guest, count=3):
    """Waits for so many passes that began after this call."""
    goal = daemon.guest(guest)["passes"] + count + 1
    host.wait(lambda: daemon.guest(guest)["passes"] >= goal, 120,
              "%d passes over guest %s" % (count, guest.name))


def settled(host, daemon, least=1000, timeout=90):
    """Waits until ksmd is stopped and what is shared does not change any more."""
    last = [0, time.monotonic()]

    def rests():
        status = daemon.call("Status")
        sharing = status["totals"]["sharing_pages"]
        ksmd = status.get("ksmd", {}).get("run", "stopped")
        if abs(sharing - last[0]) > max(16, last[0] // 200) or ksmd != "stopped":
            last[:] = [sharing, time.monotonic()]
        return sharing >= least and time.monotonic() - last[1] > 3 and status
    try:
        return host.wait(rests, timeout, "merging settles with %d pages or more" % least)
    except AssertionError as error:
        raise AssertionError("%s\nstatus: %s" % (error, daemon.call("Status"))) from error


def sums_up(host, daemon):
    """What the daemon says of its guests (all that are enrolled), while nothing changes, must be what it
    says of the host. The totals."""
    def still():
        before, guests = daemon.totals(), daemon.call("Guests")["guests"]
        return before == daemon.totals() and (before, guests)
    totals, guests = host.wait(still, 60, "nothing changes")
    guests = [g for g in guests if g["state"] == "enrolled"]
    for name in ("sharing_pages", "zero_pages", "present_bytes", "overhead_bytes", "saved_bytes"):
        found = sum(g[name] for g in guests)
        # Parts of something are rounded: of frames to pages, of overhead to bytes.
        slack = len(guests) * (1 if name.endswith("_pages") else harness.PAGE)
        assert abs(found - totals[name]) <= slack, \
            "%s: %d in all guests, %d in total; %s" % (name, found, totals[name], guests)
    return totals


def agents_count(host, daemon, guests):
    """With engine ksm, overhead that is not bookkeeping is the agents': their rings, as the guests'
    processes have them, and some of their stacks. A pass sees what was in memory when it began."""
    seen = {}

    def agree():
        totals = daemon.totals()
        seen["agents"] = totals["overhead_bytes"] - totals["bookkeeping_bytes"]
        seen["rings"] = sum(m["Rss"] << 10 for g in guests for m in g.smaps()
                            if "memfd:memshared-ring" in m["path"])
        return seen["rings"] < seen["agents"] <= 2 * seen["rings"] + len(guests) * (128 << 10)
    try:
        host.wait(agree, 30, "the agents' memory is counted")
    finally:
        harness.note("bytes: %s" % seen)


def alone(host, guests):
    """Waits until no other process has mergeable memory: tests that run at the same time."""
    pids = {g.pid for g in guests}

    def foreign():
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open("/proc/%s/ksm_stat" % pid,
                                                    encoding="ascii") as file:
                if "ksm_mergeable: yes" in file.read() and int(pid) not in pids:
                    found.append(int(pid))
        return found
    try:
        host.wait(lambda: not foreign(), 120, "no other process has mergeable memory", 0.5)
    except AssertionError as error:
        raise harness.Skip("processes %s have mergeable memory" % foreign()) from error


def merged(host, daemon, least=4000, timeout=90):
    """Waits until so many pages were verified to be merged. Other rounds may follow."""
    def enough():
        return daemon.totals()["sharing_pages"] >= least
    try:
        host.wait(enough, timeout, "%d pages are merged" % least)
    except AssertionError as error:
        raise AssertionError("%s\nstatus: %s" % (error, daemon.call("Status"))) from error


def kept(host):
    """Names of the files that the daemon keeps about guests."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(os.listdir(os.path.join(state_directory(host), "guests")))
    return []


def settings():
    """The host's KSM as it is set now."""
    return {name: ksm.read(name) for name in ksm.SETTINGS if os.path.exists(ksm.DIRECTORY + name)}


def wait_stopped(host, daemon):
    """Waits until the daemon stands still at a fault point with the action "stop"."""
    def stopped():
        with open("/proc/%d/stat" % daemon.pid, encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] == "T"
    host.wait(stopped, 100, "the daemon reaches its fault point", interval=0.02)


def wait_dead(host, daemon):
    """Waits until the daemon has killed itself at a fault point."""
    # A round of ksmd takes up to a minute where others have much mergeable memory.
    host.wait(lambda: not daemon.alive(), 100, "the daemon reaches its fault point", interval=0.02)


def _marks_of(mapping):
    # QEMU itself makes no difference between these afterwards: accounting, soft-dirty.
    return tuple(f for f in mapping.get("flags", ()) if f not in ("ac", "sd"))


class Picture:
    """A guest's process at rest: what must be the same again when memshared has left it."""

    def __init__(self, guest):
        task = "/proc/%d/task/" % guest.pid
        self.threads = collections.Counter()
        for tid in os.listdir(task):
            with contextlib.suppress(FileNotFoundError), open(task + tid + "/comm",
                                                              encoding="utf-8") as file:
                name = file.read().strip()
                if name != "worker":  # QEMU's pool: they come and go
                    self.threads[name] += 1
        fds = "/proc/%d/fd/" % guest.pid
        self.descriptors = {}
        for fd in os.listdir(fds):
            with contextlib.suppress(FileNotFoundError):
                self.descriptors[int(fd)] = os.readlink(fds + fd)
        mappings = guest.smaps()
        start, end = guest.ram()
        self.ram = [(max(start, m["start"]), min(end, m["end"]), m["mode"], _marks_of(m))
                    for m in mappings if m["start"] < end and m["end"] > start]
        self.marked = guest.mergeable()
        self.ours = [m["path"] for m in mappings if "memshared" in m["path"]]

    def joined(self):
        """The same, blind to where equal neighbours are mappings of their own: the kernel does not
        join again what engine remap has had apart."""
        for name in ("ram", "marked"):
            whole = []
            for start, end, *marks in getattr(self, name):
                if whole and whole[-1][1] == start and whole[-1][2:] == marks:
                    whole[-1][1] = end
                else:
                    whole.append([start, end, *marks])
            setattr(self, name, whole)
        return self

    def compare(self, other):
        """Raises if the other picture, taken later, differs."""
        for name in ("threads", "descriptors", "ram", "marked", "ours"):
            before, after = getattr(self, name), getattr(other, name)
            assert before == after, "%s differ: before %.2000s, after %.2000s" % (name, before, after)


def has_agent(guest):
    """Is something of ours in the guest's process?"""
    return bool(Picture(guest).ours)
