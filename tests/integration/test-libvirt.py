#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Discovery by libvirt: a real libvirtd, TCG domains, virsh; libvirt-events tells what we hear."""
import contextlib
import json
import os
import select
import signal
import subprocess
import time

import libvirt
import tap

libvirt.enter()

BUILD = os.environ.get("MEMSHARED_BUILDDIR", os.getcwd())
PROGRAM = os.path.join(BUILD, "tests/integration/libvirt-events")
SECONDS = 2  # within which an operator's change must have arrived


class Ear:
    """A running libvirt-events."""

    def __init__(self, uri="qemu:///system"):
        self._process = subprocess.Popen(["setpriv", "--pdeathsig=KILL", PROGRAM, uri],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._process.pid
        self._rest = b""
        self._lines = []

    def _line(self, deadline):
        while not self._lines:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                return None
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                raise RuntimeError("libvirt-events ended: %s" % self._process.wait(10))
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines += map(json.loads, lines)
        return self._lines.pop(0)

    def wait(self, timeout=30, **wanted):
        """The next line that has all these; what comes before it is dropped."""
        deadline = time.monotonic() + timeout * tap.SLOW
        seen = []
        while True:
            line = self._line(deadline)
            if line is None:
                raise AssertionError("not within %s s: %s; had %s" % (timeout, wanted, seen[-20:]))
            if all(line.get(k) == v for k, v in wanted.items()):
                return line
            seen.append(line)

    def wait_all(self, timeout, *wanted):
        """Until each of these has come, in any order."""
        deadline, missing = time.monotonic() + timeout * tap.SLOW, list(wanted)
        while missing:
            line = self._line(deadline)
            assert line is not None, "not within %s s: %s" % (timeout, missing)
            missing = [w for w in missing if any(line.get(k) != v for k, v in w.items())]

    def listing(self, timeout=30):
        """All domains of the next listing, by name."""
        self.wait(timeout, event="listing")
        domains, deadline = {}, time.monotonic() + timeout * tap.SLOW
        while True:
            line = self._line(deadline)
            if line is None:
                raise AssertionError("the listing did not end")
            if line.get("event") == "listed":
                return domains
            if line.get("event") == "domain":
                domains[line["name"]] = line

    def send(self, line):
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def command(self, line, timeout=30, **wanted):
        self.send(line)
        return self.wait(timeout, **wanted)

    def stats(self):
        self.send("stats")
        while True:
            line = self._line(time.monotonic() + 2 * tap.SLOW)
            assert line is not None, "the loop of libvirt-events hangs"
            if "connections" in line:
                return line

    def descriptors(self):
        return len(os.listdir("/proc/%d/fd" % self.pid))

    def rss_kib(self):
        with open("/proc/%d/status" % self.pid, encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))

    def close(self):
        """It must end by itself, and soon."""
        self._process.stdin.close()
        try:
            status = self._process.wait(10 * tap.SLOW)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process.stdout.close()
        assert status == 0, "libvirt-events ended with %d" % status


class Context(contextlib.ExitStack):
    """One libvirtd for all tests of this file; each test has its own domains and ears."""

    def __enter__(self):
        super().__enter__()
        self.libvirt = self.enter_context(libvirt.Libvirt())
        return self

    @contextlib.contextmanager
    def ear(self, uri="qemu:///system"):
        e = Ear(uri)
        try:
            yield e
        except BaseException:
            with contextlib.suppress(Exception):
                e.close()
            raise
        e.close()

    @contextlib.contextmanager
    def domain(self, name, **options):
        """A running domain; its UUID."""
        uuid = self.libvirt.define(name, **options)
        try:
            self.libvirt.virsh("start", name)
            yield uuid
        finally:
            self.libvirt.virsh("destroy", name, check=False)
            self.libvirt.virsh("undefine", name, "--managed-save", check=False)


def value(line, field):
    return next((f["value"] for f in line["policy"] if f["field"] == field), None)


@tap.test("running domains are listed with their process and what their XML forbids")
def listed(context):
    lv = context.libvirt
    devices = "<memballoon model='virtio' freePageReporting='on'/>"
    with context.domain("one", devices=devices) as one, \
            context.domain("two", inside="<title>second</title><memoryBacking><nosharepages/>"
                                         "</memoryBacking>") as two, context.ear() as ear:
        domains = ear.listing()
        assert set(domains) == {"one", "two"}, domains
        assert domains["one"]["uuid"] == one and domains["two"]["uuid"] == two
        for name, line in domains.items():
            assert line["pid"] == lv.pid(name) and line["verified"], line
            assert not line["has_policy"], line
        assert domains["two"]["title"] == "second"
        assert "free page reporting" in domains["one"]["refusals"][0]
        assert "nosharepages" in domains["two"]["refusals"][0]


