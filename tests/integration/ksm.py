# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's KSM, borrowed for a test and given back as it was.

There is one KSM for the whole machine, so whoever touches it holds a lock. What was found is
also kept in a file until it is put back: a test that was killed outright leaves it behind,
and the next one restores from there.
"""
import fcntl
import json
import os
import signal

DIRECTORY = "/sys/kernel/mm/ksm/"
LOCKS = os.environ.get("MEMSHARED_TEST_LOCKS", "/run/lock")
LOCK = LOCKS + "/memshared-test-ksm.lock"
SAVED = LOCKS + "/memshared-test-ksm.saved"

# In the order in which they may be written back: an advisor must be off before what it
# governs is set, and run comes last.
SETTINGS = ("advisor_mode", "pages_to_scan", "sleep_millisecs", "smart_scan", "use_zero_pages",
            "max_page_sharing", "merge_across_nodes", "advisor_max_cpu",
            "advisor_min_pages_to_scan", "advisor_max_pages_to_scan",
            "advisor_target_scan_time", "stable_node_chains_prune_millisecs", "run")


def available():
    return os.path.exists(DIRECTORY + "run")


def read(name):
    with open(DIRECTORY + name, encoding="ascii") as file:
        text = file.read().strip()
    if name == "advisor_mode":
        return text[text.index("[") + 1:text.index("]")]
    return int(text)


def write(name, value):
    with open(DIRECTORY + name, "w", encoding="ascii") as file:
        file.write(str(value))


def counters():
    """Every number that KSM shows, settings included."""
    numbers = {}
    for name in os.listdir(DIRECTORY):
        if name != "advisor_mode":
            numbers[name] = read(name)
    return numbers


class Ksm:
    """Holds the lock from __enter__ to __exit__, and restores every setting then."""

    def __init__(self):
        self._lock = None
        self._before = None

    def __enter__(self):
        self._lock = os.open(LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("# waiting for another test that uses KSM", flush=True)
            left = signal.setitimer(signal.ITIMER_REAL, 0)[0]  # not of the test's own time
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            signal.setitimer(signal.ITIMER_REAL, left)
        try:
            with open(SAVED, encoding="ascii") as file:
                self._before = json.load(file)
        except (OSError, ValueError):
            self._before = {n: read(n) for n in SETTINGS if os.path.exists(DIRECTORY + n)}
            with open(SAVED + ".new", "w", encoding="ascii") as file:
                json.dump(self._before, file)
            os.rename(SAVED + ".new", SAVED)
        if "advisor_mode" in self._before:
            write("advisor_mode", "none")
        return self

    def __exit__(self, *_exception):
        self.restore()
        os.unlink(SAVED)
        os.close(self._lock)

    def set(self, **settings):
        """Keywords are file names; run is written last. Unknown to this kernel: ignored."""
        for name in sorted(settings, key=SETTINGS.index):
            if os.path.exists(DIRECTORY + name):
                write(name, settings[name])

    def read(self, name):
        """One setting or counter."""
        return read(name)

    def restore(self):
        """Settings as found. What is merged stays merged, as after any run=0."""
        if "advisor_mode" in self._before:
            write("advisor_mode", "none")
        for name in SETTINGS[1:]:
            if name not in self._before or read(name) == self._before[name]:
                continue
            try:
                write(name, self._before[name])
            except OSError:
                # max_page_sharing and merge_across_nodes refuse while pages are merged.
                if name not in ("max_page_sharing", "merge_across_nodes"):
                    raise
        if self._before.get("advisor_mode", "none") != "none":
            write("advisor_mode", self._before["advisor_mode"])
