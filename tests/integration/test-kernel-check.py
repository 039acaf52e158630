#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""memshared --check: the table of kernel features."""
import contextlib
import glob
import os
import subprocess

import tap

MEMSHARED = os.path.join(os.environ.get("MEMSHARED_BUILDDIR", "."), "memshared")
AGENT = {"agent", "tracker wp", "engine ksm", "engine remap", "engine zero", "daemon"}
WP = {"tracker wp", "engine remap", "engine zero"}
# What follows from a feature, when that feature is absent. Without the agent no guest can be enrolled.
FOLLOWS = {
    "vm-read": AGENT | {"tracker rehash"},
    "page-frames": {"engine ksm"},
    "pagemap-scan": WP,
    "soft-dirty": {"tracker softdirty"},
    "uffd": WP,
    "uffd-device": WP - {"tracker wp"},
    "uffd-wp-async": WP,
    "uffd-move": WP - {"tracker wp"},
    "pidfd-getfd": AGENT,
    "ptrace": AGENT,
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
        for consequence in follows:
            expected = "no" if consequence in lost else follows[consequence]
            if consequence == "daemon" and "daemon" not in lost:
                expected = "yes" if "yes" in (then["engine ksm"], then["engine remap"]) else "no"
            assert then[consequence] == expected, f"{name}: {consequence}\n{text}"
        assert status == (0 if then["daemon"] == "yes" else 1), text


@tap.test("without an engine the daemon cannot work")
def no_engine(_context):
    for names in ("ksm,uffd-move", "page-frames,pagemap-scan", "ptrace", "pidfd-getfd"):
        status, _, follows, text = check(names)
        assert status == 1 and follows["daemon"] == "no", text
        daemon = subprocess.run([MEMSHARED], env=dict(os.environ, MEMSHARED_KERNEL_DENY=names),
                                capture_output=True, text=True, timeout=60, check=False)
        assert daemon.returncode == 1 and "--check says what is missing" in daemon.stderr, \
            daemon.stderr


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
