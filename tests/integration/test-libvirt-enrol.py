#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Enrolment by libvirt: a real libvirtd, TCG domains, virsh, and the daemon."""
import contextlib
import os
import signal
import subprocess
import time

import libvirt
import tap

libvirt.enter()

import enrolling  # noqa: E402 (in our namespaces)
import guest as guest_module  # noqa: E402
import harness  # noqa: E402

NOBODY = 65534


def marked(pid):
    """Bytes of the process that are marked for KSM."""
    total, size = 0, 0
    with open("/proc/%d/smaps" % pid, encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("Size:"):
                size = int(line.split()[1])
            elif line.startswith("VmFlags:") and "mg" in line.split():
                total += size << 10
    return total


@tap.test("virsh metadata enrols, changes and removes within two seconds")
def metadata(context):
    lv = context.libvirt
    with context.domain("one") as uuid, context.daemon() as daemon:
        pid = lv.pid("one")
        g = daemon.known("one")
        assert g["uuid"] == uuid and g["pid"] == pid and g["state"] == "ready", g
        before, marks = enrolling.threads(pid), marked(pid)
        assert marks >= 32 << 20, marks
        lv.set_policy("one", "<policy enabled='yes' domain='tenant-a'/>")
        daemon.enrolled("one")
        assert marked(pid) < marks and enrolling.threads(pid) != before
        assert daemon.policy("one")["domain"] == ("tenant-a", "metadata")
        # In place: it does not leave.
        lv.set_policy("one", "<policy enabled='yes' domain='tenant-a' min-age='2h'/>")
        daemon.wait("one", "adapted", state=lambda _s: daemon.policy("one")["min-age"][0] == "2h")
        daemon.enrolled("one")
        assert "has left" not in daemon.said()
        # Engine ksm serves no other domain beside the first.
        lv.set_policy("one", "<policy enabled='yes' domain='tenant-b' engine='ksm'/>")
        daemon.out("one", "domain tenant-b")
        assert marked(pid) == marks
        lv.set_policy("one", "<policy enabled='yes' domain='tenant-a'/>")
        daemon.enrolled("one")
        lv.set_policy("one", "<policy enabled='estimate'/>")
        daemon.out("one", "enabled=estimate")
        lv.set_policy("one", "<policy enabled='yes' domain='tenant-a'/>")
        daemon.enrolled("one")
        lv.remove_policy("one")
        assert "reason" not in daemon.out("one")
        assert enrolling.threads(pid) == before and marked(pid) == marks
        assert daemon.policy("one")["enabled"] == ("no", "default")


@tap.test("a guest that starts with metadata is enrolled by itself; so after reset, save, restore")
def life(context):
    lv = context.libvirt
    state = os.path.join(lv.directory, "state")
    inside = ("<metadata><m:policy xmlns:m='%s' enabled='yes' domain='tenant-a'/></metadata>"
              % libvirt.POLICY)
    with context.daemon() as daemon, context.domain("one", inside=inside):
        first = daemon.enrolled("one", timeout=10)
        lv.virsh("reset", "one")
        lv.virsh("suspend", "one")
        lv.virsh("resume", "one")
        assert daemon.enrolled("one")["pid"] == first["pid"]
        lv.virsh("save", "one", state)
        daemon.wait("one", "gone", state="none")
        lv.virsh("restore", state)
        second = daemon.enrolled("one", timeout=10)
        assert second["pid"] != first["pid"]
        lv.virsh("managedsave", "one")
        daemon.wait("one", "gone", state="none")
        lv.virsh("start", "one")
        daemon.enrolled("one", timeout=10)
        lv.virsh("destroy", "one")
        daemon.wait("one", "gone", state="none")
        lv.virsh("domrename", "one", "uno")
        lv.virsh("start", "uno")
        os.kill(daemon.enrolled("uno", timeout=10)["pid"], signal.SIGKILL)
        daemon.wait("uno", "gone", state="none")
        lv.wait_off("uno")
        lv.virsh("domrename", "uno", "one")
        assert daemon.call("Status")["totals"]["guests"] == 0


@tap.test("metadata that is malformed enrols nothing, and puts out; status and journal say why")
def hostile(context):
    lv = context.libvirt
    elements = {
        "wrong type": "<policy enabled='1' domain='tenant-a'/>",
        "unknown field": "<policy enabled='yes' domain='tenant-a' allow='all'/>",
        "content": "<policy enabled='yes' domain='tenant-a'>x</policy>",
        "domain": "<policy enabled='yes' domain='self:../../etc'/>",
        "64 KiB": "<policy enabled='yes' domain='%s'/>" % ("a" * 65536),
    }
    with context.daemon() as daemon, context.domain("one"), context.domain("two"):
        daemon.known("one")
        daemon.known("two")
        for what, element in elements.items():
            lv.set_policy("one", "<policy enabled='yes' domain='tenant-a'/>")
            daemon.enrolled("one")
            lv.set_policy("one", element)
            reason = daemon.out("one", "metadata is refused")["reason"]
            tap.note("%s: %s" % (what, reason))
            assert daemon.policy("one")["enabled"] == ("no", "metadata")
            lv.set_policy("two", element)
            daemon.out("two", "metadata is refused")
        assert "metadata is refused" in daemon.said()
        # What our client says is stronger, as always, and says so itself.
        daemon.ctl("enroll", "--domain", "tenant-a", "one")
        daemon.enrolled("one")


@tap.test("libvirtd killed and started again under us: guests stay in, and follow again")
def restarted(context):
    lv = context.libvirt
    with context.domain("one"), context.domain("two"), context.daemon() as daemon:
        for name in ("one", "two"):
            lv.set_policy(name, "<policy enabled='yes' domain='tenant-a'/>")
            daemon.enrolled(name, timeout=10)
        lv.kill()
        deadline = time.monotonic() + 5 * tap.SLOW
        while daemon.call("Status")["libvirt"]["available"]:
            assert time.monotonic() < deadline, "the connection's end was not noticed"
            time.sleep(0.05)
        assert daemon.call("Status")["libvirt"]["reason"]
        assert daemon.enrolled("one") and daemon.enrolled("two")
        done = daemon.ctl("unenroll", "--persist", "two", check=False)
        assert done.returncode == 1 and "not connected" in done.stderr, done.stderr
        daemon.ctl("enroll", "two")
        os.kill(lv.pid("two"), signal.SIGKILL)
        daemon.wait("two", "gone", state="none")
        lv.start()
        daemon.wait("one", "followed", 15,
                    state=lambda _s: daemon.call("Status")["libvirt"]["available"])
        assert daemon.enrolled("one")["source"] == "libvirt"
        assert not any("one (" in line and "has left" in line for line in
                       daemon.said().splitlines())
        lv.remove_policy("one")
        daemon.out("one")


@tap.test("of two sections that match, the later wins, field by field; metadata beats both")
def sections(context):
    lv = context.libvirt
    more = """
[Policy "by name"]
match-name=web-*
enabled=yes
domain=tenant-a
cow-backoff=7m

[Policy "by title"]
match-title=*production*
match-backing=anonymous
cow-backoff=9m

[Policy "by metadata"]
match-metadata={urn:billing}customer@name=acme
max-maps=77
"""
    inside = ("<title>acme production</title>"
              "<metadata><b:customer xmlns:b='urn:billing' name='acme'/></metadata>")
    with context.daemon(more) as daemon, context.domain("web-1", inside=inside):
        daemon.enrolled("web-1", timeout=10)
        policy = daemon.policy("web-1")
        assert policy["domain"] == ("tenant-a", "section"), policy
        assert policy["cow-backoff"] == ("9m", "section"), policy
        assert policy["max-maps"] == ("77", "section"), policy
        fields = {f["field"]: f["origin"] for f in daemon.ctl("policy", "web-1")["fields"]}
        assert "memshared.conf:" in fields["cow-backoff"], fields
        lv.set_policy("web-1", "<policy cow-backoff='1m'/>")
        daemon.wait("web-1", "metadata", state=lambda _s:
                    daemon.policy("web-1")["cow-backoff"] == ("1m", "metadata"))
        daemon.enrolled("web-1")
        lv.set_policy("web-1", "<policy enabled='no'/>")
        daemon.out("web-1")
        # What clients ask for is stronger than all; once taken back, the others hold again.
        daemon.ctl("enroll", "web-1")
        daemon.enrolled("web-1")
        assert daemon.policy("web-1")["enabled"] == ("yes", "runtime")
        daemon.ctl("unenroll", "web-1")
        assert daemon.policy("web-1")["enabled"] == ("no", "metadata")
        lv.set_policy("web-1", "<policy/>")
        daemon.enrolled("web-1")
        daemon.ctl("unenroll", "web-1")
        daemon.out("web-1")
        assert daemon.policy("web-1")["enabled"] == ("no", "runtime")
        daemon.ctl("reload")
        daemon.out("web-1")


@tap.test("a reload: a bad file changes nothing; a good one lets guests in and out")
def reload(context):
    section = "\n[Policy \"one\"]\nmatch-name=one\nenabled=%s\ndomain=tenant-a\n"
    with context.daemon() as daemon, context.domain("one"):
        daemon.known("one")
        with open(daemon.config, encoding="ascii") as file:
            text = file.read()

        def rewrite(more, how="ctl"):
            with open(daemon.config, "w", encoding="ascii") as file:
                file.write(text + more)
            if how == "ctl":
                return daemon.ctl("reload", check=False)
            return os.kill(daemon.pid, signal.SIGHUP)
        rewrite(section % "yes", "SIGHUP")
        daemon.enrolled("one")
        done = rewrite(section % "maybe")
        assert done.returncode == 1 and "memshared.conf:%d" % (text.count("\n") + 4) in done.stderr
        rewrite(section % "maybe", "SIGHUP")
        daemon.wait("one", "log", state=lambda _s: "stays as it was" in daemon.said())
        daemon.enrolled("one")
        assert rewrite(section % "no").returncode == 0
        daemon.out("one")
        # KSM's domain moves: whom it served leaves, and goes on with the other engine.
        assert rewrite(section % "yes").returncode == 0
        assert daemon.enrolled("one")["engine"] == "ksm"
        text = text.replace("Domain=tenant-a", "Domain=tenant-c")
        rewrite(section % "yes")
        daemon.wait("one", "moved", state="enrolled", engine="remap")
        rewrite(section % "yes\nengine=ksm")
        daemon.out("one", "serves domain tenant-c only")
        rewrite(section % "yes" + "[Libvirt]\nUri=test:///default\n")
        assert "Uri" in daemon.said() and "restart" in daemon.said()


@tap.test("a process is not let into a trust domain for what it calls itself")
def impostor(context):
    more = "\n[Policy \"web\"]\nmatch-name=web-*\nenabled=yes\ndomain=tenant-a\n"
    command = ["setpriv", "--pdeathsig=KILL", "--reuid=%d" % NOBODY, "--regid=%d" % NOBODY,
               "--clear-groups", "qemu-system-x86_64", "-name", "web-1", "-nodefaults", "-display",
               "none", "-accel", "tcg", "-m", "32", "-S", "-uuid"]
    with context.daemon(more) as daemon, context.domain("web-0") as uuid, \
            subprocess.Popen(command + [uuid], stdin=subprocess.DEVNULL) as qemu:
        try:
            daemon.enrolled("web-0", timeout=10)
            g = daemon.wait("web-1", "found", 30, state="ready")
            assert g["source"] == "proc" and g["pid"] == qemu.pid, g
            assert daemon.ctl("policy", qemu.pid)["voucher"] == "nobody"
            assert daemon.policy("web-1")["domain"] == ("self", "default")
            # It has the UUID of a domain, too: libvirt's word goes by pid.
            context.libvirt.set_policy("web-0", "<policy enabled='yes' domain='tenant-a' cpu='5%'/>")
            daemon.wait("web-0", "adapted",
                        state=lambda _s: daemon.policy("web-0")["cpu"][0] == "5%")
            assert daemon.guest("web-1")["state"] == "ready"
            # Root may say otherwise.
            daemon.ctl("enroll", qemu.pid)
            assert daemon.enrolled("web-1")["pid"] == qemu.pid
            daemon.ctl("unenroll", qemu.pid)
            daemon.out("web-1")
        finally:
            qemu.kill()


@tap.test("what libvirt forbids is refused with a remedy; what concerns one engine only is said")
def refused(context):
    lv = context.libvirt
    wanted = ("<metadata><m:policy xmlns:m='%s' enabled='yes' domain='tenant-a'/></metadata>"
              % libvirt.POLICY)
    with context.daemon() as daemon, \
            context.domain("one", inside=wanted + "<memoryBacking><nosharepages/></memoryBacking>"), \
            context.domain("two", inside=wanted, devices="<memballoon model='virtio' "
                                                         "freePageReporting='on'/>"), \
            context.domain("three", inside=wanted + "<memoryBacking><source type='memfd'/>"
                                                    "<access mode='shared'/></memoryBacking>"):
        daemon.known("one")
        g = daemon.out("one", "nosharepages")
        assert "remedy" in g["reason"] and "nosharepages" in g["refusals"][0], g
        daemon.enrolled("two", timeout=10)
        assert any("remap: free page reporting" in r for r in daemon.guest("two")["refusals"])
        daemon.known("three")
        assert "shared" in daemon.out("three")["reason"]
        done = daemon.ctl("enroll", "one", check=False)
        assert done.returncode == 1 and "nosharepages" in done.stderr, done.stderr
        assert "are to be merged and are not" in daemon.call("Status")["warnings"][-1]
        assert lv.virsh("domstate", "one") == "running"


@tap.test("memory that is plugged in is served, too")
def hotplug(context):
    lv = context.libvirt
    inside = ("<maxMemory slots='4' unit='MiB'>256</maxMemory>"
              "<cpu><numa><cell id='0' cpus='0' memory='64' unit='MiB'/></numa></cpu>"
              "<metadata><m:policy xmlns:m='%s' enabled='yes' domain='tenant-a'/></metadata>"
              % libvirt.POLICY)
    dimm = os.path.join(lv.directory, "dimm.xml")
    with open(dimm, "w", encoding="ascii") as file:
        file.write("<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target>"
                   "</memory>")
    with context.daemon() as daemon, context.domain("one", inside=inside, mib=64):
        first = daemon.enrolled("one", timeout=10)
        lv.virsh("attach-device", "one", dimm, "--live")
        g = daemon.wait("one", "larger", 5, state="enrolled",
                        ram_bytes=lambda n: n == first["ram_bytes"] + (128 << 20))
        assert len(g["blocks"]) == len(first["blocks"]) + 1, g
        assert daemon.said().count("enrolled in domain") == 1  # it stayed in


@tap.test("enroll --persist writes the metadata, which outlives the daemon; unenroll takes it out")
def persist(context):
    lv = context.libvirt
    with context.domain("one") as uuid:
        with context.daemon() as daemon:
            daemon.known("one")
            daemon.ctl("enroll", "--persist", "--domain", "tenant-a", uuid)
            daemon.enrolled("one")
            daemon.wait("one", "metadata", state=lambda _s:
                        daemon.policy("one")["enabled"] == ("yes", "metadata"))
            text = lv.virsh("metadata", "one", "--uri", libvirt.POLICY, "--config")
            assert 'domain="tenant-a"' in text, text
            daemon.kill()
            daemon.close()
        with context.daemon() as daemon:
            daemon.enrolled("one", timeout=10)
            daemon.ctl("unenroll", "--persist", "one")
            daemon.out("one")
            daemon.wait("one", "metadata", state=lambda _s:
                        daemon.policy("one")["enabled"] == ("no", "default"))
            assert lv.virsh("metadata", "one", "--uri", libvirt.POLICY, check=False).returncode


@tap.test("a guest whose policy goes away while no daemon runs is let go by the next")
def left_behind(context):
    lv = context.libvirt
    kept = os.path.join(lv.directory, "kept")
    more = "\n[Daemon]\nStateDirectory=%s\n" % kept

    def abandon(domain, element):
        """A daemon lets it in and is killed."""
        with context.daemon(more) as daemon:
            if element:
                lv.set_policy("one", element)
            else:
                daemon.known("one")
                daemon.ctl("enroll", "--domain", domain, "one")
            daemon.enrolled("one", domain, timeout=10)
            daemon.kill()
            daemon.close()
        assert enrolling.traces(pid) and os.listdir(kept + "/guests")
    with context.domain("one"):
        pid = lv.pid("one")
        before, marks = enrolling.threads(pid), marked(pid)
        for engine, domain in (("remap", "tenant-b"), ("ksm", "tenant-a")):
            abandon(domain, "<policy enabled='yes' domain='%s'/>" % domain)
            # While libvirt is not there nobody can tell what it would say.
            with context.daemon(more + "[Libvirt]\nUri=qemu+unix:///system?socket=/nonexistent\n") \
                    as daemon:
                daemon.wait("one", "found", 30, state="ready")
                assert enrolling.traces(pid)
                # Unless somebody says it.
                if engine == "ksm":
                    daemon.ctl("unenroll", "one")
                    assert not enrolling.traces(pid) and not os.listdir(kept + "/guests")
            lv.remove_policy("one")
            with context.daemon(more) as daemon:
                daemon.known("one")
                daemon.wait("one", "let go", 10, domain=None, state=lambda s: s == "ready" and
                            not enrolling.traces(pid) and not os.listdir(kept + "/guests"))
            assert enrolling.threads(pid) == before and marked(pid) == marks
        # What still holds is followed: by libvirt's word, or because a client asked for it.
        for element in ("<policy enabled='yes' domain='tenant-b'/>", ""):
            abandon("tenant-b", element)
            with context.daemon(more) as daemon:
                daemon.enrolled("one", "tenant-b", timeout=10)
                assert "not to be any more" not in daemon.said()
                if element:
                    lv.remove_policy("one")
                else:
                    daemon.ctl("unenroll", "one")
                daemon.out("one")


@tap.test("twelve domains started, enrolled and destroyed in a loop leave nothing behind")
def many(context):
    lv = context.libvirt
    inside = ("<metadata><m:policy xmlns:m='%s' enabled='yes' domain='tenant-a'/></metadata>"
              % libvirt.POLICY)
    with context.daemon() as daemon:
        descriptors = None
        for turn in range(4):
            with contextlib.ExitStack() as stack:
                names = ["d%d" % i for i in range(3)]
                for name in names:
                    stack.enter_context(context.domain(name, inside=inside))
                for name in names:
                    daemon.enrolled(name, timeout=15)
            for name in names:
                daemon.wait(name, "gone", 5, state="none")
            if descriptors is None:
                descriptors = len(os.listdir("/proc/%d/fd" % daemon.pid))
            # A look at /proc may be under way, and has some open.
            deadline = time.monotonic() + 10
            while len(os.listdir("/proc/%d/fd" % daemon.pid)) > descriptors:
                assert time.monotonic() < deadline, (turn, descriptors)
                time.sleep(0.05)
        assert daemon.call("Status")["totals"]["guests"] == 0


@tap.test("a title that changes while the guest runs moves it from one section to another")
def retitled(context):
    lv = context.libvirt
    more = ("\n[Policy \"a\"]\nmatch-title=a *\nenabled=yes\ndomain=tenant-a\n"
            "\n[Policy \"b\"]\nmatch-title=* b\nenabled=yes\ndomain=tenant-b\ncpu=7%\n")
    with context.daemon(more) as daemon, context.domain("one"):
        daemon.known("one")
        daemon.out("one")
        for title, domain in (("a guest", "tenant-a"), ("guest of b", "tenant-b"),
                              ("a guest of a and b", "tenant-b"), ("a guest", "tenant-a")):
            lv.virsh("desc", "one", "--title", "--live", "--config", title)
            daemon.enrolled("one", domain)
            cpu = ("7%", "section") if domain == "tenant-b" else ("100%", "default")
            assert daemon.policy("one")["cpu"] == cpu, (title, daemon.policy("one"))
        lv.virsh("desc", "one", "--title", "--live", "--config", "nobody's")
        daemon.out("one")
        # Under a new name its title and policy are the same; libvirt renames what does not run.
        assert lv.virsh("domrename", "one", "uno", check=False).returncode
        lv.virsh("desc", "one", "--title", "--live", "--config", "a guest")
        daemon.enrolled("one")
        lv.virsh("destroy", "one")
        lv.virsh("domrename", "one", "uno")
        lv.virsh("start", "uno")
        daemon.enrolled("uno", timeout=10)
        lv.virsh("destroy", "uno")
        lv.virsh("domrename", "uno", "one")


@tap.test("saved, copied, dumped and reverted while it is enrolled, a guest finds its memory right",
          limit=600)
def snapshots(context):
    lv = context.libvirt
    directory = os.path.join(lv.directory, "snapshots")
    os.mkdir(directory)
    os.chmod(directory, 0o777)
    disk = os.path.join(directory, "disk")
    libvirt.make_qcow2(disk, 512)
    devices = ("<disk type='file'><driver name='qemu' type='qcow2'/><source file='%s'/>"
               "<target dev='vda' bus='virtio'/></disk>" % disk)
    inside = ("<metadata><m:policy xmlns:m='%s' enabled='yes' domain='tenant-a' engine='remap'/>"
              "</metadata>" % libvirt.POLICY)
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(context.verifying("one", inside=inside, devices=devices))
        daemon = stack.enter_context(context.daemon("\n[Daemon]\nCpuBudget=100%\n", age="1s"))

        def merged():
            g = daemon.enrolled("one", timeout=30)
            daemon.wait("one", "merged", 180, sharing_pages=lambda n: n > 1000)
            return g["pid"]

        def step(*words, then=()):
            """What virsh does meanwhile; the guest checks itself, is served and merged. Whether
            it is still the same process, which then must not have been let go."""
            nonlocal line
            pid = merged()
            said = len(daemon.said())
            begin = time.monotonic()
            lv.virsh(*words, timeout=180)
            if then:
                lv.virsh(*then)
            new = lv.pid("one")
            tap.note("%s: %.1f s%s" % (words[0], time.monotonic() - begin,
                                       "" if new == pid else ", another process"))
            if new != pid:
                line = stack.enter_context(contextlib.closing(
                    guest_module.Serial(lv.serial("one"), "one")))
            enrolling.check(line)
            assert merged() == new
            enrolling.check(line)
            assert new != pid or "has left" not in daemon.said()[said:]
            return new == pid

        copy, overlay, state = (os.path.join(directory, n) for n in ("copy", "overlay", "state"))
        assert step("blockcopy", "one", "vda", copy, "--format", "qcow2", "--wait", "--pivot",
                    "--transient-job")
        assert step("dump", "one", os.path.join(directory, "dump"), "--memory-only", "--live")
        assert step("snapshot-create-as", "one", "internal")
        step("snapshot-revert", "one", "internal")
        assert step("snapshot-delete", "one", "internal")
        assert not step("managedsave", "one", then=("start", "one"))
        assert step("snapshot-create-as", "one", "external", "--live", "--memspec",
                    "file=%s/memory,snapshot=external" % directory, "--diskspec",
                    "vda,snapshot=external,file=" + overlay)
        assert step("blockcommit", "one", "vda", "--active", "--wait", "--pivot")
        assert not step("save", "one", state, then=("restore", state))


@tap.test("libvirt's guests are merged, check themselves, and part when one changes its domain",
          limit=600)
def merged(context):
    lv = context.libvirt

    def check(*lines):
        for line in lines:
            enrolling.check(line)

    with harness.Host() as host, context.verifying("one") as one, \
            context.verifying("two") as two:
        host.ksm()
        with context.daemon("\n[Daemon]\nCpuBudget=100%\n", age="1s") as daemon:
            for name in ("one", "two"):
                lv.set_policy(name, "<policy enabled='yes' domain='tenant-a'/>")
                daemon.enrolled(name, timeout=10)
            host.wait(lambda: min(daemon.guest(n)["sharing_pages"] for n in ("one", "two")) > 1000,
                      180, "both share")
            check(one, two)
            guests = [enrolling.Process(lv.pid(n)) for n in ("one", "two")]
            tap.note("audit: %s" % host.audit(guests))
            assert host.audit(guests)["sharing"] > 1000
            lv.set_policy("two", "<policy enabled='yes' domain='tenant-b' engine='ksm'/>")
            daemon.out("two", "tenant-b", timeout=10)
            across = host.audit(guests)
            tap.note("parted: %s" % across)
            assert not across["pairs"]
            check(one, two)
            # The other engine takes it there.
            lv.set_policy("two", "<policy enabled='yes' domain='tenant-b'/>")
            assert daemon.enrolled("two", "tenant-b", timeout=10)["engine"] == "remap"
            check(one, two)
            for name in ("one", "two"):
                lv.remove_policy(name)
                daemon.out(name, timeout=10)
            assert host.audit(guests)["sharing"] == 0
            check(one, two)


tap.main(enrolling.Context, shared=True)
