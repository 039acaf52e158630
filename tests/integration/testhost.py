# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian with systemd and libvirt of its own, in a container: the host of a test.

    import testhost
    testhost.enter()                      # first thing in the script
    subprocess.run(["systemctl", "start", "memshared"], check=True)

enter() runs the script again inside: there memshared is installed (make install), process 1 is
systemd, libvirtd is a service, and the harness works as outside. It shares with this machine the
kernel and with it KSM (and the lock that says whose KSM it is), the build, and nothing else: files
are an overlay in memory, network and processes are its own. What it holds is gone with the script.

The file system is made by mmdebstrap, once, from the package sources of this machine, and kept in
$XDG_CACHE_HOME/memshared. Where a container cannot be had the script skips, and says why.
"""
import contextlib
import ctypes
import fcntl
import glob
import hashlib
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import guest
import ksm
import tap

# Set inside. What is bind-mounted has the same path there as outside.
_MARK = "MEMSHARED_TEST_HOST"

BUILD = os.environ.get("MEMSHARED_BUILDDIR", os.getcwd())
SOURCE = os.path.abspath(os.environ.get("MEMSHARED_SRCDIR") or os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "../.."))
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "memshared")

PACKAGES = ("busybox-static", "dbus", "iproute2", "kmod", "libinih1", "libjansson4",
            "libvirt-clients", "libvirt-daemon-driver-qemu", "libvirt-daemon-system", "polkitd",
            "procps", "python3", "qemu-system-x86", "systemd", "systemd-sysv", "udev", "util-linux")
# An image is made anew when one of these changes, in which what is built here may notice it.
VERSIONS = ("libc6", "libsystemd0", "libvirt0", "python3-minimal", "qemu-system-x86")
OPTIONS = ("--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
           "--dpkgopt=path-exclude=/usr/share/locale/*", "--aptopt=Acquire::Retries \"2\"",
           "--aptopt=Acquire::http::Timeout \"30\"")
# Where the machine's locks are to be found inside.
INNER_LOCKS = "/run/memshared-test/locks"
# nspawn mounts its read-only /sys over what is bound to a place below it.
INNER_KSM = "/run/memshared-test/ksm"
CLONE_NEWNS = 0x20000


def _output(*command, **options):
    """A command's output; its failure is a reason to skip."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, check=True, **options).stdout
    except FileNotFoundError as missing:
        raise tap.Skip("no %s on this machine" % command[0]) from missing
    except subprocess.TimeoutExpired as late:
        raise tap.Skip("%s: no end within %d s" % (command[0], late.timeout)) from late
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines() or ["no word"]
        raise tap.Skip("%s failed: %s" % (command[0], said[-1])) from error


# --- the image -------------------------------------------------------------------------------


def _suite():
    """Debian's name for this machine's release, whose libraries the build is linked with."""
    with contextlib.suppress(OSError), open("/etc/os-release", encoding="utf-8") as file:
        found = re.search(r"^VERSION_CODENAME=\"?([a-z]+)", file.read(), re.M)
        if found and os.path.exists("/usr/share/keyrings/debian-archive-keyring.gpg"):
            return found[1]
    raise tap.Skip("this is not Debian: no image to make a test host of")


def _sources():
    """Where this machine gets Debian from; none: mmdebstrap's default."""
    files = ["/etc/apt/sources.list", *sorted(glob.glob("/etc/apt/sources.list.d/debian.*"))]
    found = []
    for path in files:
        with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
            if re.search(r"^\s*(deb|URIs:)\s", file.read(), re.M):
                found.append(path)
    return found


def _proxies():
    """How this machine's apt reaches them."""
    known = _output("apt-config", "dump")
    return ["--aptopt=" + line.rstrip(";") for line in known.splitlines()
            if re.match(r"Acquire::https?::Proxy\S* \"", line)]


