#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Engine ksm when things go wrong: the daemon or a guest dies or stands still at the worst moment.

Two guests that check their own memory live through all of it, one daemon after the other.
"""
import os
import signal
import threading

import harness
import merging
import tap


class Context(harness.Host):
    """The two guests, and how they and the host's KSM were before any daemon came."""

    def prepare(self):
        self.ksm().set(run=0)
        self.pair = [self.guest(name, mib=32, uid=uid, arguments=["-action", "reboot=reset"])
                     for name, uid in (("one", 65534), ("two", None))]
        for g in self.pair:
            g.ready()
        self.pictures = [merging.Picture(g) for g in self.pair]
        self.settings = merging.settings()

    def check(self):
        """No guest ever saw a wrong byte."""
        for g in self.pair:
            g.check()

    def leave(self, daemon):
        """Unenrolls both: they must be as QEMU had them."""
        for g, before in zip(self.pair, self.pictures):
            daemon.call("Unenroll", pid=g.pid)
            before.compare(merging.Picture(g))
        assert not merging.kept(self), merging.kept(self)

    def end(self, daemon):
        """SIGTERM; the host's KSM must be as it was."""
        assert daemon.stop() == 0
        assert merging.settings() == self.settings, merging.settings()
        assert not os.path.exists(merging.state_directory(self) + "/ksm")


def enroll_until_death(daemon, guest):
    try:
        daemon.call("Enroll", pid=guest.pid)
    except (RuntimeError, OSError):
        return
    raise AssertionError("the daemon survived its fault point")


@tap.test("daemon killed while a guest enters: the next one takes it in, and lets it go clean")
def killed_entering(host):
    one = host.pair[0]
    for point in ("enroll-attached", "enroll-noted", "enroll-unmarked"):
        daemon = merging.start(host, fault=point + ":kill")
        enroll_until_death(daemon, one)
        merging.wait_dead(host, daemon)
        assert merging.has_agent(one)
        assert len(merging.kept(host)) == (point != "enroll-attached"), merging.kept(host)
        daemon = merging.start(host)
        if point == "enroll-attached":  # nobody knows that it was to be enrolled
            daemon.call("Enroll", pid=one.pid)
        merging.wait_enrolled(host, daemon, [one])
        assert not one.mergeable() or point != "enroll-attached"
        daemon.call("Unenroll", pid=one.pid)
        host.pictures[0].compare(merging.Picture(one))
        assert not merging.kept(host)
        host.end(daemon)
    one.check()


@tap.test("daemon killed while it merges: settings are put back, guests merge again, unharmed")
def killed_merging(host):
    daemon = merging.start(host, fault="ksm-before-mark:kill")
    for g in host.pair:
        daemon.call("Enroll", pid=g.pid)
    for point in ("ksm-marked", "ksm-running", "ksm-stopped", None):
        merging.wait_dead(host, daemon)
        # Held still before it works, so that what it did at its start can be seen.
        daemon = merging.start(host, fault="enroll-attached:stop:1" +
                               (",%s:kill" % point if point else ""))
        merging.wait_stopped(host, daemon)
        assert merging.settings() == host.settings, merging.settings()
        assert not os.path.exists(merging.state_directory(host) + "/ksm")
        assert len(merging.kept(host)) == 2
        daemon.signal(signal.SIGCONT)
        if point == "ksm-running":
            merging.wait_dead(host, daemon)
            assert merging.settings()["run"] == 1, "it was to be killed while ksmd ran"
    merging.wait_enrolled(host, daemon, host.pair)
    merging.merged(host, daemon)
    host.check()
    host.leave(daemon)
    host.check()
    host.end(daemon)


@tap.test("daemon killed while a guest leaves: the next one can finish it")
def killed_leaving(host):
    daemon = merging.start(host, fault="enroll-left:kill")
    for g in host.pair:
        daemon.call("Enroll", pid=g.pid)
    merging.merged(host, daemon)
    try:
        daemon.call("Unenroll", pid=host.pair[0].pid)
    except (RuntimeError, OSError):
        pass
    merging.wait_dead(host, daemon)
    daemon = merging.start(host)
    merging.wait_enrolled(host, daemon, host.pair)
    host.leave(daemon)
    host.end(daemon)
    host.check()


@tap.test("SIGTERM while ksmd runs: stopped and set as before; agents wait for the next daemon")
def terminated(host):
    daemon = merging.start(host, fault="ksm-running:stop:1")
    for g in host.pair:
        daemon.call("Enroll", pid=g.pid)
    merging.wait_stopped(host, daemon)
    assert merging.settings()["run"] == 1
    daemon.signal(signal.SIGTERM)
    daemon.signal(signal.SIGCONT)
    host.end(daemon)
    assert all(map(merging.has_agent, host.pair)) and len(merging.kept(host)) == 2
    daemon = merging.start(host)
    merging.wait_enrolled(host, daemon, host.pair)
    merging.merged(host, daemon)
    host.leave(daemon)
    host.end(daemon)
    host.check()


@tap.test("a guest that is paused or reset is merged all the same")
def paused_and_reset(host):
    one, two = host.pair
    daemon = merging.start(host)
    one.qmp.call("stop")
    for g in host.pair:
        daemon.call("Enroll", pid=g.pid)
    merging.merged(host, daemon)
    one.qmp.call("cont")
    host.check()
    one.qmp.call("system_reset")
    one.ready()
    merging.merged(host, daemon)
    host.check()
    two.qmp.call("stop")
    daemon.call("Unenroll", pid=two.pid)
    picture = merging.Picture(two)
    two.qmp.call("cont")
    host.pictures[1].compare(picture)
    daemon.call("Unenroll", pid=one.pid)
    host.pictures[0].compare(merging.Picture(one))
    host.end(daemon)
    host.check()


def dies_at(host, point, victim):
    """Kills the victim while the daemon stands at this point, working for it alone."""
    daemon = merging.start(host, fault=point + ":stop:1")
    answer = []

    def enroll():
        try:
            answer.append(daemon.call("Enroll", pid=victim.pid))
        except (harness.CallError, OSError) as error:
            answer.append(error)
    thread = threading.Thread(target=enroll)
    thread.start()
    merging.wait_stopped(host, daemon)
    victim.kill()
    daemon.signal(signal.SIGCONT)
    thread.join(60 * tap.SLOW)
    assert answer, "Enroll was never answered"
    host.wait(lambda: not daemon.guest(victim), 30, "the dead guest is forgotten")
    host.wait(lambda: merging.settings()["run"] == 0, 60, "ksmd is stopped")
    status = daemon.call("Status")
    assert status["totals"]["guests"] == 0 and status["totals"]["sharing_pages"] == 0, status
    assert not merging.kept(host), merging.kept(host)
    host.end(daemon)
    return answer[0]


@tap.test("a guest that dies while it enters or is scanned leaves nothing behind")
def guest_dies_early(host):
    victims = [host.guest(name, kind="plain", memory_mib=96) for name in ("three", "four")]
    for g in victims:
        g.ready()
    error = dies_at(host, "enroll-attached", victims[0])
    assert isinstance(error, harness.CallError), error
    assert error.name == "io.memshared.NoSuchGuest" and "exited" in str(error), error
    dies_at(host, "pass-scan", victims[1])


@tap.test("a guest that dies while it is marked or merged leaves the others alone")
def guest_dies_late(host):
    one, two = host.pair
    host.check()
    dies_at(host, "ksm-before-mark", one)
    two.check()
    dies_at(host, "ksm-running", two)


harness.tap.main(Context, shared=True)
