#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes on for ever: what watching costs when little changes, and how soon that is merged.

    make bench                        everything
    bench-steady.py idle              CPU for a pass in which nothing, and in which 1 % was written
    bench-steady.py twin              a guest boots beside its twin: when is it merged?
    bench-steady.py guest             a loop in a guest that writes memory, with and without us

idle works on contenders.py's synthetic guests (BENCH_GUESTS, BENCH_GUEST_MIB; BENCH_CASE, 50:16;
BENCH_CONTENDERS, "ksmd remap ksm"), the others on real ones. The more mappings merging made, the more a pass costs: those of engine
remap, and those that KSM's marks cut memory into. A pass of ksmd is a full scan. memshared looks
less often at what was quiet for long, so idle passes are counted when that has been so for a
while, and passes with 1 % written before each of them when they have been for a while. Numbers
vary from run to run: compare those of one run.
"""
import os
import statistics
import time

import contenders
import ksm as ksm_module
from contenders import GUEST_MIB, GUESTS, PAGE, harness

CASE = os.environ.get("BENCH_CASE", "50:16")
CONTENDERS = os.environ.get("BENCH_CONTENDERS", "ksmd remap ksm").split()
PAGES = GUESTS * (GUEST_MIB << 20) // PAGE
ROUNDS = 5
# Passes until quiet memory is looked at as rarely as it ever is, and those that look at all of it
# twice.
QUIET_PASSES = 80
IDLE_PASSES = 32
# Twice so many: in the first ones the memory that was quiet is still catching up. In so many fall two of
# engine ksm's rounds (manager-schedule.c, ROUND_PASSES).
WRITTEN_PASSES = 32
MAX_MAPS = 700000
BUDGET = """\
[Daemon]
StateDirectory=%s
CpuBudget=25%%
Pressure=always