def image():
    """The directory that holds the file system; made if it is not there."""
    versions = _output("dpkg-query", "-W", "-f", "${Package} ${Version}\n", *VERSIONS)
    suite = _suite()
    key = hashlib.sha256("\n".join((suite, versions, *PACKAGES, *OPTIONS)).encode()).hexdigest()
    path = os.path.join(CACHE, "testhost-%s-%s" % (suite, key[:16]))
    os.makedirs(CACHE, exist_ok=True)
    with open(os.path.join(CACHE, "testhost.lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(path):
            _make_image(suite, path)
        os.utime(path)
        for old in glob.glob(os.path.join(CACHE, "testhost-*")):
            if os.stat(old).st_mtime < time.time() - 7 * 86400:
                shutil.rmtree(old, ignore_errors=True)
    return path


def _make_image(suite, path):
    begin = time.monotonic()
    work = path + ".new"
    shutil.rmtree(work, ignore_errors=True)
    try:
        _output("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=directory",
                "--include=" + ",".join(PACKAGES), *OPTIONS, *_proxies(), suite, work, *_sources(),
                timeout=600 * tap.SLOW)
        os.rename(work, path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    tap.note("made the test host's file system in %.0f s" % (time.monotonic() - begin))


# --- the container ---------------------------------------------------------------------------


class _Cgroup(contextlib.AbstractContextManager):
    """A control group of its own, because nspawn and its systemd make theirs below where they are."""

    def __init__(self):
        top = "/sys/fs/cgroup"
        if not os.path.exists(top + "/cgroup.controllers"):
            top += "/unified"
        if not os.path.exists(top + "/cgroup.procs"):
            raise tap.Skip("no cgroup2 file system in /sys/fs/cgroup")
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            own = re.search(r"^0::(/.*)$", file.read(), re.M)[1]
        self.path = os.path.join(top, own.lstrip("/"), "memshared-test-%d" % os.getpid())
        try:
            os.mkdir(self.path)
        except OSError as error:
            raise tap.Skip("cannot make %s: %s" % (self.path, error.strerror)) from error

    def __exit__(self, *_exception):
        with contextlib.suppress(OSError), open(self.path + "/cgroup.kill", "w",
                                                encoding="ascii") as file:
            file.write("1")
        deadline = time.monotonic() + 30
        while os.path.isdir(self.path) and time.monotonic() < deadline:
            for directory, _below, _files in os.walk(self.path, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
            time.sleep(0.02)


def _mount(*words):
    _output("mount", *words)


class _Container(contextlib.ExitStack):
    """A test host that runs; pid is that of its process 1."""

    def __init__(self, lower):
        super().__init__()
        self._lower = lower
        self.pid = None

    def __enter__(self):
        super().__enter__()
        try:
            self._start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def _file_system(self):
        """An overlay in a mount namespace that is from now on this process's own."""
        work = tempfile.mkdtemp(prefix="memshared-testhost-", dir="/var/tmp")
        self.callback(shutil.rmtree, work, ignore_errors=True)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNS):
            raise tap.Skip("no mount namespace: " + os.strerror(ctypes.get_errno()))
        _mount("--make-rprivate", "/")
        _mount("-t", "tmpfs", "-o", "mode=755", "memshared-testhost", work)
        self.callback(subprocess.run, ["umount", "--lazy", work], check=False)
        # What nspawn keeps of its containers is of no use to anybody else.
        os.makedirs("/run/systemd/nspawn", exist_ok=True)
        _mount("-t", "tmpfs", "-o", "mode=755", "memshared-testhost", "/run/systemd/nspawn")
        for name in ("upper", "work", "root"):
            os.mkdir(os.path.join(work, name), 0o755)
        self._install(work + "/upper")
        _mount("-t", "overlay", "-o", "lowerdir=%s,upperdir=%s/upper,workdir=%s/work" % (
            self._lower, work, work), "memshared-testhost", work + "/root")
        return work

    @staticmethod
    def _install(where):
        """make install. It is the build's fault if it fails, so that is no skip."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(["make", "-s", "-C", BUILD, "install", "DESTDIR=" + where],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False, env=environment)
        if done.returncode:
            raise RuntimeError("make install DESTDIR= failed:\n" + done.stdout[-3000:])

    def _start(self):
        work = self._file_system()
        group = self.enter_context(_Cgroup())
        notify = self.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        notify.bind(work + "/notify")
        command = ["setpriv", "--pdeathsig=KILL", "sh", "-c", "echo 0 >$0/cgroup.procs; exec \"$@\"",
                   group.path, "systemd-nspawn", "--quiet", "--directory=" + work + "/root",
                   "--machine=memshared-test-%d" % os.getpid(), "--register=no", "--keep-unit",
                   "--console=pipe", "--capability=all", "--private-network", "--notify-ready=yes",
                   "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--boot"]
        for outer, inner in ((ksm.LOCKS, INNER_LOCKS), (ksm.DIRECTORY, INNER_KSM),
                             ("/dev/userfaultfd", "/dev/userfaultfd")):
            if os.path.exists(outer):
                command.append("--bind=%s:%s" % (outer, inner))
        for path in sorted({BUILD, SOURCE, CACHE, "/boot"}):
            command.append("--bind-ro=" + path)
        log = work + "/console"
        with open(log, "wb") as console:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                env={**os.environ, "NOTIFY_SOCKET": work + "/notify",
                     "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                     # A tracer with a filter of its own cannot suspend that of a guest.
                     "SYSTEMD_SECCOMP": "0"})
        self.callback(process.wait)
        self.callback(process.kill)
        self._wait_ready(process, notify, log)
        if os.path.exists(ksm.DIRECTORY) and self.run(["mount", "--bind", INNER_KSM, ksm.DIRECTORY]):
            raise tap.Skip("cannot show the test host this machine's KSM")

    def _wait_ready(self, process, notify, log):
        """Until its systemd has started all it starts."""
        deadline = time.monotonic() + 100 * tap.SLOW
        pidfd = os.pidfd_open(process.pid)
        try:
            while time.monotonic() < deadline:
                ready = select.select([notify, pidfd], [], [], deadline - time.monotonic())[0]
                said = notify.recv(4096).decode() if notify in ready else ""
                leader = re.search(r"^X_NSPAWN_LEADER_PID=(\d+)", said, re.M)
                if leader:
                    self.pid = int(leader[1])
                if re.search(r"^READY=1", said, re.M):
                    return
                if pidfd in ready:
                    break
        finally:
            os.close(pidfd)
        with open(log, encoding="utf-8", errors="replace") as file:
            said = file.read().strip().splitlines() or ["no word"]
        raise tap.Skip("no container here: systemd-nspawn %s: %s" % (
            "ended" if process.poll() is not None else "did not get ready", said[-1]))

    def run(self, command, environment=None):
        """Runs a command inside; its exit status."""
        with subprocess.Popen(["setpriv", "--pdeathsig=KILL", "nsenter", "--target=%d" % self.pid,
                               "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
                               "--root", "--wd", *command], stdin=subprocess.DEVNULL,
                              env=environment) as child:
            try:
                return child.wait()
            finally:
                child.kill()


def enter():
    """Goes on in a test host; in the first process it does not return."""
    if os.environ.get(_MARK):
        return
    tap.signals_unwind()
    try:
        sys.exit(_run_inside())
    except tap.Skip as reason:
        print("1..0 # SKIP " + str(reason), flush=True)
        sys.exit(0)


def _run_inside():
    if os.geteuid():
        raise tap.Skip("needs root")
    for program in ("systemd-nspawn", "mmdebstrap", "nsenter", "make"):
        if not shutil.which(program):
            raise tap.Skip("no %s on this machine" % program)
    # The compiler that the guest's program needs is not inside.
    built = {"MEMSHARED_TEST_" + what.upper(): guest.build(what)
             for what in ("kernel", "verify", "plain")}
    begin = time.monotonic()
    with _Container(image()) as host:
        tap.note("the test host is up after %.1f s" % (time.monotonic() - begin))
        return host.run(
            ["python3", os.path.abspath(sys.argv[0]), *sys.argv[1:]],
            {**{k: v for k, v in os.environ.items()
                if k.startswith(("MEMSHARED_", "LC_", "LANG", "PYTHON"))},
             **built, _MARK: "1", "MEMSHARED_BUILDDIR": BUILD, "MEMSHARED_SRCDIR": SOURCE,
             "MEMSHARED_TEST_LOCKS": INNER_LOCKS, "MEMSHARED_TEST_ACCEL": "tcg",
             "HOME": "/root", "XDG_CACHE_HOME": os.path.dirname(CACHE),
             "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
