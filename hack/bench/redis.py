"""A Redis server with an append-only file that is flushed before each reply, and a client of a few lines."""

import socket
import subprocess

from .process import Failed, Process, cpu, family, free_port, own_folder, run, unprivileged

SETTINGS = {
    "bind": "127.0.0.1",
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
    "save": '""',
}


class Redis:
    def __init__(self, folder, password):
        self.port, self.password = free_port(), password
        home = own_folder(folder / "redis")
        lines = [f"{name} {value}" for name, value in SETTINGS.items()]
        lines += [f"port {self.port}", f"dir {home}", f"requirepass {password}"]
        file = home / "redis.conf"
        text = "\n".join(lines) + "\n"
        subprocess.run([*unprivileged(), "tee", file], input=text, text=True, stdout=subprocess.DEVNULL, check=True)
        self.process = Process("redis", [*unprivileged(), "redis-server", file], folder / "redis.log")
        self.process.answers(self._connect)

    def _connect(self):
        try:
            self.stream = socket.create_connection(("127.0.0.1", self.port)).makefile("rwb")
            return self.command("AUTH", self.password) == "OK"
        except OSError:
            return False

    def command(self, *words):
        self.stream.write(encode(words))
        self.stream.flush()
        return self._reply()

    def _reply(self):
        line = self.stream.readline().rstrip().decode()
        kind, rest = line[:1], line[1:]
        if kind == "-":
            raise Failed(f"Redis: {rest}")
        if kind == "$":
            return None if rest == "-1" else self.stream.read(int(rest) + 2)[:-2].decode()
        if kind == "*":
            return [self._reply() for _ in range(int(rest))]
        return int(rest) if kind == ":" else rest

    def used_memory(self):
        lines = self.command("INFO", "memory").splitlines()
        return next(int(line.split(":")[1]) for line in lines if line.startswith("used_memory:"))

    def load(self, file):
        """Runs the commands of a file."""
        command = ["redis-cli", "-p", str(self.port), "--pipe"]
        with open(file, "rb") as stdin:
            run(command, stdin=stdin, env={"REDISCLI_AUTH": self.password, "PATH": "/usr/bin:/bin"})

    def cpu(self):
        return sum(map(cpu, family(self.process.pid)))


def encode(words):
    """A command as Redis reads it."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
