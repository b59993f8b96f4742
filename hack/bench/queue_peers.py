"""What the queue is measured beside: pg_recvlogical, psql, and plain entries of a Redis stream."""

import subprocess
from itertools import islice

from .ours import COLUMNS
from .process import run_measured
from .redis import encode
from .report import Run

BATCH = 8192
SLOT = "receive"


def make_slot(scene):
    """From here on the source keeps changes for `receive`."""
    scene.source.sql(
        scene.name, f"DROP PUBLICATION IF EXISTS {SLOT}", f"CREATE PUBLICATION {SLOT} FOR TABLE items",
        f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')",
    )


def receive(scene, backlog, records):
    """pg_recvlogical reads a backlog and throws it away."""
    run = measured(
        scene.rig, records,
        ["pg_recvlogical", "-d", scene.name, "-S", SLOT, "--start", "-f", "/dev/null", "-F", "0", "--no-loop",
         "-o", "proto_version=1", "-o", f"publication_names={SLOT}", f"--endpos={backlog.end_of_log}"],
        scene.source.environment(),
    )
    scene.source.sql(scene.name, f"SELECT pg_drop_replication_slot('{SLOT}')")
    return run


def upsert(scene, database, backlog, records):
    """psql writes a backlog: COPY into a temporary table, and one upsert a batch."""
    script = scene.rig.folder / "upsert.sql"
    assignments = ", ".join(f"{column} = excluded.{column}" for column in COLUMNS[1:])
    with open(copied(scene, backlog)) as lines, open(script, "w") as out:
        out.write("SET synchronous_commit = off;\nCREATE TEMP TABLE batch (LIKE items);\n")
        while batch := list(islice(lines, BATCH)):
            out.write("BEGIN;\nCOPY batch FROM STDIN;\n")
            out.writelines(batch)
            out.write(f"\\.\nINSERT INTO items SELECT * FROM batch ON CONFLICT (id) DO UPDATE SET {assignments};\n"
                      "TRUNCATE batch;\nCOMMIT;\n")
    command = scene.destination.psql(database, "-f", str(script))
    return measured(scene.rig, records, command, scene.destination.environment())


def entries(scene, backlog, records):
    """Bytes of Redis for each row of a backlog, if each is an entry of a stream."""
    redis, file = scene.rig.redis, scene.rig.folder / "entries"
    with open(copied(scene, backlog)) as lines, open(file, "wb") as out:
        for line in lines:
            cells = line.rstrip("\n").split("\t")
            pairs = [word for pair in zip(COLUMNS, cells, strict=True) for word in pair]
            out.write(encode(["XADD", "plain", "*", *pairs]))
    before = redis.used_memory()
    redis.load(file)
    size = (redis.used_memory() - before) / records
    redis.command("DEL", "plain")
    return size


def copied(scene, backlog):
    """A file with the records of a backlog as COPY writes them, in their order: inserts, then updates."""
    file = scene.rig.folder / "copied"
    with open(file, "w") as out:
        for first, each, revision in ((backlog.first, 1, 0), (backlog.first + 1, 2, 1)):
            rows = f"SELECT * FROM rows_of({first}, {backlog.last}, {each}, {revision}) ORDER BY id"
            command = scene.source.psql(scene.name, "-c", f"COPY ({rows}) TO STDOUT")
            subprocess.run(command, env=scene.source.environment(), stdout=out, check=True)
    return file


def measured(rig, records, command, environment):
    rig.quiet()
    before = rig.servers_cpu()
    seconds, own = run_measured(command, rig.folder / f"{command[0]}.log", env=environment)
    return Run(records / seconds, own, rig.servers_cpu() - before + own.cpu)
