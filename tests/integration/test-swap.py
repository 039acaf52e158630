#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests whose memory is swapped out: memshared brings nothing in, merges what came in by itself, and
what it has merged can be swapped out, too."""
import contextlib
import ctypes
import os
import subprocess

import harness
import merging
import tap
from memorygroup import MemoryGroup

SWAP_BYTES = 256 << 20
SYS_PROCESS_MADVISE = 440
MADV_PAGEOUT = 21


class Swap:
    """A swap file for the time of one test."""

    def __init__(self, host):
        self.path = os.path.join(host.directory, "swap")
        with open(self.path, "wb") as file:
            os.chmod(self.path, 0o600)
            for _ in range(SWAP_BYTES >> 20):
                file.write(bytes(1 << 20))
        for program in ("mkswap", "swapon"):
            try:
                done = subprocess.run([program, self.path], capture_output=True, text=True,
                                      check=False)
            except FileNotFoundError as error:
                raise tap.Skip("no " + program) from error
            if done.returncode:
                raise tap.Skip("no swap file: " + done.stderr.strip())
        host.callback(subprocess.run, ["swapoff", self.path], check=True)

    def used(self):
        """In bytes."""
        with open("/proc/swaps", encoding="ascii") as file:
            return next(int(line.split()[3]) << 10 for line in file if line.startswith(self.path))


def page_out(guest):
    """Asks the kernel to swap the guest's memory out; pages that others map, too, stay."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(guest.pid)
    start, end = guest.ram()
    try:
        for m in guest.smaps():
            if m["start"] >= end or m["end"] <= start:
                continue
            vector = (ctypes.c_size_t * 2)(m["start"], m["end"] - m["start"])
            if libc.syscall(SYS_PROCESS_MADVISE, pidfd, vector, ctypes.c_size_t(1), MADV_PAGEOUT, 0) < 0:
                raise OSError(ctypes.get_errno(), "process_madvise")
    finally:
        os.close(pidfd)


def swapped(guest):
    """Bytes of the process that are in swap; store pages are not its own."""
    with open("/proc/%d/status" % guest.pid, encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmSwap"))


def major_faults(pid):
    with open("/proc/%d/stat" % pid, encoding="ascii") as file:
        return int(file.read().rpartition(")")[2].split()[9])


def stays_out(host, daemon, guest, count=3):
    """Several passes bring nothing in. The guest's kernel itself may want a page now and then."""
    before, faults = swapped(guest), major_faults(daemon.pid)
    merging.passes(host, daemon, guest, count)
    after, faults = swapped(guest), major_faults(daemon.pid) - faults
    tap.note("guest %s: %d KiB in swap, %d KiB after %d passes; major faults of the daemon: %d" % (
        guest.name, before >> 10, after >> 10, count, faults))
    assert after > before * 0.95, "pages were brought in"
    assert faults < before // harness.PAGE // 20, "the daemon brought pages in"


@harness.test("what is swapped out stays out, and merges once it has come in by itself", limit=400)
def swap(host):
    room = Swap(host)
    daemon = merging.start(host, engine="remap", policy="cow-backoff=1s")
    one, two = (host.guest(name, mib=32).ready() for name in ("one", "two"))
    two.pause()
    page_out(two)
    assert swapped(two) > 24 << 20, "%d bytes are in swap" % swapped(two)
    for g in (one, two):
        daemon.call("Enroll", pid=g.pid)
    # Never read before: all of it would be wanted.
    stays_out(host, daemon, two)
    two.check()
    two.resume()
    before = merging.shares(host, daemon, one, two)

    # What is the guest's own goes, what is shared stays; both come back right.
    one.pause()
    page_out(one)
    assert swapped(one) > 8 << 20, "%d bytes are in swap" % swapped(one)
    stays_out(host, daemon, one)
    assert daemon.guest(one)["shared_pages"] > before * 0.9, daemon.guest(one)
    one.resume()
    one.rewrite(50, runs=True)
    two.rewrite(50, runs=True)
    for g in (one, two):
        g.check()
    merging.shares(host, daemon, one, two, least=before // 2)
    assert room.used() < SWAP_BYTES, "the swap file is full"


@harness.test("merged pages are swapped out and come back right", limit=300)
def merged(host):
    room = Swap(host)
    daemon = merging.start(host, engine="remap", policy="cow-backoff=1s")
    group = MemoryGroup(host, daemon.pid)
    one, two = (host.guest(name, mib=32).ready() for name in ("one", "two"))
    for g in (one, two):
        daemon.call("Enroll", pid=g.pid)
    before = merging.shares(host, daemon, one, two)
    for g in (one, two):
        g.pause()
    used = room.used()
    store = daemon.call("Status")["totals"]["shared_pages"]

    def goes():
        group.reclaim()
        return room.used() - used > store * harness.PAGE // 2
    host.wait(goes, 60, "half of the store's %d pages are in swap" % store)
    tap.note("%d KiB of the store's %d are in swap" % (
        (room.used() - used) >> 10, store * harness.PAGE >> 10))
    merging.passes(host, daemon, one)
    # To be swapped out is no reason to lose sight of it.
    assert daemon.guest(one)["shared_pages"] > before * 0.9, daemon.guest(one)
    for g in (one, two):
        g.check()
        g.resume()
        g.rewrite(30)
        g.check()
    merging.shares(host, daemon, one, two, least=before // 2)


@harness.test("what the kernel's KSM has merged is swapped out and comes back right", limit=400)
def merged_ksm(host):
    host.ksm().set(run=0)
    room = Swap(host)
    daemon = merging.start(host, policy="cow-backoff=1s")
    one, two = guests = [host.guest(name, mib=32) for name in ("one", "two")]
    # Before they have memory: that stays with the group that first had it.
    groups = [MemoryGroup(host, g.pid) for g in guests]
    for g in guests:
        g.ready()
        daemon.call("Enroll", pid=g.pid)
    before = merging.shares(host, daemon, one, two)
    merging.settled(host, daemon)
    for g in (one, two):
        g.pause()
    merged, present = [g.ksm_merged() for g in (one, two)], [g.resident() for g in (one, two)]

    # What is nobody else's, and half of what is merged.
    wanted = [p - m // 2 for p, m in zip(present, merged)]

    def goes():
        for group in groups:
            group.reclaim()
        return all(swapped(g) > w * harness.PAGE for g, w in zip((one, two), wanted))
    try:
        host.wait(goes, 60, "half of the merged pages are in swap, too")
    finally:
        tap.note("%s pages were present, %s of them merged; %s KiB are in swap" % (
            present, merged, [swapped(g) >> 10 for g in (one, two)]))
    for g in (one, two):
        stays_out(host, daemon, g)
    # Each gets its own, and what was equal merges again.
    for g in (one, two):
        g.check()
        g.resume()
        g.rewrite(30)
        g.check()
    # What the guests' kernels do not use stays in swap.
    tap.note("%d pages of each were shared, %d are again" % (
        before, merging.shares(host, daemon, one, two, least=1500)))
    for g in (one, two):
        g.check()
        daemon.call("Unenroll", pid=g.pid)
        g.check()


harness.main()
