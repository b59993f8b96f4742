"""(e) From commit at the source to visible at the destination, under a steady load."""

from bisect import bisect_left
from contextlib import ExitStack

from .native import Native
from .ours import Ours
from .postgres import finish
from .report import Measure, Run, percentile, say, step
from .scene import Scene
from .process import until

RATES = (2_000, 10_000)
# A commit takes a flush to disk, which bounds how many there can be. More rows a transaction make the higher rate.
TRANSACTIONS = 200


def measure(rig):
    measures = []
    with ExitStack() as stack:
        scene = stack.enter_context(Scene(rig, "latency"))
        sides = [stack.enter_context(Ours(scene)), stack.enter_context(Native(scene))]
        scene.begin(*sides)
        for rate in RATES:
            half = Measure(f"e visible, p50 at {rate}/s", "ms", Native.name, 1.5, False)
            most = Measure(f"e visible, p99 at {rate}/s", "ms", "", 50, False)
            step(f"(e) {rate} changes/s")
            for _ in range(rig.settings.runs):
                for side in sides:
                    p50, p99 = steady(scene, side, rate)
                    (half.ours if side is sides[0] else half.others).append(p50)
                    (most.ours if side is sides[0] else most.others).append(p99)
            measures += [half, most]
    return measures


def steady(scene, side, rate):
    """The latencies of one side while the other rests."""
    rig = scene.rig
    caught_up = scene.backlog(1000)
    side.start()
    scene.wait_for(side, caught_up)
    if side.label == "ours":
        side.condition("CaughtUp=True")
    rig.quiet()
    stop = scene.watch(side.database)
    before, used = rig.servers_cpu(), side.usage().cpu
    first, load = scene.live(rate // TRANSACTIONS, TRANSACTIONS, rig.settings.seconds)
    finish(load)
    last = scene.next - 1
    with scene.destination.session(side.database) as session:
        until("the last row", 60, lambda: session.value("SELECT max(id) FROM items") == str(last))
    own = side.usage()
    own.cpu -= used
    everything = rig.servers_cpu() - before + (own.cpu if side.is_apart else 0)
    sightings = stop()
    side.stop()
    latencies, reached = compare(scene.commits(first, rate // TRANSACTIONS), sightings)
    p50, p99 = percentile(latencies, 50), percentile(latencies, 99)
    say(f"{side.name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {max(latencies):.1f} ms at "
        f"{reached * rate // TRANSACTIONS:,.0f} changes/s; CPU {own.cpu:.1f} s, with the servers {everything:.1f} s")
    return Run(p50, own, everything), Run(p99, own, everything)


def compare(commits, sightings):
    """Milliseconds of each transaction, and how many were committed a second."""
    tops = [top for _, top in sightings]
    latencies = [(sightings[bisect_left(tops, id)][0] - time) * 1000 for id, time in commits]
    return latencies, (len(commits) - 1) / (commits[-1][1] - commits[0][1])
