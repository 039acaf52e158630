#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""memshared --check: the table of kernel features."""
import contextlib
import glob
import os
import subprocess

import tap

MEMSHARED = os.path.join(os.environ.get("MEMSHARED_BUILDDIR", "."), "memshared")
# What follows from a feature, when that feature is absent.
FOLLOWS = {
    "vm-read": {"agent", "tracker wp", "tracker rehash", "engine remap", "daemon"},
    "pagemap-scan": {"tracker wp"},
    "soft-dirty": {"tracker softdirty"},
    "uffd": {"tracker wp", "engine remap"},
    "uffd-device": {"engine remap"},
    "uffd-wp-async": {"tracker wp"},
    "uffd-move": {"engine remap"},
    "pidfd-getfd": {"agent", "tracker wp", "engine remap"},
    "ptrace": {"agent", "tracker wp", "engine remap"},
    "ksm": {"engine ksm"},
}

def check(deny=None):
    """Runs the program; (exit status, {feature: answer}, {consequence: answer}, text)."""
    env = dict(os.environ)
    env.pop("MEMSHARED_KERNEL_DENY", None)
    if deny is not None:
        env["MEMSHARED_KERNEL_DENY"] = deny
    p = subprocess.run([MEMSHARED, "--check"], env=env, capture_output=True, text=True,
                       timeout=60, check=False)
    sections = [{}, {}, {}]
    for table, part in zip(sections, p.stdout.split("\n\n")):
        for line in part.splitlines()[1:]:
            # Names of what follows have a blank in them: the first column has a fixed width.
            table[line[:18].strip()] = line[18:35].strip()
    return p.returncode, sections[0], sections[2], p.stdout + p.stderr


def host_state():
    """Settings that a careless probe might touch. KSM's are left out: another test may hold
    them, and no probe opens them for more than a look."""
    state = {}
    for pattern in ("/sys/kernel/mm/transparent_hugepage/*", "/proc/sys/vm/*",
                    "/proc/sys/kernel/yama/*", "/proc/swaps"):
        for path in glob.glob(pattern):
            with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
                state[path] = file.read()
    return state


@tap.test("every feature has an answer, and the exit status says whether the daemon can work")
def answers(_context):
    status, features, follows, text = check()
    assert features and follows, text
    assert all(a == "yes" or a.startswith("no: ") for a in features.values()), text
    assert status == (0 if follows["daemon"] == "yes" else 1), text


@tap.test("each feature denied takes away what needs it and nothing else")
def denied(_context):
    _, features, follows, _ = check()
    for name in features:
        status, now, then, text = check(name)
        lost = FOLLOWS.get(name, set())
        assert now[name] == "denied", text
        for consequence in set(follows) - {"daemon"}:
            expected = "no" if consequence in lost else follows[consequence]
            assert then[consequence] == expected, f"{name}: {consequence}\n{text}"
        assert status == (0 if then["daemon"] == "yes" else 1), text


@tap.test("without an engine the daemon cannot work")
def no_engine(_context):
    status, _, follows, text = check("ksm,uffd-move")
    assert status == 1 and follows["daemon"] == "no", text


@tap.test("an unknown name is refused")
def unknown_name(_context):
    status, _, _, text = check("ksm,no-such-thing")
    assert status == 1 and "MEMSHARED_KERNEL_DENY" in text, text


@tap.test("probing changes nothing on the host")
def no_side_effects(_context):
    before = host_state()
    check()
    after = host_state()
    changed = [path for path in before if before[path] != after.get(path)]
    assert not changed, changed


tap.main(contextlib.nullcontext)
