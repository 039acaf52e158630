# SPDX-License-Identifier: GPL-2.0-or-later
"""A memory control group, of whichever version the host has, for the time of one test."""
import contextlib
import itertools
import os

import tap

_number = itertools.count()


class MemoryGroup:
    """The process pid moves into it, and out again at the end, when the daemon has been killed."""

    def __init__(self, host, pid):
        name = "/memshared-test-%d-%d" % (os.getpid(), next(_number))
        v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        self._top = "/sys/fs/cgroup" + ("" if v2 else "/memory")
        self.path = self._top + name
        self._pid = pid
        self._knob, self._word = ("memory.reclaim", "1G") if v2 else ("memory.force_empty", "0")
        self._limit, self._usage = (("memory.max", "memory.current") if v2 else
                                    ("memory.limit_in_bytes", "memory.usage_in_bytes"))
        try:
            os.mkdir(self.path)
        except OSError as error:
            raise tap.Skip("no memory control group: %s" % error) from error
        host.callback(self._remove, host)
        if not os.path.exists(os.path.join(self.path, self._knob)):
            raise tap.Skip("no %s in %s" % (self._knob, self.path))
        self._write("cgroup.procs", pid)

    def _write(self, name, value):
        with open(os.path.join(self.path, name), "w", encoding="ascii") as file:
            file.write(str(value))

    def reclaim(self):
        """Swaps out what can be."""
        # Not all of it can: what is left is told as EAGAIN or EBUSY.
        with contextlib.suppress(OSError):
            self._write(self._knob, self._word)

    def leave_room(self, size):
        """Limits it to so many bytes more than it has now; None: no limit."""
        with open(os.path.join(self.path, self._usage), encoding="ascii") as file:
            used = int(file.read())
        unlimited = "max" if self._limit == "memory.max" else -1
        self._write(self._limit, unlimited if size is None else used + size)

    def _remove(self, host):
        host.kill_daemon()
        with contextlib.suppress(ProcessLookupError), \
                open(self._top + "/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(self._pid))
        os.rmdir(self.path)
