"""(a) A backlog straight to Postgres: the worker was away, and the map is Running."""

import time
from contextlib import ExitStack

from .debezium import Debezium
from .native import Native
from .ours import Ours
from .process import Failed
from .report import Measure, Run, say, step
from .scene import Scene


def measure(rig):
    native = Measure("a drain to Postgres", "rows/s", Native.name, 1.2, True)
    debezium = Measure("a drain to Postgres", "rows/s", Debezium.name, 8, True)
    with ExitStack() as stack:
        scene = stack.enter_context(Scene(rig, "drain"))
        sides = [stack.enter_context(Ours(scene)), stack.enter_context(Native(scene))]
        if rig.settings.debezium:
            sides.append(stack.enter_context(Debezium(scene, rig.settings.debezium)))
        scene.begin(*sides)
        for number in range(rig.settings.runs):
            step(f"(a) drain, run {number + 1} of {rig.settings.runs}")
            backlog = scene.backlog(rig.settings.rows)
            for side in sides:
                run = drain(scene, side, backlog, rig.settings.records)
                if side.label == "ours":
                    native.ours.append(run)
                    debezium.ours.append(run)
                else:
                    (native if side.label == "native" else debezium).others.append(run)
    return [native, debezium] if debezium.others else [native]


def drain(scene, side, backlog, records):
    """Starts a side, waits until it has written the backlog, and ends it."""
    rig = scene.rig
    rig.quiet()
    before, begin = rig.servers_cpu(), time.monotonic()
    side.start()
    first, last = scene.wait_for(side, backlog)
    seconds, own = last - begin, side.usage()
    everything = rig.servers_cpu() - before + (own.cpu if side.is_apart else 0)
    say(
        f"{side.name}: {seconds:.2f} s, {records / seconds:,.0f} rows/s; the first row after {first - begin:.2f} s; "
        f"CPU {own.cpu:.1f} s, with the servers {everything:.1f} s; {own.peak / 1e6:.0f} MB"
    )
    check(scene, side, backlog)
    scene.settle(backlog, side.slots)
    side.stop()
    return Run(records / seconds, own, everything)


def check(scene, side, backlog):
    """A figure counts only if every row has arrived."""
    wanted = scene.content(scene.source, scene.name, backlog, side.tables)
    got = scene.content(scene.destination, side.database, backlog, side.tables)
    if wanted != got:
        raise Failed(f"{side.name} has written {got} (rows, hash), and the source has {wanted}")
