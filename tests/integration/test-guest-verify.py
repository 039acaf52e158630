#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verifying guest and the auditor themselves: the judges of all other tests."""
import harness

MIX = "zero:10,dup:30,within:10,near:5,unique:20,slow:5,fast:10,disk:10"


@harness.test("a single spoilt byte is reported, where it is", limit=120)
def spoilt_byte(host):
    guest = host.guest("spoilt", mib=16).ready()
    guest.check()
    guest.command("poke 5 17", "^poked")
    wrong = guest.wait(r"^WRONG page (\d+) offset (\d+)")
    assert (wrong[1], wrong[2]) == ("5", "17"), wrong[0]
    try:
        guest.check()
    except AssertionError:
        return
    raise RuntimeError("the check passed all the same")


@harness.test("a guest reads its disk directly and finds what it wrote, as another user", limit=120)
def disk(host):
    guest = host.guest("disk", mib=16, mix=MIX, uid=65534).ready()
    guest.rounds(3)
    guest.check()


@harness.test("KSM merges two guests, no byte is wrong, and the auditor counts what KSM counts",
              limit=240)
def merged_by_ksm(host):
    ksm = host.ksm()
    guests = [host.guest(name, mib=48, mix=MIX) for name in ("one", "two")]
    for guest in guests:
        guest.ready()
    before = sum(guest.pss() for guest in guests)
    ksm.set(run=1, pages_to_scan=20000, sleep_millisecs=5)
    merge(host, ksm)
    for guest in guests:
        guest.rounds(2)
        assert guest.rewrite(30)
    merge(host, ksm)
    for guest in guests:
        guest.check()
        guest.pause()
    # The guests rest now: let the merging end, then stop it, so that both count the same.
    merge(host, ksm)
    for guest in guests:
        guest.qmp.call("stop")
    ksm.set(run=0)
    audit, counted = host.audit(guests), harness.ksm_counters()
    merged = sum(guest.ksm_merged() for guest in guests)
    harness.note("auditor %s" % audit)
    harness.note("KSM pages_shared %(pages_shared)d pages_sharing %(pages_sharing)d" % counted)
    harness.note("Pss %d -> %d MiB" % (before >> 20, sum(g.pss() for g in guests) >> 20))
    assert audit["pairs"][0]["frames"] > 1000, "hardly anything is shared between the guests"
    assert audit["sharing"] > 4000, "hardly anything is shared"
    for guest in guests:
        guest.qmp.call("cont")
        guest.check()
        guest.resume()
        guest.rounds(1)
        guest.check()
    if counted["pages_shared"] + counted["pages_sharing"] > merged * 1.01:
        raise harness.Skip("others on this host have merged memory, so KSM's count is not ours; "
                           "all else held")
    assert abs(audit["sharing"] - counted["pages_sharing"]) <= counted["pages_sharing"] / 100


def merge(host, ksm):
    """Waits for three complete passes of ksmd: a first merge needs two."""
    before = ksm.read("full_scans")
    host.wait(lambda: ksm.read("full_scans") >= before + 3, 120, "ksmd makes three passes")


harness.main()
