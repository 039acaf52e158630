#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The installed service under a real systemd: all that the unit confines is in force here."""
import contextlib
import os
import re
import signal
import subprocess
import time

import testhost

import harness
import ksm
import merging
from service import CONFIG, Service, journal, show, systemctl, write

DROP_IN = "/run/systemd/system/memshared.service.d/test.conf"
SETTINGS = """\
[Daemon]
CpuBudget=100%%
PassInterval=1s
Pressure=always

[Ksm]
Domain=test
AllowForeign=yes
PagesToScan=10000

[Policy "all"]
match-name=*
domain=test
engine=%s
min-age=1s
thp=split:1
"""


class Context(harness.Host):
    """Two guests and the service, which is configured and not started."""

    def prepare(self):
        for program in (Service.client, "/usr/local/sbin/memshared"):
            if not os.path.exists(program):
                raise harness.Skip("the build is not configured for /usr/local")
        self.ksm().set(run=0)
        self.service = Service()
        self.callback(systemctl, "stop", "memshared.socket", "memshared", check=False)
        self.one, self.two = self.pair = [self.guest(n, mib=32, uid=65534) for n in ("one", "two")]
        for g in self.pair:
            g.ready()
        self.before = [merging.Picture(g).joined() for g in self.pair]

    def _daemon_log(self):
        return "\n" + journal()

    def configure(self, engine):
        write(CONFIG, SETTINGS % engine)

    def start(self, engine):
        """The service anew, with this engine."""
        self.configure(engine)
        systemctl("restart", "memshared")

    def untouched(self):
        """The guests are as QEMU had them."""
        for g, before in zip(self.pair, self.before):
            before.compare(merging.Picture(g).joined())
            g.check()
        assert not os.listdir("/var/lib/memshared/guests")

    @contextlib.contextmanager
    def idle(self):
        """The guests' programs rest, which leaves ksmd the CPU that it needs at its priority."""
        for g in self.pair:
            g.pause()
        try:
            yield
        finally:
            for g in self.pair:
                g.resume()

    def leave(self):
        """Both guests leave."""
        for g in self.pair:
            self.service.ctl("unenroll", g.pid)
        self.untouched()


@harness.test("systemctl start waits until the daemon is ready, and all of the unit is in force",
              limit=60)
def start(host):
    host.configure("auto")
    systemctl("start", "memshared")
    assert show("ActiveState") == "active" and show("Type") == "notify"
    done = subprocess.run([Service.client, "status"], stdout=subprocess.PIPE, text=True, check=True)
    harness.note(done.stdout)
    assert "0.1" in done.stdout
    # ptrace, sys_admin, dac_read_search, dac_override, ipc_lock, sys_nice, and no more
    assert int(host.service.status_field("CapBnd"), 16) == sum(
        1 << n for n in (19, 21, 2, 1, 14, 23)), host.service.status_field("CapBnd")
    assert host.service.status_field("NoNewPrivs") == "1"
    assert host.service.status_field("Seccomp") == "0"
    root = "/proc/%d/root" % host.service.pid
    for path in ("/etc/x", "/usr/x", "/usr/local/x", "/var/x", "/var/tmp/x", "/root/x"):
        done = subprocess.run(["nsenter", "--target=%d" % host.service.pid, "--mount", "touch", path],
                              stderr=subprocess.DEVNULL, check=False)
        assert done.returncode, path + " can be written"
    assert not os.path.exists(root + "/boot/grub") and os.listdir(root + "/boot") == []
    left = [line for line in journal().splitlines() if "memshared[" in line
            and "ready on" not in line and "connected to libvirt" not in line]
    assert not left, left


@harness.test("each engine attaches, merges and lets go from within the unit", limit=200)
def engines(host):
    systemctl("stop", "memshared")
    offers = subprocess.run(["memshared", "--check"], stdout=subprocess.PIPE, text=True,
                            check=False).stdout
    ran = 0
    for engine in ("remap", "ksm"):
        if not re.search(r"^engine %s +yes" % engine, offers, re.M):
            harness.note("no engine %s on this machine" % engine)
            continue
        ran += 1
        host.start(engine)
        for g in host.pair:
            host.service.ctl("enroll", g.pid)
        begin = time.monotonic()
        with host.idle():
            merging.merged(host, host.service, 2000)
        harness.note("%s: %d pages after %.0f s" % (
            engine, host.service.totals()["sharing_pages"], time.monotonic() - begin))
        for g in host.pair:
            g.check()
        host.leave()
    if not ran:
        raise harness.Skip("no engine works on this machine")


def back_in(host, old):
    """systemd has started another daemon, and both guests were let in again without a word."""
    def anew():
        return show("ActiveState") == "active" and int(show("MainPID")) not in (0, old)
    host.wait(anew, 60, "systemd starts memshared again", 0.2)
    merging.wait_enrolled(host, host.service, host.pair)
    with host.idle():
        merging.merged(host, host.service, 2000)
    for g in host.pair:
        g.check()


@harness.test("a daemon that hangs is restarted by the watchdog, and takes its guests in again",
              limit=200)
