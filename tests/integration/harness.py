# SPDX-License-Identifier: GPL-2.0-or-later
"""What an integration test works with: guests, KSM, the daemon, and the auditor.

    import harness

    @harness.test("two guests share, and see nothing of it")
    def share(host):
        ksm = host.ksm()                          # lock held and settings restored at the end
        guests = [host.guest("a", mib=32), host.guest("b", mib=32, uid=65534)]
        for g in guests: g.ready()
        daemon = host.daemon("[Daemon]\n...")     # memshared with its own config and socket
        daemon.ctl("enroll", guests[0].pid)       # memsharectl --json
        host.wait(lambda: host.audit(guests)["sharing"] > 1000, 60, "pages are shared")
        guests[0].check()

    harness.main()

Host removes all it made, newest first, when the test ends in whatever way, SIGTERM included.
Nothing here sleeps for a fixed time: what has an event is waited for by it, and counters of
the kernel, which have none, are polled up to a deadline.
"""
import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import guest as guest_module
import ksm as ksm_module
import tap
from guest import DEFAULT_MIX, PAGE, Guest  # noqa: F401 (for the tests)
from ksm import counters as ksm_counters  # noqa: F401
from tap import Skip, note, test  # noqa: F401

BUILD = os.environ.get("MEMSHARED_BUILDDIR", os.getcwd())
SOURCE = os.environ.get("MEMSHARED_SRCDIR",
                        os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))


def meminfo(name="MemAvailable"):
    """A line of /proc/meminfo, in bytes."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith(name + ":"):
                return int(line.split()[1]) << 10
    raise KeyError(name)


def available_bytes():
    """MemAvailable, and the free pages that wait in the processors' own lists: since Linux 6.7 these
    may hold hundreds of MiB, which MemAvailable leaves out."""
    with open("/proc/zoneinfo", encoding="ascii") as file:
        waiting = sum(int(line.split()[1]) for line in file if line.lstrip().startswith("count:"))
    return meminfo() + waiting * PAGE


def _require(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Skip("no %s on this machine" % program)


class CallError(Exception):
    """The daemon answered with an error: its name in full, and its parameters."""

    def __init__(self, name, parameters):
        super().__init__("%s: %s" % (name, parameters))
        self.name, self.parameters = name, parameters


def _varlink_replies(stream):
    """Each JSON object, up to its NUL byte."""
    message = b""
    while True:
        data = stream.read1(65536)
        if not data:
            return
        *whole, message = (message + data).split(b"\0")
        yield from map(json.loads, whole)


class Client:
    """A running memshared, as who talks to it sees it."""

    client = os.path.join(BUILD, "memsharectl")
    socket = None  # path

    def ctl(self, *words, check=True, timeout=300):
        """memsharectl --json WORDS...: the answer, or with check=False the finished process."""
        done = subprocess.run(
            [self.client, "--socket", self.socket, "--json",
             *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
            timeout=timeout * tap.SLOW)
        if not check:
            return done
        if done.returncode:
            raise RuntimeError("memsharectl %s: %s" % (" ".join(map(str, words)), done.stderr))
        return json.loads(done.stdout) if done.stdout.strip() else None

    def call(self, method, more=False, timeout=60, **parameters):
        """A method of io.memshared by Varlink: the parameters of its last reply.

        An error of the interface is raised as CallError. more: a list of all replies.
        """
        replies = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(timeout * tap.SLOW)
            s.connect(self.socket)
            s.sendall(json.dumps({"method": "io.memshared." + method, "more": more,
                                  "parameters": parameters}).encode() + b"\0")
            with s.makefile("rb") as stream:
                for reply in _varlink_replies(stream):
                    if "error" in reply:
                        raise CallError(reply["error"], reply.get("parameters", {}))
                    replies.append(reply.get("parameters", {}))
                    if not reply.get("continues"):
                        return replies if more else replies[-1]
        raise RuntimeError("memshared closed its socket during " + method)

    def totals(self):
        return self.call("Status")["totals"]

    def guest(self, guest):
        """What the daemon says of a guest; {} when it does not know it."""
        return next((g for g in self.call("Guests")["guests"] if g["pid"] == guest.pid), {})


class Daemon(Client):
    """A running memshared with a configuration and a socket of its own."""

    def __init__(self, directory, config, arguments=(), environment=None, prefix=()):
        program = os.path.join(BUILD, "memshared")
        self.config = os.path.join(directory, "memshared.conf")
        self.socket = os.path.join(directory, "io.memshared")
        self.log = os.path.join(directory, "memshared.log")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(config)
        notify = os.path.join(directory, "notify.sock")
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(notify)
        self._notify.bind(notify)
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [*prefix, "setpriv", "--pdeathsig=KILL", program, "--config", self.config,
                 "--socket", self.socket, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                env={**os.environ, "NOTIFY_SOCKET": notify, "MEMSHARED_LIBEXECDIR": BUILD,
                     **(environment or {})})
        self.pid = self._process.pid
        self._wait_ready(60 * tap.SLOW)
        threading.Thread(target=self._hear_out, daemon=True).start()

    def _hear_out(self):
        """Whatever else it says, descriptors included, is dropped, so that it never waits."""
        with contextlib.suppress(OSError):
            while self._notify.recv(4096):
                pass

    def _wait_ready(self, timeout):
        """Until it says READY=1, as it does to systemd."""
        deadline = time.monotonic() + timeout
        pidfd = os.pidfd_open(self.pid)
        try:
            while time.monotonic() < deadline:
                ready = select.select([self._notify, pidfd], [], [], deadline - time.monotonic())[0]
                if self._notify in ready and b"READY=1" in self._notify.recv(4096):
                    return
                if pidfd in ready:
                    break
        finally:
            os.close(pidfd)
        with open(self.log, encoding="utf-8", errors="replace") as file:
            tail = file.read()[-2000:]
        self.close()
        raise RuntimeError("memshared did not start:\n" + tail)

    def alive(self):
        return self._process.poll() is None

    def cpu_seconds(self):
        """User and system time that it and helpers that have ended used so far."""
        with open("/proc/%d/stat" % self.pid, encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def signal(self, signum):
        self._process.send_signal(signum)

    def kill(self):
        """SIGKILL: a crash."""
        if self._process.poll() is None:
            self._process.kill()
        return self._process.wait(30)

    def stop(self, timeout=60):
        """SIGTERM, as systemd stops it; returns its exit status."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(timeout * tap.SLOW)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def close(self):
        try:
            self.stop(30)
        finally:
            with contextlib.suppress(OSError):
                self._notify.shutdown(socket.SHUT_RDWR)
            self._notify.close()


