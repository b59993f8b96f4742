"""A Postgres server, and sessions of psql."""

import os
import signal
import subprocess

from .process import Failed, Process, cpu, family, free_port, own_folder, run, unprivileged

# The same for source and destination. A commit is on the disk. No checkpoint falls into a measurement by size or time.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "max_locks_per_transaction": "256",
    "track_commit_timestamp": "on",
    "log_line_prefix": "%m [%p] %a ",
    # In the data folder and not in /dev/shm, where a killed server would leave it behind.
    "dynamic_shared_memory_type": "mmap",
}


class Postgres:
    def __init__(self, name, folder, password):
        self.name, self.password, self.port = name, password, free_port()
        home = own_folder(folder / name)
        file = home / "password"
        # tee, because a server's user cannot read our files.
        subprocess.run([*unprivileged(), "tee", file], input=password, text=True, stdout=subprocess.DEVNULL, check=True)
        run(
            [*unprivileged(), "initdb", "-D", home / "data", "-U", "postgres", "-E", "UTF8", "--locale", "C.UTF-8",
             "-A", "scram-sha-256", "--pwfile", file],
            cwd="/",
        )
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        self.process = Process(
            name,
            [*unprivileged(), "postgres", "-D", home / "data", "-p", str(self.port), *settings],
            folder / f"{name}.log",
            # TERM would wait until clients have gone.
            end_by=signal.SIGINT,
        )
        self.process.answers(lambda: subprocess.run(["pg_isready", "-q", "-d", self.url("postgres")]).returncode == 0)

    def url(self, database):
        return f"host=127.0.0.1 port={self.port} dbname={database} user=postgres password={self.password}"

    def environment(self):
        """For programs whose arguments everyone can see."""
        return os.environ | {
            "PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "postgres", "PGPASSWORD": self.password,
            "PGOPTIONS": "-c client_min_messages=warning",
        }

    def psql(self, database, *more):
        return ["psql", "-qXAt", "-v", "ON_ERROR_STOP=1", "-d", database, *more]

    def sql(self, database, *statements, stdin=None):
        """Runs statements, each by itself, and returns what they printed."""
        arguments = [part for statement in statements for part in ("-c", statement)]
        return run(self.psql(database, *arguments), env=self.environment(), input=stdin).strip()

    def aside(self, database, *statements):
        """Starts statements that go on while we do something else."""
        arguments = [part for statement in statements for part in ("-c", statement)]
        return subprocess.Popen(
            self.psql(database, *arguments), env=self.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )

    def session(self, database):
        return Session(self, database)

    def cpu(self):
        """Of all its processes since it was started."""
        return sum(map(cpu, family(self.process.pid)))

    def checkpoint(self):
        self.sql("postgres", "CHECKPOINT")


class Session:
    """One psql that answers many questions, so that a question costs no start of a program."""

    END = "-- end --"

    def __init__(self, server, database):
        self.process = subprocess.Popen(
            server.psql(database), env=server.environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )

    def rows(self, sql):
        self.process.stdin.write(f"{sql};\n\\echo '{self.END}'\n")
        self.process.stdin.flush()
        rows = []
        for line in self.process.stdout:
            if line.rstrip("\n") == self.END:
                return rows
            rows.append(line.rstrip("\n").split("|"))
        raise Failed(f"psql has ended: {rows}")

    def value(self, sql):
        rows = self.rows(sql)
        return rows[0][0] if rows else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def finish(process):
    """Waits for what was started aside, and returns what it printed."""
    printed, _ = process.communicate()
    if process.returncode != 0:
        raise Failed(f"psql has failed: {printed[-2000:]}")
    return printed
