# SPDX-License-Identifier: GPL-2.0-or-later
"""The installed service in a test host, as systemd runs it."""
import os
import re
import subprocess

import harness
import tap

CONFIG = "/run/memshared.conf.d/test.conf"


def systemctl(*words, check=True):
    """systemctl WORDS...: its output; with check=False the finished process."""
    done = subprocess.run(["systemctl", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False, timeout=100 * tap.SLOW)
    if not check:
        return done
    if done.returncode:
        raise AssertionError("systemctl %s: %s%s" % (" ".join(words), done.stderr, journal()))
    return done.stdout.strip()


def journal():
    """What the service and systemd said of it last."""
    return subprocess.run(["journalctl", "--unit=memshared", "--lines=30", "--no-pager",
                           "--output=short-monotonic"], stdout=subprocess.PIPE, text=True,
                          check=False).stdout


def show(name):
    """A property of the unit."""
    return systemctl("show", "--property=" + name, "--value", "memshared")


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


class Service(harness.Client):
    """The daemon as systemd runs it."""

    client = "/usr/local/bin/memsharectl"
    socket = "/run/memshared/control"

    def ctl(self, *words, **options):
        try:
            return super().ctl(*words, **options)
        except RuntimeError as error:
            raise RuntimeError("%s%s" % (error, journal())) from error

    @property
    def pid(self):
        pid = int(show("MainPID"))
        assert pid > 0, "memshared does not run" + journal()  # and 0 would be all of our own processes
        return pid

    def status_field(self, name):
        """A line of /proc/PID/status."""
        with open("/proc/%d/status" % self.pid, encoding="ascii") as file:
            return re.search(r"^%s:\s*(.*)$" % name, file.read(), re.M)[1]
