"""The servers that all measures share."""

import os
import secrets
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from .control_plane import ControlPlane
from .ours import connection
from .postgres import Postgres
from .process import Process
from .redis import Redis
from .report import say

REPOSITORY = Path(__file__).parent.parent.parent


class Rig:
    def __init__(self, settings):
        self.settings = settings
        self.program = os.environ["TABLEMAP"]
        self.cache = Path(os.environ["TABLEMAP_CACHE"])
        self.ends = ExitStack()

    def __enter__(self):
        with self.ends as ends:
            self.folder = Path(tempfile.mkdtemp(prefix="tablemap-bench."))
            ends.callback(self._leave_folder)
            ends.callback(Process.end_all)
            # The servers' user must be able to reach its own folders in it.
            self.folder.chmod(0o711)
            password = secrets.token_hex(16)
            self.source = Postgres("source", self.folder, password)
            self.destination = Postgres("destination", self.folder, password)
            self.redis = Redis(self.folder, password)
            self.plane = ControlPlane(self.folder, self.cache / "kubernetes-v1.36.3/bin", REPOSITORY / "crds")
            self._connect(password)
            Process(
                "operator", [self.program, "operator", "--workers=none", "--namespace=bench", "--default-queue=queue"],
                self.folder / "operator.log", env=self.plane.environment(),
            )
            self.ends = ends.pop_all()
        return self

    def __exit__(self, *error):
        return self.ends.__exit__(*error)

    def _connect(self, password):
        def login(name, user):
            return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
                    "type": "kubernetes.io/basic-auth", "stringData": {"username": user, "password": password}}

        redis = {"topology": {"standalone": {"host": "127.0.0.1", "port": self.redis.port}},
                 "credentials": {"secretRef": {"name": "redis-login"}}, "tls": {"mode": "Disable"}}
        self.plane.apply([
            login("postgres-login", "postgres"), login("redis-login", "default"), connection("queue", {"redis": redis}),
        ])

    def _leave_folder(self):
        if self.settings.keep:
            say(f"the data and logs are left in {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def servers_cpu(self):
        return self.source.cpu() + self.destination.cpu() + self.redis.cpu()

    def quiet(self):
        """Nothing that a server has put off falls into the next measurement."""
        self.source.checkpoint()
        self.destination.checkpoint()
