#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What is refused, and how: one line with its cause, an exit status, and nothing left behind."""
import contextlib
import mmap
import os
import shutil
import signal
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
            assert done.returncode == 1, (done.returncode, done.stderr)
            assert done.stderr.count("\n") == 1 and not done.stdout, done.stderr
            for fragment in says:
                assert fragment in done.stderr, (fragment, done.stderr)
            left = set(os.listdir(where)) - {"memshared.conf", "state"}
            assert not left, left


def warned(daemon, fragment):
    """Does status say it, as a warning?"""
    return any(fragment in w for w in daemon.call("Status")["warnings"])


@harness.test("huge pages stay whole with thp=keep, and are split only where it pays", limit=200)
def huge_pages(host):
    host.one.pause()
    try:
        huge = {}
        for thp in ("keep", "split:512", "split:1"):
            before = host.one.anon_huge()
            daemon = merging.start(host, policy="thp=" + thp)
            daemon.call("Enroll", pid=host.one.pid)
            if thp == "keep":  # maybe there is nothing to merge at all then
                host.wait(lambda d=daemon: merging.guest_status(d, host.one)["passes"] >= 5, 60,
                          "five passes")
                host.wait(lambda: merging.settings()["run"] == 0, 60, "ksmd rests")
            else:
                merging.settled(host, daemon, 0)
            huge[thp] = host.one.anon_huge() - before
            status = merging.guest_status(daemon, host.one)
            harness.note("thp=%s: %d MiB of huge pages before, change %d MiB, sharing %d pages" % (
                thp, before // MIB, huge[thp] // MIB, status["sharing_pages"]))
            daemon.call("Unenroll", pid=host.one.pid)
        if before == 0:
            raise harness.Skip("guests have no huge pages here")
        assert huge["keep"] >= 0, huge
        assert huge["split:1"] < 0, huge
    finally:
        host.one.resume()
    host.untouched()


@harness.test("a daemon that cannot work says why in one line, and leaves no file", limit=100)
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


@harness.test("without root the daemon does not start, and says so", limit=30)
def not_root(host):
    # The build may be where nobody else may look.
    copy = os.path.join(host.directory, "memshared")
    shutil.copy(os.path.join(harness.BUILD, "memshared"), copy)
    done = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", copy], check=False,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          cwd="/")
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done
    assert "root" in done.stderr, done


@harness.test("the socket of a daemon that runs is refused to another, and goes on working",
              limit=30)
def socket_in_use(host):
    daemon = merging.start(host)
    host.does_not_start(arguments=("--socket", daemon.socket), says=["another", daemon.socket])
    assert daemon.call("Status")["totals"]["guests"] == 0
    assert daemon.stop() == 0
    assert not os.path.exists(daemon.socket)


@harness.test("what is no guest is refused with what it is", limit=60)
def no_guest(host):
    daemon = merging.start(host)
    with open("/proc/sys/kernel/pid_max", encoding="ascii") as file:
        nobody = int(file.read()) - 1
    for command in ("enroll", "estimate"):
        host.fails(daemon, command, nobody, says=[str(nobody)])
        host.fails(daemon, command, os.getpid(), says=[str(os.getpid())])
        host.fails(daemon, command, 2, says=["2"])  # a kernel thread
    host.fails(daemon, "unenroll", host.one.pid, says=["enrolled"])
    host.fails(daemon, "unenroll", nobody, says=[str(nobody)])
    assert merging.guest_status(daemon, host.one)["state"] == "ready"
    host.untouched()


@harness.test("policy, host and engine refuse a guest with the reason", limit=60)
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


@harness.test("a guest that is stopped or traced is refused, and let in when it no longer is",
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
    assert merging.totals(daemon)["sharing_pages"] == 0
    assert merging.guest_status(daemon, host.one)["state"] == "enrolled"


def set_free(host, daemon, fragment):
    """Nothing is in the way any more: the guest is merged with no more ado."""
    merging.merged(host, daemon, 500)
    assert not warned(daemon, fragment)
    daemon.call("Unenroll", pid=host.one.pid)
    host.untouched()


@harness.test("a KSM advisor is not fought with: merging waits until it is off", limit=100)
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


@harness.test("ksmtuned is not fought with: merging waits until it is gone", limit=100)
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


@harness.test("mergeable memory of others keeps ksmd off, unless AllowForeign says otherwise",
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
        held_back(host, daemon, "process %d outside" % os.getpid())
    merging.alone(host, [host.one])
    set_free(host, daemon, "outside")


harness.tap.main(Context, shared=True)
