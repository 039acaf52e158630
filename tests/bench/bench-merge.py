#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU and time to converge with engine ksm: memshared and ksmd, side by side, on the same guests.

    make bench                        all cases
    bench-merge.py 50:16 10:16 real   some cases (contenders.py)

For each case every contender gets fresh guests with the same content:

    ksmd       the kernel's KSM on all guest RAM, at full speed
    defaults   the same at the kernel's default pace, for DEFAULTS_SECONDS only: it would take
               hours to converge
    memshared  engine ksm: proven duplicates only; ksmd's CPU time is included

Numbers vary from run to run: compare those of one run.
"""
import sys

import contenders
from contenders import harness


def scan_speed(host):
    """Estimate reads every page once: bytes over the CPU time it took."""
    guests = contenders.make_guests(host, "50:16")
    daemon = host.daemon(contenders.CONFIG % (host.directory + "/state-scan", "400%", "ksm", 16384))
    speeds = []
    for _ in range(5):
        before = daemon.cpu_seconds()
        answer = daemon.call("Estimate", pids=[g.pid for g in guests])["result"]
        speeds.append(answer["read_bytes"] / 1e9 / (daemon.cpu_seconds() - before))
    daemon.stop()
    return sorted(speeds)[2]


def main():
    cases = sys.argv[1:] or ["50:16", "10:16", "50:1", "real"]
    contenders.tap.signals_unwind()
    with harness.Host() as host:
        host.ksm()
        print("%-8s %-10s %8s %8s %10s %12s %14s" % ("case", "who", "cpu s", "wall s", "sharing",
                                                   "us/page", "MemAvailable"), flush=True)
        for case in cases:
            with harness.Host() as inner:
                kernel = contenders.run_ksmd(inner, case)
            with harness.Host() as inner:
                slow = contenders.run_ksmd_defaults(inner, case)
            with harness.Host() as inner:
                ours = contenders.run_memshared(inner, case)
            for who, r in (("ksmd", kernel), ("defaults", slow), ("memshared", ours)):
                print("%-8s %-10s %8.2f %8.2f %10d %12.2f %+11d MiB" % (
                    case, who, r["cpu"], r["wall"], r["sharing"],
                    r["cpu"] * 1e6 / max(r["sharing"], 1), r["available"] >> 20), flush=True)
            print("%-8s cpu %.0f %% of ksmd's, savings %.1f %%, ksmd's part %.2f s, idle %.2f %% of a "
                  "CPU, ksmd scanned %.2f GB/s" % (
                      case, 100 * ours["cpu"] / kernel["cpu"],
                      100 * ours["sharing"] / max(kernel["sharing"], 1), ours["ksmd"],
                      100 * ours["idle"], kernel["gbps"]), flush=True)
        with harness.Host() as inner:
            print("scan: memshared %.2f GB/s per core" % scan_speed(inner))


if __name__ == "__main__":
    main()
