"""The table of optimizers, by hand."""

import math

import pytest

from odegrad.records.record import Status
from odegrad.reports.tables.optimizers import BY_METRIC, BY_VALIDATION, optimizers


def run_of(record, optimizer, seed, losses, **more):
    """Return a record of a training whose validation loss is ``losses`` at iterations 0, 10, 20, a second each."""
    return record(
        settings={"optimizer": optimizer}, seed=seed, trace_metric=[0.1, 0.5, 0.9], trace_validation_loss=losses,
        trace_iteration=[0, 10, 20], trace_seconds=[0.0, 1.0, 2.0], **more,
    )  # fmt: skip


def test_target_is_the_reference_s_best_in_the_same_seed(record, frame_of):
    """Adam is at its best after 20 and 10 iterations; the other gets as far after 10 and 20."""
    table = optimizers(frame_of([
        run_of(record, "adam", 0, [3.0, 2.0, 1.0]), run_of(record, "adam", 1, [3.0, 1.5, 1.6]),
        run_of(record, "sgd", 0, [3.0, 0.9, 0.8]), run_of(record, "sgd", 1, [3.0, 2.0, 1.5]),
    ])).set_index("optimizer")  # fmt: skip
    assert set(table["quantity"]) == {BY_VALIDATION}
    assert set(table["target"]) == {1.25}
    assert table["iterations_median"].to_dict() == {"adam": 15.0, "sgd": 15.0}
    assert table["seconds_median"].to_dict() == {"adam": 1.5, "sgd": 1.5}
    assert table["iterations_ratio"].to_dict() == {"adam": 1.0, "sgd": 1.25}
    assert table["n_reached"].to_dict() == {"adam": 2, "sgd": 2}


def test_what_never_gets_there_is_infinite(record, frame_of):
    """One seed that fails and one that stays behind: 1 of 3 reached, no finite ratio."""
    adam = [run_of(record, "adam", seed, [3.0, 2.0, 1.0]) for seed in range(3)]
    sgd = [run_of(record, "sgd", 0, [3.0, 2.0, 1.0]), run_of(record, "sgd", 1, [3.0, 2.0, 1.1])]
    snopt = [run_of(record, "snopt", seed, [3.0, 0.5, 1.0 + seed]) for seed in range(2)]
    snopt.append(run_of(record, "snopt", 2, [3.0, 2.0, 1.1]))
    failed = record(settings={"optimizer": "sgd"}, seed=2, status=Status.DIVERGED, message="loss is not finite")
    table = optimizers(frame_of([*adam, *sgd, *snopt, failed])).set_index("optimizer")
    row = table.loc["sgd"]
    assert (row["n_reached"], row["n"]) == (1, 3)
    assert row["iterations_median"] == row["seconds_ratio"] == math.inf
    assert table["iterations_median"].to_dict() == {"adam": 20.0, "sgd": math.inf, "snopt": 10.0}
    assert table["seconds_median"].to_dict() == {"adam": 2.0, "sgd": math.inf, "snopt": 1.0}


def test_without_validation_losses_the_metric_counts(record, frame_of):
    """An accuracy, which is better when higher."""
    runs = [run_of(record, name, 0, None) for name in ("adam", "snopt")]
    table = optimizers(frame_of(runs))
    assert set(table["quantity"]) == {BY_METRIC}
    assert set(table["target"]) == {0.9}
    assert table["iterations_median"].tolist() == [20.0, 20.0]


def test_one_optimizer_is_no_comparison(record, frame_of):
    """No row."""
    assert optimizers(frame_of([run_of(record, "adam", 0, [1.0, 1.0, 1.0])])).empty


def test_two_seeds_have_no_interval_and_none_is_negative(record, frame_of):
    """Seconds of two seeds far apart: no interval; of six it ends at the least and the largest."""
    for seeds, expected in ((2, (math.nan, math.nan)), (6, (0.0, 2.0))):
        runs = [run_of(record, "adam", seed, [3.0, 2.0, 1.0]) for seed in range(seeds)]
        runs += [run_of(record, "sgd", seed, [1.0, 2.0, 3.0] if seed else [3.0, 2.0, 1.0]) for seed in range(seeds)]
        row = optimizers(frame_of(runs)).set_index("optimizer").loc["sgd"]
        assert (row["seconds_low"], row["seconds_high"]) == pytest.approx(expected, nan_ok=True)
