"""The databases of one measure: a source with its content, and destinations beside each other in one server."""

import random
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .postgres import finish
from .process import until

HERE = Path(__file__).parent
# The rows that a steady load updates.
POOL = 10_000


def sentences(seed):
    """20,000 notes of about 180 characters, of 500 words."""
    chance = random.Random(seed)
    syllables = "ka re mi so ta ne lu vo di ser con pra ing ment ation er est un".split()
    words = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(500)]
    for number in range(20_000):
        note = ""
        while len(note) < 172:
            note += chance.choice(words) + " "
        yield f"{number}\t{note.strip()}\n"


@dataclass
class Backlog:
    """Changes that were made at the source while nobody took them."""

    first: int
    rows: int
    each: int
    end_of_log: str
    first_table: str = "items"
    last_table: str = "items"

    @property
    def last(self):
        return self.first + self.rows - 1

    @property
    def last_updated(self):
        """The row that the last transaction updates last."""
        start = self.first + (self.rows - 1) // self.each * self.each
        return start + 1 + (self.last - start - 1) // 2 * 2


class Scene:
    """Made at the beginning of a measure, and dropped at its end."""

    def __init__(self, rig, name):
        self.rig, self.name, self.next = rig, name, 1
        self.source, self.destination = rig.source, rig.destination
        self.ends = ExitStack()

    def __enter__(self):
        self.source.sql("postgres", f"CREATE DATABASE {self.name}")
        self.ends.callback(self.source.sql, "postgres", f"DROP DATABASE {self.name} WITH (FORCE)")
        self.ends.callback(self._drop_slots)
        self.source.sql(self.name, (HERE / "tables.sql").read_text(), (HERE / "source.sql").read_text())
        self.source.sql(self.name, "COPY notes FROM STDIN", stdin="".join(sentences(self.rig.settings.seed)))
        self.source.sql(self.name, "VACUUM ANALYZE notes")
        return self

    def __exit__(self, error, *_):
        # After a failure a server may not answer; what failed is worth more than what clearing up would say.
        if error is None:
            self.ends.close()

    def destination_of(self, side):
        """A database for one of the tools."""
        database = f"{self.name}_{side}"
        self.destination.sql("postgres", f"CREATE DATABASE {database}")
        self.ends.callback(self.destination.sql, "postgres", f"DROP DATABASE {database} WITH (FORCE)")
        for file in ("tables.sql", "destination.sql"):
            self.destination.sql(database, (HERE / file).read_text())
        return database

    def begin(self, *sides):
        """Makes the rows that a steady load updates, and lets each side take them: it is known to work then."""
        for side in sides:
            side.join()
        first = self.backlog(POOL)
        for side in sides:
            self.wait_for(side, first, 120)
            side.stop()

    def backlog(self, rows, tables=0):
        """Inserts of so many rows, and updates of half of them, a thousand a transaction. All tables get some."""
        first, self.next = self.next, self.next + rows
        each = max(2, min(1000, rows // max(tables, 1)))
        self.source.sql(self.name, f"CALL backlog({first}, {rows}, {each}, {tables})")
        end = self.source.sql("postgres", "SELECT pg_current_wal_lsn()")
        # A tool that waits for the position sees something come after it.
        self.source.sql("postgres", "SELECT pg_logical_emit_message(true, 'bench', 'end')", "CHECKPOINT")
        made = Backlog(first, rows, each, end)
        if tables:
            made.first_table, made.last_table = "item_0", f"item_{(rows - 1) // each % tables}"
        return made

    def wait_for(self, side, backlog, seconds=1800):
        """Waits until all of it is visible. Returns when the first row was seen, and when the last one was."""
        first = None
        last = f"""SELECT changed >= timestamptz '2026-01-02 00:00:00Z' + id * interval '1 second'
                   FROM {backlog.last_table} WHERE id = {backlog.last_updated}"""
        begins = f"SELECT 1 FROM {backlog.first_table} WHERE id = {backlog.first}"
        with self.destination.session(side.database) as session:

            def is_there():
                nonlocal first
                if first is None and session.value(begins):
                    first = time.monotonic()
                return session.value(last) == "t" and time.monotonic()

            end = until(f"the last row of {side.name}", seconds, is_there)
            return first or end, end

    def settle(self, backlog, slots):
        """Gives a side time to let the source forget the backlog: what it reads again next time is not its work."""
        self.source.checkpoint()
        sql = f"""SELECT count(*) FROM pg_replication_slots
                  WHERE slot_name ~ '{slots}' AND restart_lsn <= '{backlog.end_of_log}'"""
        deadline = time.monotonic() + 20
        with self.source.session("postgres") as session:
            while session.value(sql) != "0" and time.monotonic() < deadline:
                time.sleep(0.5)

    def content(self, server, database, backlog, tables):
        """Number of rows and a sum of hashes of them."""
        parts = [
            f"""SELECT count(*) AS rows, sum(hashtextextended(i::text, 0)) AS hash FROM {table} i
                WHERE id BETWEEN {backlog.first} AND {backlog.last}"""
            for table in tables
        ]
        # Of a thousand tables it is too long for an argument.
        query = f"SELECT sum(rows), sum(hash) FROM ({' UNION ALL '.join(parts)}) AS all_tables"
        return server.sql(database, stdin=query)

    def live(self, rows, transactions, seconds):
        """Starts a steady load, and returns its first id and the process."""
        first = self.next
        self.next += rows // 2 * transactions * seconds
        return first, self.source.aside(
            self.name,
            # With a handful of rows it is the wrong plan, and PL/pgSQL plans once.
            "SET enable_hashjoin = off", "SET enable_mergejoin = off", "SET enable_seqscan = off",
            f"CALL live({first}, {rows}, {transactions}, {seconds})",
        )

    def end_live(self, load):
        """Ends a steady load before its time."""
        self.source.sql(
            "postgres",
            f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = '{self.name}' AND query LIKE 'CALL live%'""",
        )
        load.communicate()

    def watch(self, database):
        """Begins to note when rows become visible. What it returns ends it and tells: (time, highest id) in order."""
        self.destination.sql(database, "UPDATE watching SET is_on = true")
        process = self.destination.aside(
            database, "CALL watch()", "SELECT extract(epoch FROM seen), top FROM sightings ORDER BY 1"
        )

        def stop():
            self.destination.sql(database, "UPDATE watching SET is_on = false")
            lines = finish(process).split()
            return [(float(time), int(top)) for time, top in (line.split("|") for line in lines)]

        return stop

    def commits(self, first, rows):
        """When each transaction of a steady load was committed: (its last id, time)."""
        printed = self.source.sql(
            self.name,
            f"""SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM items
                WHERE id >= {first} AND (id - {first} + 1) % {rows // 2} = 0 ORDER BY id""",
        )
        return [(int(id), float(time)) for id, time in re.findall(r"(\d+)\|([\d.]+)", printed)]

    def _drop_slots(self):
        sql = f"""SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
                  WHERE database = '{self.name}' AND active"""
        self.source.sql("postgres", sql)
        drop = f"""SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                   WHERE database = '{self.name}' AND NOT active"""
        left = f"SELECT count(*) FROM pg_replication_slots WHERE database = '{self.name}'"

        def dropped():
            self.source.sql("postgres", drop)
            return self.source.sql("postgres", left) == "0"

        until(f"the end of the slots of {self.name}", 30, dropped, 0.2)
