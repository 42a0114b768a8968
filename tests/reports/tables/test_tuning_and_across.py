"""Trials stay out of everything but their own table; methods over all tasks by hand."""

import math

import pytest

from odegrad.records.record import Status
from odegrad.reports.page.findings import outcome
from odegrad.reports.page.render import page
from odegrad.reports.summary import failures, summary
from odegrad.reports.tables.across import across
from odegrad.reports.tables.tuning import trials


def trial(record, lr, seed=0, **keywords):
    return record(seed=seed, settings={"stage": "tuning", "optimizer_options": (("lr", lr),)}, **keywords)


def test_trials_are_in_no_other_table(record, frame_of):
    """Neither medians, nor counts, nor failures know of them; they make no variant."""
    bad = trial(record, 10.0, status=Status.DIVERGED, message="x")
    frame = frame_of([record(metric_value=0.9), trial(record, 0.1, metric_value=0.1), bad])
    assert summary(frame)[["metric_value", "n", "variant"]].to_numpy().tolist() == [[0.9, 1, ""]]
    assert failures(frame).empty
    assert outcome(frame) == "1 run, all ended ok."


def test_chosen_is_what_the_runs_that_count_have(record, frame_of):
    """Whatever the trials came to; medians over seeds, and the least loss on the way where it was recorded."""
    runs = [trial(record, 0.1, s, metric_value=v) for s, v in enumerate((0.5, 0.7, 0.9))]
    runs += [trial(record, 0.2, s, metric_value=v) for s, v in enumerate((0.6, 0.8, 0.8))]
    runs += [trial(record, 1.0, 0, metric_value=0.99), trial(record, 1.0, 1, status=Status.DIVERGED, message="x")]
    runs += [record(settings={"optimizer_options": (("lr", 0.2),)})]
    table = trials(frame_of(runs))
    assert table[["options", "metric_value", "n_ok", "n", "chosen"]].to_numpy().tolist() == [
        ["lr=0.1", 0.7, 3, 3, False], ["lr=0.2", 0.8, 3, 3, True], ["lr=1.0", 0.99, 1, 2, False],
    ]  # fmt: skip
    assert table["validation_loss"].isna().all()
    losses = ([3.0, 1.0, 2.0], [3.0, 5.0, math.nan])
    traced = [trial(record, 0.1, s, trace_validation_loss=each) for s, each in enumerate(losses)]
    assert trials(frame_of(traced))["validation_loss"].tolist() == [2.0]


def test_no_trial_and_only_failed_trials(record, frame_of):
    """An empty table, and a table in which nothing is chosen."""
    assert trials(frame_of([record()])).empty
    assert trials(frame_of([trial(record, 1.0, status=Status.ERROR, message="x")]))["chosen"].tolist() == [False]


def test_trials_are_on_the_page(record, frame_of):
    """With their options and the mark; without trials there is no such section."""
    text = page(frame_of([record(), trial(record, 0.1, metric_value=0.5)]))
    assert "tuning-table" in text
    assert "lr=0.1" in text
    assert "tuning-table" not in page(frame_of([record()]))


def test_across_by_hand(record, frame_of):
    """Ratios to naive, the share of the way to the target, ranks by time to it, and all counts."""
    trace = {
        "trace_iteration": [0, 10],
        "trace_seconds": [0.0, 2.0],
        "metric_target": 0.9,
        "metric_higher_is_better": True,
    }
    runs = []
    for task in ("digits", "moons"):
        runs += [record(task, seed=s, metric_value=0.9, trace_metric=[0.1, 0.9], **trace) for s in (0, 1)]
        slow = trace | {"trace_seconds": [0.0, 6.0]}
        runs += [record(task, "adjoint", 0, metric_value=0.5, trace_metric=[0.1, 0.9], **slow)]
        runs += [record(task, "adjoint", 1, Status.DIVERGED, "x")]
    table = across(frame_of(runs)).set_index("method")
    naive, adjoint = table.loc["naive"], table.loc["adjoint"]
    assert (naive["target_seconds_ratio"], naive["score"], naive["time_rank"]) == (1.0, 1.0, 1.0)
    assert adjoint["target_seconds_ratio"] == math.inf  # of 3, 3, inf, inf the median lies beyond
    assert math.isnan(adjoint["target_seconds_low"])  # four blocks have no interval
    assert (adjoint["target_seconds_n_ok"], adjoint["target_seconds_n"]) == (2, 4)
    assert adjoint["score"] == pytest.approx(0.25)  # of 0, 0, 0.5, 0.5 the middle two
    assert adjoint["time_rank"] == 2.0
    assert (adjoint["n_ok"], adjoint["n"]) == (2, 4)


def test_across_of_nothing(frame_of):
    """No run, no row."""
    assert across(frame_of([])).empty
