#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""quickstart demo: three guests, what they hold in common, and what merging gives back.

Shows memshared's own figures beside what only the kernel says: what is available, and each
guest's proportional set size. Ends with everything as it was before.
"""
import os
import subprocess
import sys
import time

import harness
import tap

GUESTS = ("red", "green", "blue")
MEMORY_MIB = 256
# Seconds; less than half merged by then is a failure, which a test wants to see.
MERGE_LIMIT = float(os.environ.get("MEMSHARED_DEMO_MERGE_SECONDS", "60"))
MIB = 1 << 20

# Eager, as no real host would be set: everything at once, huge pages given up for any saving.
CONFIG = """\
[Daemon]
StateDirectory=%s/state
CpuBudget=100%%
PassInterval=1s
Pressure=always

[Ksm]
Domain=demo

[Policy "demo"]
match-name=*
min-age=1s
cpu=100%%
thp=split:1
"""


def heading(text):
    print("\n== " + text, flush=True)


def control(daemon, *words):
    """Runs memsharectl as an administrator would."""
    command = [harness.BUILD + "/memsharectl", "--socket", daemon.socket, *map(str, words)]
    print("$ memsharectl " + " ".join(map(str, words)), flush=True)
    subprocess.run(command, check=True, timeout=60 * tap.SLOW)


def settled_memory(host):
    """What is available once it has stopped to move: freed pages arrive with a delay."""
    last = [harness.available_bytes()]

    def rests():
        now = harness.available_bytes()
        moved, last[0] = abs(now - last[0]), now
        return moved < MIB
    try:
        host.wait(rests, 5, "it rests", interval=0.5)
    except AssertionError:
        pass
    return last[0]


def measure(host, guests):
    return {"available": settled_memory(host), "pss": [g.pss() for g in guests],
            "audit": host.audit(guests, lambda g: [g.ram()])}


def show_progress(host, daemon, guests, before, expected_bytes):
    """Follows the merging until no more comes back. The bar is what the kernel says.

    Returns how long it took, and how many bytes came back by whoever counts fewer, memshared or the
    kernel."""
    begin = time.monotonic()
    terminal = sys.stdout.isatty()
    state = {"freed": -1, "ours": 0, "still": 0, "shown": -10.0}

    def done():
        status = daemon.call("Status")
        ours = status["totals"]["sharing_pages"] + status["totals"]["zero_pages"]
        state["ours"] = ours * status["page_bytes"]
        freed = sum(before["pss"]) - sum(g.pss() for g in guests)
        state["still"] = 0 if freed > state["freed"] + 4 * MIB else state["still"] + 1
        state["freed"] = max(freed, state["freed"])
        elapsed = time.monotonic() - begin
        if terminal or elapsed - state["shown"] > 2:
            state["shown"] = elapsed
            part = min(1.0, max(0.0, freed / max(1, expected_bytes)))
            ksmd = status.get("ksmd") or {}
            print("%s  [%-30s] Pss %+7.1f MiB of %.1f expected; memshared counts %.1f; %s   %s" % (
                "\r" if terminal else "", "#" * int(30 * part), -freed / MIB,
                expected_bytes / MIB, state["ours"] / MIB,
                "ksmd " + ksmd["run"] if ksmd else status["state"],
                "" if terminal else "\n"), end="", flush=True)
        # Some pages of zeros are known to be free before ksmd has merged anything.
        return state["ours"] > expected_bytes / 10 and state["still"] >= 12
    try:
        host.wait(done, MERGE_LIMIT, "merging ends", interval=0.5)
    except AssertionError as error:
        print("\n  %s" % error)
    print(flush=True)
    return time.monotonic() - begin, min(state["freed"], state["ours"])


def show_table(guests, before, after, daemon, took):
    """What the kernel says, then what memshared says."""
    def row(name, first, second):
        print("  %-24s %10.1f %10.1f %+10.1f" % (name, first / MIB, second / MIB,
                                               (second - first) / MIB))
    print("  %-24s %10s %10s %10s" % ("MiB", "before", "after", "change"))
    row("host, available (*)", before["available"], after["available"])
    for g, first, second in zip(guests, before["pss"], after["pss"]):
        row("guest %s, Pss" % g.name, first, second)
    row("all guests, Pss", sum(before["pss"]), sum(after["pss"]))
    status = daemon.call("Status")
    totals, cpu, page = status["totals"], status.get("cpu") or {}, status["page_bytes"]
    row("memshared: freed", 0, (totals["sharing_pages"] + totals["zero_pages"]) * page)
    row("memshared: freed, net", 0, totals["saved_bytes"])
    zero = [sum(g["zero"] for g in m["audit"]["guests"]) for m in (before, after)]
    row("pages left as zero page", zero[0] * page, zero[1] * page)
    print("\n  %d guest pages map %d shared ones. Merged in %.0f s with %.1f s of CPU, ksmd's\n"
          "  included. The last row is not merging: where the kernel splits a huge page to merge\n"
          "  a part of it, it frees the zero-filled rest as well.\n"
          "  (*) MemAvailable, and free pages that wait in the processors' own lists."
          % (totals["sharing_pages"] + totals["shared_pages"], totals["shared_pages"], took,
             (cpu.get("daemon_usec", 0) + (cpu.get("ksmd_usec") or 0)) / 1e6))


def demo(host):
    ksm = host.ksm()
    ksm.set(run=0)
    heading("Booting %d guests: Debian's kernel, %d MiB each, under %s" % (
        len(GUESTS), MEMORY_MIB, harness.accelerator()))
    guests = [host.guest(name, kind="plain", memory_mib=MEMORY_MIB) for name in GUESTS]
    for g in guests:
        g.ready()
        print("  %-6s pid %d is up" % (g.name, g.pid), flush=True)

    heading("What would be saved? memshared only reads")
    daemon = host.daemon(CONFIG % host.directory)
    pids = [g.pid for g in guests]
    control(daemon, "estimate", *pids)
    estimate = daemon.call("Estimate", pids=pids)["result"]
    expected = sum(g["saved_pages"] for g in estimate["groups"]) * estimate["page_bytes"]
    before = measure(host, guests)

    heading("Merging")
    control(daemon, "enroll", "--domain", "demo", *pids)
    took, freed = show_progress(host, daemon, guests, before, expected)
    control(daemon, "status")

    after = measure(host, guests)
    heading("Before and after, by the kernel's own counters")
    show_table(guests, before, after, daemon, took)
    for g in guests:
        g.command("echo $((6 * 7))", "^42$", 20)
    print("\n  The guests are alive and answer. Removing them and giving KSM back as it was.",
          flush=True)
    if freed < expected / 2:
        raise RuntimeError("only %.1f MiB came back of the %.1f MiB that the estimate promised" % (
            max(freed, 0) / MIB, expected / MIB))


def main():
    tap.signals_unwind()
    try:
        with harness.Host() as host:
            host.quiet = True
            demo(host)
    except (harness.Skip, harness.CallError, RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit("quickstart demo: %s" % error)


main()
