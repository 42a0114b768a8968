"""Reading a results folder: what is on disk is in the frame, and what cannot be read is said."""

import json
import logging
import math

import numpy as np
import pandas as pd
import pytest

from odegrad.errors import ResultsError
from odegrad.records.checking import fault_of_row
from odegrad.records.columns import COLUMNS
from odegrad.records.record import SCHEMA_VERSION, Record, Run, Status
from odegrad.records.shard import RECORDS
from odegrad.reports.frame import PANDAS_DTYPES, from_rows, load, read_parquet, to_parquet


def plain(value):
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_frame_holds_every_column_with_its_dtype(quick, write_results):
    """Columns, their order, dtypes and values are those of the records."""
    frame = load(write_results(quick))
    assert list(frame) == [c.name for c in COLUMNS]
    assert {c.name: str(frame[c.name].dtype) for c in COLUMNS} == {c.name: PANDAS_DTYPES[c.dtype] for c in COLUMNS}
    for row, record in zip(frame.to_dict("records"), quick, strict=True):
        expected = record.to_row()
        for column in COLUMNS:
            if expected[column.name] is not None:
                assert plain(row[column.name]) == expected[column.name], column.name


def test_failed_run_has_missing_values(record, write_results):
    """A run that measured nothing is a row with NA, and does not turn counts into floats."""
    failed = record("digits", "adjoint", 0, Status.TIMEOUT, "took 60 s")
    frame = load(write_results([record(), failed]))
    assert frame["nfe_forward"].dtype == "Int64"
    assert frame["nfe_forward"].tolist() == [20, pd.NA]
    assert frame.loc[1, "target_reached"] is pd.NA
    assert math.isnan(frame.loc[1, "metric_value"])
    assert frame.loc[1, ["status", "message"]].tolist() == ["timeout", "took 60 s"]


def test_non_finite_numbers_survive(record, write_results, tmp_path):
    """NaN and infinities come back from JSON and from Parquet, also inside lists."""
    trace = {"trace_iteration": [0, 1, 2], "trace_seconds": None, "trace_metric": [0.1, math.nan, -math.inf]}
    odd = record(metric_value=math.inf, gradient_relative_error=math.nan, **trace)
    frame = load(write_results([odd]))
    to_parquet(frame, tmp_path / "r.parquet")
    for each in (frame, read_parquet(tmp_path / "r.parquet")):
        assert each.loc[0, "metric_value"] == math.inf
        assert math.isnan(each.loc[0, "gradient_relative_error"])
        np.testing.assert_array_equal(each.loc[0, "trace_metric"], [0.1, math.nan, -math.inf])


def test_parquet_gives_the_same_frame(mixed, record, frame_of, tmp_path):
    """Values and dtypes are equal, lists, empty and unlike dictionaries among them."""
    settings = {"solver_options": (("first_step", 0.1), ("name", "ü")), "gradient_options": (("num_nodes", 16),)}
    frame = frame_of([*mixed, record(settings=settings)])
    to_parquet(frame, tmp_path / "r.parquet")
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "r.parquet"), frame)
    assert pd.read_parquet(tmp_path / "r.parquet")["nfe_forward"].dtype == "Int64"


def test_a_list_of_words_is_refused(record, frame_of):
    """A trace that is no list of numbers is refused with a sentence."""
    with pytest.raises(ResultsError, match=r"column 'train_loss': expected .* got \['a'\]"):
        frame_of([record(train_loss=["a"])])


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_half_written_last_line_is_left_out_and_said(quick, write_results, caplog, cut):
    """A line that a crash cut off does not hide the others."""
    path = write_results(quick) / "records.jsonl"
    path.write_bytes(path.read_bytes()[: -cut - 1])
    with caplog.at_level(logging.WARNING):
        frame = load(path.parent)
    assert len(frame) == len(quick) - 1
    assert f"left out the half-written last line {len(quick)}" in caplog.text


def test_last_line_that_lacks_only_its_end_is_kept(quick, write_results):
    """A record without its newline is whole."""
    path = write_results(quick) / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert len(load(path.parent)) == len(quick)


@pytest.mark.parametrize(
    "broken", ['{"run_id": "ab', "[1, 2]", '{"run_id": "ab", "status": "fine"}', '{"status": "ok"}', "\x00"]
)
def test_broken_line_is_named(quick, write_results, broken):
    """A line in the middle that is no record is refused with its file and number."""
    path = write_results(quick) / "records.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:2], broken, *lines[2:], ""]), encoding="utf-8")
    with pytest.raises(ResultsError, match=r"records\.jsonl: expected a record in every line, but line 3 is no"):
        load(path.parent)


def test_broken_lines_are_told_together(quick, write_results):
    """All of them in one error, the first ones by number and place, so that one reading mends a file."""
    path = write_results(quick[:1]) / "records.jsonl"
    line = path.read_text(encoding="utf-8")
    path.write_text(line + "{]\n" + line + "[1]\n" + "x\n" * 5, encoding="utf-8")
    expected = (
        r"but line 2 is not JSON \(.* at character 2\); 4 is no object with a run_id and a status of .*; 5 is not JSON "
        r"\(Expecting value at character 1\); 6 is .*; 7 is .*; and 2 more; `odegrad results repair"
    )
    with pytest.raises(ResultsError, match=expected):
        load(path.parent)


