# SPDX-License-Identifier: GPL-2.0-or-later
"""One QEMU guest of a test: started as libvirt starts its own, driven over its serial line."""
import array
import json
import os
import re
import select
import shutil
import socket
import subprocess
import threading
import time

import tap

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
PAGE = os.sysconf("SC_PAGESIZE")
DEFAULT_MIX = "zero:10,dup:40,within:10,unique:30,slow:5,fast:5"


def build(what):
    """Path of the kernel, of an initramfs or of a disk; made on first use, then cached."""
    if os.environ.get("MEMSHARED_TEST_" + what.upper()):  # in a test host: made outside of it
        return os.environ["MEMSHARED_TEST_" + what.upper()]
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../guest/build")
    done = subprocess.run([script, what], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, check=False)
    if done.returncode == 2:  # no reason to skip everything
        raise RuntimeError("the test guest cannot be built:\n" + done.stderr)
    if done.returncode:
        raise tap.Skip("no test guest: " + (done.stderr.strip().splitlines() or ["?"])[-1])
    return done.stdout.strip()


def tree_listen(path):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(1)
    return listener


class Serial:
    """Lines to and from the guest. A thread reads, so that the guest never waits for us."""

    def __init__(self, path, name):
        self.name = name
        self.lines = []
        self.wrong = []  # what a verifying guest said was wrong
        self.closed = False
        self._cursor = 0
        self._change = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        rest = b""
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError:
                data = b""
            lines = (rest + data).split(b"\n")
            rest = lines.pop()
            with self._change:
                for line in lines:
                    text = line.decode("ascii", "replace").strip("\r")
                    self.lines.append(text)
                    if text.startswith("WRONG"):
                        self.wrong.append(text)
                self.closed = not data
                self._change.notify_all()
            if not data:
                return

    def send(self, line):
        self._socket.sendall(line.encode() + b"\n")

    def wait(self, pattern, timeout):
        """The first line from where the last wait() ended that matches; its match object."""
        deadline = time.monotonic() + timeout * tap.SLOW
        with self._change:
            while True:
                while self._cursor < len(self.lines):
                    line = self.lines[self._cursor]
                    self._cursor += 1
                    found = re.search(pattern, line)
                    if found:
                        return found
                    if line.startswith("fatal"):
                        raise RuntimeError("guest %s: %s" % (self.name, line))
                left = deadline - time.monotonic()
                if self.closed or left <= 0:
                    raise RuntimeError("guest %s: no line like '%s' %s; last lines: %s" % (
                        self.name, pattern,
                        "before it ended" if self.closed else "within %d s" % timeout,
                        self.lines[-5:]))
                self._change.wait(left)

    def command(self, line, pattern, timeout):
        """Sends a command and waits for the answer to it, ignoring all that was said before."""
        with self._change:
            self._cursor = len(self.lines)
        self.send(line)
        return self.wait(pattern, timeout)

    def close(self):
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._thread.join(10)
        self._socket.close()


class Qmp:
    """QEMU's monitor."""

    def __init__(self, path):
        self.events = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(60 * tap.SLOW)
        self._socket.connect(path)
        self._file = self._socket.makefile("rw", encoding="utf-8")

    def _receive(self):
        line = self._file.readline()
        if not line:
            raise RuntimeError("QEMU closed its monitor")
        return json.loads(line)

    def start(self):
        self._receive()
        self.call("qmp_capabilities")

    def call(self, command, **arguments):
        self._file.write(json.dumps({"execute": command.replace("__", "-"),
                                     "arguments": arguments}) + "\n")
        self._file.flush()
        while True:
            answer = self._receive()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError("QMP %s: %s" % (command, answer["error"]["desc"]))
            else:
                return answer["return"]

    def close(self):
        self._file.close()
        self._socket.close()


