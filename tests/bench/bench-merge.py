#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU and time to converge: memshared and ksmd, side by side, on the same guests.

    make bench                        all cases
    bench-merge.py 50:16 10:16 real   per cent of duplicates : pages in a run; real guests

A synthetic guest is a real QEMU that is never started (-S), 1 GiB of RAM, filled from outside.
For each case every contender gets fresh guests with the same content:

    ksmd       the kernel's KSM on all guest RAM, at full speed
    defaults   the same at the kernel's default pace, for DEFAULTS_SECONDS only: it would take
               hours to converge
    memshared  engine ksm: proven duplicates only; ksmd's CPU time is included

CPU is what the daemon (all its threads), memshared-attach and ksmd used until nothing more
merged. Numbers vary from run to run: compare those of one run.
"""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))
import harness  # noqa: E402
import ksm as ksm_module  # noqa: E402

PAGE = 4096
GUESTS = 4
DEFAULTS_SECONDS = 30
GUEST_MIB = int(os.environ.get("BENCH_GUEST_MIB", "1024"))

CONFIG = """\
[Daemon]
StateDirectory=%s
CpuBudget=%s
PassInterval=1s
Pressure=always

[Ksm]
Domain=bench
PagesToScan=20000
SleepMillisecs=0
MaxRanges=16384

