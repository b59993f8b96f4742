"""(h) A look-up by key in a queue, by way of the Kubernetes API, on a server that was just started."""

import random
import time
from contextlib import ExitStack

from .ours import Ours
from .process import Failed, Process, free_port, until
from .report import Measure, Run, percentile, say, step
from .scene import Scene

LOOKUPS = 500
# One of so many keys is not in the queue.
ABSENT = 10
# Milliseconds.
TARGET = 100


def measure(rig):
    found = Measure("h look-up by key, p99", "ms", "", TARGET, False)
    with ExitStack() as stack:
        scene = stack.enter_context(Scene(rig, "lookup"))
        ours = stack.enter_context(Ours(scene))
        scene.begin(ours)
        step(f"(h) {LOOKUPS} look-ups by key among {rig.settings.records} queued records")
        ours.start()
        ours.state("Paused")
        ours.condition("Paused=True")
        backlog = scene.backlog(rig.settings.rows)
        ours.wait_until_queued(rig.settings.records)
        server = serve(rig)
        look_up = rig.plane.reader()
        path = "/apis/records.tablemap.dev/v1alpha1/namespaces/bench/queuedrecords"
        until("the records API", 60, lambda: is_served(look_up, path, ours.maps[0]))
        held = in_redis(rig, ours.queue())
        before, used = server.usage(), rig.servers_cpu()
        chance = random.Random(rig.settings.seed)
        times = [one(look_up, path, ours.maps[0], backlog, chance) for _ in range(LOOKUPS)]
        own = server.usage()
        own.cpu -= before.cpu
        say(f"p50 {percentile(times, 50) * 1e3:.1f} ms, p99 {percentile(times, 99) * 1e3:.1f} ms, "
            f"longest {max(times) * 1e3:.1f} ms")
        say(f"memory of the server: {before.peak / 1e6:.0f} MB before, {own.peak / 1e6:.0f} MB after; of the queue in "
            f"Redis: {held} and {in_redis(rig, ours.queue())} (entries and filters, bytes)")
        found.ours.append(Run(percentile(times, 99) * 1e3, own, rig.servers_cpu() - used + own.cpu))
    return [found]


def in_redis(rig, queue):
    """Bytes of the queue's entries, and of their filters."""
    return tuple(rig.redis.command("MEMORY", "USAGE", f"{queue}:{part}") for part in ("stream", "filters"))


def serve(rig):
    port = free_port()
    folder = rig.plane.register_records(port)
    return Process(
        "records", [rig.program, "operator", "--workers=none", "--namespace=bench", "--default-queue=queue",
                    f"--records-api-address=127.0.0.1:{port}", f"--records-api-certificates={folder}"],
        rig.folder / "records.log", env=rig.plane.environment(),
    )


def is_served(look_up, path, name):
    try:
        return look_up(f"{path}?fieldSelector=tableMap%3D{name}&limit=1")
    except Failed:
        return None


def one(look_up, path, name, backlog, chance):
    """One look-up, and how long it took."""
    absent = chance.randrange(ABSENT) == 0
    key = backlog.last + chance.randrange(1, 1_000_000) if absent else chance.randint(backlog.first, backlog.last)
    begin = time.monotonic()
    records = look_up(f"{path}?fieldSelector=tableMap%3D{name}%2Ckey%3D{key}")["items"]
    seconds = time.monotonic() - begin
    # A row was inserted, and half of them were updated too.
    if len(records) not in ((0,) if absent else (1, 2)):
        raise Failed(f"{len(records)} records of key {key} were found")
    return seconds
