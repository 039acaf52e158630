#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Huge pages of real guests: with thp=keep none is split, whatever the guest does, and with thp=split:N
those of which at least N pages are freed, zeros included, and no others."""
import array
import collections
import contextlib
import ctypes
import fcntl
import functools
import hashlib
import mmap
import os
import re

import harness
import merging

HUGE = 2 << 20
HUGE_PAGES = HUGE // harness.PAGE
PRESENT = 1 << 63  # of /proc/PID/pagemap
PAGEMAP_SCAN, PAGE_IS_HUGE = 0xc0606610, 1 << 6
ZEROS = hashlib.blake2b(bytes(harness.PAGE), digest_size=16).digest()
MIX = "zero:20,dup:20,within:20,unique:20,slow:10,fast:10"


def frames_of(guest):
    """(start, entries of the page map) of RAM from its first aligned huge page on."""
    start, end = guest.ram()
    start = -(-start // HUGE) * HUGE
    frames = array.array("Q")
    with open("/proc/%d/pagemap" % guest.pid, "rb") as pagemap:
        pagemap.seek(start // harness.PAGE * 8)
        frames.frombytes(pagemap.read((end - start) // HUGE * HUGE_PAGES * 8))
    return start, frames


def huge_in(pid, start, end):
    """Addresses from start to end that one entry of the page table maps a huge page at."""
    start = -(-start // HUGE) * HUGE
    regions = array.array("Q", bytes(24 * (1 + (end - start) // HUGE)))
    ask = array.array("Q", [96, 0, start, end, 0, regions.buffer_info()[0], len(regions) // 3, 0,
                            0, PAGE_IS_HUGE, 0, PAGE_IS_HUGE])
    with open("/proc/%d/pagemap" % pid, "rb") as pagemap:
        try:
            n = fcntl.ioctl(pagemap, PAGEMAP_SCAN, ask)
        except OSError as error:
            raise harness.Skip("this kernel has no PAGEMAP_SCAN") from error
    return {at for first, last in zip(regions[0:3 * n:3], regions[1:3 * n:3])
            for at in range(-(-first // HUGE) * HUGE, last - HUGE + 1, HUGE)}


def huge_pages_of(guest):
    """The same of RAM: by address, because khugepaged makes new ones at any time, so that a number
    alone says nothing of those that were split."""
    return huge_in(guest.pid, *guest.ram())


def mapped_whole(guest):
    """How many these are by AnonHugePages, perhaps with those of QEMU's other memory next to it."""
    start, end = guest.ram()
    return sum(m["AnonHugePages"] for m in guest.smaps()
               if start <= m["start"] < end) // (HUGE >> 10)


class Witness:
    """Huge pages of this process. Where they are split the kernel, short of memory, did that, or somebody
    had it move pages about: what guests lose meanwhile proves nothing."""

    def __init__(self):
        self._memory = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, 64 << 20, HUGE):
            self._memory[at] = 1
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._ask = os.getpid(), start, start + (64 << 20)
        self._before = huge_in(*self._ask)

    def calm(self):
        return self._before <= huge_in(*self._ask)


class Census:
    """Of each huge page, how many of its pages hold zeros, or what another page of the guest holds."""

    def __init__(self, guest):
        self.huge = huge_pages_of(guest)
        start, frames = frames_of(guest)
        names, seen = {}, collections.Counter()
        with open("/proc/%d/mem" % guest.pid, "rb", buffering=0) as memory:
            for n, frame in enumerate(frames):
                if frame & PRESENT:  # others are not to be brought in
                    memory.seek(start + n * harness.PAGE)
                    page = hashlib.blake2b(memory.read(harness.PAGE), digest_size=16).digest()
                    names[n] = page
                    seen[page] += 1
        self.zeros, self.freed = {}, {}
        for at in self.huge:
            first = (at - start) // harness.PAGE
            pages = [names[n] for n in range(first, first + HUGE_PAGES)]
            self.zeros[at] = pages.count(ZEROS)
            self.freed[at] = sum(p == ZEROS or seen[p] > 1 for p in pages)

    def worth(self, number):
        return {at for at in self.huge if self.freed[at] >= number}


def stays(daemon, guest, words):
    """The number in the refusal that has these words; 0 without one."""
    for line in daemon.guest(guest)["refusals"]:
        if words in line:
            return int(re.match(r"(\d+) ", line)[1])
    return 0


@contextlib.contextmanager
def boot(host, engine):
    if engine == "ksm":
        host.ksm().set(run=0)
    guest = host.guest("one%d" % len(host.guests), mib=32, uid=65534, mix=MIX, run=64)
    guest.ready()
    if len(huge_pages_of(guest)) < 16:
        raise harness.Skip("guests have hardly any huge pages here: %d" % len(huge_pages_of(guest)))
    yield guest
    guest.check()
    guest.kill()


ATTEMPTS = 5


