#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU stands still (SIGSTOP) while its agent has pages of the guest in its hands.

The daemon waits a second here for what it waits half a minute for otherwise.
$MEMSHARED_TEST_STALLS: how often each case is tried (default 1).
"""
import contextlib
import os
import random
import signal
import time

import harness
import remapping
import tap

STALLS = int(os.environ.get("MEMSHARED_TEST_STALLS", "1"))  # of each kind


class Context(harness.Host):
    def prepare(self):
        self.pair = remapping.boot(self, ["test-0", "test-1"])


def start(host):
    daemon = remapping.start(host, fault="agent-impatient:EIO")
    remapping.enrolled(host, daemon, host.pair)
    remapping.merged(host, daemon, 500)
    return daemon


def is_late(daemon, guest):
    return "its agent does not go on" in daemon.guest(guest).get("reason", "")


@contextlib.contextmanager
def stalled(host, daemon):
    """Its first guest stands still in the middle of a batch."""
    guest = host.pair[0]
    for _ in range(100):
        for g in host.pair:
            g.serial.send("rewrite 20 runs")
        time.sleep(random.uniform(0.2, 1.2))
        os.kill(guest.pid, signal.SIGSTOP)
        try:
            ended = time.monotonic() + 2.5
            while time.monotonic() < ended and not is_late(daemon, guest):
                time.sleep(0.1)
            if is_late(daemon, guest):
                yield guest
                return
        finally:
            os.kill(guest.pid, signal.SIGCONT)
    raise AssertionError("no batch was ever late")


def goes_on(host, daemon):
    remapping.check(host.pair)
    host.wait(lambda: not is_late(daemon, host.pair[0]), 30, "its agent goes on")
    remapping.merged(host, daemon, 500)
    remapping.check(host.pair)


def several(host, act):
    daemon = start(host)
    for _ in range(STALLS):
        with stalled(host, daemon) as guest:
            daemon = act(host, daemon, guest) or daemon
        if not daemon.alive():
            daemon = start(host)
        else:
            remapping.enrolled(host, daemon, host.pair)
        goes_on(host, daemon)
    remapping.leave(daemon, host.pair)


@tap.test("while it stands still nothing is done for it, and afterwards it merges on", limit=300)
def waits(host):
    def act(_host, daemon, guest):
        passes = daemon.guest(guest)["passes"]
        time.sleep(3)
        assert daemon.guest(guest)["passes"] == passes
    several(host, act)


@tap.test("a guest that stands still leaves with the reason, and nothing of it is touched", limit=300)
def leaves(host):
    def act(_host, daemon, guest):
        try:
            daemon.call("Unenroll", pid=guest.pid)
        except harness.CallError as error:
            assert "QEMU is stopped" in str(error), error
        else:
            raise AssertionError("it left, as if nothing were")
        time.sleep(3)  # the other one is tidied meanwhile
    several(host, act)


@tap.test("QEMU is not given its userfaultfd while it stands still", limit=300)
def yields(host):
    def act(_host, daemon, guest):
        try:
            daemon.call("Yield", pid=guest.pid, seconds=1)
        except harness.CallError as error:
            assert "QEMU is stopped" in str(error), error
        else:
            raise AssertionError("it was given")
    several(host, act)


@tap.test("the daemon ends, or is killed, while it stands still", limit=300)
def daemon_ends(host):
    def act(_host, daemon, _guest):
        if random.random() < 0.5:
            daemon.kill()
        else:
            daemon.stop()
    several(host, act)


tap.main(Context, shared=True)
