#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The platform tests on other kernels than this machine's, and a clock that jumps.

A virtual machine (TCG) boots Debian's kernel with an initramfs that holds the test programs of
this build and the libraries they need, and prints their TAP to its serial console. Kernels:
the installed linux-image-cloud-amd64, and Debian's 6.12, which has soft-dirty marks and
PAGEMAP_SCAN both; the latter is downloaded once and kept in $XDG_CACHE_HOME/memshared. A
directory in $MEMSHARED_OTHER_KERNEL (with boot/ and lib/modules/) is used instead of it.

There memshared itself merges two QEMUs, with each tracker that the kernel has, while the wall clock
jumps (clock-jumps.sh): this machine's clock is left alone.
"""
import contextlib
import glob
import lzma
import os
import re
import shutil
import subprocess
import tempfile

import tap

BUILD = os.environ.get("MEMSHARED_BUILDDIR", os.getcwd())
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "memshared")
PACKAGE = r"linux-image-6\.12\.[0-9]+\+deb12-cloud-amd64"
# What the tests need that Debian builds as modules: a disk for swap and one for O_DIRECT.
MODULES = ("brd", "ext4")
UNIT_TESTS = ("test-kernel", "test-mergeable", "test-pagemap", "test-span", "test-range-set", "test-store",
              "test-transaction", "test-reclaim")
MODEL_TESTS = ("remap-model",)
# What clock-jumps.sh runs, by the directory that holds it.
CLOCK_PROGRAMS = {
    BUILD: ("memshared", "memsharectl", "memshared-attach", "tests/bench/fill"),
    "/usr/bin": ("qemu-system-x86_64",),
}
CLOCK_DATA = (os.path.join(BUILD, "memshared-agent.bin"), "/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/kvmvapic.bin",
              "/usr/lib/*/qemu/accel-tcg-x86_64.so")
SOURCE = os.environ.get("MEMSHARED_SRCDIR",
                        os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin LD_LIBRARY_PATH=/lib CMOCKA_MESSAGE_OUTPUT=TAP MEMSHARED_TEST_SWAP=/dev/ram1
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
ln -s /proc/self/fd /dev/fd
mount -t tmpfs tmp /tmp; mount -t tmpfs run /run; mkdir -p /run/lock
while read -r m; do
  case $m in */brd.ko) insmod $m rd_nr=2 rd_size=131072 ;; *) insmod $m ;; esac
done </modules/list
mke2fs -F /dev/ram0 >/dev/null 2>&1 && mount -t ext4 /dev/ram0 /var/tmp
echo madvise >/sys/kernel/mm/transparent_hugepage/enabled
cd /tmp
for t in /t/*; do
  echo "@@ begin ${t##*/}"
  case $t in */memshared) timeout 60 $t --check 2>&1 ;; *) timeout 300 $t 2>&1 ;; esac
  echo "@@ end ${t##*/} $?"
done
for tracker in $(echo $trackers | tr , ' '); do
  echo "@@ begin clock-jumps-$tracker"
  timeout 600 /x/clock-jumps.sh $tracker 2>&1
  echo "@@ end clock-jumps-$tracker $?"
done
echo "@@ done"
reboot -f
"""


def run(*command, **options):
    """A command's output; its failure is a reason to skip."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              check=True, timeout=600, **options).stdout
    except FileNotFoundError as missing:
        raise tap.Skip("no %s on this machine" % command[0]) from missing
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stderr or "").strip().splitlines() or ["no word"]
        raise tap.Skip("%s failed: %s" % (command[0], said[-1])) from error


# --- kernels ---------------------------------------------------------------------------------


def newest(names):
    """By the numbers in the name."""
    return max(names, key=lambda n: [int(d) for d in re.findall(r"\d+", n)], default=None)


def installed_kernel():
    kernel = newest(glob.glob("/boot/vmlinuz-*-cloud-amd64"))
    if not kernel:
        raise tap.Skip("no kernel in /boot: install linux-image-cloud-amd64")
    return kernel, "/lib/modules/" + kernel.split("vmlinuz-")[1]


def unpacked_kernel(root):
    kernel = newest(glob.glob(os.path.join(root, "boot/vmlinuz-*")))
    if not kernel:
        raise tap.Skip("no boot/vmlinuz-* in " + root)
    return kernel, os.path.join(root, "lib/modules", kernel.split("vmlinuz-")[1])


def downloaded_kernel():
    """Debian's newest 6.12: what is in the cache is used until apt knows a newer one."""
    if os.environ.get("MEMSHARED_OTHER_KERNEL"):
        return unpacked_kernel(os.environ["MEMSHARED_OTHER_KERNEL"])
    known = run("apt-cache", "search", "--names-only", "^" + PACKAGE + "$")
    package = newest([line.split()[0] for line in known.splitlines()])
    cached = newest(glob.glob(os.path.join(CACHE, "linux-image-6.12*")))
    if not package and not cached:
        raise tap.Skip("apt knows no 6.12 kernel: see $MEMSHARED_OTHER_KERNEL")
    root = os.path.join(CACHE, package) if package else cached
    if not os.path.isdir(root):
        os.makedirs(CACHE, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package, cwd=work)
            (deb,) = glob.glob(work + "/*.deb")
            run("dpkg-deb", "-x", deb, work + "/root")
            release = os.listdir(work + "/root/lib/modules")[0]
            run("depmod", "-b", work + "/root", release)
            os.rename(work + "/root", root)
    return unpacked_kernel(root)


