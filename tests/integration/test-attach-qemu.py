#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Attaching to real guests: busy ones, unprivileged, under libvirt's seccomp sandbox."""
import os
import subprocess

import harness
import tap

NOBODY = 65534


def attach_loop(guest, count, *words):
    """So many times in and out, after which threads, descriptors and mappings must be what they were
    (attach-loop.c). Returns the helper's last line as a dict of numbers."""
    environment = dict(os.environ, MEMSHARED_LIBEXECDIR=harness.BUILD)
    done = subprocess.run([harness.BUILD + "/tests/integration/attach-loop", str(guest.pid),
                           str(count), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=300 * tap.SLOW, check=False, env=environment)
    tap.note(done.stdout + done.stderr)
    assert done.returncode == 0, "attach-loop: %s" % (done.stderr.strip() or done.returncode)
    return {k: int(v) for k, v in (w.split("=") for w in done.stdout.split("\n")[-2].split())}


@harness.test("200 attaches to a busy unprivileged guest in libvirt's sandbox harm nothing",
              limit=400)
def busy(host):
    guest = host.guest("busy", mib=32, uid=NOBODY).ready()
    guest.rounds(1)  # QEMU has the memory that it wants, by now
    numbers = attach_loop(guest, 200)
    tap.note("stopped %(median_usec)d us (median), %(busy)d refusals" % numbers)
    assert guest.alive()
    guest.rounds(2)
    guest.check()
    # Its main loop and monitor work, too.
    guest.qmp.call("query-status")


@harness.test("attaching goes on while the guest boots, is paused and is reset", limit=400)
def lives(host):
    guest = host.guest("boots", mib=16)
    attach_loop(guest, 20, "grows")
    guest.ready()
    guest.rounds(1)
    guest.qmp.call("stop")
    attach_loop(guest, 5)
    guest.qmp.call("cont")
    attach_loop(guest, 5)
    guest.rounds(1)
    guest.check()


@harness.test("a guest without a sandbox, and one that is not this user's, are no different",
              limit=300)
def plain(host):
    guest = host.guest("plain", mib=16, sandbox=False).ready()
    guest.rounds(1)
    attach_loop(guest, 10)
    guest.check()


harness.main()
