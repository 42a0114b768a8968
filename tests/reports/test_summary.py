"""One row a task and method, by values computed by hand."""

import math

import pandas as pd
import pytest

from odegrad.records.record import Status
from odegrad.reports.canvas.panels import labels_of
from odegrad.reports.names import joined, natural, short, sort_key
from odegrad.reports.summary import Results, failures, summary
from odegrad.reports.tables.changes import changes


def test_medians_are_taken_over_seeds(record, frame_of):
    """Three seeds with known values give their medians, and no interval; six have one from end to end."""
    values = [(0.90, 20, 1e-3), (0.96, 26, 3e-3), (0.93, 20, 2e-3)]
    table = summary(frame_of([
        record(seed=i, metric_value=m, nfe_forward=n, gradient_relative_error=e) for i, (m, n, e) in enumerate(values)
    ]))  # fmt: skip
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["metric_value"], row["nfe_forward"], row["gradient_relative_error"]) == (0.93, 20.0, 2e-3)
    assert math.isnan(row["metric_low"])
    six = summary(frame_of([record(seed=i, metric_value=0.9 + 0.01 * i) for i in range(6)])).iloc[0]
    assert (six["metric_low"], six["metric_high"]) == pytest.approx((0.90, 0.95))
    assert (row["n_ok"], row["n"], row["failures"], row["variant"]) == (3, 3, "", "")


def test_failed_runs_are_counted_and_in_no_median(record, frame_of):
    """What a failed run measured before it failed is not mixed in; a method that only failed keeps its row."""
    table = summary(frame_of([
        record(seed=0, metric_value=0.9),
        record(seed=1, status=Status.DIVERGED, message="x", metric_value=0.1, nfe_forward=99),
        record(seed=2, status=Status.DIVERGED, message="x"),
        record(seed=3, status=Status.TIMEOUT, message="x"),
        record(method="adjoint", status=Status.ERROR, message="x"),
    ])).set_index("method")  # fmt: skip
    assert table.loc["naive", ["n_ok", "n", "failures"]].tolist() == [1, 4, "2 diverged, 1 timeout"]
    assert table.loc["naive", ["metric_value", "nfe_forward"]].tolist() == [0.9, 20.0]
    assert table.loc["adjoint", ["n_ok", "n"]].tolist() == [0, 1]
    assert math.isnan(table.loc["adjoint", "metric_value"])


def test_unlike_runs_are_never_averaged(record, frame_of):
    """A sweep over tolerances, solvers or options gives a row each, named by what differs and by no more."""
    runs = [record(method="adjoint", seed=s, settings={"rtol": r}) for s in (0, 1) for r in (1e-3, 1e-5)]
    runs += [record(method="interpolation", settings={"gradient_options": (("num_nodes", n),)}) for n in (8, 16)]
    runs += [record(method="anode", settings={"solver": s}) for s in ("rk4", "dopri5")]
    table = summary(frame_of([*runs, record(task="circles", method="adjoint", settings={"rtol": 1e-5})]))
    assert list(zip(table["task"], table["method"], table["variant"], table["n"], strict=True)) == [
        ("circles", "adjoint", "", 1),
        ("digits", "adjoint", "rtol 1e-05", 2),
        ("digits", "adjoint", "rtol 0.001", 2),
        ("digits", "anode", "dopri5", 1),
        ("digits", "anode", "rk4", 1),
        ("digits", "interpolation", "num_nodes=8", 1),
        ("digits", "interpolation", "num_nodes=16", 1),
    ]


def test_order_of_rows(quick, frame_of):
    """Tasks by name, methods in the known order, unknown ones after them."""
    table = summary(frame_of(quick[::-1]))
    expected = ["naive", "adjoint", "anode", "interpolation", "snopt", "torchdiffeq_naive", "torchdiffeq_adjoint"]
    assert table["method"].tolist() == expected * 2
    assert table["task"].tolist() == ["circles"] * 7 + ["digits"] * 7
    assert sorted(["zeta", "snopt", "alpha", "naive"], key=sort_key) == ["naive", "snopt", "alpha", "zeta"]


def test_empty_frame_has_an_empty_summary(frame_of):
    """No record, no row, the same columns."""
    empty = frame_of([])
    assert len(summary(empty)) == len(failures(empty)) == 0
    assert "n_ok" in summary(empty)


def test_failures_are_listed(mixed, frame_of):
    """Every failed run with its seed, status and message."""
    table = failures(frame_of(mixed))
    assert table[["task", "method", "seed", "status"]].to_numpy().tolist() == [
        ["digits", "naive", 0, "diverged"],
        ["digits", "adjoint", 2, "out_of_memory"],
    ]
    assert table.loc[0, "message"] == "loss is not finite at iteration 3"


def test_method_without_a_name_is_its_gradient(record, frame_of):
    """A run that names no method is shown by its gradient method."""
    frame = frame_of([record(settings={"method": "", "gradient": "anode"})])
    assert summary(frame)["method"].tolist() == ["anode"]


@pytest.mark.parametrize(
    ("method", "shown"),
    [("adjoint", "adjoint"), ("/home/a/my.py:Mine", "my.py:Mine"), (r"C:\a\my.py:Mine", "my.py:Mine"), ("a/b", "a/b")],
)
def test_short_names(method, shown):
    """A user's file is named without its folders."""
    assert short(method) == shown


def test_joined():
    """English lists."""
    assert [joined(n) for n in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_missing_task_is_kept(record, frame_of):
    """A row without a task (an incomplete file) is not lost."""
    frame = frame_of([record()])
    frame["task"] = pd.array([pd.NA], dtype="string")
    assert summary(frame)["n"].tolist() == [1]


def test_numbers_in_variants_count_by_their_size():
    """Integers, decimals and powers of ten; digits inside of a word are part of it."""
    texts = ["rtol 0.001", "num_nodes=16", "dopri5", "rtol 1e-05", "num_nodes=8", "dopri8", "rtol 0.0001"]
    assert sorted(texts, key=natural) == [
        "dopri5", "dopri8", "num_nodes=8", "num_nodes=16", "rtol 1e-05", "rtol 0.0001", "rtol 0.001",
    ]  # fmt: skip


def test_lengths_are_named_for_every_method_of_their_task(record, frame_of):
    """Runs of 10 and 20 iterations of unlike methods; another task, of one length, needs no name."""
    runs = [record(settings={"iterations": 10}), record(method="adjoint", settings={"iterations": 20})]
    table = summary(frame_of([*runs, record(task="circles", settings={"iterations": 10})]))
    assert table["variant"].tolist() == ["", "iterations 10", "iterations 20"]


def test_tables_and_legends_have_one_order(record, frame_of):
    """Variants by their numbers in the table, in figures' legends and in changes."""
    frame = frame_of([record(settings={"rtol": rtol}) for rtol in (1e-3, 1e-5, 1e-4)])
    expected = ["rtol 1e-05", "rtol 0.0001", "rtol 0.001"]
    assert summary(frame)["variant"].tolist() == expected
    assert [variant for _, variant in labels_of(Results.of(frame).ok)] == expected
    assert list(dict.fromkeys(changes(frame, frame).table["variant"])) == expected
