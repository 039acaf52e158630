#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Engine remap's agent and store on real guests that verify their own memory."""
import os
import random
import signal
import subprocess
import time

import harness
import remapping
import tap

NOBODY = 65534
MIX = "zero:10,dup:40,within:10,unique:20,slow:5,fast:10,disk:5"
ADVICE = {"dc": 1, "dd": 2, "hg": 4, "nh": 8, "mg": 16, "wf": 32}
# What the kernel sets on its own, or we do: not advice.
OURS = {"sd", "um", "uw", "ui", "mr", "mw", "me"}
SECONDS = int(os.environ.get("MEMSHARED_REMAP_SECONDS", "15"))


def find_ram(guest):
    """(start, end) of the RAM, before anything cuts it up: the mapping that QEMU marked."""
    size = guest.memory_mib << 20
    for m in guest.smaps():
        start = -(-m["start"] // (2 << 20)) * (2 << 20)
        if {"mg", "dc"} <= set(m["flags"]) and m["end"] - start >= size:
            return start, start + size
    raise RuntimeError("no RAM in guest " + guest.name)


def ram_flags(guest):
    """The VmFlags of the mappings that the RAM block consists of: a set of sets."""
    start, end = guest.ram_range
    return {frozenset(m["flags"]) - OURS for m in guest.smaps()
            if m["start"] < end and m["end"] > start}


def start_loop(guests, seconds, flags):
    words = ["%d:%x:%x" % (g.pid, *g.ram_range) for g in guests]
    advice = sum(bit for name, bit in ADVICE.items() if name in flags)
    return subprocess.Popen(
        [harness.BUILD + "/tests/integration/remap-loop", str(seconds), str(advice), "1", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=dict(os.environ, MEMSHARED_LIBEXECDIR=harness.BUILD))


def finish_loop(loop, timeout=300):
    out, err = loop.communicate(timeout=timeout * tap.SLOW)
    tap.note(out + err)
    assert loop.returncode == 0, "remap-loop: %s %s" % (loop.returncode, err.strip())
    return {k: int(v) for k, v in (w.split("=") for w in out.split())}


def boot(host, n):
    guests = [host.guest("remap%d" % i, mib=32, mix=MIX, uid=NOBODY, kaslr=False)
              for i in range(n)]
    for guest in guests:
        guest.ready()
        guest.ram_range = find_ram(guest)
    flags = ram_flags(guests[0])
    assert len(flags) == 1, flags
    remapping.compaction(host)
    return guests, next(iter(flags))


@harness.test("two guests are merged, unmerged and reclaimed as they run, with direct I/O",
              limit=400)
def runs(host):
    guests, flags = boot(host, 2)
    before = sum(g.pss() for g in guests)
    loop = start_loop(guests, SECONDS, flags)
    for guest in guests:
        guest.rounds(1)
        guest.rewrite(30)
    numbers = finish_loop(loop)
    assert numbers["other"] == 0 and numbers["reclaim_other"] == 0, numbers
    assert numbers["merged"] > 4000 and numbers["zeros"] > 0 and numbers["reclaimed"] > 0, numbers
    for guest in guests:
        guest.check()
        # Every advice is back, on what is merged and on what was reclaimed.
        assert ram_flags(guest) == {flags}, ram_flags(guest)
    audit = host.audit(guests)
    tap.note("auditor %s; Pss %d -> %d MiB" % (audit, before >> 20,
                                               sum(g.pss() for g in guests) >> 20))
    # Not "sharing": ksmd, if it runs on this host, shares pages of these guests, too.
    assert min(g["file"] for g in audit["guests"]) > 1000, "hardly anything is merged"
    assert audit["pairs"], "the guests share nothing with each other"
    for guest in guests:
        guest.rounds(1)
        guest.check()
    finish_loop(start_loop(guests, 0, flags))
    audit = host.audit(guests)
    assert not any(g["file"] for g in audit["guests"]), audit
    for guest in guests:
        guest.check()
        left = [m["path"] for m in guest.smaps() if m["path"].startswith("/memfd:memshared-") or
                m["path"].endswith("memshared-agent.bin")]
        assert not left, left


@harness.test("killing what drives the agents, at any moment, harms no guest", limit=400)
def killed(host):
    guests, flags = boot(host, 2)
    deadline, kills = time.monotonic() + SECONDS, 0
    while time.monotonic() < deadline:
        loop = start_loop(guests, 60, flags)
        try:
            loop.wait(random.uniform(0.05, 1.5))
        except subprocess.TimeoutExpired:
            loop.send_signal(signal.SIGKILL)
            kills += 1
        out, err = loop.communicate()
        assert loop.returncode == -signal.SIGKILL, "remap-loop ended: %s %s" % (out, err)
    tap.note("%d kills" % kills)
    numbers = finish_loop(start_loop(guests, 5, flags))
    # The store of the first one is still in use: found again through the guests.
    assert numbers["used"] > 0
    for guest in guests:
        guest.rounds(1)
        guest.check()
    finish_loop(start_loop(guests, 0, flags))
    for guest in guests:
        guest.check()


@harness.test("a guest that is killed in the middle of it leaves the other one right", limit=300)
def guest_killed(host):
    guests, flags = boot(host, 2)
    loop = start_loop(guests, 60, flags)
    guests[1].rounds(1)
    guests[1].kill()
    loop.wait(60 * tap.SLOW)
    out, err = loop.communicate()
    assert loop.returncode == 0, out + err
    finish_loop(start_loop(guests[:1], 5, flags))
    guests[0].rounds(1)
    guests[0].check()


harness.main()
