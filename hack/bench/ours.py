"""TableMap: the objects of a measure, and its worker as a process of its own."""

import json

from .process import Failed, Process, Usage, until

API = "tablemap.dev/v1alpha1"
COLUMNS = ["id", "customer", "amount", "changed", "note"]


def connection(name, spec):
    return {"apiVersion": API, "kind": "Connection", "metadata": {"name": name}, "spec": spec}


def table_map(name, source, destination, table="items"):
    return {
        "apiVersion": API, "kind": "TableMap", "metadata": {"name": name},
        "spec": {
            "source": {"connectionRef": {"name": source}, "table": {"name": table}},
            "destination": {"connectionRef": {"name": destination}, "table": {"name": table}},
            "integrationKey": ["id"],
            "fields": [{"destination": column, "source": column} for column in COLUMNS],
        },
    }


class Ours:
    name = "TableMap"
    label = "ours"
    slots = "^tablemap"
    # Its process is none of the servers'.
    is_apart = True

    def __init__(self, scene, tables=("items",)):
        self.scene, self.rig, self.plane = scene, scene.rig, scene.rig.plane
        self.database = scene.destination_of(self.label)
        self.source = scene.name
        self.target = f"{scene.name}-destination"
        self.worker, self.starts = None, 0
        self.maps = [f"{scene.name}-{table}".replace("_", "-") for table in tables]
        self.tables = tables

    def __enter__(self):
        for server, name, database in (
            (self.scene.source, self.source, self.scene.name),
            (self.scene.destination, self.target, self.database),
        ):
            self.plane.apply([connection(name, {"postgres": {
                "hosts": [{"host": "127.0.0.1", "port": server.port}], "database": database,
                "credentials": {"secretRef": {"name": "postgres-login"}}, "tls": {"mode": "Disable"}}})])
        self.plane.apply([
            table_map(name, self.source, self.target, table)
            for name, table in zip(self.maps, self.tables, strict=True)
        ])
        return self

    def __exit__(self, *_):
        # The objects stay: they, and what they refer to, end with the benchmark.
        self.stop()

    def join(self):
        """Starts for the first time. Afterwards it takes every change."""
        self.start()
        self.condition("CaughtUp=True", 300)

    def start(self):
        self.starts += 1
        self.worker = Process(
            f"worker of {self.source}",
            [self.rig.program, "worker", "--namespace", "bench", "--connection", self.source,
             "--default-queue", "queue"],
            self.rig.folder / f"worker-{self.source}-{self.starts}.log",
            env=self.plane.environment(),
        )

    def stop(self):
        if self.worker is not None:
            self.worker.end()
            self.worker = None

    def usage(self):
        return self.worker.usage() if self.worker else Usage(0, 0)

    def patch(self, name, spec):
        self.plane.kubectl("patch", "tablemap", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def state(self, state):
        self.patch(self.maps[0], {"state": state})

    def condition(self, condition, seconds=120):
        type_, status = condition.split("=")
        path = f'{{range .items[*]}}{{.metadata.name}} {{.status.conditions[?(@.type=="{type_}")].status}}{{"\\n"}}{{end}}'
        wanted = {f"{name} {status}" for name in self.maps}
        few = len(wanted) < 10

        def met():
            # One list for all: `kubectl wait` looks at one after the other.
            try:
                said = self.plane.kubectl("get", "tablemaps", "-o", f"jsonpath={path}")
            except Failed:
                if few:
                    raise
                return False
            return wanted <= set(said.splitlines())

        until(f"{condition} of {len(wanted)} maps", seconds, met, 0.02 if few else 1)

    def queue(self):
        """The name of the queue's keys in Redis, up to the last part."""
        uid = self.plane.kubectl("get", "tablemap", self.maps[0], "-o", "jsonpath={.status.queue.id}")
        return f"{{tm:bench:{uid}}}"

    def wait_until_queued(self, records, seconds=1800):
        meta = f"{self.queue()}:meta"
        until(f"{records} records in the queue", seconds,
              lambda: int(self.rig.redis.command("HGET", meta, "records") or 0) >= records)
