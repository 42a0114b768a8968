"""Sweeps: what is planned, what a failure costs, what survives Ctrl-C and kill -9."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from odegrad.records.record import Record, Status
from odegrad.records.shard import RECORDS
from odegrad.records.store import Store, SuiteIdentity
from odegrad.running.local import LocalExecutor
from odegrad.running.progress import LogLines
from odegrad.running.runner import SweepOutcome, missing, sweep
from odegrad.running.tally import Tally

HERE = Path(__file__).parents[1]
WAIT_SECONDS = 60.0
FAKE = SuiteIdentity("fake", "abc")


class FakeExecutor:
    """Ends each run with the status that its optimizer's name is, and notes which it was given."""

    def __init__(self, stop_after=None):
        self.given, self.stop_after = [], stop_after

    def execute(self, runs, watcher):
        for place, run in enumerate(runs):
            if place == self.stop_after:
                raise KeyboardInterrupt
            watcher.started(run)
            self.given.append(run)
            yield Record(run, Status(run.optimizer), "why")


@pytest.fixture
def runs(make_run):
    return [replace(make_run(seed=i), optimizer=str(status)) for i, status in enumerate(Status)]


def test_missing_runs_are_those_without_a_final_status(runs):
    """Every ending is final but the machine's; failures are measured again on demand, refusals never."""
    statuses = {r.run_id: Status(r.optimizer) for r in runs}
    assert missing(runs, {}) == runs
    assert [r.optimizer for r in missing(runs, statuses)] == ["infrastructure"]
    again = {r.optimizer for r in missing(runs, statuses, rerun_failed=True)}
    assert again == {"diverged", "out_of_memory", "timeout", "error", "infrastructure"}
    assert missing(runs[:2], {runs[0].run_id: Status.OK, "of another suite": Status.ERROR}) == [runs[1]]


def test_failures_are_rows_and_the_sweep_goes_on(tmp_path, runs):
    """Every run has its record, whatever became of the one before; the outcome counts them."""
    with Store(tmp_path, FAKE) as store:
        outcome = sweep(runs, runs, store, FakeExecutor(), LogLines(Tally(runs)))
    rows = [json.loads(line) for line in (tmp_path / RECORDS).read_text().splitlines()]
    assert [row["status"] for row in rows] == [str(s) for s in Status]
    assert outcome == SweepOutcome(dict.fromkeys(Status, 1), len(runs), len(runs), infrastructure=1)
    assert (outcome.failed, outcome.finished) == (4, len(runs) - 1)


def test_outcome_is_of_the_whole_suite(tmp_path, runs):
    """A run that failed in an earlier sweep still counts as failed."""
    with Store(tmp_path, FAKE) as store:
        sweep(runs, runs, store, FakeExecutor(), LogLines(Tally(runs)))
        outcome = sweep(runs, [], store, FakeExecutor(), LogLines(Tally(runs)))
    assert (outcome.measured, outcome.failed, outcome.infrastructure) == (0, 4, 0)


def test_interrupted_sweep_keeps_what_is_finished(tmp_path, runs):
    """Ctrl-C between two runs: the first ones are on the disk, and the next sweep measures the others only."""
    with Store(tmp_path, FAKE) as store:
        outcome = sweep(runs, runs, store, FakeExecutor(stop_after=2), LogLines(Tally(runs)))
        assert (outcome.interrupted, outcome.measured) == (True, 2)
        executor = FakeExecutor()
        sweep(runs, missing(runs, store.statuses()), store, executor, LogLines(Tally(runs)))
    assert executor.given == runs[2:]


def test_local_executor_measures_one_after_the_other(tmp_path, make_run, make_worker):
    """Real processes: a crash in the middle is a row, the others are fine, all carry their circumstances."""
    runs = [make_run(seed=0), make_run("segfaults", seed=1), make_run(seed=2)]
    with Store(tmp_path, FAKE) as store:
        outcome = sweep(runs, runs, store, LocalExecutor((make_worker(),)), LogLines(Tally(runs)))
    records = [Record.from_row(json.loads(line)) for line in (tmp_path / RECORDS).read_text().splitlines()]
    assert [r.run for r in records] == runs
    assert [r.status for r in records] == [Status.OK, Status.ERROR, Status.OK]
    assert all(r.machine["threads"] == 1 for r in records)
    assert outcome.failed == 1


@contextlib.contextmanager
def running_sweep(folder, seconds):
    """Start ``fake_sweep.py``; yield its process and the file where a slow run writes its process id."""
    settings = {"FAKE_SECONDS": str(seconds), "FAKE_PID_FILE": str(folder / "pid"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(HERE / "fake_sweep.py"), str(folder / "results")],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield process, folder / "pid"
    finally:
        process.kill()
        process.communicate()


def wait_for(condition, what):
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {WAIT_SECONDS:g} s"
        time.sleep(0.05)


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_killed_or_interrupted_sweep_goes_on_where_it_stopped(tmp_path, number, code):
    """The third run never ends: the two finished ones stay byte by byte, the run dies too, the rest follows later."""
    with running_sweep(tmp_path, 1000) as (process, pid_file):
        wait_for(lambda: pid_file.exists() and pid_file.read_text(), "the third run's start")
        process.send_signal(number)
        assert process.wait(WAIT_SECONDS) == code
        wait_for(lambda: gone(int(pid_file.read_text())), "the end of the run's process")
    before = (tmp_path / "results" / RECORDS).read_bytes()
    assert before.count(b"\n") == 2
    with running_sweep(tmp_path, 0) as (process, _):
        assert process.communicate(timeout=WAIT_SECONDS)[0] == "4\n"
    after = (tmp_path / "results" / RECORDS).read_bytes()
    assert after.startswith(before)
    seeds = [json.loads(line)["seed"] for line in after.splitlines()]
    assert sorted(seeds) == list(range(6))
