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
import ksm
import tap

CONFIG = """\
[Daemon]
StateDirectory=%s
CpuBudget=100%%
PassInterval=1s
Pressure=always

[Ksm]
Domain=%s
AllowForeign=yes
PagesToScan=10000

[Policy "all"]
match-name=moving-*
%s
engine=%s
min-age=1s
thp=split:1
"""
CAPABILITIES = ("postcopy-ram", "background-snapshot")


def start(host, policy="enabled=yes\ndomain=test", engine="remap"):
    return host.daemon(CONFIG % (host.directory + "/state", "test" if engine == "ksm" else "", policy,
                                 engine))


def wait_for(host, daemon, guest, timeout=60, because="", **wanted):
    def is_so():
        s = daemon.guest(guest)
        return all(s.get(k) == v for k, v in wanted.items()) and because in (s.get("reason") or "")
    try:
        host.wait(is_so, timeout, "%s: %s %s" % (guest.name, wanted, because))
    except AssertionError:
        tap.note(daemon.guest(guest))
        raise


def shares(host, daemon, guest):
    host.wait(lambda: daemon.guest(guest).get("sharing_pages", 0) > 500, 120,
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
    one = host.guest("moving-one", mib=32).ready()
    daemon = start(host)
    wait_for(host, daemon, one, state="enrolled")
    shares(host, daemon, one)
    two, where = arriving(host, "moving-two", True)
    two.qmp.call("migrate-incoming", uri=where)
    wait_for(host, daemon, two, because="userfaultfd", state="ready")
    speed(one, 4)
    one.qmp.call("migrate", uri=where)
    host.wait(lambda: migration(one) == "active", 60, "memory is sent")
    assert daemon.guest(one)["state"] == "enrolled"
    assert daemon.guest(two)["state"] == "ready"
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
    for name, monitor in (("moving-two", True), ("moving-three", False)):
        one = host.guest("moving-one-" + name, mib=32).ready()
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
        assert daemon.guest(two)["state"] == "ready"
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
def saving(host, guest, name, held=None):
    """The guest's state goes to a file by a migration, which has ended afterwards; the file's path.
    held: an event, until which nothing is taken. A QEMU whose snapshot is held up may not answer its
    monitor: its main loop waits as well as soon as it writes to the guest's memory."""
    file, path = (os.path.join(host.directory, name + end) for end in (".state", ".save"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, open(file, "wb") as out:
        listener.bind(path)
        listener.listen(1)

        def swallow():
            with contextlib.suppress(OSError), listener.accept()[0] as stream:
                if held:
                    held.wait(120 * tap.SLOW)
                while data := stream.recv(1 << 20):
                    out.write(data)
        thread = threading.Thread(target=swallow, daemon=True)
        thread.start()
        guest.qmp.call("migrate", uri="unix:" + path)
        yield file
        host.wait(lambda: migration(guest) in ("completed", "failed"), 120, "the state is saved")
        assert migration(guest) == "completed", guest.qmp.call("query-migrate")
        thread.join(60 * tap.SLOW)


def save(host, guest, name):
    with saving(host, guest, name) as file:
        return file


def load(host, file, name):
    """A guest that goes on from there."""
    guest, where = arriving(host, name, False)
    guest.qmp.call("migrate-incoming", uri=where)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream, open(file, "rb") as data:
        stream.connect(where.partition(":")[2])
        stream.sendfile(data)
    host.wait(lambda: guest.qmp.call("query-status")["status"] == "running", 120, "it goes on")
    return guest


def is_tracked(daemon, guest):
    return daemon.guest(guest).get("tracker") == "wp"


def background_snapshot(host, engine):
    ask = "unix:%s/moving-one/ask.sock,server=on,wait=off" % host.directory
    one = host.guest("moving-one", mib=32, arguments=["-qmp", ask]).ready()
    two = host.guest("moving-two", mib=32).ready()
    daemon = start(host, engine=engine)
    for g in (one, two):
        wait_for(host, daemon, g, state="enrolled")
        shares(host, daemon, g)
    refused = None
    try:
        switch(one, "background-snapshot")
    except RuntimeError as error:
        refused = str(error)
    tap.note("while it is tracked: %s" % refused)
    assert refused, "QEMU takes what it cannot do"
    answer = daemon.ctl("yield", "--seconds", 1, one.name)["guests"][0]
    assert answer["tracker"] == "none" and "yield" in answer["tracker_reason"], answer
    assert is_tracked(daemon, two)
    try:
        switch(one, "background-snapshot")
    except RuntimeError as error:
        raise tap.Skip("no background snapshots here: %s" % error) from error
    # The second is over, but its monitor says that the capability is on.
    wait_for(host, daemon, one, because="monitor", tracker="none", state="enrolled")
    file = save(host, one, "background")
    assert os.path.getsize(file) > 16 << 20
    assert not is_tracked(daemon, one)
    assert daemon.guest(one)["sharing_pages"] > 500, "what is shared stays so"
    switch(one)
    host.wait(lambda: is_tracked(daemon, one), 60, "it is tracked again by itself")
    assert not daemon.guest(one).get("reason"), daemon.guest(one)
    one.check()
    for g in (one, two):
        g.rewrite(50, runs=True)
    passes = daemon.guest(one)["passes"]
    host.wait(lambda: daemon.guest(one)["passes"] > passes + 3, 60, "it is read again")
    shares(host, daemon, one)
    for g in (one, two):
        g.check()
    # The snapshot is of one moment: a guest that goes on from there checks each of its bytes.
    one.kill()
    load(host, file, "moving-three").check()


@harness.test("a background snapshot is taken once memshared has yielded, and it is tracked again after",
              limit=400)
def background_snapshot_remap(host):
    background_snapshot(host, "remap")


@harness.test("the same where the kernel's KSM has merged", limit=400)
def background_snapshot_ksm(host):
    host.ksm().set(run=0)
    background_snapshot(host, "ksm")


@harness.test("where nothing of ours is registered ksmd stands still during a background snapshot", limit=400)
def background_snapshot_untracked(host):
    host.ksm().set(run=0)
    one, two = (host.guest(name, mib=32).ready() for name in ("moving-one", "moving-two"))
    daemon = start(host, "enabled=yes\ndomain=test\ntracker=rehash", engine="ksm")
    for g in (one, two):
        wait_for(host, daemon, g, state="enrolled", tracker="rehash")
        shares(host, daemon, g)
    try:
        switch(one, "background-snapshot")
    except RuntimeError as error:
        raise tap.Skip("no background snapshots here: %s" % error) from error
    held = threading.Event()
    with saving(host, one, "slow", held) as file:
        two.scramble(50)
        two.rewrite(100)
        host.wait(lambda: "userfaultfd" in (daemon.call("Status")["ksmd"].get("reason") or ""), 60,
                  "a round is refused")
        scans, passes = ksm.counters()["full_scans"], daemon.guest(two)["passes"]
        host.wait(lambda: daemon.guest(two)["passes"] > passes + 3, 60, "passes go on")
        assert ksm.counters()["full_scans"] == scans
        held.set()
    switch(one)
    for g in (one, two):
        g.check()
    host.wait(lambda: not daemon.call("Status")["ksmd"].get("reason"), 60, "rounds go on")
    one.kill()
    load(host, file, "moving-three").check()


@harness.test("yielding ends when its time is over, when told, and with the guest", limit=300)
def yielding(host):
    daemon = start(host)
    one, two = (host.guest(name, mib=32).ready() for name in ("moving-one", "moving-two"))
    for g in (one, two):
        wait_for(host, daemon, g, state="enrolled")
        shares(host, daemon, g)
    for wrong in ({"pid": one.pid, "seconds": -1}, {"pid": 1}, {"pid": one.pid, "seconds": 1 << 40}):
        try:
            daemon.call("Yield", **wrong)
            raise AssertionError("taken: %s" % wrong)
        except harness.CallError as error:
            assert error.name.endswith(("InvalidParameter", "NoSuchGuest")), error
    for word in ("-1", "soon", ""):
        done = daemon.ctl("yield", "--seconds", word, one.pid, check=False)
        assert done.returncode == 2 and "seconds" in done.stderr, done
    daemon.call("Yield", pid=one.pid, seconds=3000)
    passes = [daemon.guest(g)["passes"] for g in (one, two)]
    one.scramble(50)
    host.wait(lambda: daemon.guest(two)["passes"] > passes[1] + 3, 60, "the other goes on")
    assert daemon.guest(one)["passes"] == passes[0]
    daemon.call("Yield", pid=one.pid, seconds=0)
    host.wait(lambda: is_tracked(daemon, one), 60, "it is tracked again when told")
    one.rewrite(100)
    two.rewrite(100)
    shares(host, daemon, one)
    daemon.call("Yield", pid=one.pid, seconds=1)
    host.wait(lambda: is_tracked(daemon, one), 60, "it is tracked again by itself")
    # Leaving does not wait for the time, only for QEMU.
    daemon.call("Yield", pid=one.pid, seconds=3000)
    daemon.call("Unenroll", pid=one.pid)
    assert daemon.guest(one)["state"] == "ready"
    try:
        daemon.call("Yield", pid=one.pid)
        raise AssertionError("a guest that is not enrolled has nothing to yield")
    except harness.CallError as error:
        assert error.name.endswith("Refused"), error
    # Whoever waits hears that the guest has gone.
    daemon.call("Yield", pid=two.pid, seconds=3000)
    two.check()
    two.kill()
    host.wait(lambda: not daemon.guest(two), 60, "the guest that exited is forgotten")
    one.check()
    assert daemon.alive()


harness.main()