def modules_needed(directory, wanted):
    """Files of the modules and of what they need, in the order in which they can be loaded."""
    needs = {}
    with open(os.path.join(directory, "modules.dep"), encoding="ascii") as file:
        for line in file:
            path, _, rest = line.partition(":")
            needs[path] = rest.split()
    order = []
    for name in wanted:
        for path in needs:
            if re.fullmatch(re.escape(name) + r"\.ko(\.xz)?", os.path.basename(path)):
                order += [p for p in reversed([path] + needs[path]) if p not in order]
    # What a module does not name, but asks for when it is used.
    order += [p for p in needs if os.path.basename(p).startswith("crc32c_generic.ko")]
    return order


# --- the initramfs ---------------------------------------------------------------------------


def programs():
    """The test programs of this build: those in C that need no QEMU, by name."""
    found = {}
    for path in sorted(glob.glob(os.path.join(BUILD, "tests/platform/*"))):
        # Catches a child asleep within microseconds, which a loaded TCG guest does not let it.
        if os.path.basename(path) == "ptrace-restart":
            continue
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if (os.access(path, os.X_OK) and file.read(4) == b"\x7fELF"
                    and not os.path.basename(path).startswith("qemu-")):
                found[os.path.basename(path)] = path
    for name in UNIT_TESTS:
        found[name] = os.path.join(BUILD, "tests/unit", name)
    for name in MODEL_TESTS:
        found[name] = os.path.join(BUILD, "tests/integration", name)
    found["memshared"] = os.path.join(BUILD, "memshared")
    missing = [name for name, path in found.items() if not os.path.exists(path)]
    assert not missing and len(found) > len(UNIT_TESTS) + 1, "not built: %s" % missing
    return found


def copy_libraries(program, root):
    for path in re.findall(r"(/\S+) \(0x", run("ldd", program)):
        # The loader has its fixed place, the rest is found by LD_LIBRARY_PATH.
        place = os.path.dirname(path) if "ld-linux" in path else "/lib"
        os.makedirs(root + place, exist_ok=True)
        if not os.path.exists(root + place + "/" + os.path.basename(path)):
            shutil.copy(path, root + place)


def copy_clock_test(root):
    for directory, names in CLOCK_PROGRAMS.items():
        for name in names:
            shutil.copy(os.path.join(directory, name), root + "/x")
            copy_libraries(os.path.join(directory, name), root)
    for pattern in CLOCK_DATA:
        (path,) = glob.glob(pattern)
        shutil.copy(path, root + "/x")
        if path.endswith(".so"):
            copy_libraries(path, root)
    shutil.copy(os.path.join(SOURCE, "tests/integration/clock-jumps.sh"), root + "/x")


