"""PostgreSQL's own logical replication, beside us: it upserts nothing and transforms nothing, so it is a ceiling."""

from .process import Usage, cpu, peak, until


class Native:
    name = "logical replication"
    label = "native"
    tables = ("items",)
    # The apply worker is one of the destination's processes, and counted there.
    is_apart = False

    def __init__(self, scene):
        self.scene = scene
        self.database = scene.destination_of(self.label)
        self.subscription = self.slots = f"native_{scene.name}"

    def __enter__(self):
        scene = self.scene
        scene.source.sql(
            scene.name, "CREATE PUBLICATION native FOR TABLE items WITH (publish = 'insert, update, delete')"
        )
        url = scene.source.url(scene.name)
        scene.destination.sql(
            self.database,
            f"""CREATE SUBSCRIPTION {self.subscription} CONNECTION '{url}' PUBLICATION native
                WITH (copy_data = false, enabled = false)""",
        )
        return self

    def __exit__(self, *_):
        self.stop()
        self._sql(f"DROP SUBSCRIPTION {self.subscription}")

    def join(self):
        self.start()
        active = f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{self.slots}' AND active"
        until("the start of the subscription", 60, lambda: self.scene.source.sql("postgres", active) == "1", 0.1)

    def start(self):
        self._sql(f"ALTER SUBSCRIPTION {self.subscription} ENABLE")

    def stop(self):
        self._sql(f"ALTER SUBSCRIPTION {self.subscription} DISABLE")
        active = f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{self.slots}' AND active"
        until("the end of the subscription", 60, lambda: self.scene.source.sql("postgres", active) == "0", 0.1)

    def usage(self):
        """Of the apply worker. Its memory counts what it has touched of the server's shared buffers."""
        pid = self._sql(f"SELECT pid FROM pg_stat_subscription WHERE subname = '{self.subscription}'")
        return Usage(cpu(int(pid)), peak(int(pid))) if pid else Usage(0, 0)

    def _sql(self, statement):
        return self.scene.destination.sql(self.database, statement)
