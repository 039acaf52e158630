#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The estimate's figures, against guests whose content is known, a count made from outside, and what
merging then gains."""
import array
import contextlib
import os

import harness
import merging

MIB = 24
MIX = "zero:10,dup:35,within:20,unique:35"
# A guest's own kernel does not stand still.
NEAR = 0.03


class Context(harness.Host):
    """Two guests, and a third whose memory no engine serves; all at rest."""

    def prepare(self):
        options = {"mib": MIB, "mix": MIX, "machine": "pc,mem-merge=off"}
        shared = {"qom-type": "memory-backend-memfd", "share": True}
        self.a = self.guest("a", **options)
        self.b = self.guest("b", **options)
        self.c = self.guest("c", backend=shared, **options)
        for g in self.guests:
            line = g.wait("^ready.*")[0].split()
            g.pages = {k: int(v) for k, v in zip(line[7::2], line[8::2])}
            g.ram()
            g.pause()
        self.memshared = merging.start(self, engine="remap")

    def complete(self, answer):
        """Whether it saw all pages: one that the kernel is just moving is not present."""
        pids = {g.pid: g for g in self.guests}
        return all(g["present_pages"] >= 0.99 * sum(e >> 62 > 0 for e in page_map(pids[g["pid"]]))
                   for g in answer["guests"])

    def estimate(self, *words):
        """(by guest, the groups by name, pairs by the guests' names). Others may run on this machine."""
        words = words or [g.pid for g in self.guests]

        def ask():
            answer = self.memshared.ctl("estimate", *words)
            return self.complete(answer) and answer
        answer = self.wait(ask, 30, "all pages stay where they are")
        names = {g.pid: g.name for g in self.guests}
        return ({names[g["pid"]]: g for g in answer["guests"]},
                {g["name"]: g for g in answer["groups"]},
                {"".join(sorted(names[p] for p in pair["pids"])): pair["common_pages"]
                 for pair in answer["pairs"]})


def group(name, *guests):
    return "--group", "%s=%s" % (name, ",".join(str(g.pid) for g in guests))


def near(found, expected, what, slack=0):
    """slack: pages that this may be off besides."""
    harness.note("%s: %d, expected %d" % (what, found, expected))
    assert abs(found - expected) <= NEAR * expected + slack, \
        "%s: %d, not %d" % (what, found, expected)


def freed_within(guest):
    """By the way in which the guest repeats its pages (tests/guest/content.c)."""
    n = guest.pages["within"]
    return n - n // 4 // 16 * 16


def page_map(guest):
    start, end = guest.ram()
    entries = array.array("Q")
    with open("/proc/%d/pagemap" % guest.pid, "rb") as file:
        file.seek(start // harness.PAGE * 8)
        entries.frombytes(file.read((end - start) // harness.PAGE * 8))
    return entries


def contents(guest):
    """(pages that hold zeros, how many others, their different contents), as the process reads them"""
    zeros, pages, different = 0, 0, set()
    with open("/proc/%d/mem" % guest.pid, "rb", buffering=0) as memory:
        for i, entry in enumerate(page_map(guest)):
            if not entry >> 62:  # neither present nor on its way
                continue
            page = os.pread(memory.fileno(), harness.PAGE, guest.ram()[0] + i * harness.PAGE)
            if page.count(0) == harness.PAGE:
                zeros += 1
            else:
                pages += 1
                different.add(page)
    return zeros, pages, different


@harness.test("zeros, duplicates within and across guests are as many as are there", limit=120)
def counted(host):
    guests, groups, pairs = host.estimate()
    seen = {g.name: contents(g) for g in host.guests}
    for name, (zeros, pages, different) in seen.items():
        near(guests[name]["zero_pages"], zeros, "zeros in " + name)
        near(guests[name]["within_pages"], pages - len(different), "within " + name)
        near(guests[name]["present_pages"], zeros + pages, "present in " + name)
        assert guests[name]["skipped_pages"] == 0, guests[name]
    for pair in ("ab", "ac", "bc"):
        near(pairs[pair], len(seen[pair[0]][2] & seen[pair[1]][2]), "in common: " + pair)
    every = seen["a"][2] | seen["b"][2] | seen["c"][2]
    across = sum(len(s[2]) for s in seen.values()) - len(every)
    near(groups["all"]["cross_pages"], across, "across all")
    for part in ("zero", "within", "present"):
        assert groups["all"][part + "_pages"] == sum(g[part + "_pages"] for g in guests.values())
    assert groups["all"]["saved_pages"] == sum(groups["all"][part + "_pages"]
                                               for part in ("zero", "within", "cross"))


@harness.test("what guests were made to hold is found, and not when they hold it no more", limit=120)
def known(host):
    before, _, pairs = host.estimate()
    for g in host.guests:
        assert before[g.name]["within_pages"] >= freed_within(g), before[g.name]
    for g in (host.a, host.c):
        g.scramble(100)
        g.pause()
    after, _, pairs_after = host.estimate()
    for g in (host.a, host.c):
        near(before[g.name]["zero_pages"] - after[g.name]["zero_pages"], g.pages["zero"],
             "zeros that went from " + g.name, 20)
    for pair in ("ab", "ac", "bc"):
        near(pairs[pair] - pairs_after[pair], host.a.pages["dup"], "what %s have no more" % pair, 20)
    for part in ("zero_pages", "within_pages"):
        near(after["b"][part], before["b"][part], part + " of b, as before")
    for g in (host.a, host.c):
        g.command("fill %d" % sum(map(ord, g.name)), "^filled")
        g.pause()


@harness.test("guests of two groups are never counted across", limit=60)
def grouped(host):
    guests, groups, pairs = host.estimate(*group("one", host.a), *group("two", host.b, host.c))
    assert groups["one"]["cross_pages"] == 0, groups
    near(groups["two"]["cross_pages"], pairs["bc"], "across b and c")
    assert groups["one"]["saved_pages"] == guests["a"]["zero_pages"] + guests["a"]["within_pages"]
    assert groups["two"]["zero_pages"] == guests["b"]["zero_pages"] + guests["c"]["zero_pages"]
    _, groups, _ = host.estimate(*(w for g in host.guests for w in group(g.name, g)))
    assert [g["cross_pages"] for g in groups.values()] == [0, 0, 0], groups


@harness.test("memory that no engine serves counts with what it has in common", limit=60)
def unserved(host):
    refused = host.memshared.ctl("enroll", host.c.pid, check=False)
    assert refused.returncode == 1 and "share" in refused.stderr, refused
    guests, groups, pairs = host.estimate(*group("three", *host.guests))
    assert pairs["ac"] >= host.a.pages["dup"] and pairs["bc"] >= host.a.pages["dup"], pairs
    assert guests["c"]["within_pages"] >= freed_within(host.c), guests["c"]
    _, two, _ = host.estimate(*group("two", host.a, host.b))
    assert groups["three"]["cross_pages"] - two["two"]["cross_pages"] >= host.a.pages["dup"]


@harness.test("merging gains what the estimate promised", limit=120)
def kept(host):
    _, groups, _ = host.estimate(*group("pair", host.a, host.b))
    promised = groups["pair"]["saved_pages"]
    host.memshared.ctl("enroll", host.a.pid, host.b.pid)

    def gained():
        totals = host.memshared.totals()
        return totals["sharing_pages"] + totals["zero_pages"]
    with contextlib.suppress(AssertionError):
        host.wait(lambda: gained() >= promised * (1 - NEAR / 3), 60, "all is merged")
    near(gained(), promised, "gained")
    for g in host.guests:
        g.check()


harness.tap.main(Context, shared=True)
