#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Engine remap as a whole, daemon and agents, beside ksmd at full speed.

    make bench                               everything
    bench-engine-remap.py converge           4 guests of 1 GiB, 50 and 10 % duplicates, in runs and isolated
    bench-engine-remap.py waits              how long accesses to a guest's memory wait
    bench-engine-remap.py churn              rounds of merge, rewrite half, merge again
    bench-remap [MIB [SECONDS [LENGTH]]]     the agent alone, and a thread of the guest's own
    bench-floor [MIB [LENGTH]]               what the kernel takes for the least that there is to do

BENCH_GUEST_MIB (1024), BENCH_GUESTS (4) and BENCH_ROUNDS (100) make it smaller. Numbers vary from
run to run, most of all the longest waits: where the machine has other work, whoever holds a page
frozen can lose its processor. Compare those of one run.
"""
import os
import subprocess
import sys
import time

import contenders
from contenders import PAGE, harness

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "100"))
MAX_MAPS = 700000


def converge():
    """CPU, time and memory, everything included."""
    print("%-6s %-10s %7s %7s %9s %9s %9s %11s %14s %14s %8s" % (
        "case", "who", "cpu s", "wall s", "us/page", "sharing", "maps", "MemAvail.", "of ksmd: cpu",
        "MemAvailable", "idle"))
    for case in ("50:16", "10:16", "50:1"):
        with harness.Host() as inner:
            kernel = contenders.run_ksmd(inner, case)
        with harness.Host() as inner:
            ours = contenders.run_memshared(inner, case, "remap", MAX_MAPS)
        # ksmd merges as many pages: one of each set of equal ones keeps its frame.
        merged = ours["merged"]
        for who, r in (("ksmd", kernel), ("memshared", ours)):
            print("%-6s %-10s %7.2f %7.2f %9.2f %9d %9d %+7d MiB %13.1f%% %13.1f%% %7.2f%%" % (
                case, who, r["cpu"], r["wall"], r["cpu"] * 1e6 / merged, r["sharing"], r["maps"],
                r["available"] >> 20, 100 * r["cpu"] / kernel["cpu"],
                100 * r["available"] / kernel["available"], 100 * r.get("idle", 0)), flush=True)
        print("       agents: %.2f us/page of %.2f; %d pages merged" % (
            ours["agent"] * 1e6 / merged, ours["cpu"] * 1e6 / merged, merged), flush=True)


def touch(guests, seconds):
    words = ["%d:%x:%d" % (g.pid, g.ram()[0], (g.ram()[1] - g.ram()[0]) // PAGE) for g in guests]
    return subprocess.Popen([harness.BUILD + "/tests/bench/touch", str(seconds), *words])


def waits():
    """While guests merge, something looks at their pages as fast as it can."""
    for case in ("50:16", "50:1"):
        with harness.Host() as host:
            guests = contenders.make_guests(host, case)
            print("accesses from outside, %s, nothing is merged" % case, flush=True)
            touch(guests, 5).wait()
            m = contenders.Memshared(host, guests, "remap", MAX_MAPS)
            print("the same while all is merged", flush=True)
            looker = touch(guests, 600)
            m.converge()
            looker.terminate()
            looker.wait()
            m.daemon.stop()


def merged_again(m, wanted):
    """Until as much is shared as at first, or nothing has changed for a while; pages shared."""
    best, since = 0, time.monotonic()
    while best < wanted and time.monotonic() - since < 8:
        sharing = m.daemon.call("Status")["totals"]["sharing_pages"]
        if sharing > best:
            best, since = sharing, time.monotonic()
        time.sleep(0.1)
    return best


def churn():
    """Savings and mappings, round after round."""
    for unit in (16, 1):
        with harness.Host() as host:
            guests = contenders.make_guests(host, "50:16")
            m = contenders.Memshared(host, guests, "remap", MAX_MAPS)
            first = m.converge()[-1][2]
            print("half of all pages rewritten, %d together: round, sharing, of the first, mappings, "
                  "shared" % unit, flush=True)
            for number in range(ROUNDS + 1):
                if number:
                    for g in guests:
                        g.rewrite(number, unit)
                    host.wait(lambda: m.daemon.call("Status")["totals"]["sharing_pages"] < first * 0.8,
                              60, "what was rewritten is not shared any more")
                sharing = merged_again(m, first) if number else first
                if number % max(ROUNDS // 10, 1) == 0:
                    print("  %4d %9d %6.1f%% %8d %9d" % (
                        number, sharing, 100 * sharing / first, m.maps(),
                        m.daemon.call("Status")["totals"]["shared_pages"]), flush=True)
            m.daemon.stop()


def main():
    contenders.run({"converge": converge, "waits": waits, "churn": churn})
    if not sys.argv[1:]:
        for words in (["remap"], ["floor"], ["floor", "128", "16"]):
            subprocess.run([harness.BUILD + "/tests/bench/bench-" + words[0], *words[1:]], check=True)


if __name__ == "__main__":
    main()
