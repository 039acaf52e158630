# SPDX-License-Identifier: GPL-2.0-or-later
"""A libvirt of our own, with nothing of the machine's in it and nothing left behind.

    import libvirt
    libvirt.enter()                       # first thing in the script
    with libvirt.Libvirt() as lv:
        lv.define("web1", devices="<memballoon model='virtio'/>")
        lv.virsh("start", "web1")

enter() runs the script again in mount and pid namespaces of its own: there the directories of
libvirt are empty ones of ours, no cgroup file system is mounted (libvirtd would leave groups
behind), and whatever libvirtd or QEMU leaves running ends with the script. Domains are
TCG guests without a disk: SeaBIOS looks for one in vain, which is guest enough for libvirt.

Libvirt("target") is another host as far as libvirt can tell: its own directories, sockets, host
name and UUID, so that domains migrate between the two. Make it before the first one.

Client is what both have in common with a libvirt that somebody else runs.

The daemon is libvirtd, or virtqemud where MEMSHARED_TEST_LIBVIRTD says so or only that is there.
"""
import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import uuid as uuid_module

import tap

MARK = "MEMSHARED_TEST_LIBVIRT"  # set in the namespaces: the directory of this run
_DIRECTORIES = {"etc": "/etc/libvirt", "run": "/run/libvirt", "lib": "/var/lib/libvirt",
                "log": "/var/log/libvirt", "cache": "/var/cache/libvirt"}
POLICY = "https://memshared.io/policy/1"

DOMAIN = """<domain type='{type}'>
  <name>{name}</name><uuid>{uuid}</uuid>
  <memory unit='MiB'>{mib}</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type>{boot}</os>
  <features><acpi/></features>
  {inside}
  <on_reboot>restart</on_reboot>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}</devices>
</domain>"""


def _program():
    chosen = os.environ.get("MEMSHARED_TEST_LIBVIRTD")
    if chosen or shutil.which("libvirtd") or not shutil.which("virtqemud"):
        return chosen or "libvirtd"
    return "virtqemud"


PROGRAM = _program()
MODULAR = os.path.basename(PROGRAM) == "virtqemud"
SOCKET = "virtqemud-sock" if MODULAR else "libvirt-sock"


def skip(why):
    """The whole script, before its first test."""
    print("1..0 # SKIP " + why)
    sys.exit(0)


def enter():
    """Goes on in namespaces of our own; in the first process it does not return."""
    if os.environ.get(MARK):
        return
    if os.geteuid():
        skip("needs root")
    if not shutil.which(PROGRAM):
        skip("no %s on this machine" % PROGRAM)
    # The shell is process 1: it waits for our script and reaps what QEMU and libvirtd orphan.
    command = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--propagation=private",
               "--pid", "--fork", "--kill-child", "--mount-proc",
               "sh", "-c", "\"$@\" & wait $!", "sh", sys.executable, *sys.argv]

    def stop(signum, _frame):
        raise SystemExit(128 + signum)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, stop)
    directory = tempfile.mkdtemp(prefix="memshared-libvirt-", dir="/var/tmp")
    os.chmod(directory, 0o755)
    try:
        with subprocess.Popen(command, env={**os.environ, MARK: directory}) as child:
            try:
                sys.exit(child.wait())
            finally:
                child.kill()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def make_qcow2(path, mib):
    """An empty disk in QEMU's format: header, reference table and block, first level table."""
    cluster = 1 << 16
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, mib << 20, 0,
                         max(1, (mib << 20) // (cluster * cluster // 8)), 3 * cluster, cluster, 1,
                         0, 0)
    with open(path, "wb") as file:
        file.write(header.ljust(cluster, b"\0"))
        file.write(struct.pack(">Q", 2 * cluster).ljust(cluster, b"\0"))
        file.write(struct.pack(">4H", 1, 1, 1, 1).ljust(cluster, b"\0"))
        file.write(bytes(cluster))
    os.chmod(path, 0o666)


class Client:
    """libvirt as virsh sees it, and its domains.

    directory is a place for files that QEMU's user may read.
    """

    prefix = ()  # of commands that are to run on its host
    run = "/run/libvirt"  # where its host has that, seen from here

    def __init__(self, directory):
        self.directory = directory

    def make_serial(self):
        """A place for the serial lines of guests."""
        os.makedirs(os.path.join(self.run, "serial"), exist_ok=True)
        os.chmod(os.path.join(self.run, "serial"), 0o1777)

    def virsh(self, *words, check=True, timeout=60, uri="qemu:///system"):
        """virsh WORDS...: its output, or with check=False the finished process."""
        done = subprocess.run([*self.prefix, "virsh", "--quiet", "-c", uri, *map(str, words)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, check=False,
                              timeout=timeout * tap.SLOW)
        if not check:
            return done
        if done.returncode:
            raise RuntimeError("virsh %s: %s" % (" ".join(map(str, words)), done.stderr.strip()))
        return done.stdout.strip()

    def define(self, name, inside="", devices="", boot="", mib=32, domain_type="qemu"):
        """Defines a domain, which goes away with libvirtd's directories; its UUID."""
        uuid = str(uuid_module.uuid4())
        path = os.path.join(self.directory, "domain.xml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(DOMAIN.format(type=domain_type, name=name, uuid=uuid, mib=mib,
                                     inside=inside, devices=devices, boot=boot))
        self.virsh("define", path)
        return uuid

    def wait_off(self, name):
        """Until libvirt has noticed that the domain's process is gone."""
        deadline = time.monotonic() + 30 * tap.SLOW
        while self.virsh("domstate", name) != "shut off":
            assert time.monotonic() < deadline, name
            time.sleep(0.02)

    def set_policy(self, name, element, *words):
        return self.virsh("metadata", name, "--uri", POLICY, "--key", "memshared", "--set", element,
                          *(words or ("--live", "--config")))

    def remove_policy(self, name):
        return self.virsh("metadata", name, "--uri", POLICY, "--remove", "--live", "--config")

    def serial(self, name):
        """Where its serial line is, whose XML says /run/libvirt/serial/NAME."""
        return os.path.join(self.run, "serial", name)

    def pid(self, name):
        with open("%s/qemu/%s.pid" % (self.run, name), encoding="ascii") as file:
            return int(file.read())


