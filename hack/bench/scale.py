"""(s) A thousand maps with traffic in one worker, all paused and resumed at once; an operator with five thousand."""

import json
import re
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from .many import thousand
from .ours import Ours, connection, table_map
from .process import Process, until
from .report import Measure, Run, say, step
from .scene import Scene

# Rows a second, over all tables.
RATE = 500
# Over which the operator's maps are spread.
WORKERS = 5
# Seconds in which nothing is asked for.
IDLE = 60
RESOURCES = {"tablemaps", "connections", "tablemapoperations", "leases", "events", "secrets", "configmaps"}
TRAFFIC = """CREATE PROCEDURE traffic(tables int, rate int) LANGUAGE plpgsql AS $$
BEGIN
  FOR number IN 1 .. 1000000 LOOP
    EXECUTE format('INSERT INTO item_%s (id, customer, amount, changed, note) VALUES (%s, 1, 1, now(), ''traffic'')',
                   number % tables, 1000000000 + number);
    COMMIT;
    PERFORM pg_sleep(1.0 / rate);
  END LOOP;
END $$"""


def measure(rig):
    count, operated = rig.settings.maps, rig.settings.operated
    figures = {
        "idle worker with one map, memory": ("MB", 15),
        f"worker with {count} maps, memory": ("MB", 100),
        f"{count} maps, start": ("s", 60),
        f"{count} maps, from the first patch until all are Paused": ("s", 10),
        f"{count} maps, from the last patch until all are Paused": ("s", 10),
        f"{count} maps, from the first patch until all are direct": ("s", 60),
        f"worker with {count} idle maps, API requests a minute": ("", 600),
        f"operator with {operated} maps, memory": ("MB", 150),
        f"operator with {operated} maps, start": ("s", 60),
        f"operator with {operated} idle maps, API requests a minute": ("", 600),
    }
    measures = [Measure(f"s {name}", unit, "", target, False) for name, (unit, target) in figures.items()]
    values = []
    with ExitStack() as stack:
        values.append(lone_worker(rig, stack))
        values += many(rig, stack, count)
    values += operator(rig)
    for measure, (value, usage) in zip(measures, values, strict=True):
        measure.ours.append(Run(value, usage, usage.cpu))
    return measures


def lone_worker(rig, stack):
    step("(s) a worker with one map")
    scene = stack.enter_context(Scene(rig, "lone"))
    ours = stack.enter_context(Ours(scene))
    scene.begin(ours)
    ours.start()
    scene.wait_for(ours, scene.backlog(2))
    time.sleep(5)
    memory, file = resident(ours.worker.pid, "VmRSS"), resident(ours.worker.pid, "RssFile")
    usage = ours.usage()
    ours.stop()
    say(f"{memory:.1f} MB are resident, of which {file:.1f} MB are the program itself; {usage.peak / 1e6:.1f} MB at most")
    return memory, usage


def many(rig, stack, count):
    step(f"(s) {count} maps join")
    scene = stack.enter_context(Scene(rig, "scale"))
    ours = stack.enter_context(thousand(scene, count))
    ours.join()
    ours.stop()
    step("(s) their worker starts again, with a change of each to write")
    backlog = scene.backlog(2 * count, count)
    begin = time.monotonic()
    ours.start()
    wait_until_equal(scene, ours, backlog)
    started = time.monotonic() - begin
    say(f"{started:.1f} s")
    ours.condition("CaughtUp=True", 120)
    step(f"(s) {RATE} rows a second, and all are paused by one loop of patches")
    scene.source.sql(scene.name, TRAFFIC)
    traffic = scene.source.aside(scene.name, f"CALL traffic({count}, {RATE})")
    time.sleep(5)
    paused, after_patches = switch(ours, "Paused", "Paused=True")
    time.sleep(5)
    running, _ = switch(ours, "Running", "CaughtUp=True")
    scene.source.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL traffic%'")
    traffic.communicate()
    wait_until_equal(scene, ours, None)
    usage = ours.usage()
    say(f"{usage.peak / 1e6:.1f} MB were resident at most")
    step(f"(s) {count} idle maps, for {IDLE} s, once their last counters are told")
    time.sleep(IDLE)
    requests = idle(rig)
    ours.stop()
    return [
        (usage.peak / 1e6, usage), (started, usage), (paused, usage), (after_patches, usage), (running, usage),
        (requests, usage),
    ]


def switch(ours, state, condition):
    """From the first patch until all maps are so, and from the last one, in seconds. One after the other by one connection, since
    `kubectl patch` makes no more than five patches a second."""
    patches = ours.plane.connect(*ours.maps)
    begin = time.monotonic()
    for patch in patches:
        patch({"state": state})
    patched = time.monotonic() - begin
    ours.condition(condition, 300)
    all_are = time.monotonic() - begin
    say(f"the patches took {patched:.1f} s, and after {all_are:.1f} s all had {condition}")
    return all_are, all_are - patched