def test_value_of_a_wrong_type_is_named(record, write_results):
    """A word where a count belongs is refused with its column and value."""
    folder = write_results([record(), record(seed=1, nfe_forward="many")])
    with pytest.raises(ResultsError, match="column 'nfe_forward': expected a whole number of 64 bits, got 'many'"):
        load(folder)


def test_shards_are_read_too(quick, write_results):
    """Files that other runners left beside records.jsonl belong to the same results."""
    write_results(quick[:5])
    folder = write_results(quick[5:], "records-2.jsonl")
    assert set(load(folder)["run_id"]) == {r.run.run_id for r in quick}


def test_run_measured_twice_counts_once(record, write_results):
    """The latest ok record of a run wins; without one, the latest."""
    good, better, failed = record(metric_value=0.5), record(metric_value=0.6), record(status=Status.ERROR, message="x")
    assert load(write_results([good, better, failed]))["metric_value"].tolist() == [0.6]
    assert load(write_results([failed, good]))["status"].tolist() == ["ok"]
    last = record(status=Status.TIMEOUT, message="y")
    assert load(write_results([failed, last]))["status"].tolist() == ["timeout"]


def test_missing_columns_are_filled(record, write_results):
    """A file from before a column existed gives NA there; keys that are no column are dropped."""
    row = record().to_row()
    del row["nfe_tap"], row["log_norm_max"], row["code"], row["machine"]
    folder = write_results([])
    (folder / "records.jsonl").write_text(json.dumps(row | {"colour": "red"}) + "\n", encoding="utf-8")
    frame = load(folder)
    assert list(frame) == [c.name for c in COLUMNS]
    assert frame[["nfe_tap", "log_norm_max", "code", "machine"]].isna().all(axis=None)


def test_newer_schema_is_refused(record, write_results):
    """Records of a newer odegrad are not guessed at."""
    folder = write_results([record()])
    row = record().to_row() | {"schema_version": SCHEMA_VERSION + 1}
    (folder / "records.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(ResultsError, match=f"schema version {SCHEMA_VERSION + 1}, this odegrad reads up to"):
        load(folder)


def test_nothing_there_says_what_to_run(write_results, tmp_path):
    """No folder, a file, an empty folder and an empty file each say what makes records."""
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    expected = {
        tmp_path / "none": "got nothing there",
        tmp_path / "file": "got a file",
        tmp_path / "empty": "got no such file",
        write_results([]): "got none",
    }
    for folder, text in expected.items():
        with pytest.raises(ResultsError, match=f"{text}; .*odegrad run SUITE --results"):
            load(folder)


def test_rows_without_any_record_make_an_empty_frame():
    """An empty frame still has every column."""
    frame = from_rows([])
    assert len(frame) == 0
    assert list(frame) == [c.name for c in COLUMNS]
    assert frame["seed"].dtype == "Int64"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nfe_forward": 1e308}, "column 'nfe_forward': expected a whole number of 64 bits, got 1e+308"),
        ({"nfe_forward": 2**70}, "expected a whole number of 64 bits, got a whole number of 71 bits"),
        ({"metric_name": "a\ud800"}, "column 'metric_name': expected text in Unicode, got half a character"),
        ({"train_loss": [1.0, "x"]}, "column 'train_loss': expected a list of numbers, got 'x' in it"),
        ({"train_loss": [[1.0], [2.0, 3.0]]}, "expected a list of numbers, got a list in it"),
        ({"train_loss": 3.0}, "column 'train_loss': expected a list of at most 10000000 numbers, got 3.0"),
        ({"machine": [1]}, "column 'machine': expected an object of plain values, got a list"),
        ({"trace_iteration": [0, 1], "trace_metric": [0.5]}, "column 'trace_metric': expected 2 values"),
    ],
)
def test_what_no_column_holds_is_one_sentence(tmp_path, change, said):
    """The runner refuses to write such a record; where one is in a file, the report names run and column."""
    run = Run("s", "digits", "tiny", "naive", "adam", "dopri5", 0, 1e-3, 1e-3, 1)
    row = Record(run, Status.OK).to_row() | change
    (tmp_path / RECORDS).write_text(json.dumps(row) + "\n")
    with pytest.raises(ResultsError) as caught:
        load(tmp_path)
    assert said in str(caught.value)
    assert fault_of_row(row) in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"nfe_forward": ' + "1" * 5000 + "}"])
def test_lines_that_json_refuses_are_one_sentence(tmp_path, text):
    """Deep arrays and numbers of thousands of digits."""
    (tmp_path / RECORDS).write_text(text + "\n")
    with pytest.raises(ResultsError, match="line 1 is not JSON"):
        load(tmp_path)
