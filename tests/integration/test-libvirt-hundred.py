#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains by the hundred that are started and stopped in a loop under one daemon.

MEMSHARED_TEST_DOMAINS (100) is the number of domains of libvirt's test driver, which are only
names, and MEMSHARED_TEST_GUESTS (32) that of QEMUs.
"""
import contextlib
import os
import re
import time

import libvirt
import tap

libvirt.enter()

import enrolling  # noqa: E402 (in our namespaces)
import harness  # noqa: E402

N_DOMAINS = int(os.environ.get("MEMSHARED_TEST_DOMAINS", "100"))
N_GUESTS = int(os.environ.get("MEMSHARED_TEST_GUESTS", "32"))
AT_ONCE = 4  # guests
# libvirt's own test driver, in a daemon of its own: all its clients see the same domains.
MOCK_URI = "test+unix:///default?socket=/run/libvirt/" + libvirt.SOCKET
TENANT = ("<metadata><m:policy xmlns:m='%s' enabled='yes' domain='tenant-a' engine='remap'/>"
          "</metadata>" % libvirt.POLICY)
MOCK = ("<domain type='test'><name>%s</name><memory unit='MiB'>8</memory>%s"
        "<os><type>hvm</type></os></domain>\n")
# What the daemon may grow by while all of them come and go: its allocator's keep, no more.
GROWTH_KIB = 16384


class Context(enrolling.Context):

    @contextlib.contextmanager
    def defined(self, names):
        for name in names:
            self.libvirt.define(name, inside=TENANT)
        try:
            yield
        finally:
            for name in names:
                self.remove(name)


class Size:
    """What the daemon holds, and what it may not gain."""

    def __init__(self, host, daemon):
        self._host, self._daemon = host, daemon
        self._before = self._now()

    def _now(self):
        with open("/proc/%d/status" % self._daemon.pid, encoding="ascii") as file:
            rss = next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))
        return len(os.listdir("/proc/%d/fd" % self._daemon.pid)), rss

    def check(self, what):
        # A look at /proc may be under way, and has some open.
        self._host.wait(lambda: self._now()[0] <= self._before[0], 30,
                        "no descriptors are left behind: %s, %s" % (what, self._before))
        fds, rss = self._now()
        tap.note("%s: %d descriptors, %d KiB; before, %s" % (what, fds, rss, self._before))
        assert rss - self._before[1] < GROWTH_KIB, (rss, self._before)


def answers(daemon):
    """It does so at once, whatever libvirt is doing."""
    begin = time.monotonic()
    status = daemon.call("Status")
    assert time.monotonic() - begin < 2 * tap.SLOW
    return status


@tap.test("domains of libvirt's test driver come and go by the hundred, six times", limit=400)
def mock(context):
    lv = context.libvirt
    if libvirt.MODULAR:
        raise tap.Skip("virtqemud has no test driver")
    files = []
    for i in range(N_DOMAINS):
        files.append(os.path.join(lv.directory, "mock%d.xml" % i))
        with open(files[-1], "w", encoding="ascii") as file:
            file.write(MOCK % ("mock%d" % i, TENANT))

    def all_of(command):
        done = lv.virsh("; ".join(command % i for i in range(N_DOMAINS)), uri=MOCK_URI, timeout=200)
        assert "error" not in done, done[:500]

    more = "\n[Daemon]\nLogLevel=debug\n[Libvirt]\nUri=%s\n" % MOCK_URI
    with harness.Host() as host, context.daemon(more) as daemon:
        host.wait(lambda: daemon.call("Status")["libvirt"]["available"], 20, "it is connected")
        all_of("define " + lv.directory + "/mock%d.xml")
        size = Size(host, daemon)
        for turn in range(6):
            all_of("start mock%d")
            answers(daemon)
            if turn == 2:
                all_of("desc mock%d --title --live again")
            all_of("destroy mock%d")
            answers(daemon)
            if turn == 3:
                # In the middle of it: everything is told anew, of a driver that starts afresh.
                all_of("start mock%d")
                lv.kill()
                host.wait(lambda: not answers(daemon)["libvirt"]["available"], 20, "it is noticed")
                lv.start()
                host.wait(lambda: answers(daemon)["libvirt"]["available"], 20, "it is connected")
                all_of("define " + lv.directory + "/mock%d.xml")
        size.check("six times %d domains" % N_DOMAINS)
        heard = set(re.findall(r"domain (mock\d+) has no process here", daemon.said()))
        assert len(heard) == N_DOMAINS, len(heard)
        assert answers(daemon)["totals"]["guests"] == 0
        assert daemon.alive()


@tap.test("guests are started, enrolled by their metadata and destroyed in a loop, and libvirtd is "
          "killed meanwhile", limit=600)
def guests(context):
    lv = context.libvirt
    names = ["d%02d" % i for i in range(N_GUESTS)]
    with harness.Host() as host, context.daemon() as daemon, context.defined(names):
        size = None
        for wave in range(0, N_GUESTS, AT_ONCE):
            some = names[wave:wave + AT_ONCE]
            done = lv.virsh("; ".join("start --paused " + n for n in some))
            assert "error" not in done, done
            if wave % 32 == 4 * AT_ONCE:
                lv.kill()
                lv.start()
            for name in some:
                daemon.enrolled(name, timeout=30)
            # Half end by libvirt, half by themselves.
            for name in some[::2]:
                os.kill(lv.pid(name), 9)
            lv.virsh("; ".join("destroy " + n for n in some[1::2]))
            for name in some:
                daemon.wait(name, "gone", 20, state="none")
            status = answers(daemon)
            assert not status["domains"], status["domains"]
            if wave == 0:
                size = Size(host, daemon)
        size.check("%d guests" % N_GUESTS)
        kept = os.path.join(os.path.dirname(daemon.socket), "state/guests")
        host.wait(lambda: not os.listdir(kept), 30, "their files are gone")
        assert answers(daemon)["totals"]["guests"] == 0


tap.main(Context, shared=True)