class Host(contextlib.ExitStack):
    """This machine for the time of one test."""

    quiet = False  # say nothing of the guests when the test fails

    def __enter__(self):
        super().__enter__()
        if os.geteuid():
            raise Skip("needs root")
        _require("qemu-system-x86_64", "setpriv")
        # Not below /tmp, which may be a tmpfs or hidden from other users.
        self.directory = tempfile.mkdtemp(prefix="memshared-test-", dir="/var/tmp")
        self.callback(shutil.rmtree, self.directory, ignore_errors=True)
        os.chmod(self.directory, 0o755)
        self._ksm = None
        self._n_daemons = 0
        self._daemon = None
        self.guests = []
        try:
            self.prepare()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def prepare(self):
        """For hosts that are shared by the tests of a file: what these find ready."""

    def __exit__(self, *exception):
        for g in self.guests:
            if (exception[0] and not self.quiet) or g.serial.wrong:
                note("last lines of guest %s: %s" % (g.name, g.serial.lines[-5:]))
                note(g.log())
        return super().__exit__(*exception)

    def guest(self, name, accel=None, **options):
        """Starts a guest (see Guest) and returns at once; call its ready()."""
        g = Guest(os.path.join(self.directory, name), name, accel=accel or accelerator(), **options)
        self.callback(g.close)
        self.guests.append(g)
        return g

    def ksm(self):
        """The machine's KSM, ours alone until the test ends; waits for other users of it."""
        if not ksm_module.available():
            raise Skip("no KSM in this kernel")
        if not self._ksm:
            self._ksm = self.enter_context(ksm_module.Ksm())
        return self._ksm

    def daemon(self, config="", arguments=(), environment=None):
        """Starts memshared and waits until it is ready."""
        self._n_daemons += 1
        directory = os.path.join(self.directory, "daemon%d" % self._n_daemons)
        os.mkdir(directory)
        d = self._daemon = Daemon(directory, config, arguments, environment)
        self.callback(d.close)
        return d

    def kill_daemon(self):
        """Kills the newest daemon if it still runs."""
        if self._daemon:
            self._daemon.kill()

    def _daemon_log(self):
        """What the newest daemon said last, for messages."""
        if not self._daemon:
            return ""
        with open(self._daemon.log, encoding="utf-8", errors="replace") as file:
            return "; memshared's log:\n" + file.read()[-2000:]

    def wait(self, condition, timeout, what, interval=0.1):
        """Polls until condition() is true; its value. For what has no event to wait for."""
        deadline = time.monotonic() + timeout * tap.SLOW
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError("not within %d s: %s%s" % (timeout, what, self._daemon_log()))
            for g in self.guests:
                if g.serial.wrong:
                    raise AssertionError("guest %s: %s" % (g.name, g.serial.wrong[0]))
                if not g.ended and not g.alive():
                    raise AssertionError("guest %s ended: %s" % (g.name, g.log()))
            time.sleep(interval)

    def audit(self, guests, ranges=Guest.mergeable):
        """Frames that guests have in common, by page frame number; see audit.c.

        ranges says what to look at: Guest.mergeable (default), or another function from a
        guest to a list of (start, end), as lambda g: [g.ram()].
        """
        lines = ["%d:%s\n" % (g.pid, ",".join("%x-%x" % r for r in ranges(g))) for g in guests]
        done = subprocess.run(os.path.join(BUILD, "tests/integration/audit"), input="".join(lines),
                              stdout=subprocess.PIPE, check=True, timeout=120 * tap.SLOW, text=True)
        return json.loads(done.stdout)


def _kvm_works():
    """Boots a guest under KVM: that /dev/kvm can be opened proves nothing."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    try:
        with Host() as host:
            host.quiet = True
            host.guest("kvm-trial", accel="kvm", kind="plain", mib=64).ready(20)
        return True
    except (RuntimeError, OSError):
        return False


def accelerator():
    """"kvm" or "tcg"; tried once for each boot of this machine. MEMSHARED_TEST_ACCEL decides."""
    chosen = os.environ.get("MEMSHARED_TEST_ACCEL")
    if chosen:
        return chosen
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    cache = os.path.join(os.path.dirname(guest_module.build("plain")), "accel-" + boot)
    try:
        with open(cache, encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        chosen = "kvm" if _kvm_works() else "tcg"
        with open(cache, "w", encoding="ascii") as file:
            file.write(chosen)
        return chosen


def main(shared=False):
    tap.main(Host, shared)