@tap.test("a domain is seen when it starts, resets, pauses, stops")
def life(context):
    lv = context.libvirt
    with context.ear() as ear:
        ear.wait(event="listed")
        with context.domain("one") as uuid:
            line = ear.wait(event="domain", uuid=uuid, detail="booted")
            assert line["pid"] == lv.pid("one") and line["verified"], line
            lv.virsh("suspend", "one")
            ear.wait(event="paused", uuid=uuid, detail="paused")
            lv.virsh("resume", "one")
            ear.wait(event="resumed", uuid=uuid, detail="unpaused")
            lv.virsh("reset", "one")
            ear.wait(event="rebooted", uuid=uuid)
            lv.virsh("destroy", "one")
            ear.wait(event="stopped", uuid=uuid, detail="destroyed")
            lv.virsh("domrename", "one", "uno")
            lv.virsh("start", "uno")
            line = ear.wait(event="domain", uuid=uuid, detail="booted")
            assert line["name"] == "uno" and line["verified"], line
            # QEMU dies of something else than libvirt.
            os.kill(line["pid"], signal.SIGKILL)
            ear.wait(event="stopped", uuid=uuid)
            lv.wait_off("uno")
            lv.virsh("domrename", "uno", "one")


@tap.test("save, restore and managed save are heard of while they happen")
def saved(context):
    lv = context.libvirt
    path = os.path.join(lv.directory, "state")
    with context.domain("one", mib=64) as uuid, context.ear() as ear:
        first = ear.listing()["one"]
        lv.virsh("save", "one", path)
        ear.wait(event="migrating", uuid=uuid)
        ear.wait(event="stopped", uuid=uuid, detail="saved")
        lv.virsh("restore", path)
        line = ear.wait(event="domain", uuid=uuid, detail="restored")
        assert line["verified"] and line["pid"] != first["pid"], line
        ear.wait(event="resumed", uuid=uuid)
        lv.virsh("managedsave", "one")
        ear.wait(event="stopped", uuid=uuid, detail="saved")
        lv.virsh("start", "one")
        assert ear.wait(event="domain", uuid=uuid)["verified"]


@tap.test("devices that come and go are told, with what the XML then says")
def devices_change(context):
    lv = context.libvirt
    disk = os.path.join(lv.directory, "disk.img")
    with open(disk, "wb") as file:
        file.truncate(1 << 20)
    os.chmod(disk, 0o666)
    with context.domain("one") as uuid, context.ear() as ear:
        ear.wait(event="listed")
        lv.virsh("attach-disk", "one", disk, "vdb", "--live")
        assert ear.wait(event="devices", uuid=uuid)["detail"].startswith("added")
        ear.wait(event="domain", uuid=uuid, detail="devices")


@tap.test("virsh metadata enrols, changes and removes within two seconds")
def metadata(context):
    lv = context.libvirt
    with context.domain("one") as uuid, context.ear() as ear:
        assert not ear.listing()["one"]["has_policy"]
        lv.set_policy("one", "<policy enabled='yes' domain='tenant-a'/>")
        line = ear.wait(SECONDS, event="domain", uuid=uuid, detail="policy")
        assert value(line, "enabled") == "yes" and value(line, "domain") == "tenant-a", line
        assert line["policy"][0]["source"] == "metadata" and not line["policy_error"], line
        lv.set_policy("one", "<policy enabled='estimate' min-age='5m'/>")
        line = ear.wait(SECONDS, event="domain", uuid=uuid, detail="policy")
        assert value(line, "enabled") == "estimate" and value(line, "domain") is None, line
        lv.remove_policy("one")
        line = ear.wait(SECONDS, event="domain", uuid=uuid, detail="policy")
        assert not line["has_policy"] and not line["policy"], line


@tap.test("our own enrolment is written as virsh writes it, for now and later")
def persist(context):
    lv = context.libvirt
    with context.domain("one") as uuid, context.ear() as ear:
        ear.wait(event="listed")
        reply = ear.command("set %s enabled=yes domain=b" % uuid, reply=0)
        assert reply["reason"] == "", reply
        for where in ("--live", "--config"):
            text = lv.virsh("metadata", "one", "--uri", libvirt.POLICY, where)
            assert 'enabled="yes"' in text and 'domain="b"' in text, text
        lv.virsh("destroy", "one")
        lv.virsh("start", "one")
        line = ear.wait(event="domain", uuid=uuid, detail="booted")
        assert value(line, "domain") == "b", line
        ear.command("remove " + uuid, reply=0)
        assert lv.virsh("metadata", "one", "--uri", libvirt.POLICY, check=False).returncode
        ear.command("set 00000000-0000-4000-8000-000000000000 cpu=1%", reply=-3)  # ESRCH


