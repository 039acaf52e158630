#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The harness itself: it must tell failures, and leave the machine as it found it."""
import os
import select
import shutil
import signal
import subprocess
import sys

import harness
import ksm
import tap

HERE = os.path.dirname(os.path.abspath(__file__))

# A test that changes KSM, boots a guest, says so, and then waits for its end.
VICTIM = """
import sys, signal
sys.path.insert(0, %r)
import harness
@harness.test("victim")
def victim(host):
    host.ksm().set(run=1, pages_to_scan=777, sleep_millisecs=99)
    print("pid %%d" %% host.guest("victim", kind="plain", memory_mib=96).pid, flush=True)
    print("directory", host.directory, flush=True)
    signal.pause()
harness.main()
""" % HERE


def timed(host, script, environment=None):
    """What tap-timed makes of a shell script: its output and its exit status."""
    path = os.path.join(host.directory, "script")
    with open(path, "w", encoding="ascii") as file:
        file.write("#!/bin/sh\n" + script)
    os.chmod(path, 0o755)
    done = subprocess.run([os.path.join(harness.SOURCE, "tests/tap-timed"), path],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False,
                          env={**os.environ, **(environment or {})}, timeout=60)
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("# took "), lines
    return lines[:-1], done.returncode


@harness.test("tap-timed passes results on and hides no failure")
def tap_timed(host):
    lines, status = timed(host, "echo 1..2; echo ok 1 - a; echo no such thing here\n"
                                "echo 'ok 2 # SKIP b'\n")
    assert lines[-1] == "ok 2 - b # SKIP no such thing here" and status == 0, lines
    lines, status = timed(host, "echo 1..2; echo ok 1 - a; echo not ok 2 - b; exit 1")
    assert lines[-1] == "not ok 2 - b" and status == 0, "counted twice"
    assert timed(host, "echo 1..1; echo ok 1 - a; exit 1")[1] == 1, "a sanitizer's finding"
    assert timed(host, "echo 1..1; echo ok 1 - a; kill -SEGV $$")[1] == 139, "a crash"
    assert timed(host, "echo 1..2; echo not ok 1 - a; exit 1")[1] == 1, "a test left early"
    assert timed(host, "echo not ok 1 - a; exit 1")[1] == 1, "no plan"


@harness.test("tap-timed ends what takes too long")
def too_long(host):
    lines, status = timed(host, "echo 1..1; exec sleep 1000", {"MEMSHARED_TEST_LIMIT": "1"})
    assert status == 124 and lines[-1].startswith("Bail out!"), lines


def settings():
    with ksm.Ksm():
        return {name: ksm.read(name) for name in ksm.SETTINGS if name != "advisor_mode"
                and os.path.exists(ksm.DIRECTORY + name)}


def victim_end(host, signum):
    """Ends a test at work by a signal. Its guest must end; returns its directory."""
    path = os.path.join(host.directory, "victim.py")
    with open(path, "w", encoding="utf-8") as file:
        file.write(VICTIM)
    with subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True) as victim:
        words = {}
        while len(words) < 2:
            line = victim.stdout.readline()
            assert line, "the victim ended too early"
            key, _, value = line.strip().partition(" ")
            if key in ("pid", "directory"):
                words[key] = value
        guest = os.pidfd_open(int(words["pid"]))
        victim.send_signal(signum)
        victim.communicate(timeout=60)
    try:
        assert select.select([guest], [], [], 10 * tap.SLOW)[0], "the guest lives on"
    finally:
        os.close(guest)
    return words["directory"]


@harness.test("a test ended by SIGTERM leaves no guest, no file and no setting behind")
def terminated(host):
    if not ksm.available():
        raise harness.Skip("no KSM in this kernel")
    before = settings()
    directory = victim_end(host, signal.SIGTERM)
    assert not os.path.exists(directory), directory
    assert not os.path.exists(ksm.SAVED)
    assert settings() == before


@harness.test("a test that was killed leaves no guest, and the next one restores KSM")
def killed(host):
    if not ksm.available():
        raise harness.Skip("no KSM in this kernel")
    before = settings()
    directory = victim_end(host, signal.SIGKILL)
    host.callback(shutil.rmtree, directory)
    with ksm.Ksm():
        pass
    assert settings() == before


harness.main()
