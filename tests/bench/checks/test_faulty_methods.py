"""Methods that misbehave, through the real passes and the real runner: each is a row, and the others are measured."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from odegrad.errors import ResultsError
from odegrad.records.record import Record, Status
from odegrad.records.shard import RECORDS
from odegrad.records.store import Store, SuiteIdentity
from odegrad.running.runner import SweepSettings, run_suite
from odegrad.suites.suite import load_suite

FAKE = SuiteIdentity("fake", "abc")

METHODS = """
from dataclasses import dataclass

import torch

from odegrad.methods.gradients.naive import Naive


@dataclass(frozen=True)
class WrongShape(Naive):
    def __call__(self, field, solver, y0, ts):
        return super().__call__(field, solver, y0, ts)[:, :1]


@dataclass(frozen=True)
class Mutates(Naive):
    def __call__(self, field, solver, y0, ts):
        with torch.no_grad():
            for p in field.parameters():
                p.add_(0.1)
        return super().__call__(field, solver, y0, ts)


@dataclass(frozen=True)
class LeavesHooks(Naive):
    def __call__(self, field, solver, y0, ts):
        field.register_forward_hook(lambda *a: None)
        return super().__call__(field, solver, y0, ts)


@dataclass(frozen=True)
class Sleeps(Naive):
    def __call__(self, field, solver, y0, ts):
        while True:
            pass
"""

SUITE = """
name = "faulty"
passes = ["count"]
methods = ["naive", "m.py:WrongShape", "m.py:Mutates", "m.py:LeavesHooks", "m.py:Sleeps", "anode"]

[[solvers]]
name = "rk4"
options = {num_steps = 2}

[[tasks]]
name = "circles"
size = "tiny"
"""


def test_each_culprit_is_a_row_with_the_reason(tmp_path, silent_console):
    """Wrong shapes, changed parameters, hooks left behind, no end: the reason is in the row, the rest is measured."""
    (tmp_path / "m.py").write_text(METHODS)
    (tmp_path / "faulty.toml").write_text(SUITE)
    outcome = run_suite(
        load_suite(str(tmp_path / "faulty.toml")), tmp_path / "out", silent_console, SweepSettings(timeout=20.0)
    )
    rows = {row["method"]: row for row in map(json.loads, (tmp_path / "out" / RECORDS).read_text().splitlines())}
    assert outcome.measured == 6
    assert {name: row["status"] for name, row in rows.items()} == {
        "naive": Status.OK, "anode": Status.OK, "m.py:WrongShape": Status.ERROR, "m.py:Mutates": Status.ERROR,
        "m.py:LeavesHooks": Status.ERROR, "m.py:Sleeps": Status.TIMEOUT,
    }  # fmt: skip
    assert "expected the parameters as they were" in rows["m.py:Mutates"]["message"]
    assert "expected no hook left behind" in rows["m.py:LeavesHooks"]["message"]
    assert "count pass: " in rows["m.py:WrongShape"]["message"]
    assert "more than 20 s together" in rows["m.py:Sleeps"]["message"]


@pytest.fixture
def small_disk():
    """Mount a file system of 64 kB and return its folder."""
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or unmount is None:
        pytest.skip("mounting needs root")
    folder = tempfile.mkdtemp()
    made = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield Path(folder)
    finally:
        subprocess.run([unmount, folder], check=True)


def test_full_disk_stops_the_sweep_and_loses_no_record(small_disk, tmp_path, make_run):
    """The error says what to do; what is there stays readable; with room again the rest is written."""
    runs = [make_run(seed=seed) for seed in range(60)]
    written = 0
    with Store(small_disk, FAKE) as store:
        with pytest.raises(ResultsError, match=r"could not be written \(No space left on device\); make"):  # noqa: PT012
            for run in runs:
                store.append(Record(run, Status.OK))
                written += 1
        assert 0 < written < 60
        assert len(store.statuses()) == written
    shutil.copytree(small_disk, tmp_path / "larger")
    with Store(tmp_path / "larger", FAKE) as store:
        for run in runs[written:]:
            store.append(Record(run, Status.OK))
        assert len(store.statuses()) == 60