[Policy "bench"]
match-name=*
domain=bench
engine=%s
min-age=0s
thp=split:1
max-maps=16384
"""


class Synthetic:
    """A QEMU that is not started, its RAM filled by fill.c."""

    def __init__(self, host, number, percent, run):
        self.name = "synthetic%d" % number
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "qemu-system-x86_64", "-S", "-accel", "tcg", "-m",
             str(GUEST_MIB), "-nodefaults", "-display", "none", "-name", "guest=" + self.name],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.pid = self._process.pid
        self.ended = False
        host.callback(self.close)
        start = host.wait(self._ram, 30, "RAM of a synthetic guest")
        self._range = start
        subprocess.run([os.path.join(harness.BUILD, "tests/bench/fill"), str(self.pid),
                        "%x" % start[0], str((start[1] - start[0]) // PAGE), str(number + 1),
                        str(percent), str(run)], check=True)

    def _ram(self):
        try:
            with open("/proc/%d/maps" % self.pid, encoding="ascii", errors="replace") as file:
                for line in file:
                    first, last = (int(x, 16) for x in line.split()[0].split("-"))
                    if last - first == GUEST_MIB << 20:
                        return first, last
        except FileNotFoundError:
            pass
        return None

    def ram(self):
        return self._range

    def close(self):
        if not self.ended:
            self._process.kill()
            self._process.wait()
        self.ended = True


def ksmd_pid():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/comm" % pid, encoding="ascii") as file:
                if file.read().strip() == "ksmd":
                    return int(pid)
        except OSError:
            continue
    raise RuntimeError("no ksmd")


def cpu_of_thread(pid):
    with open("/proc/%d/schedstat" % pid, encoding="ascii") as file:
        return int(file.read().split()[0]) / 1e9


def make_guests(host, case):
    if case == "real":
        guests = [host.guest("real%d" % i, kind="plain", mib=256) for i in range(GUESTS)]
        for g in guests:
            g.ready()
        return guests
    percent, run = map(int, case.split(":"))
    return [Synthetic(host, i, percent, run) for i in range(GUESTS)]


def unmerge_all():
    ksm_module.write("run", 2)
    ksm_module.write("run", 0)


def run_ksmd_defaults(host, case):
    """The pace that every kernel starts with: 100 pages, then 20 ms of sleep."""
    unmerge_all()
    guests = make_guests(host, case)
    ksmd = ksmd_pid()
    available = harness.meminfo()
    ksm_module.write("pages_to_scan", 100)
    ksm_module.write("sleep_millisecs", 20)
    ksm_module.write("smart_scan", 1)
    cpu = cpu_of_thread(ksmd)
    ksm_module.write("run", 1)
    time.sleep(DEFAULTS_SECONDS)
    ksm_module.write("run", 0)
    return {"cpu": cpu_of_thread(ksmd) - cpu, "wall": DEFAULTS_SECONDS,
            "sharing": host.audit(guests, ranges=lambda g: [g.ram()])["sharing"],
            "available": harness.meminfo() - available}


def run_ksmd(host, case):
    """The kernel alone; converged when two full scans brought nothing more."""
    unmerge_all()
    guests = make_guests(host, case)
    ksmd = ksmd_pid()
    available = harness.meminfo()
    ksm_module.write("pages_to_scan", 20000)
    ksm_module.write("sleep_millisecs", 0)
    ksm_module.write("smart_scan", 1)
    cpu, began, before = cpu_of_thread(ksmd), time.monotonic(), ksm_module.counters()
    ksm_module.write("run", 1)
    scans, sharing, quiet, history = before["full_scans"], 0, 0, []
    while quiet < 2 and time.monotonic() - began < 300:
        time.sleep(0.02)
        c = ksm_module.counters()
        history.append((time.monotonic() - began, cpu_of_thread(ksmd) - cpu, c["pages_sharing"]))
        if c["full_scans"] != scans:
            quiet = quiet + 1 if c["pages_sharing"] <= sharing + sharing // 1000 and sharing else 0
            scans, sharing = c["full_scans"], c["pages_sharing"]
    ksm_module.write("run", 0)
    # Until it had merged all but a thousandth: what it did afterwards is not counted.
    wall, used, _ = next(h for h in history if h[2] >= history[-1][2] * 0.999)
    c = ksm_module.counters()
    scanned = c["pages_scanned"] - before["pages_scanned"]
    audit = host.audit(guests, ranges=lambda g: [g.ram()])
    return {"cpu": used, "wall": wall, "sharing": audit["sharing"],
            "gbps": scanned * PAGE / 1e9 / (cpu_of_thread(ksmd) - cpu),
            "available": harness.meminfo() - available}


def run_memshared(host, case, engine="ksm"):
    unmerge_all()
    guests = make_guests(host, case)
    ksmd = ksmd_pid()
    available = harness.meminfo()
    daemon = host.daemon(CONFIG % (host.directory + "/state-" + engine + case.replace(":", "-"),
                                   "400%", engine))
    cpu, began, own = cpu_of_thread(ksmd), time.monotonic(), daemon.cpu_seconds()
    for g in guests:
        daemon.call("Enroll", pid=g.pid)
    history = []

    def converged():
        status = daemon.call("Status")
        history.append((time.monotonic() - began,
                        daemon.cpu_seconds() - own + cpu_of_thread(ksmd) - cpu,
                        status["totals"]["sharing_pages"] + status["totals"]["zero_pages"]))
        return (history[-1][2] > 0 and status["ksmd"]["run"] == "stopped"
                and len(history) > 60 and history[-60][2] == history[-1][2])
    host.wait(converged, 300, "memshared is done", interval=0.05)
    wall, used, _ = next(h for h in history if h[2] >= history[-1][2] * 0.999)
    audit = host.audit(guests, ranges=lambda g: [g.ram()])
    # Nothing changes now: what does watching cost?
    idle = daemon.cpu_seconds()
    idle_began = time.monotonic()
    time.sleep(10)
    idle = (daemon.cpu_seconds() - idle) / (time.monotonic() - idle_began)
    result = {"cpu": used, "ksmd": cpu_of_thread(ksmd) - cpu, "wall": wall, "idle": idle,
              "sharing": audit["sharing"],
              "overhead": daemon.call("Status")["totals"]["overhead_bytes"],
              "available": harness.meminfo() - available}
    daemon.stop()
    return result


def scan_speed(host):
    """Estimate reads every page once: bytes over the CPU time it took."""
    guests = make_guests(host, "50:16")
    daemon = host.daemon(CONFIG % (host.directory + "/state-scan", "400%", "ksm"))
    speeds = []
    for _ in range(5):
        before = daemon.cpu_seconds()
        answer = daemon.call("Estimate", pids=[g.pid for g in guests])["result"]
        speeds.append(answer["read_bytes"] / 1e9 / (daemon.cpu_seconds() - before))
    daemon.stop()
    return sorted(speeds)[2]


def main():
    cases = sys.argv[1:] or ["50:16", "10:16", "50:1", "real"]
    with harness.Host() as host:
        host.ksm()
        print("%-8s %-10s %8s %8s %10s %12s %14s" % ("case", "who", "cpu s", "wall s", "sharing",
                                                   "us/page", "MemAvailable"), flush=True)
        for case in cases:
            with harness.Host() as inner:
                kernel = run_ksmd(inner, case)
            with harness.Host() as inner:
                slow = run_ksmd_defaults(inner, case)
            with harness.Host() as inner:
                ours = run_memshared(inner, case)
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