def wait_until_equal(scene, ours, backlog):
    def rows(server, database):
        parts = [f"SELECT count(*) AS rows FROM {table}" for table in ours.tables]
        return server.sql(database, stdin=f"SELECT sum(rows) FROM ({' UNION ALL '.join(parts)}) AS all_tables")

    wanted = rows(scene.source, scene.name)
    until(f"{wanted} rows", 300, lambda: rows(scene.destination, ours.database) == wanted, 0.2)


def operator(rig):
    count = rig.settings.operated // WORKERS * WORKERS
    step(f"(s) {count} maps of {WORKERS} workers, for an operator of their own")
    namespace = "operated"
    rig.plane.kubectl("create", "namespace", namespace)
    objects = []
    for number in range(WORKERS):
        source = f"source-{number}"
        spec = {"hosts": [{"host": "127.0.0.1", "port": 1}], "database": "none",
                "credentials": {"secretRef": {"name": "login"}}, "tls": {"mode": "Disable"}}
        objects.append(connection(source, {"postgres": spec}))
        objects += [table_map(f"map-{number}-{map}", source, source, f"t{map}") for map in range(count // WORKERS)]
    objects.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"},
                    "type": "kubernetes.io/basic-auth", "stringData": {"username": "u", "password": "p"}})
    for kind in objects:
        kind["metadata"]["namespace"] = namespace
        if kind["kind"] == "TableMap":
            kind["spec"]["queue"] = {"connectionRef": {"name": "queue"}}
    objects.append(connection("queue", {"redis": {
        "topology": {"standalone": {"host": "127.0.0.1", "port": 1}},
        "credentials": {"secretRef": {"name": "login"}}, "tls": {"mode": "Disable"}}}) | {})
    objects[-1]["metadata"]["namespace"] = namespace
    for begin in range(0, len(objects), 500):
        rig.plane.apply(objects[begin:begin + 500])
    with leases(rig, namespace):
        begin = time.monotonic()
        process = Process(
            "the operator that is measured", [rig.program, "operator", "--workers=none", f"--namespace={namespace}"],
            rig.folder / "operator-of-many.log", env=rig.plane.environment(),
        )

        def all_are_told():
            path = '{range .items[*]}{.status.conditions[?(@.type=="WorkerAvailable")].status}{"\\n"}{end}'
            said = rig.plane.kubectl("get", "tablemaps", "-n", namespace, "-o", f"jsonpath={path}")
            return said.split().count("True") == count

        until("the operator's status of all maps", 600, all_are_told, 1)
        started = time.monotonic() - begin
        say(f"all have their status after {started:.1f} s")
        requests = idle(rig, [("PATCH", "leases")])
        usage = process.usage()
        say(f"{usage.peak / 1e6:.1f} MB were resident at most; {usage.cpu:.1f} s of CPU in all")
        process.end()
    return [(usage.peak / 1e6, usage), (started, usage), (requests, usage)]


@contextmanager
def leases(rig, namespace):
    """Workers that seem to work: their Leases are renewed every second."""
    over = threading.Event()

    def lease(number, renewed):
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": worker_name(f"source-{number}", "default"), "namespace": namespace},
                "spec": {"holderIdentity": "bench", "leaseDurationSeconds": 4, "acquireTime": renewed, "renewTime": renewed}}

    def renew():
        ask = rig.plane._asker()
        while not over.wait(1):
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            for number in range(WORKERS):
                name = worker_name(f"source-{number}", "default")
                path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"
                ask("PATCH", path, json.dumps({"spec": {"renewTime": now}}))

    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    rig.plane.apply([lease(number, now) for number in range(WORKERS)])
    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def worker_name(source, group):
    """As src/worker/work.rs names a worker."""
    value = 0xCBF29CE484222325
    for byte in f"{source}/{group}".encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    mixed = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & 0xFFFFFFFFFFFFFFFF
    return f"tablemap-{source[:29].rstrip('-.')}-{group}-{(mixed ^ mixed >> 33) >> 32:08x}"


def idle(rig, of_the_harness=()):
    """Requests that the API server counts in a minute of rest, but for its own and the harness's."""
    before = requests(rig)
    time.sleep(IDLE)
    made = requests(rig) - before
    for kind in of_the_harness:
        del made[kind]
    rate = made.total() * 60 / IDLE
    say(f"{rate:.0f} requests a minute, and most of them:")
    for (verb, resource), number in made.most_common(6):
        say(f"{number * 60 / IDLE:8.0f} {verb} {resource}")
    return rate


def requests(rig):
    """By verb and resource, all but those by which the API server talks to itself: of our kinds, Leases, Events, Secrets and
    ConfigMaps."""
    made = Counter()
    for labels, number in re.findall(r"^apiserver_request_total\{(.*)\} (\d+)", rig.plane.kubectl("get", "--raw", "/metrics"), re.M):
        of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if of["resource"] in RESOURCES:
            made[of["verb"], "/".join(filter(None, (of["resource"], of["subresource"])))] += int(number)
    return made


def resident(pid, what):
    """Of what is resident now, in MB."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) / 1000 for line in file if line.startswith(f"{what}:"))