class Guest:
    """A running guest; made by Host.guest(), ended by Host.

    kind        what runs in it (tests/guest/build); a "sector" takes no commands
    pid         of the QEMU process
    monitor     path of a second QMP socket that nobody uses: for memshared
    duty        percent of a processor that the verifying program takes while it goes round:
                the guests of a test leave room for the daemon and ksmd
    slots       where memory can be plugged in, as ",slots=1,maxmem=1G"
    """

    def __init__(self, directory, name, kind="verify", mib=64, memory_mib=None, mix=DEFAULT_MIX,
                 run=16, seed=None, paused=False, duty=30, uid=None, sandbox=True, kaslr=True,
                 accel="tcg", machine="pc", append="", arguments=(), slots="", backend=None, balloon=True):
        self.name, self.directory, self.kind = name, directory, kind
        self.memory_mib = memory_mib or mib + 96
        self._ram = None
        os.mkdir(directory, 0o755)
        self.monitor = os.path.join(directory, "monitor.sock")
        listeners = {n: tree_listen(os.path.join(directory, n + ".sock"))
                     for n in ("serial", "qmp", "monitor")}
        # The check of the timer fails where QEMU has to wait for a processor.
        words = ["console=ttyS0", "panic=-1", "quiet", "no_timer_check", append]
        if not kaslr:
            words.append("nokaslr")
        if kind == "verify":
            seed = sum(map(ord, name)) if seed is None else seed
            words.append("memshared.seed=%d memshared.mib=%d memshared.mix=%s memshared.run=%d "
                         "memshared.pause=%d memshared.duty=%d" % (seed, mib, mix, run, paused,
                                                                   duty))
            if "disk:" in mix:
                arguments = [*arguments, *self._disk(uid)]
        if kind == "sector":
            boot = self._boot_sector(sum(map(ord, name)) if seed is None else seed)
        else:
            boot = ["-kernel", build("kernel"), "-initrd", self._image("initrd"),
                    "-append", " ".join(filter(None, words))]
        command = [
            "qemu-system-x86_64", "-name", "guest=%s,debug-threads=on" % name,
            "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
            "-machine", "%s,usb=off,memory-backend=pc.ram" % machine,
            "-accel", "tcg,tb-size=32" if accel == "tcg" else accel,
            "-m", "%d%s" % (self.memory_mib, slots),
            "-object", json.dumps({"qom-type": "memory-backend-ram", "id": "pc.ram",
                                   "size": self.memory_mib << 20, **(backend or {})}),
            *boot,
            "-chardev", "socket,id=serial,fd=%d,server=on,wait=off,logfile=%s" % (
                listeners["serial"].fileno(), os.path.join(directory, "serial.log")),
            "-serial", "chardev:serial",
        ]
        for mon in ("qmp", "monitor"):
            command += ["-chardev", "socket,id=%s,fd=%d,server=on,wait=off" % (
                mon, listeners[mon].fileno()), "-mon", "chardev=%s,mode=control" % mon]
        command += [*(["-device", "virtio-balloon-pci"] if balloon else []), *arguments]
        if sandbox:
            command += ["-sandbox", SANDBOX]
        if uid is not None:
            os.chown(directory, uid, uid)
        self.ended = False  # by us: nobody need wonder
        # /dev/kvm is for its group.
        gid = os.stat("/dev/kvm").st_gid if accel == "kvm" else uid
        self._process = self._start(command, uid, gid, listeners)
        self.pid = self._process.pid
        self.serial = Serial(os.path.join(directory, "serial.sock"), name)
        self.qmp = Qmp(os.path.join(directory, "qmp.sock"))
        for listener in listeners.values():
            listener.close()
        try:
            self.qmp.start()
        except (RuntimeError, OSError) as error:
            self.close()
            raise RuntimeError("guest %s: QEMU did not start: %s" % (name, self.log())) from error

    def _image(self, name):
        """A copy that whoever runs QEMU can read; its path."""
        path = os.path.join(self.directory, name)
        shutil.copyfile(build(self.kind), path)
        os.chmod(path, 0o644)
        return path

    def _boot_sector(self, seed):
        path = self._image("sector")
        with open(path, "r+b") as file:
            file.seek(508)
            file.write(seed.to_bytes(4, "little")[:2])
        return ["-drive", "file=%s,format=raw,if=ide,snapshot=on" % path]

    def _disk(self, uid):
        path = os.path.join(self.directory, "disk")
        with open(path, "wb") as file:
            file.truncate(8 << 20)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
        except OSError as error:
            raise tap.Skip("no direct I/O in " + self.directory) from error
        if uid is not None:
            os.chown(path, uid, uid)
        return ["-blockdev", json.dumps({"driver": "file", "filename": path, "node-name": "disk",
                                         "cache": {"direct": True}, "aio": "threads"}),
                "-device", "virtio-blk-pci,drive=disk"]

    def _start(self, command, uid, gid, listeners):
        prefix = ["setpriv", "--pdeathsig=KILL"]
        if uid is not None:
            prefix += ["--reuid=%d" % uid, "--regid=%d" % gid, "--clear-groups",
                       "--bounding-set=-all", "--inh-caps=-all"]
        with open(os.path.join(self.directory, "qemu.log"), "wb") as log:
            return subprocess.Popen(prefix + command, stdin=subprocess.DEVNULL, stdout=log,
                                    stderr=log, cwd="/",
                                    pass_fds=[s.fileno() for s in listeners.values()])

    # --- talking ---------------------------------------------------------

    def wait(self, pattern, timeout=120):
        return self.serial.wait(pattern, timeout)

    def command(self, line, pattern, timeout=120):
        return self.serial.command(line, pattern, timeout)

    def ready(self, timeout=120):
        """Waits until the guest has booted and, when verifying, filled its memory."""
        self.wait(r"^ready", timeout)
        return self

    def pause(self):
        """From now on the guest's program touches no memory. Its kernel hardly does."""
        self.command("pause", "^paused")

    def resume(self):
        self.command("resume", "^resumed")

    def rewrite(self, percent, runs=False):
        """New content, of the same classes; returns how many pages."""
        words = "rewrite %d%s" % (percent, " runs" if runs else "")
        return int(self.command(words, r"^rewrote pages (\d+)")[1])

    def scramble(self, percent, runs=False):
        """New content that is equal to nothing; returns how many pages."""
        words = "scramble %d%s" % (percent, " runs" if runs else "")
        return int(self.command(words, r"^rewrote pages (\d+)")[1])

    def move(self):
        """The same content in other memory of the guest's."""
        self.command("move", "^moved")

    def rounds(self, count, timeout=300):
        """Waits for so many complete rounds that began after this call."""
        self.command("", r"^round", timeout)
        for _ in range(count):
            self.wait(r"^round", timeout)

    def check(self, timeout=300):
        """Checks every page now; raises if any was ever wrong. Returns the longest wait, usec."""
        done = self.command("check", r"^checked pages (\d+) errors (\d+) worst_usec (\d+)", timeout)
        if self.serial.wrong or int(done[2]):
            raise AssertionError("guest %s saw wrong memory: %s" % (
                self.name, self.serial.wrong[:5] or done[0]))
        return int(done[3])

    # --- looking at it from outside --------------------------------------

    def log(self):
        """The end of what QEMU itself said."""
        with open(os.path.join(self.directory, "qemu.log"), errors="replace",
                  encoding="utf-8") as file:
            return file.read()[-1000:]

    def alive(self):
        return self._process.poll() is None

    def smaps(self):
        """The process's mappings: dicts of start, end, flags and the numbers in KiB."""
        mappings = []
        with open("/proc/%d/smaps" % self.pid, encoding="ascii", errors="replace") as file:
            for line in file:
                head = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ (\S+) (\d+)\s*(.*)", line)
                if head:
                    mappings.append({"start": int(head[1], 16), "end": int(head[2], 16),
                                     "mode": head[3], "inode": int(head[5]), "path": head[6]})
                elif line.startswith("VmFlags:"):
                    mappings[-1]["flags"] = line.split()[1:]
                else:
                    key, value = line.split()[:2]
                    mappings[-1][key.rstrip(":")] = int(value)
        return mappings

    def ram(self):
        """(start, end) of the guest's RAM block, in QEMU's address space, from the start.

        It never moves. While mappings are cut up and joined, what the kernel shows of them can
        overlap or lack some, so that it takes more than one look.
        """
        for _ in range(20):
            if self._ram is None:
                self._ram = self._ram_now()
        assert self._ram, "guest %s: no mappings of the size of its RAM" % self.name
        return self._ram

    def _ram_now(self):
        blocks = []
        for m in sorted(self.smaps(), key=lambda m: m["start"]):
            # QEMU takes its memory, and nothing else, from children ("dc"): a thread's stack may be next.
            if m["mode"] not in ("rw-p", "rw-s") or "dc" not in m.get("flags", ()):
                continue
            if blocks and blocks[-1][1] >= m["start"]:
                blocks[-1][1] = max(blocks[-1][1], m["end"])
            else:
                blocks.append([m["start"], m["end"]])
        size = self.memory_mib << 20
        exact = [b for b in blocks if b[1] - b[0] == size]
        larger = [b for b in blocks if b[1] - b[0] > size]
        if exact:
            return tuple(exact[0])
        if not larger:
            return None
        # The kernel shows a neighbour of equal marks as one mapping with it; RAM is 2 MiB aligned.
        start = -(-larger[0][0] // (2 << 20)) * (2 << 20)
        return start, start + size

    def mergeable(self):
        """All ranges that are marked for KSM."""
        return [(m["start"], m["end"]) for m in self.smaps() if "mg" in m.get("flags", ())]

    def rollup(self):
        """Numbers of smaps_rollup in KiB: Rss, Pss, Anonymous, AnonHugePages, Swap, KSM..."""
        numbers = {}
        with open("/proc/%d/smaps_rollup" % self.pid, encoding="ascii") as file:
            for line in file:
                words = line.split()
                if len(words) == 3 and words[2] == "kB":
                    numbers[words[0].rstrip(":")] = int(words[1])
        return numbers

    def pss(self):
        """In bytes."""
        return self.rollup()["Pss"] << 10

    def anon_huge(self):
        """In bytes."""
        return self.rollup()["AnonHugePages"] << 10

    def ksm_stat(self):
        """/proc/PID/ksm_stat; empty where the kernel has none."""
        try:
            with open("/proc/%d/ksm_stat" % self.pid, encoding="ascii") as file:
                words = [line.split() for line in file]
        except FileNotFoundError:
            return {}
        return {w[0].rstrip(":"): int(w[1]) for w in words if w[1].lstrip("-").isdigit()}

    def ksm_merged(self):
        """How many of its pages ksmd has merged, those that it alone still maps included."""
        with open("/proc/%d/ksm_merging_pages" % self.pid, encoding="ascii") as file:
            return int(file.read())

    def resident(self):
        """How many pages of RAM are present, from the page map."""
        start, end = self.ram()
        entries = array.array("Q")
        with open("/proc/%d/pagemap" % self.pid, "rb") as file:
            file.seek(start // PAGE * 8)
            entries.frombytes(file.read((end - start) // PAGE * 8))
        return sum(e >> 63 for e in entries)

    # --- the end ---------------------------------------------------------

    def kill(self):
        """SIGKILL, and wait until it is gone."""
        self.ended = True
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(30)

    def close(self):
        self.kill()
        self.qmp.close()
        self.serial.close()

    def end(self):
        """Waits for the process to end by itself, and returns its status."""
        pidfd = os.pidfd_open(self.pid)
        try:
            select.select([pidfd], [], [], 60 * tap.SLOW)
        finally:
            os.close(pidfd)
        return self._process.poll()
