# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs test functions and reports them in TAP, each with its duration and why it failed.

    @tap.test("what must hold", limit=120)
    def two_guests(host): ...

    tap.main(harness.Host)

Each test gets a fresh context, made by the factory given to main() and left again whatever
happens; with shared=True all tests of the file have one in common. A test fails by raising
anything (assert is fine) and skips by raising Skip(reason). Limits are in seconds: a test
that passes its own is stopped and fails. SIGTERM, SIGINT and SIGHUP unwind the stack like an
exception, so that contexts are left properly then, too.
"""
import contextlib
import os
import signal
import sys
import time
import traceback

# Machines slower than ours may stretch every deadline.
SLOW = float(os.environ.get("MEMSHARED_TEST_SLOW", "1"))

_tests = []


class Skip(Exception):
    """This test cannot run here; the argument says why."""


class Limit(Exception):
    """The test's time is over."""


def test(description, limit=300):
    """Registers a test function; tests run in the order of their definition."""
    def register(function):
        _tests.append((description, limit * SLOW, function))
        return function
    return register


def note(text):
    """A line for whoever reads the log."""
    for line in str(text).splitlines() or [""]:
        print("# " + line, flush=True)


def _stop(signum, _frame):
    raise SystemExit(128 + signum)


def signals_unwind():
    """Makes the signals that end us unwind the stack instead."""
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, _stop)


def _alarm(_signum, _frame):
    raise Limit("time limit passed")


def _run(number, description, limit, function, factory):
    """One test point. Returns whether it passed or was skipped."""
    result, directive, why, begin = "ok", "", "", time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        # The limit ends with the test: clean-up has its own deadlines and is never cut short.
        with factory() as context:
            try:
                function(context)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    except Skip as reason:
        directive = " # SKIP " + str(reason)
    except Exception as error:  # pylint: disable=broad-except
        result = "not ok"
        why = ": %s: %s" % (type(error).__name__, " ".join(str(error).replace("#", "").split())[:200])
        note(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    took = time.monotonic() - begin
    print("%s %d - %s%s%s" % (result, number, description, directive or " # took %.1f s" % took,
                              why), flush=True)
    return result == "ok"


def main(factory, shared=False):
    """Runs what was registered; the exit status is 0 only if nothing failed."""
    signals_unwind()
    signal.signal(signal.SIGALRM, _alarm)
    wanted = sys.argv[1:]
    tests = [t for t in _tests if not wanted or t[2].__name__ in wanted]
    print("1..%d" % len(tests), flush=True)
    good = True
    with contextlib.ExitStack() as stack:
        if shared:
            try:
                one = stack.enter_context(factory())
            except Skip as reason:
                for number, (description, _limit, _function) in enumerate(tests, 1):
                    print("ok %d - %s # SKIP %s" % (number, description, reason), flush=True)
                sys.exit(0)
            factory = lambda: contextlib.nullcontext(one)  # noqa: E731
        for number, (description, limit, function) in enumerate(tests, 1):
            good &= _run(number, description, limit, function, factory)
    sys.exit(0 if good else 1)