[Policy "bench"]
match-name=steady-*
enabled=yes
domain=bench
engine=remap
thp=split:1
"""


def rewrite(guests, number):
    for g in guests:
        g.rewrite(number, 16, 1)


def ksmd_pass(thread):
    """CPU of a full scan; it begins where the last one ended."""
    scans, cpu = ksm_module.counters()["full_scans"], contenders.cpu_of_thread(thread)
    ksm_module.write("run", 1)
    while ksm_module.counters()["full_scans"] == scans:
        time.sleep(0.005)
    ksm_module.write("run", 0)
    return contenders.cpu_of_thread(thread) - cpu


def idle_ksmd():
    with harness.Host() as host:
        guests = contenders.make_guests(host, CASE)
        thread = contenders.ksmd_pid()
        contenders.merge_by_ksmd()
        result = {}
        number = 0
        for smart in (1, 0):
            ksm_module.write("smart_scan", smart)
            idle_passes = statistics.median(ksmd_pass(thread) for _ in range(ROUNDS))
            changed = []
            for _ in range(ROUNDS):
                number += 1
                rewrite(guests, number)
                changed.append(ksmd_pass(thread))
            result["smart" if smart else "every"] = idle_passes, statistics.median(changed)
    contenders.unmerge_all()
    return result


def idle_memshared(engine):
    with harness.Host() as host:
        guests = contenders.make_guests(host, CASE)
        m = contenders.Memshared(host, guests, engine, MAX_MAPS)
        m.converge()

        def passes():
            pids = {g.pid for g in guests}
            return min(g["passes"] for g in m.daemon.call("Guests")["guests"] if g["pid"] in pids)

        def after(n):
            """CPU until each guest has had so many more passes; and how many there were."""
            before, cpu = passes(), m.cpu_seconds()
            time.sleep(n)  # seconds: to ask all the time costs the daemon more than a pass does
            host.wait(lambda: passes() >= before + n, 300, "%d passes" % n, interval=0.5)
            return m.cpu_seconds() - cpu, passes() - before
        after(QUIET_PASSES)
        idle, n = after(IDLE_PASSES)
        cpu = []
        for number in range(1, 2 * WRITTEN_PASSES + 1):
            rewrite(guests, number)
            host.wait(lambda before=passes(): passes() > before, 300, "a pass", interval=0.5)
            cpu.append(m.cpu_seconds())
        m.daemon.stop()
    contenders.unmerge_all()
    return idle / n, (cpu[-1] - cpu[WRITTEN_PASSES - 1]) / WRITTEN_PASSES


def idle():
    kernel = idle_ksmd() if "ksmd" in CONTENDERS else {}
    print("%-28s %14s %12s %16s %12s" % ("CPU of a pass over %d MiB" % (GUESTS * GUEST_MIB),
                                         "nothing written", "ns/page", "1 % written", "ns/page"))

    def line(who, nothing, changed):
        print("%-28s %12.2f ms %12.1f %13.2f ms %12.1f" % (
            who, nothing * 1e3, nothing * 1e9 / PAGES, changed * 1e3, changed * 1e9 / PAGES),
            flush=True)
    names = {"every": "off", "smart": "on"}
    for which, passes in kernel.items():
        line("ksmd, smart_scan " + names[which], *passes)
    for engine in ("remap", "ksm"):
        if engine not in CONTENDERS:
            continue
        ours = idle_memshared(engine)
        line("memshared, engine " + engine, *ours)
        for which, theirs in kernel.items():
            print("    %5.0f and %.0f times less than ksmd with smart_scan %s" % (
                theirs[0] / ours[0], theirs[1] / ours[1], names[which]), flush=True)


def twin():
    """Time from the moment that a guest has booted."""
    with harness.Host() as host:
        daemon = host.daemon(BUDGET % (host.directory + "/state"))
        host.guest("steady-first", kind="plain", mib=256).ready()
        times = []
        for i in range(3):
            g = host.guest("steady-twin%d" % i, kind="plain", mib=256).ready()
            began, history = time.monotonic(), []

            def settled():
                # pylint: disable=cell-var-from-loop
                now = next((x for x in daemon.call("Guests")["guests"] if x["pid"] == g.pid), {})
                shared = now.get("shared_pages", 0) + now.get("zero_pages", 0)
                history.append((time.monotonic() - began, shared))
                return shared and history[-1][0] > 45 and shared <= 1.01 * next(
                    n for t, n in history if t > history[-1][0] - 25)
            host.wait(settled, 300, "the twin shares what it can", interval=0.25)
            final = history[-1][1]
            half, most = (next(t for t, n in history if n >= final * share) for share in (0.5, 0.9))
            times.append(half)
            print("twin %d: half of %d pages merged after %.1f s, 90 %% after %.1f s" % (
                i, final, half, most), flush=True)
            g.kill()
        print("from booted to merged at a CPU budget of 25 %%: median page %.1f s" %
              statistics.median(times), flush=True)
        daemon.stop()


def guest():
    """By turns: ten seconds and more of each, in the same guest."""
    with harness.Host() as host:
        daemon = host.daemon(BUDGET.replace("enabled=yes\n", "") % (host.directory + "/state"))
        g = host.guest("steady-loop", mib=32, memory_mib=288, paused=True, duty=100).ready()
        results = {"untracked": [], "tracked": []}

        def loop():
            done = g.command("loop 128 20", r"^looped pages (\d+) p50 (\d+) p99 (\d+) p999 (\d+) "
                             r"p100 (\d+)", 120)
            return [int(done[i]) for i in range(1, 6)]
        loop()
        for _ in range(ROUNDS):
            results["untracked"].append(loop())
            daemon.call("Enroll", pid=g.pid)
            results["tracked"].append(loop())
            daemon.call("Unenroll", pid=g.pid)
        print("%-10s %12s %10s %10s %10s %12s" % ("a loop", "pages/s", "p50 us", "p99 us", "p99.9 us",
                                                 "longest us"))
        for who, runs in results.items():
            middle = [statistics.median(r[i] for r in runs) for i in range(5)]
            print("%-10s %12.0f %10.1f %10.1f %10.1f %12.0f" % (
                who, middle[0] / 20, *(x / 1e3 for x in middle[1:])))
        ratios = [t[0] / u[0] for u, t in zip(results["untracked"], results["tracked"])]
        print("throughput tracked, of untracked: median %.1f %% (%s)" % (
            100 * statistics.median(ratios), " ".join("%.1f" % (100 * r) for r in sorted(ratios))))
        g.check()
        daemon.stop()


if __name__ == "__main__":
    contenders.run({"idle": idle, "twin": twin, "guest": guest})
