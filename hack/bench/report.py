"""What is printed: each run as it ends, and the table of medians."""

import sys
import time
from dataclasses import dataclass, field
from statistics import median

from .process import Usage


def say(text):
    print(f"    {text}", flush=True)


def step(text):
    print(f"\n==> {time.strftime('%H:%M:%S')} {text}", flush=True)


@dataclass
class Run:
    """One run of one side. `everything` is the CPU time of the tool and of all servers."""

    value: float
    own: Usage
    everything: float


@dataclass
class Measure:
    """A figure of ours, and of a peer's if there is one, over some runs."""

    name: str
    unit: str
    peer: str
    # The ratio is ours to the peer's. Without a peer, the target is for our figure itself.
    target: float
    is_least: bool
    ours: list = field(default_factory=list)
    others: list = field(default_factory=list)

    def ratio(self):
        """Of the medians; without a peer our figure."""
        if not self.ours or (self.peer and not self.others):
            return None
        mine = median(run.value for run in self.ours)
        return mine / median(run.value for run in self.others) if self.peer else mine

    def is_met(self):
        ratio = self.ratio()
        return ratio is not None and (ratio >= self.target if self.is_least else ratio <= self.target)

    def line(self):
        ratio = self.ratio()
        target = f"{'>=' if self.is_least else '<='} {self.target:g}"
        return [
            self.name, self.unit, *_columns(self.ours, self.unit), self.peer or "-", *_columns(self.others, self.unit),
            "-" if ratio is None or not self.peer else f"{ratio:.2f}", target, "yes" if self.is_met() else "NO",
        ]


def _columns(runs, unit):
    """The median of each figure."""
    if not runs:
        return ["-"] * 4
    value = median(run.value for run in runs)
    own, peaks = median(run.own.cpu for run in runs), median(run.own.peak for run in runs)
    everything = median(run.everything for run in runs)
    digits = 0 if unit == "rows/s" else 1
    return [f"{value:,.{digits}f}", _known(own), _known(everything), _known(peaks / 1e6, 0)]


def _known(number, digits=1):
    return f"{number:,.{digits}f}" if number else "-"


USAGE = ["CPU s", "all", "MB"]
HEADINGS = ["measure", "unit", "ours", *USAGE, "peer", "peer's", *USAGE, "ratio", "target", "met"]


def table(measures):
    """Prints the medians."""
    lines = [HEADINGS, *(measure.line() for measure in measures)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    texts = {0, 1, 6}
    for line in lines:
        cells = [
            cell.ljust(width) if column in texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    print(
        "\nFigures are medians. CPU s: of the tool's own process. all: of the tool and the servers together."
        "\nMB: the most memory that the tool's process had resident (VmHWM); for a process of Postgres that includes"
        "\nwhat it has touched of the server's shared buffers."
    )
    sys.stdout.flush()


def percentile(values, share):
    """The smallest value that is not below this share of all."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * share // 100) - 1))]
