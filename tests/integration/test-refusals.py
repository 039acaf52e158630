#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What is refused, and how: one line with its cause, an exit status, and nothing left behind."""
import contextlib
import functools
import mmap
import os
import shutil
import signal
import socket
import subprocess
import tempfile

import harness
import ksm
import merging
import tap

MIB = 1 << 20


class Context(harness.Host):
    """A guest, and daemons that refuse it."""

    def prepare(self):
        self.ksm().set(run=0)
        self.one = self.guest("one", mib=16, uid=65534)
        self.one.ready()
        self.before = merging.Picture(self.one)

    def let_go(self):
        """After a test that may have failed: a fresh daemon takes in what an earlier one had, and
        unenrolls it, so that the next test finds the guest as QEMU had it."""
        if merging.kept(self):
            daemon = merging.start(self)
            merging.wait_enrolled(self, daemon, [self.one])
            daemon.call("Unenroll", pid=self.one.pid)
        self.kill_daemon()

    def untouched(self):
        """The guest is as QEMU had it."""
        self.before.compare(merging.Picture(self.one))
        assert not merging.kept(self), merging.kept(self)
        self.one.check()

    def fails(self, daemon, *words, says):
        """memsharectl WORDS ends with status 1 and one line that holds all of says."""
        done = subprocess.run(
            [os.path.join(harness.BUILD, "memsharectl"), "--socket", daemon.socket,
             *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=100 * tap.SLOW)
        text = done.stdout + done.stderr
        assert done.returncode == 1 and not done.stdout, (words, done.returncode, text)
        assert done.stderr.count("\n") == 1, text
        for fragment in says:
            assert fragment in done.stderr, (fragment, text)

    def does_not_start(self, config="", says=(), prefix=(), arguments=(), environment=None):
        """memshared ends by itself with a failure and one line that holds all of says."""
        with tempfile.TemporaryDirectory(prefix="memshared-refused-", dir=self.directory) as where:
            os.chmod(where, 0o755)
            path = os.path.join(where, "memshared.conf")
            with open(path, "w", encoding="utf-8") as file:
                file.write(config or "[Daemon]\nStateDirectory=%s/state\n" % where)
            done = subprocess.run(
                [*prefix, os.path.join(harness.BUILD, "memshared"), "--config", path,
                 *(arguments or ("--socket", where + "/socket"))], stdin=subprocess.DEVNULL,
                capture_output=True, text=True, check=False, timeout=60 * tap.SLOW, cwd="/",
                env={**os.environ, **(environment or {})})
            tried = (config, arguments, environment, done.returncode, done.stdout, done.stderr)
            assert done.returncode == 1, tried
            assert done.stderr.count("\n") == 1 and not done.stdout, tried
            for fragment in says:
                assert fragment in done.stderr, (fragment, tried)
            left = set(os.listdir(where)) - {"memshared.conf", "state"}
            assert not left, left


def test(description, limit):
    """As harness.test(), but a test that fails leaves the guest to the next one as it found it."""
    def register(function):
        @functools.wraps(function)
        def clean(host):
            try:
                function(host)
            except BaseException:
                try:
                    host.let_go()
                except Exception as error:  # pylint: disable=broad-except
                    harness.note("the guest could not be let go: %s" % error)
                raise
        return harness.test(description, limit)(clean)
    return register


def warned(daemon, fragment):
    """Does status say it, as a warning?"""
    return any(fragment in w for w in daemon.call("Status")["warnings"])


@test("a daemon that cannot work says why in one line, and leaves no file", limit=100)
def start(host):
    host.does_not_start("[Daemon]\nWorkers=many\n", ["memshared.conf:2", "Workers"])
    host.does_not_start("[Daemon]\nNoSuchKey=1\n", ["memshared.conf:2", "NoSuchKey"])
    host.does_not_start("[Nothing]\na=1\n", ["memshared.conf:", "Nothing"])
    host.does_not_start("nonsense\n", ["memshared.conf:1"])
    host.does_not_start("[Daemon]\nStateDirectory=relative\n", ["memshared.conf:2"])
    host.does_not_start(arguments=("--config", "/nonexistent/conf"), says=["/nonexistent/conf"])
    host.does_not_start(arguments=("now",), says=["no arguments", "now"])
    host.does_not_start("[Daemon]\nStateDirectory=/proc/memshared\n", ["/proc/memshared"])
    host.does_not_start("[Daemon]\nStateDirectory=/etc/passwd\n", ["/etc/passwd"])
    host.does_not_start("[Daemon]\nStateDirectory=/nonexistent/state\n", ["/nonexistent/state"])
    host.does_not_start(environment={"MEMSHARED_KERNEL_DENY": "ksm,uffd-move"},
                        says=["memshared --check"])
    host.does_not_start(environment={"MEMSHARED_KERNEL_DENY": "nothing"},
                        says=["MEMSHARED_KERNEL_DENY"])
    host.does_not_start(environment={"MEMSHARED_FAULT": "x"}, says=["MEMSHARED_FAULT"])
    # A socket that is no socket, and one whose directory is not there.
    host.does_not_start(arguments=("--socket", "/etc/passwd"), says=["/etc/passwd"])
    host.does_not_start(arguments=("--socket", "/nonexistent/s"), says=["/nonexistent/s"])
    host.does_not_start(arguments=("--socket", "/" + 200 * "x"), says=["too long"])
    host.untouched()


@test("without root the daemon does not start, and says so", limit=30)
def not_root(host):
    # The build may be where nobody else may look.
    copy = os.path.join(host.directory, "memshared")
    shutil.copy(os.path.join(harness.BUILD, "memshared"), copy)
    done = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", copy], check=False,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          cwd="/")
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done
    assert "root" in done.stderr, done


@test("the socket of a daemon that runs is refused to another, and goes on working",
              limit=30)
def socket_in_use(host):
    daemon = merging.start(host)
    host.does_not_start(arguments=("--socket", daemon.socket), says=["another", daemon.socket])
    assert daemon.call("Status")["totals"]["guests"] == 0
    assert daemon.stop() == 0
    assert not os.path.exists(daemon.socket)


@test("what is no guest is refused with what it is", limit=60)
def no_guest(host):
    daemon = merging.start(host)
    with open("/proc/sys/kernel/pid_max", encoding="ascii") as file:
        nobody = int(file.read()) - 1
    for command in ("enroll", "estimate"):
        host.fails(daemon, command, nobody, says=[str(nobody)])
        host.fails(daemon, command, os.getpid(), says=[str(os.getpid())])
        host.fails(daemon, command, 2, says=["2"])  # a kernel thread
    host.fails(daemon, "unenroll", host.one.pid, says=["enrolled"])
    # All that a guest has would count as shared with itself.
    one = host.one.pid
    for arguments in ({"pids": [one, one]},
                      {"pids": [one], "groups": [{"name": "a", "pids": [one, one]}]}):
        try:
            answer = daemon.call("Estimate", **arguments)
        except harness.CallError as error:
            assert "InvalidParameter" in str(error), error
        else:
            raise AssertionError(answer)
    host.fails(daemon, "unenroll", nobody, says=[str(nobody)])
    assert daemon.guest(host.one)["state"] == "ready"
    host.untouched()


@test("policy, host and engine refuse a guest with the reason", limit=60)
def not_this_one(host):
    one = host.one.pid
    daemon = merging.start(host)
    host.fails(daemon, "enroll", "--domain", "other", one, says=["domain test", "other"])
    host.fails(daemon, "enroll", "--domain", "/x", one, says=["domain"])
    host.fails(daemon, "enroll", "--engine", "none", one, says=["engine"])
    host.untouched()
    daemon = merging.start(host, policy="inject=no")
    host.fails(daemon, "enroll", one, says=["inject=no"])
    host.untouched()
    daemon = merging.start(host, environment={"MEMSHARED_LIBEXECDIR": "/nonexistent"})
    host.fails(daemon, "enroll", one, says=["/nonexistent/memshared-attach"])
    host.untouched()
    daemon = merging.start(host, environment={"MEMSHARED_KERNEL_DENY": "ksm"})
    host.fails(daemon, "enroll", one, says=["KSM"])
    assert warned(daemon, "KSM")
    host.untouched()


@test("where the best tracker is not to be had status says which, and why", limit=60)
def tracker(host):
    daemon = merging.start(host, environment={"MEMSHARED_KERNEL_DENY": "uffd-wp-async"})
    daemon.call("Enroll", pid=host.one.pid)
    said = daemon.guest(host.one)
    assert said["tracker"] in ("softdirty", "rehash"), said
    assert "left: wp says \"" in said["tracker_reason"], said
    daemon.call("Unenroll", pid=host.one.pid)
    host.untouched()


@test("a guest that is stopped or traced is refused, and let in when it no longer is",
              limit=60)
def stopped(host):
    daemon = merging.start(host)
    os.kill(host.one.pid, signal.SIGSTOP)
    try:
        host.fails(daemon, "enroll", host.one.pid, says=["stopped"])
    finally:
        os.kill(host.one.pid, signal.SIGCONT)
    host.untouched()
    daemon.call("Enroll", pid=host.one.pid)
    daemon.call("Unenroll", pid=host.one.pid)
    host.untouched()


def held_back(host, daemon, fragment):
    """The guest is enrolled, ksmd does not start, and status says why."""
    daemon.call("Enroll", pid=host.one.pid)
    host.wait(lambda: warned(daemon, fragment), 30, "status says " + fragment)
    assert merging.settings()["run"] == 0
    assert daemon.totals()["sharing_pages"] == 0
    assert daemon.guest(host.one)["state"] == "enrolled"


def set_free(host, daemon, fragment):
    """Nothing is in the way any more: the guest is merged with no more ado."""
    merging.merged(host, daemon, 500)
    assert not warned(daemon, fragment)
    daemon.call("Unenroll", pid=host.one.pid)
    host.untouched()


@test("a KSM advisor is not fought with: merging waits until it is off", limit=100)
def advisor(host):
    if not os.path.exists(ksm.DIRECTORY + "advisor_mode"):
        raise harness.Skip("this kernel has no KSM advisor")
    daemon = merging.start(host)
    ksm.write("advisor_mode", "scan-time")
    try:
        held_back(host, daemon, "echo none > /sys/kernel/mm/ksm/advisor_mode")
    finally:
        ksm.write("advisor_mode", "none")
    set_free(host, daemon, "advisor")


@contextlib.contextmanager
def program(host, name, code):
    """A process of this name that says "ready" and then waits for its end."""
    path = os.path.join(host.directory, name)
    with open(path, "w", encoding="ascii") as file:
        file.write(code)
    os.chmod(path, 0o755)
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process
        finally:
            process.kill()


@test("ksmtuned is not fought with: merging waits until it is gone", limit=100)
def ksmtuned(host):
    daemon = merging.start(host)
    with program(host, "ksmtuned", "#!/bin/sh\necho ready\nread line\n"):
        held_back(host, daemon, "systemctl disable --now ksmtuned")
    set_free(host, daemon, "ksmtuned")


def marked_memory():
    """Memory of this process that is mergeable, with pages of equal content."""
    memory = mmap.mmap(-1, 4 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_MERGEABLE)
    memory.write(b"\xa5" * (4 * MIB))
    return memory


@test("mergeable memory of others keeps ksmd off, unless AllowForeign says otherwise",
              limit=200)
def foreign(host):
    with marked_memory():
        daemon = merging.start(host, foreign="no")
        held_back(host, daemon, "AllowForeign=yes")
        assert warned(daemon, "outside the domain has mergeable memory")
        daemon.call("Unenroll", pid=host.one.pid)
        daemon = merging.start(host, foreign="yes")
        daemon.call("Enroll", pid=host.one.pid)
        set_free(host, daemon, "mergeable")
    # Once the memory is gone all is well again, by itself.
    merging.alone(host, [host.one])
    with marked_memory():
        daemon = merging.start(host, foreign="no")
        held_back(host, daemon, "process %d (" % os.getpid())
    merging.alone(host, [host.one])
    set_free(host, daemon, "outside")


@test("mergeable memory of others that comes while ksmd runs stops it", limit=200)
def foreign_comes(host):
    def cut_short():
        with open(daemon.log, encoding="utf-8") as file:
            return "cut short" in file.read()

    merging.alone(host, [host.one])
    # ksmd comes by every ten seconds, and needs three full scans: the round takes half a minute.
    daemon = merging.start(host, foreign="no", daemon="LogLevel=debug", ksm="SleepMillisecs=10000")
    daemon.call("Enroll", pid=host.one.pid)
    host.wait(lambda: merging.settings()["run"] == 1, 100, "ksmd runs")
    assert not warned(daemon, "process")
    with marked_memory():
        host.wait(lambda: warned(daemon, "process %d (" % os.getpid()), 100, "status says who came")
        host.wait(lambda: merging.settings()["run"] == 0, 100, "ksmd is stopped")
        host.wait(cut_short, 30, "the round is over, before its time")
    merging.alone(host, [host.one])
    host.wait(lambda: not warned(daemon, "process"), 100, "the next round begins")
    set_free(host, daemon, "process")


@test("video memory is listed with the reason and left alone, where QEMU's monitor can be asked",
      limit=300)
def video(host):
    path = os.path.join(host.directory, "video.qmp")
    guest = host.guest("video", mib=16, arguments=[
        "-vga", "qxl", "-qmp", "unix:%s,server=on,wait=off" % path])
    guest.ready()
    before = merging.Picture(guest)

    def enrolled(daemon, ram, refused):
        merging.wait_enrolled(host, daemon, [guest])
        blocks = daemon.guest(guest)["blocks"]
        # A QEMU that is busy answers too late now and then.
        for _ in range(20 if refused else 0):
            if any(b["confirmed"] for b in blocks):
                break
            daemon.call("Unenroll", pid=guest.pid)
            daemon.call("Enroll", pid=guest.pid)
            blocks = daemon.guest(guest)["blocks"]
        served = [b for b in blocks if "refusal" not in b]
        left = [b["refusal"] for b in blocks if "refusal" in b]
        assert len(served) == ram and len(left) == refused, blocks
        assert all("video memory" in r for r in left), blocks
        assert not refused or served[0]["confirmed"] and served[0]["name"] == "pc.ram", blocks
        merging.merged(host, daemon, 500)

    daemon = merging.start(host)
    daemon.call("Enroll", pid=guest.pid)
    enrolled(daemon, 1, 2)
    daemon.call("Unenroll", pid=guest.pid)
    before.compare(merging.Picture(guest))
    # Nobody can say it while somebody else holds the monitor; the next daemon can ask again.
    daemon = merging.start(host)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as monitor:
        monitor.connect(path)
        assert b"QMP" in monitor.recv(4096)
        daemon.call("Enroll", pid=guest.pid)
        enrolled(daemon, 3, 0)
    daemon.kill()
    daemon = merging.start(host)
    enrolled(daemon, 1, 2)
    daemon.call("Unenroll", pid=guest.pid)
    before.compare(merging.Picture(guest))
    guest.check()
    guest.close()


harness.tap.main(Context, shared=True)
