#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Engine ksm on real guests that check their own memory: what it merges, and what it says of it.

Three guests live through all tests. Figures are compared while they rest.
"""
import contextlib
import ctypes
import mmap
import os

import harness
import merging


class Context(harness.Host):
    """The guests, and a daemon that merges them."""

    def prepare(self):
        self.ksm().set(run=0)
        self.three = [self.guest("g%d" % i, mib=48, uid=65534) for i in range(3)]
        for g in self.three:
            g.ready()
        self.working = merging.start(self)
        for g in self.three:
            self.working.call("Enroll", pid=g.pid)

    @contextlib.contextmanager
    def resting(self):
        """The guests' programs touch no memory meanwhile."""
        for g in self.three:
            g.pause()
        try:
            yield
        finally:
            for g in self.three:
                g.resume()

    def passes(self):
        return min(self.working.guest(g)["passes"] for g in self.three)


def near(a, b, percent=1, pages=32):
    return abs(a - b) <= max(max(a, b) * percent // 100, pages)


def differences(totals, audit):
    """memshared's word against page frame numbers: None, or what differs."""
    if near(totals["sharing_pages"], audit["sharing"]) and \
            near(totals["shared_pages"], audit["shared"]):
        return None
    return totals, audit


@harness.test("three guests are merged, and every figure agrees with the kernel's", limit=200)
def merge(host):
    merging.merged(host, host.working)
    with host.resting():
        merging.settled(host, host.working)

        def figures():
            """Of one moment: how many frames are shared is known as of the last round, or audit."""
            totals, audit = host.working.totals(), host.audit(host.three)
            statuses = [host.working.guest(g) for g in host.three]
            merged = [g.ksm_merged() for g in host.three]
            counters = harness.ksm_counters()
            still = host.working.call("Status")["ksmd"]["run"] == "stopped" and \
                totals == host.working.totals() and merged == [g.ksm_merged() for g in host.three]
            return still and not differences(totals, audit) and (totals, audit, statuses, merged, counters)
        totals, audit, statuses, merged, counters = host.wait(
            figures, 60, "memshared and the auditor agree", interval=1)
        merging.sums_up(host, host.working)
        merging.agents_count(host, host.working, host.three)
    harness.note("memshared: %s" % totals)
    harness.note("audit: %s" % audit)
    harness.note("merged by guest: kernel %s, memshared %s" % (
        merged, [s["shared_pages"] for s in statuses]))
    # Where a huge page was split the kernel freed its pages of zeros: those are saved, too.
    assert near(totals["saved_bytes"] + totals["overhead_bytes"],
                (audit["sharing"] + totals["zero_pages"]) * harness.PAGE,
                pages=32 * harness.PAGE), (totals, audit)
    for name in ("shared_pages", "sharing_pages", "present_bytes"):
        if name != "shared_pages":  # of a guest: pages that map a shared frame
            assert near(sum(s[name] for s in statuses), totals[name]), (name, statuses, totals)
    # The host's counters are ours where nobody else has anything merged.
    if counters["pages_shared"] + counters["pages_sharing"] <= sum(merged) * 1.01:
        for status, kernel in zip(statuses, merged):
            assert near(status["shared_pages"], kernel), (status, kernel)
        assert near(totals["sharing_pages"], counters["pages_sharing"]), (totals, counters)
        assert near(totals["shared_pages"], counters["pages_shared"]), (totals, counters)
    else:
        harness.note("others have merged memory: the host's counters are not compared")
    for g in host.three:
        g.check()


def follows(host):
    """The guests rewrite half of their memory: memshared knows what is shared no more."""
    merging.merged(host, host.working)
    before = host.working.totals()["sharing_pages"]
    with host.resting():
        for g in host.three:
            g.scramble(50)
        start = host.passes()
        host.wait(lambda: host.passes() >= start + 3, 60, "three passes")
        # What is left to merge is merged meanwhile: seen at rest both say the same.
        differ = {}

        def agree():
            differ["figures"] = differences(host.working.totals(), host.audit(host.three))
            return not differ["figures"]
        try:
            host.wait(agree, 60, "memshared and the auditor agree", interval=1)
        except AssertionError as error:
            raise AssertionError(differ) from error
        after = host.working.totals()["sharing_pages"]
        harness.note("sharing %d pages before, %d after" % (before, after))
        assert after < before * 19 // 20
    for g in host.three:
        g.check()


@harness.test("guests rewrite half of their memory: the figures follow", limit=200)
def rewritten(host):
    follows(host)


@harness.test("they do where the tracker knows nothing, too", limit=200)
def rehash(host):
    host.working = merging.start(host, policy="tracker=rehash")
    merging.wait_enrolled(host, host.working, host.three)
    follows(host)
    assert {host.working.guest(g)["tracker"] for g in host.three} == {"rehash"}


@harness.test("while ksmd stands still their memory is in few pieces, and merges again after that", limit=200)
def folded(host):
    def pieces():
        return [len(g.mergeable()) for g in host.three]
    merging.merged(host, host.working)
    before = host.working.totals()["sharing_pages"]
    with host.resting():
        host.wait(lambda: max(pieces()) <= 2, 60, "the marks are folded")
        harness.note("marked mappings: %s" % pieces())
        marked = host.three[0].mergeable()
        assert sum(end - start for start, end in marked) > 16 << 20, marked
        for g in host.three:
            g.scramble(50)
            g.rewrite(100)
        host.wait(lambda: max(pieces()) > 2, 60, "they are not while ksmd runs", interval=0.05)
        host.wait(lambda: host.working.totals()["sharing_pages"] > before * 2 // 3, 100, "they share again")
    for g in host.three:
        g.check()


@harness.test("guests that leave share nothing any more", limit=100)
def leave(host):
    # With it ksmd would merge those that have left, and are as QEMU marked them, with the others.
    with open(host.working.config, encoding="utf-8") as file:
        config = file.read()
    assert "AllowForeign=yes" in config
    with open(host.working.config, "w", encoding="utf-8") as file:
        file.write(config.replace("AllowForeign=yes", "AllowForeign=no"))
    host.working.ctl("reload")
    for g in host.three:
        host.working.call("Unenroll", pid=g.pid)
        g.check()
    # Not the kernel's counters: those fall only when ksmd comes by again.
    assert host.audit(host.three)["sharing"] == 0
    assert host.working.totals()["sharing_pages"] == 0


class Outsider:
    """This process, with a copy of a guest's memory that is mergeable, and enrolled nowhere."""

    def __init__(self, guest):
        start, end = guest.ram()
        self.name, self.pid, self._size = "outsider", os.getpid(), end - start
        self._memory = mmap.mmap(-1, self._size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory.madvise(mmap.MADV_MERGEABLE)
        with open("/proc/%d/mem" % guest.pid, "rb", buffering=0) as mem:
            for at in range(0, self._size, 1 << 20):
                mem.seek(start + at)
                self._memory.write(mem.read(min(1 << 20, self._size - at)))
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def ram(self):
        return self._address, self._address + self._size


def frames_apart(host, *groups):
    """No frame is mapped by two of these groups; how many each has in common within."""
    group = {g.pid: i for i, members in enumerate(groups) for g in members}
    pairs = host.audit([g for members in groups for g in members], ranges=lambda g: [g.ram()])["pairs"]
    across = [p for p in pairs if group[p["a"]] != group[p["b"]]]
    assert not across, across
    return [sum(p["frames"] for p in pairs if group[p["a"]] == i) for i in range(len(groups))]


@harness.test("no frame of the domain is another engine's or an outsider's, whose content is the same", limit=400)
def apart(host):
    # Another domain's, of the same content, and with QEMU's marks for KSM until it is enrolled.
    other = host.guest("other", mib=48, uid=65534).ready()
    everybody = [*host.three, other]
    host.working = merging.start(host, foreign="no", policy="""
[Policy "other"]
match-name=other
domain=other
engine=remap
min-age=1s
thp=split:1
""")
    for g in everybody:
        with contextlib.suppress(harness.CallError):  # in by itself, as with the daemon before
            host.working.call("Enroll", pid=g.pid)
    merging.wait_enrolled(host, host.working, everybody)
    merging.alone(host, everybody)
    merging.shares(host, host.working, other, least=1000)
    merging.shares(host, host.working, *host.three)
    other.pause()
    with host.resting():
        merging.settled(host, host.working)
        common = frames_apart(host, host.three, [other])
        harness.note("frames in common within: %s" % common)
        assert common[0] > 1000, common
        outsider = Outsider(host.three[0])
        for g in host.three:
            g.scramble(30)
            g.rewrite(30)
        host.wait(lambda: any("process %d " % os.getpid() in w for w in host.working.call("Status")["warnings"]),
                  100, "status says who else has mergeable memory")
        merging.passes(host, host.working, host.three[0], 10)
        assert merging.settings()["run"] == 0
        frames_apart(host, host.three, [other], [outsider])
        del outsider
        # Once it is gone they merge again.
        sharing = host.working.totals()["sharing_pages"]
        host.wait(lambda: host.working.totals()["sharing_pages"] > sharing + 500, 100, "they merge again")
        frames_apart(host, host.three, [other])
    for g in everybody:
        g.check()


harness.tap.main(Context, shared=True)
