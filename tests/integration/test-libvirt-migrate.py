#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Migration between two hosts, as far as libvirt can tell: two libvirt daemons with directories,
host names and UUIDs of their own, each with a memshared of its own. The guest checks its memory.
"""
import contextlib
import os
import re
import threading

import libvirt
import tap

libvirt.enter()

import enrolling  # noqa: E402 (in our namespaces)
import guest as guest_module  # noqa: E402
import harness  # noqa: E402

TENANT = ("<metadata><m:policy xmlns:m='%s' enabled='yes' domain='tenant-a' engine='remap'/>"
          "</metadata>" % libvirt.POLICY)
# Postcopy needs userfaultfd, which the sysctl of most hosts leaves to root's QEMU.
AS_ROOT = "<seclabel type='static' model='dac' relabel='yes'><label>+0:+0</label></seclabel>"
DAEMON = "\n[Daemon]\nCpuBudget=100%\n"
COMING = "still coming in"


class Context(enrolling.Context):
    """Two hosts; guests start on the first."""

    def __enter__(self):
        self.target = libvirt.Libvirt("target")  # from the machine's directories, as the first
        super().__enter__()
        self.enter_context(self.target)
        return self

    def remove(self, name):
        super().remove(name)
        self.target.virsh("destroy", name, check=False)
        self.target.virsh("undefine", name, "--managed-save", check=False)

    @contextlib.contextmanager
    def daemons(self):
        with self.daemon(DAEMON, age="1s") as first, \
                self.daemon(DAEMON, age="1s", on=self.target) as second:
            # Each finds the other's QEMU in /proc, too: one host as far as the kernel can tell.
            first.source = second.source = "libvirt"
            yield first, second


class Migration:
    """virsh migrate in the background."""

    def __init__(self, source, target, name, *words):
        self.source, self.name = source, name
        command = ["migrate", name, target.uri(), "--live", "--p2p", "--persistent",
                   "--migrateuri", "tcp://127.0.0.1", *words]
        self._done = None
        self._thread = threading.Thread(target=self._run, args=(command,), daemon=True)
        self._thread.start()

    def _run(self, command):
        self._done = self.source.virsh(*command, check=False, timeout=240)

    def hurry(self):
        self.source.virsh("migrate-setspeed", self.name, "4096")

    def is_under_way(self):
        """Has memory been sent?"""
        info = self.source.virsh("domjobinfo", self.name, check=False).stdout
        found = re.search(r"Memory processed: +([0-9.]+)", info)
        return found and float(found[1]) > 0

    def end(self, good=True):
        self._thread.join(240 * tap.SLOW)
        assert self._done, "virsh migrate does not end"
        assert (self._done.returncode == 0) == good, self._done.stderr
        return self._done.stderr


def stores(pid):
    """Inodes of the stores that the process maps."""
    g = enrolling.Process(pid)
    return {m["inode"] for m in g.smaps() if "memshared-store" in m["path"]}


def has_agent(pid):
    return any("memshared" in name for name in enrolling.threads(pid))


def kept(daemon):
    """The daemon's files about guests."""
    directory = os.path.join(os.path.dirname(daemon.socket), "state/guests")
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def is_left_behind(host, daemon, name):
    """Nothing of the guest is left where it was."""
    daemon.wait(name, "gone", 10, state="none")
    host.wait(lambda: not kept(daemon), 10, "its file is gone")
    status = daemon.call("Status")
    assert status["totals"]["sharing_pages"] == 0 and not status["domains"], status


@tap.test("a live migration takes along the guest and its metadata, and nothing of ours",
          limit=600)
def live(context):
    here, there = context.libvirt, context.target
    with harness.Host() as host, context.daemons() as (first, second), \
            context.verifying("one", inside=TENANT) as line:
        old = here.pid("one")
        first.enrolled("one", timeout=30)
        host.wait(lambda: first.guest("one")["sharing_pages"] > 1000, 180, "it shares")
        assert stores(old)
        move = Migration(here, there, "one", "--undefinesource", "--bandwidth", "8")
        # Not touched while it arrives.
        second.wait("one", "held", 60, state="ready", source="libvirt",
                    reason=lambda r: COMING in (r or ""))
        new = there.pid("one")
        assert not has_agent(new)
        first.enrolled("one")
        assert not line.wrong
        move.hurry()
        move.end()
        with contextlib.closing(guest_module.Serial(there.serial("one"), "one")) as arrived:
            g = second.enrolled("one", timeout=10)
            assert g["pid"] == new and g["source"] == "libvirt", g
            is_left_behind(host, first, "one")
            enrolling.check(arrived)
            host.wait(lambda: second.guest("one")["sharing_pages"] > 1000, 180, "it shares again")
            enrolling.check(arrived)
            assert "has left" not in first.said()
            # And back, where it is known by its metadata again.
            Migration(there, here, "one", "--undefinesource").end()
            with contextlib.closing(guest_module.Serial(here.serial("one"), "one")) as back:
                assert first.enrolled("one", timeout=10)["pid"] == here.pid("one")
                is_left_behind(host, second, "one")
                enrolling.check(back)


@tap.test("a migration that is given up leaves the guest enrolled, and nothing at the target",
          limit=600)
def aborted(context):
    here, there = context.libvirt, context.target
    with harness.Host() as host, context.daemons() as (first, second), \
            context.verifying("one", inside=TENANT) as line:
        old = here.pid("one")
        first.enrolled("one", timeout=30)
        for how in ("abort", "target dies"):
            move = Migration(here, there, "one", "--bandwidth", "4")
            second.wait("one", "held", 60, state="ready", reason=lambda r: COMING in (r or ""))
            host.wait(move.is_under_way, 60, "memory is sent")
            if how == "abort":
                here.virsh("domjobabort", "one")
            else:
                os.kill(there.pid("one"), 9)
            tap.note("%s: %s" % (how, move.end(good=False).strip()))
            is_left_behind(host, second, "one")
            assert first.enrolled("one")["pid"] == old
        # It is scanned and merged again.
        host.wait(lambda: first.guest("one")["sharing_pages"] > 1000, 180, "it shares")
        enrolling.check(line)
        assert "has left" not in first.said()


@tap.test("a guest that runs while its memory still comes in (postcopy) is left alone until it is there",
          limit=600)
def postcopy(context):
    here, there = context.libvirt, context.target
    with harness.Host() as host, context.daemons() as (first, second), \
            context.verifying("one", inside=TENANT + AS_ROOT) as line:
        first.enrolled("one", timeout=30)
        host.wait(lambda: first.guest("one")["sharing_pages"] > 1000, 180, "it shares")
        assert not line.wrong
        move = Migration(here, there, "one", "--undefinesource", "--postcopy", "--bandwidth", "4",
                         "--postcopy-bandwidth", "4")
        second.wait("one", "held", 60, state="ready", reason=lambda r: COMING in (r or ""))
        here.virsh("migrate-postcopy", "one")
        # It runs there now.
        host.wait(lambda: there.virsh("domstate", "one", "--reason", check=False).stdout.startswith(
            "running (post-copy)"), 60, "it runs there")
        with contextlib.closing(guest_module.Serial(there.serial("one"), "one")) as arrived:
            assert COMING in second.guest("one")["reason"] and not has_agent(there.pid("one"))
            here.virsh("migrate-setspeed", "one", "4096", "--postcopy", check=False)
            move.end()
            second.enrolled("one", timeout=10)
            is_left_behind(host, first, "one")
            host.wait(lambda: second.guest("one")["sharing_pages"] > 1000, 180, "it shares again")
            enrolling.check(arrived)


tap.main(Context, shared=True)
