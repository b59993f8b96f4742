"""(g) A thousand maps of one source in one worker, beside one map."""

from contextlib import ExitStack

from .drain import drain
from .ours import Ours
from .report import Measure, Run, step
from .scene import Scene


def measure(rig):
    count, runs = rig.settings.maps, rig.settings.runs
    memory = Measure(f"g {count} maps, memory", "MB", "", 100, False)
    rate = Measure(f"g {count} maps, drain", "rows/s", "one map", 0.8, True)
    with ExitStack() as stack:
        step(f"(g) {count} maps join")
        one = stack.enter_context(Scene(rig, "one"))
        lone = stack.enter_context(Ours(one))
        one.begin(lone)
        many = stack.enter_context(Scene(rig, "many"))
        ours = stack.enter_context(thousand(many, count))
        ours.join()
        ours.stop()
        for number in range(runs):
            step(f"(g) drain, run {number + 1} of {runs}")
            run = drain(many, ours, many.backlog(rig.settings.rows, count), rig.settings.records)
            rate.ours.append(run)
            memory.ours.append(Run(run.own.peak / 1e6, run.own, run.everything))
            rate.others.append(drain(one, lone, one.backlog(rig.settings.rows), rig.settings.records))
    return [memory, rate]


def thousand(scene, count):
    """Tables with the columns of `items`, and a map for each."""
    tables = [f"item_{number}" for number in range(count)]
    create = "".join(f"CREATE TABLE {table} (LIKE items INCLUDING ALL);\n" for table in tables)
    ours = Ours(scene, tables)
    scene.source.sql(scene.name, create)
    scene.destination.sql(ours.database, create)
    return ours