def make_initramfs(work, modules):
    root = work + "/root"
    for directory in ("bin", "dev", "proc", "sys", "tmp", "run", "var/tmp", "modules", "t", "x", "lib"):
        os.makedirs(os.path.join(root, directory))
    busybox = shutil.which("busybox")
    if not busybox:
        raise tap.Skip("no busybox: install busybox-static")
    shutil.copy(busybox, root + "/bin/busybox")
    with open(root + "/init", "w", encoding="ascii") as file:
        file.write(INIT)
    os.chmod(root + "/init", 0o755)
    for name, path in programs().items():
        shutil.copy(path, root + "/t/" + name)
        copy_libraries(path, root)
    copy_clock_test(root)
    with open(root + "/modules/list", "w", encoding="ascii") as names:
        for path in modules_needed(modules, MODULES):
            name = os.path.basename(path).removesuffix(".xz")
            opener = lzma.open if path.endswith(".xz") else open
            with opener(os.path.join(modules, path), "rb") as source, \
                    open(root + "/modules/" + name, "wb") as target:
                shutil.copyfileobj(source, target)
            names.write("/modules/%s\n" % name)
    run("sh", "-c", "find . | cpio --quiet -o -H newc -R 0:0 >../image", cwd=root)
    return work + "/image"


# --- the machine -----------------------------------------------------------------------------


def boot(kernel, image, timeout, trackers):
    """Everything that the machine printed. trackers: those to try with jumps of the clock."""
    # Without KSM: other tests refuse to start ksmd beside memory of strangers.
    command = ["qemu-system-x86_64", "-machine", "mem-merge=off", "-accel", "tcg,thread=multi",
               "-smp", "2", "-m", "1280",
               "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
               "-serial", "stdio", "-kernel", kernel, "-initrd", image,
               "-append", "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off psi=1 "
               "trackers=" + ",".join(trackers)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as machine:
        try:
            return machine.communicate(timeout=timeout * tap.SLOW)[0].decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            machine.kill()
            tap.note("no end within %d s" % timeout)
            return machine.communicate()[0].decode("utf-8", "replace")
        except BaseException:
            machine.kill()
            raise


def show(text, names):
    """What these programs printed, line by line."""
    program = None
    for line in text.split("\n"):
        begin = re.match(r"@@ begin (\S+)", line)
        program = begin[1] if begin else program
        if program in names:
            tap.note("| " + line)


def judge(text):
    """Notes what passed, failed and skipped; fails when anything failed, and shows all of it."""
    n_passed, n_skipped, failed, said, program = 0, 0, [], "", None
    text = text.replace("\r", "")
    for line in text.split("\n"):
        begin, end = re.match(r"@@ begin (\S+)", line), re.match(r"@@ end (\S+) (\d+)", line)
        result = re.match(r"(not )?ok \d+ (?:- )?(.*)", line)
        if begin:
            program = begin[1]
        elif end:
            # cmocka's status is the number of failures, of which we know already.
            if end[2] not in ("0", "1") and not any(f.startswith(end[1]) for f in failed):
                failed.append("%s ended with status %s" % (end[1], end[2]))
            program = None
        elif program == "memshared":
            tap.note(line)
        elif program and line.startswith("1..0 # SKIP"):
            n_skipped += 1
            tap.note("%s: skipped: %s" % (program, line[12:]))
        elif program and result and "SKIP" in line:
            n_skipped += 1
            tap.note("%s: skipped: %s" % (program, said))
        elif program and result and result[1]:
            failed.append("%s: %s" % (program, result[2]))
        elif program and result:
            n_passed += 1
        elif program and failed and "error:" in line:
            failed[-1] += " " + line.strip("# ")  # cmocka says why after it has said what
        elif line.strip() and not line.startswith(("1..", "# ok", "# not ok")):
            said = line.strip("# ")
    tap.note("%d passed, %d skipped, %d failed" % (n_passed, n_skipped, len(failed)))
    show(text, {re.match(r"[^ :]+", f)[0] for f in failed})
    assert "@@ done" in text, "the machine did not come to its end:\n" + text[-3000:]
    assert not failed, "\n".join(failed)
    assert n_passed > 20, "hardly anything ran"


def platform_tests(kernel, modules, trackers):
    if not shutil.which("qemu-system-x86_64"):
        raise tap.Skip("no qemu-system-x86_64 on this machine")
    tap.note(os.path.basename(kernel))
    with tempfile.TemporaryDirectory(prefix="memshared-kernel-") as work:
        judge(boot(kernel, make_initramfs(work, modules), 900, trackers))


@tap.test("the platform tests pass on Debian's 6.12, with soft-dirty marks", limit=1200)
def debian_6_12(_context):
    platform_tests(*downloaded_kernel(), ("wp", "softdirty"))


@tap.test("the platform tests pass on the installed kernel", limit=900)
def installed(_context):
    platform_tests(*installed_kernel(), ("rehash",))


tap.main(contextlib.nullcontext)
