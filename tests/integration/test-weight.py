#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests' weights: who gets how much of a CPU budget that is not enough for all."""
import os
import subprocess

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


harness.main()
