"""(f) How long after a patch the last direct write comes, and how long writes stand still at the cutover."""

import time
from contextlib import ExitStack

from .ours import Ours
from .postgres import finish
from .process import Usage
from .report import Measure, Run, percentile, say, step
from .scene import Scene

# Changes a second, two a transaction.
RATE = 400
TRANSACTIONS = 200


def measure(rig):
    stopped = Measure("f patch to last write, p99", "ms", "", 100, False)
    stalled = Measure("f stall at cutover, p99", "ms", "", 100, False)
    with ExitStack() as stack:
        scene = stack.enter_context(Scene(rig, "switching"))
        ours = stack.enter_context(Ours(scene))
        scene.begin(ours)
        step(f"(f) {rig.settings.switches} pauses under {RATE} changes/s")
        ours.start()
        ours.condition("CaughtUp=True")
        stop = scene.watch(ours.database)
        # More than it takes; it is ended when the pauses are done.
        _, load = scene.live(RATE // TRANSACTIONS, TRANSACTIONS, 60 + rig.settings.switches * 30)
        time.sleep(1)
        before = rig.servers_cpu()
        pauses = [pause(ours) for _ in range(rig.settings.switches)]
        own = ours.usage()
        everything = rig.servers_cpu() - before + own.cpu
        scene.source.sql(
            "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^CALL live'"
        )
        load.communicate()
        times = [when for when, _ in stop()]
    waits = [last_write(times, asked, paused) - asked for asked, _, paused, _, _ in pauses]
    after = [max(0, last_write(times, asked, paused) - patched) for asked, patched, paused, _, _ in pauses]
    kubectl = [patched - asked for asked, patched, _, _, _ in pauses]
    stalls = [longest_gap(times, resumed, direct) for _, _, _, resumed, direct in pauses]
    for name, values in (
        ("from the start of kubectl patch to the last direct write", waits),
        ("from the end of kubectl patch to the last direct write", after),
        ("kubectl patch itself", kubectl),
        ("longest stall from the first replayed write to half a second after CaughtUp", stalls),
    ):
        say(f"{name}: p50 {percentile(values, 50) * 1e3:.0f} ms, p99 {percentile(values, 99) * 1e3:.0f} ms, "
            f"longest {max(values) * 1e3:.0f} ms")
    for found, values in ((stopped, waits), (stalled, stalls)):
        found.ours.append(Run(percentile(values, 99) * 1e3, own, everything))
    return [stopped, stalled]


def pause(ours):
    """One pause and its end: when it was asked for, when kubectl was done, when it was Paused, and the same of the end."""
    asked = time.time()
    ours.state("Paused")
    patched = time.time()
    ours.condition("Paused=True")
    paused = time.time()
    time.sleep(0.3)
    resumed = time.time()
    ours.state("Running")
    ours.condition("CaughtUp=True")
    direct = time.time()
    time.sleep(0.6)
    return asked, patched, paused, resumed, direct


def last_write(times, asked, paused):
    """The last sight of a new row before the map was paused."""
    return max((when for when in times if asked <= when <= paused), default=asked)


def longest_gap(times, resumed, direct):
    """Between two sights of new rows, from the first one after the resume until the map was surely direct."""
    seen = [when for when in times if resumed <= when <= direct + 0.5]
    return max((b - a for a, b in zip(seen, seen[1:])), default=0)
