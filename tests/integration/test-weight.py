#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Budgets: they hold, and by the guests' weights who gets how much of one that is not enough for all."""
import os
import subprocess
import time

import harness
import merging

MIB = 1024
CONFIG = """\
[Daemon]
StateDirectory=%s
CpuBudget=%s
PassInterval=100ms
Pressure=always

[Libvirt]
Enabled=no

[Ksm]
Domain=test

# All that is present is read in each pass, and nothing is ever merged.
[Policy "all"]
match-name=[hl][ei]*
enabled=yes
domain=test
min-age=168h
thp=split:1
tracker=rehash

[Policy "heavy"]
match-name=heavy
weight=%d
"""


def cpu(daemon, guests):
    """CPU time that was spent on each guest so far, in seconds."""
    return [daemon.guest(g)["cpu_usec"] / 1e6 for g in guests]


class Filled:
    """A QEMU that is not started, its RAM filled from outside: passes over it take long."""

    def __init__(self, host, name):
        self.name = name
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "qemu-system-x86_64", "-S", "-accel", "tcg", "-m",
             str(MIB), "-nodefaults", "-display", "none", "-name", "guest=" + name],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.pid = self._process.pid
        host.callback(self.close)
        start = host.wait(self._ram, 30, "RAM of guest " + name)
        with open("/proc/%d/mem" % self.pid, "r+b", buffering=0) as memory:
            memory.seek(start)
            for _ in range(MIB):
                memory.write(os.urandom(1 << 20))

    def _ram(self):
        with open("/proc/%d/maps" % self.pid, encoding="ascii", errors="replace") as file:
            for line in file:
                first, last = (int(x, 16) for x in line.split()[0].split("-"))
                if last - first == MIB << 20:
                    return first
        return None

    def close(self):
        self._process.kill()
        self._process.wait()


@harness.test("of a budget that is not enough each guest has its part by weight", limit=300)
def weights(host):
    guests = [Filled(host, name) for name in ("heavy", "light")]
    ratios = []
    for weight in (100, 400):
        daemon = host.daemon(CONFIG % (merging.state_directory(host), "20%", weight))
        merging.wait_enrolled(host, daemon, guests)
        # What the budget had saved up while there was nothing to do goes first.
        host.wait(lambda: sum(cpu(daemon, guests)) > 0.3, 100, "the guests are read")
        before = cpu(daemon, guests)
        host.wait(lambda: sum(cpu(daemon, guests)) - sum(before) > 2, 200, "some CPU is used")
        heavy, light = (a - b for a, b in zip(cpu(daemon, guests), before))
        harness.note("weight %d against 100: %.2f s against %.2f s" % (weight, heavy, light))
        ratios.append(heavy / light)
        daemon.stop()
    assert 0.7 < ratios[0] < 1.4, ratios
    assert 2.5 < ratios[1] < 6, ratios


def spent(host, what, seconds=5):
    """How much of it is used in a second, once what had been saved up is gone."""
    time.sleep(2)
    before, began = what(), time.monotonic()
    host.wait(lambda: time.monotonic() - began > seconds, 3 * seconds, "some time passes")
    return (what() - before) / (time.monotonic() - began)


@harness.test("the daemon's CPU, a guest's, and pages read in a second stay within their budgets", limit=200)
def bounds(host):
    guest = Filled(host, "light")

    def start(more, policy=""):
        config = CONFIG % (merging.state_directory(host), "20%", 100)
        daemon = host.daemon(config.replace("[Libvirt]", more + "\n[Libvirt]")
                             .replace("min-age", policy + "\nmin-age"))
        merging.wait_enrolled(host, daemon, [guest])
        host.wait(lambda: cpu(daemon, [guest])[0] > 0.05, 100, "the guest is read")
        return daemon
    daemon = start("")
    share = spent(host, daemon.cpu_seconds)
    harness.note("CpuBudget=20%%: %.1f %% of a CPU" % (100 * share))
    assert 0.05 < share < 0.24, share
    daemon.stop()
    daemon = start("", "cpu=5%")
    share = spent(host, lambda: cpu(daemon, [guest])[0])
    harness.note("cpu=5%%: %.1f %% of a CPU" % (100 * share))
    assert 0.01 < share < 0.07, share
    daemon.stop()
    daemon = start("PagesPerSecond=60000")

    def pass_ends():
        """When, and how many pages were read until then: it is told at the end of each pass."""
        before = daemon.guest(guest)["read_pages"]
        pages = host.wait(lambda: daemon.guest(guest)["read_pages"] - before, 100, "a pass ends",
                          interval=0.02) + before
        return time.monotonic(), pages
    (began, before), (ended, after) = pass_ends(), pass_ends()
    pages = (after - before) / (ended - began)
    harness.note("PagesPerSecond=60000: %.0f pages a second" % pages)
    assert 10000 < pages < 72000, pages
    daemon.stop()


harness.main()
