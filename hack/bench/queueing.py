"""(b) A backlog into the queue, (c) its replay, (d) its size. One queue serves all three."""

import time
from contextlib import ExitStack

from . import queue_peers
from .drain import check
from .ours import Ours
from .process import Usage
from .report import Measure, Run, say, step
from .scene import Scene


class Measures:
    def __init__(self, chosen):
        self.b = Measure("b queue while paused", "rows/s", "pg_recvlogical", 2, True)
        self.c = Measure("c replay the queue", "rows/s", "psql, COPY and upsert", 0.9, True)
        self.d = Measure("d queued in Redis", "bytes/row", "XADD, an entry a row", 0.35, False)
        self.chosen = [letter for letter in "bcd" if letter in chosen]

    def all(self):
        return [getattr(self, letter) for letter in self.chosen]


def measure(rig):
    measures = Measures(rig.settings.chosen)
    with ExitStack() as stack:
        scene = stack.enter_context(Scene(rig, "queueing"))
        ours = stack.enter_context(Ours(scene))
        database = scene.destination_of("psql")
        scene.begin(ours)
        for number in range(rig.settings.runs):
            step(f"({','.join(measures.chosen)}) the queue, run {number + 1} of {rig.settings.runs}")
            cycle(scene, ours, database, measures)
    return measures.all()


def cycle(scene, ours, database, measures):
    """One pause: a backlog is made, queued and replayed. The peers do the same with the same rows."""
    rig, records = scene.rig, scene.rig.settings.records
    ours.start()
    ours.state("Paused")
    ours.condition("Paused=True")
    ours.stop()
    if "b" in measures.chosen:
        queue_peers.make_slot(scene)
    empty = rig.redis.used_memory()
    backlog = scene.backlog(rig.settings.rows)

    ours.start()
    queued = timed(rig, ours, records, lambda: ours.wait_until_queued(records))
    measures.b.ours.append(told("queued", queued))
    size = (rig.redis.used_memory() - empty) / records
    if "b" in measures.chosen:
        measures.b.others.append(told("pg_recvlogical", queue_peers.receive(scene, backlog, records)))
    scene.settle(backlog, ours.slots)

    ours.worker.forget_peak()
    replayed = timed(rig, ours, records, lambda: (ours.state("Running"), scene.wait_for(ours, backlog)))
    measures.c.ours.append(told("replayed", replayed))
    check(scene, ours, backlog)
    ours.condition("CaughtUp=True")
    ours.stop()
    if "c" in measures.chosen:
        measures.c.others.append(told("psql", queue_peers.upsert(scene, database, backlog, records)))
    if "d" in measures.chosen:
        plain = queue_peers.entries(scene, backlog, records)
        say(f"{size:.1f} bytes a record in the queue, {plain:.1f} with an entry a row")
        measures.d.ours.append(Run(size, Usage(0, 0), 0))
        measures.d.others.append(Run(plain, Usage(0, 0), 0))


def timed(rig, ours, records, action):
    """What the worker needs for something; for its first one, from when it was started."""
    used = ours.usage().cpu
    before, begin = rig.servers_cpu(), time.monotonic()
    action()
    seconds, own = time.monotonic() - begin, ours.usage()
    own.cpu -= used
    return Run(records / seconds, own, rig.servers_cpu() - before + own.cpu)


def told(what, run):
    say(f"{what}: {run.value:,.0f} rows/s; CPU {run.own.cpu:.1f} s, with the servers {run.everything:.1f} s; "
        f"{run.own.peak / 1e6:.0f} MB")
    return run
