"""Processes that the benchmark starts, what they use, and their end."""

import itertools
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import ClassVar

TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """The benchmark cannot go on. The text is for the person who runs it."""


@dataclass
class Usage:
    """CPU seconds, and the most memory that was resident at once (VmHWM), in bytes."""

    cpu: float
    peak: int


def unprivileged():
    """initdb refuses root, and the other servers need no rights either."""
    if os.getuid() != 0:
        return []
    return ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--"]


def own_folder(path):
    """A folder for a server."""
    path.mkdir()
    if os.getuid() == 0:
        subprocess.run(["chown", "nobody:nogroup", path], check=True)
    return path


_ports = itertools.count(20_000 + os.getpid() % 10_000)


def free_port():
    """Below those that the kernel gives to outgoing connections: none of them may take it before the server does."""
    for port in _ports:
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def until(what, seconds, is_met, pause=0.02):
    """Waits until it is met, and returns what it returned."""
    deadline = time.monotonic() + seconds
    while not (met := is_met()):
        if time.monotonic() > deadline:
            raise Failed(f"{what} did not come about within {seconds} s")
        time.sleep(pause)
    return met


def run(command, **more):
    """Runs a command to its end, and returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command[:4]))}… has failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def run_measured(command, log, **more):
    """Runs a command to its end, and returns its seconds and what it used."""
    begin = time.monotonic()
    with open(log, "ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **more)
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise Failed(f"{command[0]} has failed; see {log}")
    return seconds, Usage(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


class Process:
    """A server, or the program that is measured."""

    # All that were started, so that none outlives the benchmark.
    started: ClassVar[list] = []

    def __init__(self, name, command, log, env=None, cwd="/", end_by=signal.SIGTERM):
        self.name, self.log, self.end_by = name, log, end_by
        with open(log, "ab") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cwd, env=env, start_new_session=True
            )
        self.pid = self.process.pid
        self.started.append(self)

    @classmethod
    def end_all(cls):
        """Ends the newest first: nothing loses the server that it talks to."""
        while cls.started:
            cls.started[-1].end()

    def lives(self):
        return self.process.poll() is None

    def answers(self, ready, seconds=60):
        """Waits until a server is ready, and says so at once if it has ended."""
        until(f"an answer of {self.name} (see {self.log})", seconds, lambda: ready() or not self.lives(), 0.05)
        if not self.lives():
            raise Failed(f"{self.name} has ended; see {self.log}")

    def usage(self):
        """Of the process and all that it has started."""
        pids = family(self.pid)
        return Usage(sum(map(cpu, pids)), max((peak(pid) for pid in pids), default=0))

    def forget_peak(self):
        """The peak of memory is counted anew."""
        for pid in family(self.pid):
            with open(f"/proc/{pid}/clear_refs", "w") as refs:
                refs.write("5")

    def end(self):
        if self.lives():
            self.process.send_signal(self.end_by)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                # It began a session, so that this is its group and nobody else's.
                os.killpg(self.pid, signal.SIGKILL)
                self.process.wait()
        if self in self.started:
            self.started.remove(self)


def _stat(pid):
    """What follows the name, which may hold spaces and brackets."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def family(root):
    """A process and its descendants."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(entry)):
            children.setdefault(int(stat[1]), []).append(int(entry))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def cpu(pid):
    """Seconds of a process, and of its children that have ended."""
    stat = _stat(pid)
    return sum(map(int, stat[11:15])) / TICKS if stat else 0.0


def peak(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")), 0)
    except OSError:
        return 0
