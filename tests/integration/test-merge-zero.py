#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Engine zero: pages of zeros are freed, and no frame is ever shared."""
import array
import collections
import time

import harness

PAGE = 4096

CONFIG = """\
[Daemon]
StateDirectory=%s
CpuBudget=100%%
PassInterval=1s
Pressure=always

[Policy "all"]
engine=zero
min-age=1s
thp=split:1
"""

# Equal content in both guests and much of it twice in each: all of it would be shared by another
# engine.
MIX = "zero:40,dup:30,within:10,unique:10,fast:10"


def start(host):
    return host.daemon(CONFIG % (host.directory + "/state"))


def settled(host, daemon, least):
    """Waits until no more zero pages come; status then."""
    last = [0, time.monotonic()]

    def rests():
        status = daemon.call("Status")
        zero = status["totals"]["zero_pages"]
        if abs(zero - last[0]) > max(16, last[0] // 200):
            last[:] = [zero, time.monotonic()]
        return zero >= least and time.monotonic() - last[1] > 4 and status
    return host.wait(rests, 120, "%d pages of zeros and more are freed" % least)


def ram(host, guests):
    return host.audit(guests, ranges=lambda g: [g.ram()])


def not_shared(host, guests):
    """No frame twice, none of a file: raises otherwise. What the auditor saw."""
    seen = ram(host, guests)
    assert seen["sharing"] == 0 and not seen["pairs"], seen
    assert all(g["file"] == 0 and g["within"] == 0 for g in seen["guests"]), seen
    return seen


def holes(seen):
    """Pages that take no memory."""
    return sum(g["pages"] - (g["present"] - g["zero"]) - g["swapped"] for g in seen["guests"])


def presence(guest):
    """For each page of RAM, True when it takes memory."""
    start, end = guest.ram()
    entries = array.array("Q")
    with open("/proc/%d/pagemap" % guest.pid, "rb") as file:
        file.seek(start // PAGE * 8)
        entries.frombytes(file.read((end - start) // PAGE * 8))
    frames = [e & (1 << 55) - 1 if e >> 63 else 0 for e in entries]
    # not_shared() has proven that no frame is there twice but the kernel's page of zeros.
    zero = max(collections.Counter(f for f in frames if f).items(), key=lambda item: item[1])
    zero_frame = zero[0] if zero[1] > 1 else 0
    return [e >> 62 != 0 and f != zero_frame for e, f in zip(entries, frames)]


@harness.test("only pages of zeros are freed, and no frame is shared, alone and in a domain")
def zeros(host):
    # ksmd, which other tests may drive, has no part in them before they are enrolled.
    guests = [host.guest("g%d" % i, mib=48, uid=65534, mix=MIX, seed=7, machine="pc,mem-merge=off")
              for i in range(3)]
    for g in guests:
        g.ready()
    daemon = start(host)
    not_shared(host, guests)
    before = [presence(g) for g in guests]
    daemon.call("Enroll", pid=guests[0].pid)
    for g in guests[1:]:
        daemon.call("Enroll", pid=g.pid, domain="both")
    # Of 48 MiB each 40 % were zeros from the start.
    status = settled(host, daemon, 3 * 48 * 256 * 35 // 100)
    assert status["totals"]["sharing_pages"] == 0 and status["totals"]["shared_pages"] == 0, status
    assert {d["name"]: d["engine"] for d in status["domains"]} == {
        "self:%d" % guests[0].pid: "zero", "both": "zero"}, status["domains"]

    for g in guests:
        g.pause()

    def agree():
        """What went away since, and all that is not there: the daemon's figure lies between, as
        pages that came meanwhile may have gone again."""
        known = daemon.call("Status")["totals"]
        gone = sum(was and not now for g, b in zip(guests, before)
                   for was, now in zip(b, presence(g)))
        # The guest's kernel writes all the time, and a pass notices only later.
        return (gone * 98 // 100 - 100 <= known["zero_pages"] <= holes(ram(host, guests)) + 100
                and (gone, known))
    gone, known = host.wait(agree, 60, "the daemon counts what the page map shows")
    harness.note("%d pages of zeros by memshared, %d went by the page map; saved %d KiB" % (
        known["zero_pages"], gone, known["saved_bytes"] >> 10))
    for g in guests:
        g.resume()
    assert known["saved_bytes"] <= known["zero_pages"] * PAGE
    assert known["saved_bytes"] == known["zero_pages"] * PAGE - known["overhead_bytes"]
    for g in guests:
        one = daemon.guest(g)
        assert one["engine"] == "zero" and one["shared_pages"] == 0 and one["zero_pages"] > 0, one
        assert not [m for m in g.smaps() if "memshared-store" in m["path"]]
        g.check()

    # Written holes are pages again, and equal ones still nobody's but their guest's.
    for g in guests:
        g.scramble(50)
        g.rewrite(50)
        g.check()
    settled(host, daemon, 3 * 48 * 256 * 30 // 100)
    not_shared(host, guests)
    for g in guests:
        daemon.call("Unenroll", pid=g.pid)
        g.check()
        left = [m for m in g.smaps() if m["path"].startswith("/memfd:memshared")
                or m["path"].endswith("memshared-agent.bin")]
        assert not left, left[:3]
    not_shared(host, guests)


@harness.test("from remap to zero and back: pages are given back first")
def moved(host):
    guests = [host.guest("g%d" % i, mib=32, uid=65534, mix=MIX, seed=7) for i in range(2)]
    for g in guests:
        g.ready()
    daemon = start(host)
    for g in guests:
        daemon.call("Enroll", pid=g.pid, domain="both", engine="remap")
    host.wait(lambda: daemon.call("Status")["totals"]["sharing_pages"] > 1000, 90, "they share")
    done = daemon.ctl("enroll", "--domain", "both", "--engine", "zero", guests[0].pid, check=False)
    assert done.returncode and "another engine" in done.stderr, done
    for g in guests:
        daemon.call("Unenroll", pid=g.pid)
    not_shared(host, guests)
    for g in guests:
        daemon.call("Enroll", pid=g.pid, domain="both", engine="zero")
    for g in guests:
        # Holes stay holes when a guest leaves: new zeros take their places.
        g.scramble(50)
        g.rewrite(50)
    settled(host, daemon, 1000)
    not_shared(host, guests)
    for g in guests:
        g.check()


@harness.test("free page reporting keeps remap out, not zero")
def reporting(host):
    g = host.guest("g", mib=32, mix=MIX,
                   arguments=["-global", "virtio-balloon-device.free-page-reporting=on"])
    g.ready()
    daemon = start(host)
    done = daemon.ctl("enroll", "--engine", "remap", g.pid, check=False)
    assert done.returncode and "free page reporting" in done.stderr, done
    daemon.call("Enroll", pid=g.pid)
    settled(host, daemon, 1000)
    g.check()


if __name__ == "__main__":
    harness.main()
