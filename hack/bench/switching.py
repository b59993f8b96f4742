"""(f) How long after a patch the last direct write comes, and how long writes stand still at the cutover."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from .ours import Ours
from .report import Measure, Run, percentile, say, step
from .scene import Scene

# Changes a second, two a transaction.
RATE = 400
TRANSACTIONS = 200
# Milliseconds, for both.
TARGET = 100


@dataclass
class Pause:
    """When it was asked for, when the API server had it, when the map was Paused, and the same of its end."""

    asked: float
    accepted: float
    paused: float
    resumed: float
    direct: float

    def last_write(self, times):
        """The last sight of a new row before the map was paused."""
        return max((when for when in times if self.asked <= when <= self.paused), default=self.asked)

    def stall(self, times):
        """The longest time between two sights of new rows, from the first replayed one until it was surely direct."""
        return longest_gap(times, self.resumed, self.direct + 0.5)

    def usual(self, times):
        """The same while nothing happened, for comparison."""
        return longest_gap(times, self.asked - 0.5, self.asked)


def measure(rig):
    stopped = Measure("f patch to last write, p99", "ms", "", TARGET, False)
    stalled = Measure("f stall at cutover, p99", "ms", "", TARGET, False)
    with ExitStack() as stack:
        scene = stack.enter_context(Scene(rig, "switching"))
        ours = stack.enter_context(Ours(scene))
        scene.begin(ours)
        step(f"(f) {rig.settings.switches} pauses under {RATE} changes/s")
        ours.start()
        ours.condition("CaughtUp=True")
        stop = scene.watch(ours.database)
        # For longer than the pauses take; it is ended after them.
        _, load = scene.live(RATE // TRANSACTIONS, TRANSACTIONS, 60 + rig.settings.switches * 30)
        time.sleep(1)
        before, used = rig.servers_cpu(), ours.usage().cpu
        [patch] = rig.plane.connect(ours.maps[0])
        pauses = [pause(ours, patch) for _ in range(rig.settings.switches)]
        own = ours.usage()
        own.cpu -= used
        everything = rig.servers_cpu() - before + own.cpu
        scene.end_live(load)
        times = [when for when, _ in stop()]
    stops = [one.last_write(times) - one.asked for one in pauses]
    stalls = [one.stall(times) for one in pauses]
    for one, stall in zip(pauses, stalls, strict=True):
        if stall > TARGET / 1e3:
            # Enough to find it in the worker's log.
            say(f"{stall * 1e3:.0f} ms at the cutover before {datetime.fromtimestamp(one.direct, UTC):%H:%M:%S.%f} UTC")
    tell("from sending the patch to the last direct write", stops)
    tell("of which the API server's answer", [one.accepted - one.asked for one in pauses])
    tell("from sending the patch to Paused=True as kubectl wait sees it", [one.paused - one.asked for one in pauses])
    tell("longest stall between the first replayed write and half a second after CaughtUp", stalls)
    tell("longest stall in half a second before a pause, for comparison", [one.usual(times) for one in pauses])
    for found, values in ((stopped, stops), (stalled, stalls)):
        found.ours.append(Run(percentile(values, 99) * 1e3, own, everything))
    return [stopped, stalled]


def pause(ours, patch):
    """One pause under load, and its end."""
    asked = time.time()
    patch({"state": "Paused"})
    accepted = time.time()
    ours.condition("Paused=True")
    paused = time.time()
    time.sleep(0.3)
    resumed = time.time()
    patch({"state": "Running"})
    ours.condition("CaughtUp=True")
    direct = time.time()
    time.sleep(1.1)
    return Pause(asked, accepted, paused, resumed, direct)


def longest_gap(times, begin, end):
    seen = [when for when in times if begin <= when <= end]
    return max((later - earlier for earlier, later in zip(seen, seen[1:])), default=0)


def tell(what, values):
    p50, p99 = percentile(values, 50), percentile(values, 99)
    over = sum(value > TARGET / 1e3 for value in values)
    say(f"{what}: p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms; {over} of {len(values)} above {TARGET} ms")