def in_peace(function):
    """Repeats the test if it fails where huge pages of others are split as well."""
    @functools.wraps(function)
    def repeated(host, *args):
        for left in reversed(range(ATTEMPTS)):
            witness = Witness()
            try:
                return function(host, *args)
            except AssertionError as error:
                if witness.calm():
                    raise
                harness.note("huge pages of others were split meanwhile, too: %.200s" % error)
                if not left:
                    raise harness.Skip("the kernel splits huge pages all the time here") from error
                for guest in host.guests:
                    guest.kill()
    return repeated


@in_peace
def keeps(host, engine):
    """A guest that writes and is merged meanwhile."""
    with boot(host, engine) as one:
        before = huge_pages_of(one)
        daemon = merging.start(host, engine=engine, policy="thp=keep")
        daemon.call("Enroll", pid=one.pid)
        assert daemon.guest(one)["tracker"] == "wp", daemon.guest(one)
        for _ in range(3):
            one.rewrite(20)
            merging.passes(host, daemon, one, 2)
        assert stays(daemon, one, "thp=keep") > 0, daemon.guest(one)["refusals"]
        one.check()
        lost = before - huge_pages_of(one)
        assert not lost and mapped_whole(one) >= len(before), (len(lost), mapped_whole(one), len(before))
        daemon.call("Unenroll", pid=one.pid)
        lost = before - huge_pages_of(one)
        assert not lost and mapped_whole(one) >= len(before), (len(lost), mapped_whole(one), len(before))


@harness.test("thp=keep, engine ksm: no huge page of a guest that writes is split", limit=400)
def keep_ksm(host):
    keeps(host, "ksm")


@harness.test("thp=keep, engine remap: no huge page of a guest that writes is split", limit=400)
def keep_remap(host):
    keeps(host, "remap")


@contextlib.contextmanager
def merged(host, one, number, engine, **options):
    """The guest, which stands still, once everything is merged that is to be; gives what was there
    before, the daemon, and the huge pages that were split."""
    census = Census(one)
    daemon = merging.start(host, engine=engine, policy="thp=split:%d" % number, **options)
    daemon.call("Enroll", pid=one.pid)
    merging.passes(host, daemon, one, 4)
    merging.settled(host, daemon, 0)
    split = census.huge - huge_pages_of(one)
    harness.note("%s, thp=split:%d: %d of %d huge pages were split, %d were worth it; sharing %d" % (
        engine, number, len(split), len(census.huge), len(census.worth(number)),
        daemon.guest(one)["sharing_pages"]))
    yield census, daemon, split
    daemon.call("Unenroll", pid=one.pid)


def between(census):
    """A number of pages that some huge pages have to be freed, with their zeros only, and others not."""
    for number in range(HUGE_PAGES - 1, 0, -1):
        worth = census.worth(number)
        if (len(census.huge) // 3 <= len(worth) <= len(census.huge) - 4
                and any(census.freed[at] - census.zeros[at] < number for at in worth)):
            return number
    raise harness.Skip("this guest's huge pages are all alike")


@in_peace
def splits(host, engine):
    with boot(host, engine) as one:
        one.qmp.call("stop")
        try:
            number = between(Census(one))
            for n in (HUGE_PAGES, number):
                with merged(host, one, n, engine) as (census, daemon, split):
                    assert split == census.worth(n), {
                        at: census.freed[at] for at in split ^ census.worth(n)}
                    # Nothing was written: those that are whole are mapped whole.
                    assert mapped_whole(one) >= len(census.huge - split), (
                        mapped_whole(one), len(census.huge), len(split))
                    # khugepaged may have made others.
                    stay = sum(Census(one).freed.values())
                    told = stays(daemon, one, "a smaller N")
                    assert stay - stay // 10 <= told <= stay + stay // 10, (told, stay)
        finally:
            one.qmp.call("cont")


@harness.test("thp=split:N, engine ksm: a huge page is split only where N of its pages are freed, zeros "
              "included", limit=400)
def split_ksm(host):
    splits(host, "ksm")


@harness.test("thp=split:N, engine remap: a huge page is split only where N of its pages are freed, zeros "
              "included", limit=400)
def split_remap(host):
    splits(host, "remap")


@harness.test("however few ranges ksmd may look at, it does not look at huge pages that stay whole",
              limit=400)
@in_peace
def few_ranges(host):
    with boot(host, "ksm") as one:
        one.qmp.call("stop")
        try:
            number = between(Census(one))
            with merged(host, one, number, "ksm", ksm="MaxRanges=2") as (census, daemon, split):
                assert split <= census.worth(number), {
                    at: census.freed[at] for at in split - census.worth(number)}
                left = stays(daemon, one, "so few ranges")
                harness.note("%d duplicates are in none of the ranges" % left)
                assert left > 0, daemon.guest(one)["refusals"]
                assert daemon.totals()["sharing_pages"] > 0
        finally:
            one.qmp.call("cont")


harness.main()
