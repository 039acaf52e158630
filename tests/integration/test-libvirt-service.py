#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Enrolment by virsh alone, with the installed unit and a libvirtd that systemd runs.

The tests follow each other with one guest, which checks its own memory. What does not depend on
units is tested with a libvirtd of our own: test-libvirt-enrol.py and its neighbours.
"""
import contextlib
import json
import os
import re
import signal
import subprocess
import time

import testhost

import enrolling
import guest as guest_module
import harness
import libvirt
import tap
from service import CONFIG, Service, journal, show, systemctl, write

SETTINGS = """\
[Daemon]
CpuBudget=100%
PassInterval=1s
Pressure=always

[Policy "all"]
min-age=1s
cow-backoff=1s
thp=split:1
"""
TENANT = "<policy enabled='yes' domain='tenant-a'/>"
PATIENCE = 30  # seconds; how fast it goes is measured and told


class Watched(enrolling.Watch, Service):
    """The service, as who waits for what it does with guests sees it."""


class System(libvirt.Client, contextlib.ExitStack):
    """The libvirtd of the test host."""

    def __init__(self):
        contextlib.ExitStack.__init__(self)
        super().__init__("/var/tmp/memshared-libvirt")
        os.makedirs(self.directory, 0o755)
        self.make_serial()


class Context(enrolling.Context):
    """The service runs, and a guest that nobody has enrolled."""

    connect = System

    def __enter__(self):
        if not os.path.exists(Service.client):
            raise tap.Skip("the build is not configured for /usr/local")
        offers = subprocess.run(["memshared", "--check"], stdout=subprocess.PIPE, text=True,
                                check=False).stdout
        if not re.search(r"^engine remap +yes", offers, re.M):
            raise tap.Skip("this kernel does not allow engine remap")
        super().__enter__()
        self.host = self.enter_context(harness.Host())
        self.service = Watched()
        write(CONFIG, SETTINGS)
        self.callback(systemctl, "stop", "memshared", check=False)
        systemctl("start", "memshared")
        self.line = self.enter_context(self.verifying("one"))
        return self

    def merged(self):
        """Until the guest shares; the process."""
        g = self.service.enrolled("one", timeout=PATIENCE)
        self.service.wait("one", "merged", 180, sharing_pages=lambda n: n > 1000)
        return g["pid"]

    def new_line(self):
        """The guest is another process now."""
        self.line.close()
        self.line = guest_module.Serial(self.libvirt.serial("one"), "one")
        self.callback(self.line.close)

    def measured(self, what, do, done):
        """Seconds from the call of virsh until it is in force, and to its return."""
        begin = time.monotonic()
        do()
        returned = time.monotonic() - begin
        done()
        took = time.monotonic() - begin
        tap.note("%s: in force after %.2f s, of which virsh %.2f s" % (what, took, returned))
        return took


def journal_of(guest, text):
    """Lines of the service in the journal about this guest that have the text in them."""
    done = subprocess.run(["journalctl", "--output=json", "--no-pager", "--unit=memshared",
                           "GUEST=" + guest], stdout=subprocess.PIPE, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [line for line in lines if text in line["MESSAGE"]]


@tap.test("virsh metadata enrols, changes and removes", limit=200)
def metadata(context):
    lv, service = context.libvirt, context.service
    assert os.path.exists("/usr/local/share/memshared/policy-1.rng")
    service.known("one", PATIENCE)
    took = []
    for turn in range(5):
        took.append(context.measured(
            "enrol", lambda: lv.set_policy("one", TENANT),
            lambda: service.enrolled("one", timeout=PATIENCE)))
        age = "%dm" % (turn + 2)
        took.append(context.measured(
            "change", lambda age=age: lv.set_policy(
                "one", "<policy enabled='yes' domain='tenant-a' min-age='%s'/>" % age),
            lambda age=age: service.wait("one", "changed", PATIENCE, state=lambda s:
                                         s == "enrolled" and
                                         service.policy("one")["min-age"] == (age, "metadata"))))
        took.append(context.measured(
            "another domain",
            lambda: lv.set_policy("one", "<policy enabled='yes' domain='tenant-b'/>"),
            lambda: service.enrolled("one", "tenant-b", timeout=PATIENCE)))
        took.append(context.measured("remove", lambda: lv.remove_policy("one"),
                                     lambda: service.out("one", timeout=PATIENCE)))
    tap.note("slowest of %d: %.2f s" % (len(took), max(took)))
    assert service.policy("one")["enabled"] == ("no", "default")
    enrolling.check(context.line)


@tap.test("a hostile element puts the guest out; status and journal say why", limit=200)
def hostile(context):
    lv, service = context.libvirt, context.service
    for what, element, why in (
            ("wrong type", "<policy enabled='1' domain='tenant-a'/>", 'enabled="1"'),
            ("entity", "<!DOCTYPE policy [<!ENTITY a 'tenant-'>]>"
                       "<policy enabled='yes' domain='&a;/../a'/>", "domain="),
            ("content", "<policy enabled='yes'><domain>tenant-a</domain></policy>", "no content")):
        lv.set_policy("one", TENANT)
        service.enrolled("one", timeout=PATIENCE)
        done = lv.virsh("metadata", "one", "--uri", libvirt.POLICY, "--key", "memshared", "--set",
                        element, "--live", "--config", check=False)
        if done.returncode:
            tap.note("%s: libvirt itself refuses: %s" % (what, done.stderr.strip()))
            assert service.enrolled("one")
            continue
        reason = service.out("one", "metadata is refused", PATIENCE)["reason"]
        tap.note("%s: %s" % (what, reason))
        assert why in reason, reason
        assert journal_of("one", why), journal()
    lv.remove_policy("one")
    # A command line cannot hold a megabyte.
    with context.domain("big", start=(), inside="<metadata><m:policy xmlns:m='%s' enabled='yes' "
                        "domain='%s'/></metadata>" % (libvirt.POLICY, "a" * (1 << 20))):
        lv.virsh("start", "big")
        tap.note("1 MiB: " + service.out("big", "metadata is refused", PATIENCE)["reason"])
        assert journal_of("big", "metadata is refused"), journal()
    enrolling.check(context.line)


@tap.test("libvirtd is restarted, stopped and killed: the guest stays in, and libvirt is followed again",
          limit=300)
def libvirtd(context):
    lv, service = context.libvirt, context.service
    lv.set_policy("one", TENANT)
    context.merged()
    entered = len(journal_of("one", "enrolled in domain"))

    def followed():
        """A change is heard of again, and nothing else has happened."""
        lv.virsh("uri")
        for age in ("2m", "1s"):
            lv.set_policy("one", "<policy enabled='yes' domain='tenant-a' min-age='%s'/>" % age)
            service.wait("one", "changed", PATIENCE, state=lambda _s, age=age:
                         service.policy("one")["min-age"] == (age, "metadata"))
        assert service.enrolled("one")["source"] == "libvirt"
        assert service.call("Status")["libvirt"]["available"]
    context.measured("systemctl restart libvirtd",
                     lambda: systemctl("restart", "libvirtd"), followed)
    # Its sockets go with it, or who connects (the daemon does) would start it again at once.
    sockets = ["libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket"]
    systemctl("stop", *sockets, "libvirtd")
    context.host.wait(lambda: not service.call("Status")["libvirt"]["available"], PATIENCE,
                      "it is noticed that libvirt is gone")
    assert service.enrolled("one")
    enrolling.check(context.line)
    systemctl("start", *sockets, "libvirtd")
    context.host.wait(lambda: service.call("Status")["libvirt"]["available"], PATIENCE,
                      "it is connected again")
    followed()
    pid = int(systemctl("show", "--property=MainPID", "--value", "libvirtd"))
    assert pid > 0, "libvirtd does not run"
    os.kill(pid, signal.SIGKILL)
    context.host.wait(lambda: systemctl("show", "--property=MainPID", "--value", "libvirtd")
                      not in ("0", str(pid)), PATIENCE, "systemd starts libvirtd again")
    followed()
    # Policies changed in place, and the guest was never let go.
    assert len(journal_of("one", "enrolled in domain")) == entered
    context.merged()
    enrolling.check(context.line)


@tap.test("the service is restarted: libvirt's guest is in again, and finds its memory right",
          limit=300)
def restarted(context):
    context.libvirt.set_policy("one", TENANT)
    context.merged()
    old = context.service.pid
    systemctl("restart", "memshared")
    assert context.service.pid != old
    context.service.enrolled("one", timeout=PATIENCE)
    enrolling.check(context.line)
    # Out while nobody serves it: it is let go by who comes then.
    systemctl("stop", "memshared")
    context.libvirt.remove_policy("one")
    enrolling.check(context.line)
    systemctl("start", "memshared")
    g = context.service.out("one", timeout=PATIENCE)
    assert "reason" not in g, g
    context.host.wait(lambda: not enrolling.traces(g["pid"]), PATIENCE,
                      "nothing of ours is left in it")
    enrolling.check(context.line)


@tap.test("save and restore, managed save and start, reset: it is in again by its metadata", limit=500)
def saved(context):
    lv, service = context.libvirt, context.service
    state = os.path.join(lv.directory, "state")
    service.ctl("enroll", "--persist", "--domain", "tenant-a", "one")
    for leave, back in ((("save", "one", state), ("restore", state)),
                        (("managedsave", "one"), ("start", "one"))):
        old = context.merged()
        enrolling.check(context.line)
        lv.virsh(*leave, timeout=180)
        service.wait("one", "gone", PATIENCE, state="none")
        lv.virsh(*back, timeout=180)
        begin = time.monotonic()
        service.enrolled("one", timeout=PATIENCE)
        tap.note("%s: enrolled %.2f s later" % (back[0], time.monotonic() - begin))
        context.new_line()
        assert lv.pid("one") != old
        context.merged()
        enrolling.check(context.line)
    pid = lv.pid("one")
    lv.virsh("reset", "one")
    context.line.wait(r"^ready", 180)
    assert context.merged() == pid
    enrolling.check(context.line)


@tap.test("renamed and started, it is the same guest; destroyed, it leaves nothing behind", limit=300)
def renamed(context):
    lv, service = context.libvirt, context.service
    lv.virsh("destroy", "one")
    service.wait("one", "gone", PATIENCE, state="none")
    context.host.wait(lambda: not os.listdir("/var/lib/memshared/guests"), PATIENCE,
                      "its file is gone")
    lv.virsh("domrename", "one", "uno")
    lv.virsh("start", "uno")
    g = service.enrolled("uno", timeout=PATIENCE)
    assert g["uuid"] == lv.virsh("domuuid", "uno") and g["pid"] == lv.pid("uno"), g
    os.kill(g["pid"], signal.SIGKILL)
    service.wait("uno", "gone", PATIENCE, state="none")
    lv.wait_off("uno")
    lv.virsh("domrename", "uno", "one")
    status = service.call("Status")
    assert status["totals"]["guests"] == 0 and not status["domains"], status
    assert show("NRestarts") == "0" and show("Result") == "success"


if __name__ == "__main__":
    testhost.enter()
    tap.main(Context, shared=True)
