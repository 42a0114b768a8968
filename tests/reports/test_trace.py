"""The long form of a training, by hand and through Parquet."""

import math

import pandas as pd

from odegrad.records.record import Status
from odegrad.reports.frame import load, read_parquet, to_parquet
from odegrad.reports.trace import TRACED_RUN, TRACES, long_form, write


def traced(record, name, seed, norms=None):
    return record(
        "digits", name, seed, trace_iteration=[0, 10, 20], trace_metric=[0.1, 0.5, 0.9], trace_seconds=[0.0, 1.5, 3.0],
        trace_log_norm_max=norms,
    )  # fmt: skip


def test_every_point_is_a_row(frame_of, record):
    """Runs follow each other; what a run did not measure is NaN."""
    rows = long_form(frame_of([traced(record, "naive", 0, [1.0, 2.0, 3.0]), traced(record, "adjoint", 1)]))
    assert list(rows.columns) == [*TRACED_RUN, *TRACES.values()]
    assert rows["iteration"].tolist() == [0, 10, 20] * 2
    assert rows["metric"].tolist() == [0.1, 0.5, 0.9] * 2
    assert rows["method"].tolist() == ["naive"] * 3 + ["adjoint"] * 3
    assert rows["log_norm_max"].tolist()[:3] == [1.0, 2.0, 3.0]
    assert all(math.isnan(x) for x in rows["log_norm_max"][3:])


def test_runs_without_a_trace_are_left_out(frame_of, record, tmp_path):
    """Also if all are: an empty file with the columns."""
    frame = frame_of([record("digits", "naive", 0, trace_iteration=None)])
    assert long_form(frame).empty
    write(frame, tmp_path / "trace.parquet")
    assert list(pd.read_parquet(tmp_path / "trace.parquet").columns) == [*TRACED_RUN, *TRACES.values()]


def test_parquet_is_written_in_parts(frame_of, record, tmp_path, monkeypatch):
    """The same rows, however many are made at a time; also of records."""
    frame = frame_of([traced(record, "naive", seed, [1.0, 2.0, float(seed)]) for seed in range(5)])
    monkeypatch.setattr("odegrad.reports.trace.RUNS_AT_A_TIME", 2)
    monkeypatch.setattr("odegrad.reports.frame.ROW_GROUP", 2)
    write(frame, tmp_path / "trace.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "trace.parquet"), long_form(frame), check_dtype=False)
    to_parquet(frame, tmp_path / "records.parquet")
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "records.parquet"), frame)


def test_records_that_are_read_in_parts_are_the_same(record, write_results, monkeypatch):
    """Whether they fill one part or several; what was measured again counts once, in its later place."""
    records = [record(seed=seed, metric_value=0.1 * seed, train_loss=[float(seed)] * seed) for seed in range(7)]
    again = [record(seed=1, status=Status.ERROR, message="x"), record(seed=2, metric_value=0.5)]
    folder = write_results([*records, *again])
    whole = load(folder)
    assert whole["seed"].tolist() == [0, 1, 3, 4, 5, 6, 2]
    assert whole["metric_value"].tolist()[-1] == 0.5
    assert whole["train_loss"][3].tolist() == [4.0] * 4
    for rows in (1, 2, 3, 9):
        monkeypatch.setattr("odegrad.reports.frame.CHUNK", rows)
        pd.testing.assert_frame_equal(load(folder), whole)


def test_parquet_holds_the_same(frame_of, record, tmp_path):
    frame = frame_of([traced(record, "naive", 0, [1.0, 2.0, 3.0])])
    write(frame, tmp_path / "trace.parquet")
    read = pd.read_parquet(tmp_path / "trace.parquet")
    assert read["seconds"].tolist() == [0.0, 1.5, 3.0]
    assert read["seed"].tolist() == [0, 0, 0]
