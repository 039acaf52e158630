#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""quickstart demo, on a tree that is built: it ends well or says why not, and leaves nothing."""
import contextlib
import os
import shutil
import subprocess
import tempfile
import time

import ksm
import tap

DEMO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "demo.py")
PROMISED = 120  # seconds, on a machine that does nothing else


class Place(contextlib.ExitStack):
    """A /var/tmp of the demo's own, in which all that it leaves behind would be."""

    def __enter__(self):
        super().__enter__()
        if os.geteuid():
            raise tap.Skip("needs root")
        if not ksm.available() or not shutil.which("qemu-system-x86_64"):
            raise tap.Skip("needs KSM and QEMU")
        if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
            raise tap.Skip("no mount namespace can be made here")
        # Ours from here on. The demo, too, takes a lock, which must then be another one.
        self.enter_context(ksm.Ksm())
        self.directory, self.locks = (tempfile.mkdtemp(prefix="memshared-demo-") for _ in range(2))
        for directory in (self.directory, self.locks):
            self.callback(shutil.rmtree, directory, ignore_errors=True)
        return self

    def run(self, **environment):
        """The demo when it has ended: its status, how long it took, what it said."""
        before = settings()
        script = 'mount --bind "$0" /var/tmp && exec python3 "$1"'
        begin = time.monotonic()
        process = subprocess.Popen(["unshare", "-m", "sh", "-c", script, self.directory, DEMO],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, start_new_session=True,
                                   env=dict(os.environ, MEMSHARED_TEST_LOCKS=self.locks,
                                            **environment))
        self.callback(process.kill)
        said = process.communicate()[0]
        took = time.monotonic() - begin
        assert not in_session(process.pid), in_session(process.pid)
        assert not os.listdir(self.directory), os.listdir(self.directory)
        assert os.listdir(self.locks) == [os.path.basename(ksm.LOCK)], said
        assert settings() == before, (before, settings())
        return process.returncode, took, said


def settings():
    return {name: ksm.read(name) for name in ksm.SETTINGS if os.path.exists(ksm.DIRECTORY + name)}


def in_session(sid):
    """Processes that the demo started, directly or not, and that live."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open("/proc/%s/stat" % pid, encoding="utf-8",
                                                errors="replace") as file:
            line = file.read()
            fields = line.rpartition(")")[2].split()
            if int(fields[3]) == sid and fields[0] not in "ZX":
                found.append(line[:60])
    return found


@tap.test("the demo merges, shows it, and leaves nothing", limit=600)
def merges(place):
    status, took, said = place.run()
    tap.note("%.0f s of %d" % (took, PROMISED))
    assert status == 0, said
    for shown in ("Sharing would save:", "Before and after", "all guests, Pss", "alive and answer"):
        assert shown in said, said
    if took > PROMISED:
        tap.note("slower than promised: this machine is slow, or busy")


@tap.test("a demo in which too little merged says so and fails", limit=600)
def fails(place):
    status, _, said = place.run(MEMSHARED_DEMO_MERGE_SECONDS="0")
    assert status == 1, (status, said)
    last = said.splitlines()[-1]
    assert last.startswith("quickstart demo: only ") and "that the estimate promised" in last, said


tap.main(Place)