@tap.test("a hostile element enrols nothing, says why and costs little")
def hostile(context):
    lv = context.libvirt
    megabyte = os.path.join(lv.directory, "megabyte")
    elements = {
        "wrong type": "<policy enabled='1'/>",
        "out of range": "<policy enabled='yes' cpu='1000000%'/>",
        "not a time": "<policy enabled='yes' min-age='soon'/>",
        "unknown field": "<policy enabled='yes' allow='all'/>",
        "content": "<policy enabled='yes'><domain>a</domain></policy>",
        "deep": "<policy enabled='yes'>" + "<a>" * 200 + "</a>" * 200 + "</policy>",
        "another element": "<polices enabled='yes'/>",
        "another namespace's attribute": "<policy xmlns:x='urn:x' enabled='yes' x:domain='a'/>",
        "64 KiB": "<policy enabled='yes' domain='%s'/>" % ("a" * 65536),
        "undeclared entity": "<policy enabled='yes' domain='&a;'/>",
        "entities": "<!DOCTYPE policy [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;'>]>"
                    "<policy enabled='yes' domain='&b;'/>",
        "external entity": "<!DOCTYPE policy [<!ENTITY a SYSTEM 'file:///etc/hostname'>]>"
                           "<policy enabled='yes' domain='&a;'/>",
    }
    with context.domain("one") as uuid, context.ear() as ear:
        ear.wait(event="listed")
        before = ear.rss_kib()
        for what, element in elements.items():
            done = lv.virsh("metadata", "one", "--uri", libvirt.POLICY, "--key", "memshared",
                            "--set", element, "--live", check=False)
            if done.returncode:
                tap.note("%s: libvirt itself refused: %s" % (what, done.stderr.split("\n")[0][:90]))
                continue
            line = ear.wait(event="domain", uuid=uuid, detail="policy")
            assert line["has_policy"], (what, line)
            if line["policy_error"]:
                assert value(line, "enabled") == "no" and len(line["policy"]) == 1, (what, line)
                tap.note("%s: %s" % (what, line["policy_error"]))
            else:
                # What libvirt resolved itself before it stored it is an element like any other.
                assert what in ("entities", "external entity"), (what, line)
                assert value(line, "domain") in (None, "aaaaaaaaaaaa"), line
                tap.note("%s: libvirt stored %s" % (what, line["policy"]))
        # A command line cannot hold a megabyte: by a domain's own XML.
        lv.virsh("destroy", "one")
        with open(megabyte, "w", encoding="ascii") as file:
            file.write(lv.virsh("dumpxml", "one", "--inactive").replace(
                "<os>", "<metadata><m:policy xmlns:m='%s' enabled='yes' domain='%s'/></metadata>"
                "<os>" % (libvirt.POLICY, "a" * (1 << 20)), 1))
        lv.virsh("create", megabyte)
        line = ear.wait(event="domain", uuid=uuid, detail="booted")
        assert value(line, "enabled") == "no" and line["policy_error"], line
        assert ear.rss_kib() - before < 16384, (before, ear.rss_kib())
        ear.stats()


@tap.test("libvirtd killed and started again: reconnects, and tells everything anew")
def restarted(context):
    lv = context.libvirt
    with context.domain("one") as one, context.domain("two") as two, context.ear() as ear:
        pid = ear.listing()["one"]["pid"]
        descriptors = ear.descriptors()
        lv.kill()
        assert ear.wait(5, event="disconnected")["detail"]
        reply = ear.command("set %s enabled=yes" % one, reply=-107)  # ENOTCONN, at once
        assert "not connected" in reply["reason"], reply
        # While nobody looks: one guest dies.
        os.kill(lv.pid("two"), signal.SIGKILL)
        lv.start()
        domains = ear.listing(15)
        assert set(domains) == {"one"} and two, domains
        assert domains["one"]["pid"] == pid and domains["one"]["verified"], domains
        lv.set_policy("one", "<policy enabled='yes'/>")
        ear.wait(SECONDS, event="domain", uuid=one, detail="policy")
        for _ in range(4):
            lv.kill(signal.SIGTERM)
            ear.wait(15, event="disconnected")
            lv.start()
            line = ear.listing(15)["one"]
            assert value(line, "enabled") == "yes", line
        assert ear.stats()["connections"] == 6
        assert ear.descriptors() <= descriptors, (descriptors, ear.descriptors())


@tap.test("a libvirtd that hangs holds up nobody; after 15 s it is given up")
def frozen(context):
    lv = context.libvirt
    with context.domain("one") as uuid, context.ear() as ear:
        ear.wait(event="listed")
        lv.freeze()
        try:
            ear.send("set %s cpu=5%%" % uuid)
            assert ear.stats()["connected"]  # answered while the worker waits
            ear.wait_all(40, {"reply": -5}, {"event": "disconnected"})  # EIO
            assert ear.stats()["connections"] == 1
        finally:
            lv.thaw()
        assert "one" in ear.listing(30)


@tap.test("ends at once while libvirtd hangs, or is not there")
def ends(context):
    lv = context.libvirt
    with context.ear("qemu+unix:///system?socket=/nonexistent/socket") as ear:
        ear.wait(event="disconnected")
    with context.domain("one") as uuid:
        ear = Ear()
        ear.wait(event="listed")
        lv.freeze()
        try:
            ear.send("remove " + uuid)
            begin = time.monotonic()
            ear.close()
            assert time.monotonic() - begin < 3 * tap.SLOW
        finally:
            lv.thaw()


tap.main(Context, shared=True)
