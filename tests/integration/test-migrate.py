#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests without libvirt are migrated, snapshotted and saved by QEMU's monitor while memshared serves
them: QEMU needs userfaultfd for some of that, and there is one for each page only.
"""
import contextlib
import os
import socket
import threading

import harness
import tap

CONFIG = """\
[Daemon]
StateDirectory=%s
CpuBudget=100%%
PassInterval=1s
Pressure=always

[Policy "all"]
match-name=*
%s
engine=remap
min-age=1s
thp=split:1
"""
CAPABILITIES = ("postcopy-ram", "background-snapshot")


def start(host, policy="enabled=yes\ndomain=test"):
    return host.daemon(CONFIG % (host.directory + "/state", policy))


def status(daemon, guest):
    return next((g for g in daemon.call("Guests")["guests"] if g["pid"] == guest.pid), {})


def wait_for(host, daemon, guest, timeout=60, because="", **wanted):
    def is_so():
        s = status(daemon, guest)
        return all(s.get(k) == v for k, v in wanted.items()) and because in (s.get("reason") or "")
    try:
        host.wait(is_so, timeout, "%s: %s %s" % (guest.name, wanted, because))
    except AssertionError:
        tap.note(status(daemon, guest))
        raise


def shares(host, daemon, guest):
    host.wait(lambda: status(daemon, guest).get("sharing_pages", 0) > 500, 120,
              "guest %s shares" % guest.name)


def switch(guest, *on):
    guest.qmp.call("migrate-set-capabilities", capabilities=[
        {"capability": c, "state": c in on} for c in CAPABILITIES])


def speed(guest, mib, postcopy=None):
    guest.qmp.call("migrate-set-parameters", **{
        "max-bandwidth": mib << 20, "max-postcopy-bandwidth": (postcopy or mib) << 20})


def migration(guest):
    return guest.qmp.call("query-migrate").get("status", "none")


def arriving(host, name, monitor):
    """A QEMU that waits for a guest, and where. monitor: with one that memshared may ask."""
    path = os.path.join(host.directory, name + ".incoming")
    arguments = ["-incoming", "defer"]
    if monitor:
        arguments += ["-qmp", "unix:%s/%s/ask.sock,server=on,wait=off" % (host.directory, name)]
    return host.guest(name, mib=32, arguments=arguments), "unix:" + path


def gone(host, guest):
    """It has moved away."""
    host.wait(lambda: migration(guest) == "completed", 120, "the migration ends")
    guest.ended = True
    guest.qmp.call("quit")


@harness.test("a migrated guest is let in once all of its memory has arrived", limit=400)
def precopy(host):
    one = host.guest("one", mib=32).ready()
    daemon = start(host)
    wait_for(host, daemon, one, state="enrolled")
    shares(host, daemon, one)
    two, where = arriving(host, "two", True)
    two.qmp.call("migrate-incoming", uri=where)
    wait_for(host, daemon, two, because="QEMU needs userfaultfd", state="ready")
    speed(one, 4)
    one.qmp.call("migrate", uri=where)
    host.wait(lambda: migration(one) == "active", 60, "memory is sent")
    assert status(daemon, one)["state"] == "enrolled"
    assert status(daemon, two)["state"] == "ready"
    speed(one, 4096)
    gone(host, one)
    wait_for(host, daemon, two, 120, state="enrolled")
    wait_for(host, daemon, one, state=None)
    two.check()
    shares(host, daemon, two)
    two.check()


@harness.test("no guest is let in during postcopy, which would fail; without a monitor, not after it",
              limit=400)
def postcopy(host):
    daemon = start(host)
    for name, monitor in (("two", True), ("three", False)):
        one = host.guest("one-" + name, mib=32).ready()
        wait_for(host, daemon, one, state="enrolled")
        shares(host, daemon, one)
        two, where = arriving(host, name, monitor)
        switch(one, "postcopy-ram")
        try:
            switch(two, "postcopy-ram")
        except RuntimeError as error:
            raise tap.Skip("no postcopy here: %s" % error) from error
        two.qmp.call("migrate-incoming", uri=where)
        speed(one, 4)
        one.qmp.call("migrate", uri=where)
        host.wait(lambda one=one: migration(one) == "active", 60, "memory is sent")
        wait_for(host, daemon, two, state="ready", because="userfaultfd" if monitor else "no monitor")
        one.qmp.call("migrate-start-postcopy")
        host.wait(lambda one=one: migration(one) == "postcopy-active", 60, "it runs there")
        done = daemon.ctl("enroll", two.pid, check=False)
        assert done.returncode == 1, done.stdout
        tap.note(done.stderr.strip())
        assert status(daemon, two)["state"] == "ready"
        speed(one, 4096)
        gone(host, one)
        two.check()
        if monitor:
            wait_for(host, daemon, two, 120, state="enrolled")
            shares(host, daemon, two)
            two.check()
        else:
            wait_for(host, daemon, two, state="ready", because="remedy")
        two.kill()


@contextlib.contextmanager
def sink(host):
    """A socket that swallows a migration stream; yields its URI and a list with its length."""
    path, length = os.path.join(host.directory, "sink"), [0]
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)

        def swallow():
            stream = listener.accept()[0]
            with stream:
                while data := stream.recv(1 << 20):
                    length[0] += len(data)
        thread = threading.Thread(target=swallow, daemon=True)
        thread.start()
        yield "unix:" + path, length
        thread.join(60 * tap.SLOW)


@harness.test("QEMU refuses a background snapshot of an enrolled guest; unenrolled, it is taken",
              limit=400)
def background_snapshot(host):
    ask = "unix:%s/one/ask.sock,server=on,wait=off" % host.directory
    one = host.guest("one", mib=32, arguments=["-qmp", ask]).ready()
    daemon = start(host, "tracker=wp")
    daemon.ctl("enroll", "--domain", "test", one.pid)
    wait_for(host, daemon, one, state="enrolled")
    shares(host, daemon, one)
    refused = None
    try:
        switch(one, "background-snapshot")
    except RuntimeError as error:
        refused = str(error)
    tap.note("enrolled: %s" % refused)
    assert refused, "QEMU takes what it cannot do"
    one.check()
    daemon.ctl("unenroll", one.pid)
    wait_for(host, daemon, one, state="ready")
    try:
        switch(one, "background-snapshot")
    except RuntimeError as error:
        raise tap.Skip("no background snapshots here: %s" % error) from error
    done = daemon.ctl("enroll", one.pid, check=False)
    assert done.returncode == 1 and "background snapshot" in done.stderr, done.stderr
    with sink(host) as (where, length):
        one.qmp.call("migrate", uri=where)
        host.wait(lambda: migration(one) == "completed", 120, "the snapshot ends")
        assert length[0] > 16 << 20, length
    switch(one)
    daemon.ctl("enroll", "--domain", "test", one.pid)
    shares(host, daemon, one)
    one.check()


harness.main()
