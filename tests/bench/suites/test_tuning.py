"""Settings chosen by trials, with equal numbers of them, on the validation split."""

import json
from collections import Counter
from pathlib import Path

import pytest

from odegrad.errors import SuiteError
from odegrad.records.record import TUNING
from odegrad.records.shard import RECORDS
from odegrad.running.runner import SweepSettings, run_suite
from odegrad.suites.grid import Point
from odegrad.suites.suite import cell_of, load_suite
from odegrad.suites.tuning import choose

HERE = Path(__file__).parents[1]

TUNED = """
name = "tuned"
seeds = [0, 1]
passes = ["train"]
evaluations = 2
methods = [
    {gradient = "naive", optimizer = "sgd", optimizer_options = {lr = [1e-6, 0.1]}},
    {gradient = "naive", optimizer = "adam", optimizer_options = {lr = [0.2, 1e-6]}},
]

[tuning]
seed = 7
iterations = 5

[[solvers]]
name = "rk4"
options = {num_steps = 2}

[[tasks]]
name = "tiny_task.py:Tiny"
size = "tiny"
iterations = 10
"""


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "tuned.toml").write_text(TUNED)
    (tmp_path / "tiny_task.py").write_text((HERE / "tiny_task.py").read_text())
    return load_suite(str(tmp_path / "tuned.toml"))


def rows_with(trials, values, status="ok", higher=False):
    return {
        trial.run_id: {"status": status, "metric_value": value, "metric_higher_is_better": higher}
        for trial, value in zip(trials, values, strict=True)
    }


def test_trials_are_every_point_once_for_each_method(suite):
    """A trial has the tuning's seed and length, and is only trained."""
    trials = suite.trials()
    assert Counter((t.method, dict(t.optimizer_options)["lr"]) for t in trials) == {
        ("naive+sgd", 1e-6): 1, ("naive+sgd", 0.1): 1, ("naive+adam", 0.2): 1, ("naive+adam", 1e-6): 1,
    }  # fmt: skip
    assert {(t.stage, t.seed, t.passes, t.iterations) for t in trials} == {(TUNING, 7, "train", 5)}


def test_best_finite_metric_of_the_trials_is_chosen(suite):
    """In the metric's direction; a trial that failed or is not finite does not count; the first of two equal ones."""
    trials = [t for t in suite.trials() if t.method == "naive+sgd"]
    cell, low, high = cell_of(trials[0]), Point((), trials[0].optimizer_options), Point((), trials[1].optimizer_options)
    assert choose(trials, rows_with(trials, [2.0, 1.0]))[cell].point == high
    assert choose(trials, rows_with(trials, [2.0, 1.0], higher=True))[cell].point == low
    assert choose(trials, rows_with(trials, [2.0, float("nan")]))[cell].point == low
    assert choose(trials, rows_with(trials, [1.0, 1.0]))[cell].point == low
    failed = choose(trials, rows_with(trials, [2.0, 1.0], status="diverged"))[cell]
    assert (failed.point, failed.value, failed.ok, failed.trials) == (low, None, 0, 2)
    assert choose(trials, {})[cell].ok == 0


def test_least_loss_on_the_way_is_chosen_where_asked_for(suite):
    """Whatever the metric says; a trial without a finite loss does not count."""
    trials = [t for t in suite.trials() if t.method == "naive+sgd"]
    cell, high = cell_of(trials[0]), Point((), trials[1].optimizer_options)
    rows = rows_with(trials, [1.0, 2.0])
    for trial, losses in zip(trials, ([3.0, 0.5, 4.0], [3.0, 0.4, 9.0]), strict=True):
        rows[trial.run_id]["trace_validation_loss"] = losses
    found = choose(trials, rows, "loss")[cell]
    assert (found.point, found.value, found.ok) == (high, 0.4, 2)
    rows[trials[1].run_id]["trace_validation_loss"] = [float("nan")]
    assert choose(trials, rows, "loss")[cell].value == 0.5
    rows[trials[0].run_id]["trace_validation_loss"] = None
    assert choose(trials, rows, "loss")[cell].ok == 0


@pytest.mark.usefixtures("suite")
def test_loss_that_nobody_records_is_refused(tmp_path):
    """The loss on the validation split is recorded beyond 8 evaluations only."""
    (tmp_path / "tuned.toml").write_text(TUNED.replace("seed = 7", 'seed = 7\nby = "loss"'))
    with pytest.raises(SuiteError, match="evaluations: expected more than 8 where tuning is by loss, got 2"):
        load_suite(str(tmp_path / "tuned.toml"))


@pytest.mark.usefixtures("suite")
def test_unequal_numbers_of_trials_are_refused(tmp_path):
    """A method with more trials would be favoured."""
    (tmp_path / "tuned.toml").write_text(TUNED.replace("lr = [0.2, 1e-6]", "lr = [0.2, 1e-6, 1e-5]"))
    with pytest.raises(SuiteError, match=r"tuning: expected the same number of trials.*naive\+sgd 2, naive\+adam 3"):
        load_suite(str(tmp_path / "tuned.toml"))


def test_tuned_suite_runs_trials_then_the_best_settings(suite, tmp_path, silent_console):
    """The learning rate that moves is chosen from both ends of the list; the runs that count have every seed."""
    outcome = run_suite(suite, tmp_path / "results", silent_console, SweepSettings())
    rows = [json.loads(line) for line in (tmp_path / "results" / RECORDS).read_text().splitlines()]
    assert (outcome.total, outcome.measured, outcome.failed) == (8, 8, 0)
    assert [row["stage"] for row in rows] == [TUNING] * 4 + [""] * 4
    assert {row["metric_split"] for row in rows[:4]} == {"validation"}
    assert {row["metric_split"] for row in rows[4:]} == {"test"}
    assert {(row["method"], row["seed"], row["optimizer_options"]["lr"]) for row in rows[4:]} == {
        ("naive+sgd", 0, 0.1), ("naive+sgd", 1, 0.1), ("naive+adam", 0, 0.2), ("naive+adam", 1, 0.2),
    }  # fmt: skip
    assert all(len(row["trace_metric"]) == 3 for row in rows)
    again = run_suite(suite, tmp_path / "results", silent_console, SweepSettings())
    assert (again.total, again.measured) == (8, 0)
