"""What a person may choose, by environment variables."""

import os
from dataclasses import dataclass, field

PREFIX = "TABLEMAP_BENCH"


def _number(name, default):
    text = os.environ.get(f"{PREFIX}_{name}", str(default))
    if not text.isdigit() or int(text) == 0:
        raise SystemExit(f"{PREFIX}_{name} must be a whole number above 0, not {text!r}")
    return int(text)


def _chosen():
    text = os.environ.get(PREFIX, "a,b,c,d,e,f,g,h,i")
    chosen = {letter.strip() for letter in text.split(",")}
    if not chosen <= set("abcdefghis"):
        raise SystemExit(f"{PREFIX} must be letters from a to i, or s, with commas between them, not {text!r}")
    return chosen


@dataclass(frozen=True)
class Settings:
    """The sizes. What is measured is in docs/performance.md."""

    chosen: set = field(default_factory=_chosen)
    rows: int = field(default_factory=lambda: _number("ROWS", 1_000_000))
    runs: int = field(default_factory=lambda: _number("RUNS", 3))
    seconds: int = field(default_factory=lambda: _number("SECONDS", 20))
    switches: int = field(default_factory=lambda: _number("SWITCHES", 50))
    maps: int = field(default_factory=lambda: _number("MAPS", 1000))
    operated: int = field(default_factory=lambda: _number("OPERATED", 5000))
    seed: int = field(default_factory=lambda: _number("SEED", 1))
    debezium: str = field(default_factory=lambda: os.environ.get(f"{PREFIX}_DEBEZIUM", ""))

    # The folder with data and logs stays when the benchmark has ended.
    keep: bool = field(default_factory=lambda: bool(os.environ.get(f"{PREFIX}_KEEP")))

    @property
    def records(self):
        """Inserts, and half as many updates."""
        return self.rows + self.rows // 2

    def __str__(self):
        return (
            f"measures {','.join(sorted(self.chosen))}; {self.rows} inserts and {self.rows // 2} updates, "
            f"{self.runs} runs of each side, {self.seconds} s of steady load, {self.switches} pauses, "
            f"{self.maps} maps of a worker, {self.operated} of an operator, seed {self.seed}"
        )
