# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of enrolment by libvirt have in common: a libvirt, domains, and the daemon.

    import libvirt, tap
    libvirt.enter()
    import enrolling

    @tap.test("...")
    def metadata(context):
        with context.domain("one") as uuid, context.daemon() as daemon: ...

    tap.main(enrolling.Context, shared=True)
"""
import contextlib
import itertools
import os
import signal
import time

import guest as guest_module
import harness
import libvirt
import tap

SECONDS = 2  # within which an operator's change must be in force

# Pages this old do not exist here: nothing is merged, and the host's KSM is left alone.
CONFIG = """\
[Daemon]
StateDirectory=%(state)s
PassInterval=1s
Pressure=always

[Ksm]
Domain=tenant-a

[Policy "all"]
min-age=%(age)s
thp=split:1
"""


class Context(contextlib.ExitStack):
    """One libvirt for all tests of a file; each test has its own domains and daemon."""

    _number = itertools.count()

    def __enter__(self):
        super().__enter__()
        if os.geteuid():
            raise tap.Skip("needs root")
        self.libvirt = self.enter_context(self.connect())
        return self

    @staticmethod
    def connect():
        """The libvirt of this file's tests, a context."""
        return libvirt.Libvirt()

    @contextlib.contextmanager
    def domain(self, name, start=("start",), **options):
        """A running domain; its UUID. start: words for virsh, or () to leave it defined."""
        uuid = self.libvirt.define(name, **options)
        try:
            if start:
                self.libvirt.virsh(*start, name)
            yield uuid
        finally:
            self.remove(name)

    def remove(self, name):
        self.libvirt.virsh("destroy", name, check=False)
        self.libvirt.virsh("undefine", name, "--managed-save", "--snapshots-metadata", check=False)

    @contextlib.contextmanager
    def verifying(self, name, mib=32, devices="", **options):
        """A running domain that checks its own memory; its serial line, once it is ready."""
        lv = self.libvirt
        words = ("console=ttyS0 panic=-1 quiet no_timer_check memshared.seed=7 "
                 "memshared.mib=%d memshared.mix=%s memshared.run=16 memshared.pause=0" % (
                     mib, guest_module.DEFAULT_MIX))
        boot = "<kernel>%s</kernel><initrd>%s</initrd><cmdline>%s</cmdline>" % (
            self._readable("kernel"), self._readable("verify"), words)
        serial = "<serial type='unix'><source mode='bind' path='/run/libvirt/serial/%s'/></serial>"
        with self.domain(name, boot=boot, devices=devices + serial % name, mib=96 + mib, **options):
            line = guest_module.Serial(lv.serial(name), name)
            try:
                line.wait(r"^ready", 180)
                yield line
            finally:
                line.close()

    def _readable(self, what):
        """A file for guests where QEMU's user finds it, on each host."""
        path = os.path.join(self.libvirt.directory, what)
        if not os.path.exists(path):
            with open(guest_module.build("kernel" if what == "kernel" else what), "rb") as source, \
                    open(path, "wb") as copy:
                copy.write(source.read())
            os.chmod(path, 0o644)
        return path

    @contextlib.contextmanager
    def daemon(self, more="", age="1h", on=None):
        """memshared; on: the host (a Libvirt), by default the first."""
        host = on or self.libvirt
        directory = os.path.join(host.directory, "daemon%d" % next(self._number))
        os.mkdir(directory)
        d = Daemon(directory, CONFIG % {"state": directory + "/state", "age": age} + more,
                   prefix=host.prefix)
        try:
            yield d
        except BaseException:
            tap.note(d.said()[-6000:])
            with contextlib.suppress(Exception):
                d.close()
            raise
        # A sanitizer's complaint is a status other than 0.
        status = d.stop()
        d.close()
        assert status in (0, -signal.SIGKILL), d.said()[-6000:]


def check(line):
    """Every page of a verifying guest, by its serial line."""
    done = line.command("check", r"^checked pages (\d+) errors (\d+)", 180)
    assert done[2] == "0" and not line.wrong, (line.name, done[0], line.wrong[:3])


class Watch:
    """A harness.Client that knows guests by name, and waits for what becomes of them."""

    source = None  # "libvirt": guests that it does not vouch for are not seen

    def guest(self, name):
        return next((g for g in self.call("Guests")["guests"] if g.get("name") == name and
                     self.source in (None, g["source"])), None)

    def wait(self, name, what, timeout=SECONDS, **wanted):
        """Until the guest has all these members; a function is asked, None means absent."""
        deadline = time.monotonic() + timeout * tap.SLOW
        while True:
            g = self.guest(name) or {"state": "none"}
            if all(v(g.get(k)) if callable(v) else g.get(k) == v for k, v in wanted.items()):
                return g
            if time.monotonic() > deadline:
                raise AssertionError("%s, not within %s s: %s; it is %s" % (
                    what, timeout, wanted, {k: v for k, v in g.items() if k != "blocks"}))
            time.sleep(0.02)

    def enrolled(self, name, domain="tenant-a", timeout=SECONDS):
        return self.wait(name, "enrolled", timeout, state="enrolled", domain=domain)

    def out(self, name, because="", timeout=SECONDS):
        return self.wait(name, "out", timeout, domain=None, state=lambda s: s in ("ready", "refused"),
                         reason=lambda r: because in (r or ""))

    def known(self, name, timeout=10):
        """Until libvirt has vouched for it."""
        return self.wait(name, "known", timeout, source="libvirt")

    def policy(self, name):
        """field: (value, source)"""
        reply = self.ctl("policy", name)
        return {f["field"]: (f["value"], f["source"]) for f in reply["fields"]}


class Daemon(Watch, harness.Daemon):
    """A memshared of our own."""

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()


def traces(pid):
    """What of ours is in the process."""
    maps = {m["path"] for m in Process(pid).smaps()
            if "memfd:memshared" in m["path"] or "memshared-agent" in m["path"]}
    return maps | {name for name in threads(pid) if "memshared" in name}


class Process:
    """What audit() wants of a guest."""

    smaps = guest_module.Guest.smaps
    mergeable = guest_module.Guest.mergeable

    def __init__(self, pid):
        self.pid = pid


def threads(pid):
    names = []
    for task in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/comm" % (pid, task), encoding="ascii", errors="replace") as file:
            names.append(file.read().strip())
    return sorted(names)