def watchdog(host):
    assert show("WatchdogUSec") == "30s", show("WatchdogUSec")
    write(DROP_IN, "[Service]\nWatchdogSec=5\n")
    systemctl("daemon-reload")
    host.start("ksm" if ksm.available() else "remap")
    for g in host.pair:
        host.service.ctl("enroll", g.pid)
    with host.idle():
        merging.merged(host, host.service, 2000)
    hung = host.service.pid
    begin = time.monotonic()
    os.kill(hung, signal.SIGSTOP)
    back_in(host, hung)
    harness.note("back after %.1f s" % (time.monotonic() - begin))
    assert "Watchdog timeout" in journal(), journal()
    os.unlink(DROP_IN)
    systemctl("daemon-reload")


@harness.test("a daemon that is killed is restarted, and takes its guests in again", limit=100)
def killed(host):
    dead = host.service.pid
    os.kill(dead, signal.SIGKILL)
    back_in(host, dead)


def stores(guest):
    """Inodes of the stores that a guest maps."""
    with open("/proc/%d/maps" % guest.pid, encoding="ascii", errors="replace") as file:
        return {line.split()[4] for line in file if "/memfd:memshared-store" in line}


@harness.test("systemd keeps the stores over a restart, and guests keep them over a stop", limit=150)
def kept_stores(host):
    offers = subprocess.run(["memshared", "--check"], stdout=subprocess.PIPE, text=True,
                            check=False).stdout
    if not re.search(r"^engine remap +yes", offers, re.M):
        raise harness.Skip("no engine remap on this machine")
    for g in host.pair:
        host.service.ctl("unenroll", g.pid)
    host.start("remap")
    for g in host.pair:
        host.service.ctl("enroll", g.pid)
    with host.idle():
        merging.merged(host, host.service, 2000)
    store = stores(host.one)
    assert len(store) == 1 and stores(host.two) == store, store
    assert show("NFileDescriptorStore") == "1", show("NFileDescriptorStore")
    for words, keeper in (("restart",), "systemd"), (("stop", "start"), "a guest"):
        for word in words:
            systemctl(word, "memshared")
        merging.wait_enrolled(host, host.service, host.pair)
        host.wait(lambda: host.service.totals()["sharing_pages"] > 1500, 60,
                  "what they share is known again")
        assert keeper + " has kept the store" in journal(), journal()
        assert stores(host.one) == store == stores(host.two), (store, stores(host.one))
        for g in host.pair:
            g.check()
    host.leave()
    host.wait(lambda: show("NFileDescriptorStore") == "0", 30, "systemd has let go of the store")
    for g in host.pair:
        host.service.ctl("enroll", g.pid)


@harness.test("systemctl reload takes a new configuration, and refuses a wrong one with its line",
              limit=60)
def reload(host):
    pid = host.service.pid
    with open(CONFIG, encoding="utf-8") as file:
        good = file.read()
    write(CONFIG, good.replace("min-age=1s", "min-age=7s"))
    systemctl("reload", "memshared")
    fields = {f["field"]: f["value"] for f in host.service.ctl("policy", host.one.pid)["fields"]}
    assert fields["min-age"] == "7s", fields
    write(CONFIG, good + "nonsense\n")
    done = systemctl("reload", "memshared", check=False)
    assert done.returncode, "a wrong configuration was taken"
    assert "test.conf:%d" % (good.count("\n") + 1) in journal(), journal()
    write(CONFIG, good)
    systemctl("reload", "memshared")
    assert host.service.pid == pid and show("ActiveState") == "active"
    host.leave()


@harness.test("systemctl stop ends it at once and leaves KSM as it was", limit=100)
def stop(host):
    if not ksm.available():
        raise harness.Skip("no KSM in this kernel")
    systemctl("stop", "memshared")
    host.ksm().set(run=0, pages_to_scan=123, sleep_millisecs=45)
    before = merging.settings()
    host.start("ksm")
    for g in host.pair:
        host.service.ctl("enroll", g.pid)
    host.wait(lambda: merging.settings()["pages_to_scan"] != 123, 60, "memshared drives ksmd", 0.02)
    systemctl("stop", "memshared")
    assert merging.settings() == before, (before, merging.settings())
    assert show("Result") == "success" and show("ActiveState") == "inactive"
    assert not os.path.exists(Service.socket)
    for g in host.pair:
        g.check()
    # They were enrolled by hand, which holds: the next daemon has them, and can let them go.
    systemctl("start", "memshared")
    merging.wait_enrolled(host, host.service, host.pair)
    host.leave()
    systemctl("stop", "memshared")
    assert merging.settings() == before, (before, merging.settings())


@harness.test("with the socket unit the first call starts it", limit=60)
def activation(host):
    systemctl("stop", "memshared")
    systemctl("start", "memshared.socket")
    assert show("ActiveState") == "inactive"
    assert host.service.ctl("status")["totals"]["guests"] == 0
    assert show("ActiveState") == "active"
    # systemd's socket outlives the daemon, and so no call is lost.
    systemctl("restart", "memshared")
    host.service.ctl("enroll", host.one.pid)
    os.kill(host.service.pid, signal.SIGKILL)
    assert host.service.ctl("guests")
    merging.wait_enrolled(host, host.service, [host.one])
    host.service.ctl("unenroll", host.one.pid)
    host.untouched()
    systemctl("stop", "memshared.socket", "memshared")
    assert not os.path.exists(Service.socket)


if __name__ == "__main__":
    testhost.enter()
    harness.tap.main(Context, shared=True)
