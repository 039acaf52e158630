# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benches of merging have in common: guests with known content, and the contenders.

A synthetic guest is a real QEMU that is never started (-S), 1 GiB of RAM, filled from outside; it has
a balloon with BENCH_BALLOON=yes (daemon/member.h says what that changes). A
case is "PERCENT:RUN", per cent of duplicates and how many neighbouring pages are duplicates
together, or "real" for small guests that run Linux.

A contender gets fresh guests, works until nothing more merges, and answers a dict:

    cpu        seconds of CPU until it had merged all but a thousandth: the daemon, its helpers,
               its agents, ksmd
    wall       seconds for the same
    agent, ksmd    their parts of cpu, at the end
    sharing    frames that are saved, by page frame number
    available  bytes by which harness.available_bytes() grew: page tables, mappings, bookkeeping included
    maps       mappings that the guests gained
    idle       share of a CPU that it uses when nothing changes any more
"""
import contextlib
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))
import harness  # noqa: E402
import ksm as ksm_module  # noqa: E402
import tap  # noqa: E402

PAGE = 4096
GUESTS = int(os.environ.get("BENCH_GUESTS", "4"))
GUEST_MIB = int(os.environ.get("BENCH_GUEST_MIB", "1024"))
DEFAULTS_SECONDS = 30
MAPS = "/proc/sys/vm/max_map_count"

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

[Policy "bench"]
match-name=*
domain=bench
engine=%s
min-age=0s
cow-backoff=0s
thp=split:1
max-maps=%d
"""


@contextlib.contextmanager
def many_mappings():
    """Isolated pages take two mappings each: as newer distributions allow them."""
    with open(MAPS, encoding="ascii") as file:
        before = file.read()
    if int(before) < 1 << 20:
        with open(MAPS, "w", encoding="ascii") as file:
            file.write(str(1 << 20))
    try:
        yield
    finally:
        with open(MAPS, "w", encoding="ascii") as file:
            file.write(before)


def run(cases):
    """Those named on the command line, or all. The host is as before then, also when a signal ends us."""
    tap.signals_unwind()
    with harness.Host() as host, many_mappings():
        host.ksm()
        for name in sys.argv[1:] or cases:
            cases[name]()


