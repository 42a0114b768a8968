"""Time what a sweep costs beside its passes: ``python tests/benchmarks/time_harness.py [suite] [KEY=VALUE ...]``.

Every pass says when it began and when it ended; what lies between the passes of a run, and between runs, is the
harness: ending a process, starting the next, handing over the columns, writing and flushing the record. Printed are
the shares, from the first pass on: the imports of the server that the processes are forked from come before it, once.
"""

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from rich.console import Console

from odegrad.measuring import passes
from odegrad.records.store import Store
from odegrad.running import runner
from odegrad.suites.suite import load_suite

LOG = "ODEGRAD_HARNESS_LOG"
"""Names the file that the passes write into: a line each."""


def run_pass(name, run, scratch, progress):
    """Run one pass of odegrad's, and note when it began and ended on the clock that all processes share."""
    begin = time.monotonic()
    try:
        return passes.run_pass(name, run, scratch, progress)
    finally:
        line = {"run": run.run_id, "pass": name, "begin": begin, "end": time.monotonic()}
        with Path(os.environ[LOG]).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


class TimedStore(Store):
    """Notes how long each record takes to be on the disk."""

    seconds: list[float] = []  # noqa: RUF012

    def append(self, record):
        """Write ``record``."""
        begin = time.monotonic()
        super().append(record)
        self.seconds.append(time.monotonic() - begin)


def measure(suite, overrides):
    """Run the suite; return when it began and ended, the passes in their order, and the seconds of every append."""
    runner.PASSES_MODULE, runner.Store = Path(__file__).stem, TimedStore
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)  # for the server, which imports this file once
    with tempfile.TemporaryDirectory() as folder:
        os.environ[LOG] = str(Path(folder) / "passes.jsonl")
        loaded = load_suite(suite, overrides)
        begin = time.monotonic()
        runner.run_suite(loaded, Path(folder) / "results", Console(stderr=True), runner.Settings())
        end = time.monotonic()
        lines = Path(os.environ[LOG]).read_text(encoding="utf-8").splitlines()
    return begin, end, [json.loads(line) for line in lines], TimedStore.seconds


def main(suite="quick", *overrides):
    """Print the page."""
    begin, end, done, appends = measure(suite, overrides or ("seeds=[0]",))
    first = done[0]["begin"]
    inside = defaultdict(float)
    for each in done:
        inside[each["pass"]] += each["end"] - each["begin"]
    gaps = [(a["run"] == b["run"], b["begin"] - a["end"]) for a, b in itertools.pairwise(done)]
    within = [gap for same, gap in gaps if same]
    between = [gap for same, gap in gaps if not same]
    wall, spent = end - first, sum(inside.values())
    print(f"{suite}: {len(appends)} runs, {len(done)} passes in {wall:.1f} s after {first - begin:.1f} s of imports")
    print(f"inside of passes {spent:.1f} s: " + ", ".join(f"{k} {v:.1f} s" for k, v in inside.items()))
    print(f"outside of passes {wall - spent:.2f} s, {(wall - spent) / wall:.1%} of the whole")
    for what, seconds in (
        ("between passes of a run", within),
        ("between runs", between),
        ("of these, a record to the disk", appends),
    ):
        if seconds:
            middle, most, total = statistics.median(seconds), max(seconds), sum(seconds)
            print(f"  {what}: median {1e3 * middle:.1f} ms, most {1e3 * most:.1f} ms, together {total:.2f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
