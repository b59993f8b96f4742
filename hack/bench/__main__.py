"""Measures TableMap beside other tools, and prints a table. See docs/performance.md."""

import os
import platform
import signal
import sys

from . import drain, latency, lookup, many, queueing, report, scale, skipping, switching
from .process import Failed
from .report import say, step
from .rig import Rig
from .settings import Settings

MEASURES = [("a", drain), ("bcd", queueing), ("e", latency), ("f", switching), ("g", many), ("h", lookup), ("i", skipping),
            ("s", scale)]


def interrupted(*_):
    raise KeyboardInterrupt


def main():
    settings = Settings()
    # A signal ends what was started, too.
    signal.signal(signal.SIGTERM, interrupted)
    step("the settings")
    say(str(settings))
    say(f"{os.cpu_count()} cores, {platform.platform()}, load {os.getloadavg()[0]:.1f}")
    if "a" in settings.chosen and not settings.debezium:
        say("without Debezium Server")
    measures, failed = [], []
    step("starting servers")
    with Rig(settings) as rig:
        for letters, module in MEASURES:
            if not settings.chosen & set(letters):
                continue
            try:
                measures += module.measure(rig)
            except Failed as error:
                # The other figures are worth having all the same.
                step(f"({letters}) has failed: {error}")
                failed.append(letters)
    step("medians")
    report.table(measures)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


try:
    main()
except (Failed, KeyboardInterrupt) as error:
    sys.exit(f"the benchmark has ended: {str(error) or 'interrupted'}")