class Synthetic:
    """A QEMU that is not started, its RAM filled by fill.c."""

    def __init__(self, host, number, percent, run):
        self.name = "synthetic%d" % number
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "qemu-system-x86_64", "-S", "-accel", "tcg", "-m",
             str(GUEST_MIB), "-nodefaults", "-display", "none", "-name", "guest=" + self.name,
             *(["-device", "virtio-balloon-pci"] if os.environ.get("BENCH_BALLOON") else [])],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.pid = self._process.pid
        self.ended = False
        host.callback(self.close)
        self._range = host.wait(self._ram, 30, "RAM of a synthetic guest")
        self._words = ["%x" % self._range[0], str((self._range[1] - self._range[0]) // PAGE),
                       str(number + 1), str(percent), str(run)]
        self._fill()

    def _fill(self, *words):
        subprocess.run([os.path.join(harness.BUILD, "tests/bench/fill"), str(self.pid),
                        *self._words, *map(str, words)], check=True)

    def rewrite(self, number, unit, share=50):
        """New content for the share of all pages that goes with this round, unit pages together."""
        self._fill(number, unit, share)

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


def cpu_of_agents(guests):
    """CPU time of memshared's threads inside these guests."""
    total = 0
    for g in guests:
        tasks = "/proc/%d/task/" % g.pid
        for tid in os.listdir(tasks):
            with contextlib.suppress(OSError), open(tasks + tid + "/comm", encoding="ascii") as file:
                if file.read().strip() == "memshared":
                    total += cpu_of_thread(int(tid))
    return total


def count_maps(guests):
    total = 0
    for g in guests:
        with open("/proc/%d/maps" % g.pid, "rb") as file:
            total += file.read().count(b"\n")
    return total


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


def audit_sharing(host, guests, shared_pages=None):
    """Frames saved. A store's slots are in a page table only once their page was looked at: with
    engine remap, so many pages are in the store and every page without one of its own shares."""
    audit = host.audit(guests, ranges=lambda g: [g.ram()])
    if shared_pages is None:
        return audit["sharing"]
    own = sum(g["present"] - g["file"] - g["zero"] for g in audit["guests"])
    return sum(g["pages"] for g in audit["guests"]) - own - shared_pages


def run_ksmd_defaults(host, case):
    """The pace that every kernel starts with: 100 pages, then 20 ms of sleep."""
    unmerge_all()
    guests = make_guests(host, case)
    ksmd = ksmd_pid()
    available = harness.available_bytes()
    ksm_module.write("pages_to_scan", 100)
    ksm_module.write("sleep_millisecs", 20)
    ksm_module.write("smart_scan", 1)
    cpu = cpu_of_thread(ksmd)
    ksm_module.write("run", 1)
    time.sleep(DEFAULTS_SECONDS)
    ksm_module.write("run", 0)
    return {"cpu": cpu_of_thread(ksmd) - cpu, "wall": DEFAULTS_SECONDS,
            "sharing": audit_sharing(host, guests), "available": harness.available_bytes() - available}


def merge_by_ksmd():
    """At full speed, until two full scans brought nothing more: [(seconds, cpu, pages saved), ...]."""
    ksmd = ksmd_pid()
    ksm_module.write("pages_to_scan", 20000)
    ksm_module.write("sleep_millisecs", 0)
    ksm_module.write("smart_scan", 1)
    cpu, began, scans = cpu_of_thread(ksmd), time.monotonic(), ksm_module.counters()["full_scans"]
    sharing, quiet, history = 0, 0, []
    ksm_module.write("run", 1)
    while quiet < 2 and time.monotonic() - began < 300:
        time.sleep(0.02)
        c = ksm_module.counters()
        history.append((time.monotonic() - began, cpu_of_thread(ksmd) - cpu, c["pages_sharing"]))
        if c["full_scans"] != scans:
            quiet = quiet + 1 if c["pages_sharing"] <= sharing + sharing // 1000 and sharing else 0
            scans, sharing = c["full_scans"], c["pages_sharing"]
    ksm_module.write("run", 0)
    return history


def run_ksmd(host, case):
    """The kernel alone, at full speed."""
    unmerge_all()
    guests = make_guests(host, case)
    available, scanned = harness.available_bytes(), ksm_module.counters()["pages_scanned"]
    cpu = cpu_of_thread(ksmd_pid())
    history = merge_by_ksmd()
    # Until it had merged all but a thousandth: what it did afterwards is not counted.
    wall, used, _ = next(h for h in history if h[2] >= history[-1][2] * 0.999)
    scanned = ksm_module.counters()["pages_scanned"] - scanned
    return {"cpu": used, "wall": wall, "sharing": audit_sharing(host, guests), "maps": 0,
            "gbps": scanned * PAGE / 1e9 / (cpu_of_thread(ksmd_pid()) - cpu),
            "available": harness.available_bytes() - available}


class Memshared:
    """A daemon with these guests enrolled, and what it costs."""

    def __init__(self, host, guests, engine, max_maps=16384, domain=None):
        self._host, self._guests, self._ksmd = host, guests, ksmd_pid()
        self.available, self._maps = harness.available_bytes(), count_maps(guests)
        self.daemon = host.daemon(CONFIG % (host.directory + "/state", "400%", engine, max_maps))
        self._ksmd_cpu, self.began = cpu_of_thread(self._ksmd), time.monotonic()
        for g in guests:
            self.daemon.call("Enroll", pid=g.pid)

    def ksmd_seconds(self):
        return cpu_of_thread(self._ksmd) - self._ksmd_cpu

    def cpu_seconds(self):
        return self.daemon.cpu_seconds() + cpu_of_agents(self._guests) + self.ksmd_seconds()

    def maps(self):
        return count_maps(self._guests) - self._maps

    def converge(self, timeout=300, history=None):
        """Until nothing was merged for three seconds; [(seconds, cpu, pages saved), ...]."""
        history = [] if history is None else history

        def converged():
            status = self.daemon.call("Status")
            totals = status["totals"]
            history.append((time.monotonic() - self.began, self.cpu_seconds(),
                            totals["sharing_pages"] + totals["zero_pages"]))
            recent = [h for h in history if h[0] > history[-1][0] - 3]
            return (history[-1][2] > 0 and status["ksmd"]["run"] == "stopped"
                    and history[-1][0] - history[0][0] > 3
                    and all(h[2] == recent[0][2] for h in recent))
        self._host.wait(converged, timeout, "memshared is done", interval=0.05)
        return history


def run_memshared(host, case, engine="ksm", max_maps=16384):
    unmerge_all()
    guests = make_guests(host, case)
    m = Memshared(host, guests, engine, max_maps)
    history = m.converge()
    wall, used, _ = next(h for h in history if h[2] >= history[-1][2] * 0.999)
    totals = m.daemon.call("Status")["totals"]
    result = {"cpu": used, "ksmd": m.ksmd_seconds(), "agent": cpu_of_agents(guests), "wall": wall,
              "maps": m.maps(), "overhead": totals["overhead_bytes"],
              "sharing": audit_sharing(host, guests,
                                       totals["shared_pages"] if engine == "remap" else None),
              "merged": totals["sharing_pages"] + totals["shared_pages"]}
    # Nothing changes now: what does watching cost?
    idle, idle_began = m.cpu_seconds(), time.monotonic()
    time.sleep(10)
    result["idle"] = (m.cpu_seconds() - idle) / (time.monotonic() - idle_began)
    result["available"] = harness.available_bytes() - m.available
    m.daemon.stop()
    return result
