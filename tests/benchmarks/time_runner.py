"""Time planning, resuming, appending and two workers: ``python tests/benchmarks/time_runner.py [RUNS]``.

Printed are seconds for 100,000 runs, milliseconds a record, and how much faster two workers finish 40 count passes
than one, the two measured in turns.
"""

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from odegrad.records.lines import encode
from odegrad.records.record import Record, Status
from odegrad.records.store import Store, SuiteIdentity
from odegrad.running.runner import SweepSettings, missing, run_suite
from odegrad.suites.suite import load_suite

APPENDS = 200
COUNTS = [
    'methods=["naive", "adjoint", "anode", "interpolation"]', "seeds=[0, 1, 2, 3, 4]", 'passes=["count"]',
]  # fmt: skip


def planning(number):
    """Return the runs of ``quick`` with enough seeds for ``number`` of them, and the seconds that this took."""
    begin = time.perf_counter()
    seeds = list(range(-(-number // 14)))
    runs = load_suite("quick", [f"seeds={seeds}"]).runs()[:number]
    _ = [run.run_id for run in runs]
    return runs, time.perf_counter() - begin


def resuming(folder, runs):
    """Return the seconds in which a folder with a full record of every run is found to be complete."""
    values = {"train_loss": [0.5] * 100, "forward_seconds_raw": [0.01] * 50, "metric_value": 0.9}
    with Store(folder, SuiteIdentity("quick", "x")) as store, store.path.open("ab") as file:
        file.writelines(encode(Record(run, Status.OK, "", values)) for run in runs)
    begin = time.perf_counter()
    with Store(folder, SuiteIdentity("quick", "x")) as store:
        left = missing(runs, store.statuses())
    return time.perf_counter() - begin, len(left)


def appending(folder, runs):
    """Return the median seconds of one record to the disk."""
    seconds = []
    with Store(folder, SuiteIdentity("append", "x")) as store:
        for run in runs[:APPENDS]:
            begin = time.perf_counter()
            store.append(Record(run, Status.OK, "", {"train_loss": [0.5] * 100}))
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def workers(folder, number, turn):
    """Return the seconds in which ``number`` workers finish 40 count passes."""
    suite = load_suite("quick", COUNTS)
    begin = time.perf_counter()
    settings = replace(SweepSettings(), workers=number)
    outcome = run_suite(suite, folder / f"{number}-{turn}", Console(stderr=True), settings)
    seconds = time.perf_counter() - begin
    return seconds, outcome.measured


def main(number="100000"):
    """Print the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load_suite("quick")  # imports
        runs, seconds = planning(int(number))
        print(f"planning {len(runs)} runs: {seconds:.2f} s")
        seconds, left = resuming(folder / "resume", runs)
        print(f"resuming a folder with {len(runs)} records ({left} missing): {seconds:.2f} s")
        print(f"a record to the disk: median {1e3 * appending(folder / 'append', runs):.2f} ms of {APPENDS}")
        found = {1: [], 2: []}
        for turn in range(2):
            for workers_now in (1, 2) if turn == 0 else (2, 1):
                seconds, measured = workers(folder, workers_now, turn)
                found[workers_now].append(seconds)
                print(f"{workers_now} worker(s), {measured} count passes: {seconds:.1f} s")
        print(f"two workers are {sum(found[1]) / sum(found[2]):.2f} times as fast as one")


if __name__ == "__main__":
    main(*sys.argv[1:])
