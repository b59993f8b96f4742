"""(i) Skip to what is live: a whole queue is given up, or kept as errors, or every tenth record of it is given up, while
the map is paused."""

import time
from contextlib import ExitStack

from .ours import API, Ours
from .report import Measure, Run, say, step
from .scene import Scene

# Seconds.
TARGET = 30
ALL = {"type": "All"}
CASES = {
    "all": ("Discard", ALL),
    "one in ten": ("Discard", {"type": "Match", "match": {"expression": "row.id % 10 == 0"}}),
    "all, kept": ("Park", ALL),
}


def measure(rig):
    return [measured(rig, name, action, selection) for name, (action, selection) in CASES.items()]


def measured(rig, name, action, selection):
    found = Measure(f"i skip {name}", "s", "", TARGET, False)
    with ExitStack() as stack:
        scene = stack.enter_context(Scene(rig, f"skip{len(name)}"))
        ours = stack.enter_context(Ours(scene))
        scene.begin(ours)
        step(f"(i) a skip of {name} of {rig.settings.records} queued records")
        ours.start()
        ours.state("Paused")
        ours.condition("Paused=True")
        backlog = scene.backlog(rig.settings.rows)
        ours.wait_until_queued(rig.settings.records)
        before, used, begin = ours.usage(), rig.servers_cpu(), time.monotonic()
        operation = f"skip-{len(name)}"
        ask(rig, ours, operation, action, "Queue", selection)
        wait(rig, operation, "Waiting=True")
        counted = time.monotonic() - begin
        ours.state("Running")
        wait(rig, operation, "Complete=True")
        ours.condition("CaughtUp=True")
        seconds, own = time.monotonic() - begin, ours.usage()
        own.cpu -= before.cpu
        counts = rig.plane.kubectl("get", "tmop", operation, "-o", "jsonpath={.status.counts.completed}")
        say(f"{counts} records in {seconds:.1f} s, {counted:.1f} s of it until it was known how many; "
            f"{before.peak / 1e6:.0f} MB before, {own.peak / 1e6:.0f} MB after")
        if action == "Park":
            take_from_errors(rig, ours, str(backlog.first))
        found.ours.append(Run(seconds, own, rig.servers_cpu() - used + own.cpu))
    return found


def take_from_errors(rig, ours, key):
    """The records of a key of those that are kept are written after all, and the others are given up."""
    kept = rig.redis.command("MEMORY", "USAGE", f"{ours.queue()}:packs", "SAMPLES", "0")
    for action, selection in {"Retry": {"type": "Keys", "keys": [{"values": [key]}]}, "Discard": ALL}.items():
        operation, begin = f"then-{action.lower()}", time.monotonic()
        ask(rig, ours, operation, action, "Errors", selection)
        wait(rig, operation, "Complete=True")
        counts = rig.plane.kubectl("get", "tmop", operation, "-o", "jsonpath={.status.counts.completed}")
        say(f"{action} of {counts} of them took {time.monotonic() - begin:.1f} s; {kept} bytes in Redis before")


def ask(rig, ours, name, action, source, selection):
    rig.plane.apply([{
        "apiVersion": API, "kind": "TableMapOperation", "metadata": {"name": name, "namespace": "bench"},
        "spec": {"tableMapRef": {"name": ours.maps[0]}, "action": action, "from": source, "selection": selection},
    }])


def wait(rig, operation, condition):
    rig.plane.kubectl("wait", f"--for=condition={condition}", f"tmop/{operation}", "--timeout=600s")