class Libvirt(Client, contextlib.ExitStack):
    """A libvirt daemon and its domains, in the namespaces that enter() made."""

    def __init__(self, hostname=None):
        contextlib.ExitStack.__init__(self)
        super().__init__(os.environ[MARK])  # enter() comes first
        self._daemon = self._keeper = None
        if hostname:
            self.directory = os.path.join(self.directory, hostname)
            os.makedirs(self.directory, 0o755)
            self._leave_for(hostname)
        self.log = os.path.join(self.directory, "libvirtd.log")
        self.run = os.path.join(self.directory, "run")
        self._mount()
        self._configure()
        self.make_serial()

    def _leave_for(self, hostname):
        """Mounts and a host name of its own, kept by a process that waits for its input to end."""
        self._keeper = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--uts", "--propagation=private",
             "sh", "-c", "echo \"$1\" >/proc/sys/kernel/hostname; echo there; read -r _", "sh",
             hostname], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._keeper.stdout.readline() == b"there\n"
        self.prefix = ["nsenter", "--target", str(self._keeper.pid), "--mount", "--uts", "--"]

    def _mount(self):
        for name, path in _DIRECTORIES.items():
            own = os.path.join(self.directory, name)
            # QEMU runs as a user of its own and must get through.
            os.makedirs(own, 0o755)
            if name in ("etc", "lib") and os.path.isdir(path):
                shutil.copytree(path, own, dirs_exist_ok=True, symlinks=True)
                for root, directories, _files in os.walk(path):
                    for d in directories:
                        status = os.stat(os.path.join(root, d))
                        copy = os.path.join(own, os.path.relpath(os.path.join(root, d), path))
                        os.chown(copy, status.st_uid, status.st_gid)
                        os.chmod(copy, status.st_mode & 0o7777)
            os.makedirs(path, exist_ok=True)
            subprocess.run([*self.prefix, "mount", "--bind", own, path], check=True)
        subprocess.run([*self.prefix, "umount", "--lazy", "--recursive", "/sys/fs/cgroup"],
                       check=False, stderr=subprocess.DEVNULL)

    def _configure(self):
        etc = os.path.join(self.directory, "etc")
        shutil.rmtree(os.path.join(etc, "qemu"), ignore_errors=True)
        with open(os.path.join(etc, "qemu.conf"), "w", encoding="ascii") as file:
            file.write('stdio_handler = "file"\nsecurity_driver = "none"\n')
            # Where QEMU's user may not open /dev/kvm but root may, libvirtd probes QEMU anew for
            # each domain, which takes 5 s.
            with contextlib.suppress(OSError):
                file.write('group = "+%d"\n' % (os.stat("/dev/kvm").st_gid or 64055))
        for name in ("libvirtd.conf", "virtqemud.conf"):
            with open(os.path.join(etc, name), "w", encoding="ascii") as file:
                file.write('host_uuid = "%s"\nauth_unix_rw = "none"\n' % uuid_module.uuid4())

    def __enter__(self):
        super().__enter__()
        if self._keeper:
            self.callback(self._keeper.communicate)
        self.callback(self.kill)
        self.start()
        return self

    # --- libvirtd ---------------------------------------------------------

    def uri(self):
        """By which other hosts reach it."""
        return "qemu+unix:///system?socket=%s/%s" % (self.run, SOCKET)

    def start(self):
        """Starts libvirtd and waits until it answers."""
        with open(self.log, "ab") as log:
            self._daemon = subprocess.Popen(
                [*self.prefix, PROGRAM, "--pid-file", "/run/libvirt/daemon.pid"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + 60 * tap.SLOW
        while self.virsh("uri", check=False).returncode:
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                with open(self.log, encoding="utf-8", errors="replace") as file:
                    raise RuntimeError("libvirtd did not start:\n" + file.read()[-2000:])
            time.sleep(0.05)

    def kill(self, signum=signal.SIGKILL):
        if self._daemon and self._daemon.poll() is None:
            self._daemon.send_signal(signum)
            self._daemon.wait(30)

    def freeze(self):
        self._daemon.send_signal(signal.SIGSTOP)

    def thaw(self):
        """Goes on, or anew: libvirt 9.0 may crash over a call whose client has gone meanwhile."""
        self._daemon.send_signal(signal.SIGCONT)
        self.virsh("list", check=False)
        time.sleep(0.5)
        if self._daemon.poll() is not None:
            self.start()
