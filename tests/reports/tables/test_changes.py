"""What changed between two result sets, by hand; and whose times may be compared."""

import dataclasses
import json
import logging
import math

import pandas as pd
import pytest

from odegrad.commands.results import compare_results
from odegrad.errors import ResultsError
from odegrad.records.record import Status
from odegrad.reports.frame import load
from odegrad.reports.machines import TIMINGS, without_times
from odegrad.reports.page import comparison
from odegrad.reports.tables.changes import changes

OTHER = {"cpu": "Other CPU", "cores": 64, "torch": "2.13.0"}


def row_of(found, column, method="naive"):
    table = found.table
    return table[(table["column"] == column) & (table["method"] == method)].iloc[0]


def on(machine, records):
    return [dataclasses.replace(record, machine=machine) for record in records]


def test_changes_by_hand(record, frame_of):
    """Pairs by run: half the time is better, an accuracy 0.1 lower is worse, equal counts are the same."""
    before = [record(seed=s, train_seconds=2.0 + s, metric_value=0.9) for s in range(6)]
    after = [record(seed=s, train_seconds=(2.0 + s) / 2, metric_value=0.8, peak_bytes=10**8) for s in range(6)]
    found = changes(frame_of(before), frame_of(after))
    time = row_of(found, "train_seconds")
    assert time[["n", "before", "after", "change", "low", "high", "verdict"]].tolist() == [
        6, 4.5, 2.25, 0.5, 0.5, 0.5, "better",
    ]  # fmt: skip
    metric = row_of(found, "metric_value")
    assert metric["change"] == pytest.approx(-0.1)
    assert metric["verdict"] == "worse"
    assert row_of(found, "peak_bytes")["verdict"] == "worse"
    assert row_of(found, "nfe_forward")["verdict"] == "same"
    assert (found.common, found.only_before, found.only_after) == (6, 0, 0)


def test_a_set_compared_with_itself_is_the_same(quick, frame_of):
    """Nothing changed, whatever the column."""
    found = changes(frame_of(quick), frame_of(quick))
    assert set(found.table["verdict"]) == {"same"}
    assert found.statuses.empty


def test_times_need_pairs_and_an_interval(record, frame_of):
    """One pair of times decides nothing, one pair of counts does; pairs that point both ways decide nothing."""
    found = changes(frame_of([record()]), frame_of([record(train_seconds=99.0, nfe_forward=99)]))
    assert row_of(found, "train_seconds")["verdict"] == "not decided"
    assert row_of(found, "nfe_forward")["verdict"] == "worse"
    before = [record(seed=s, train_seconds=1.0) for s in range(6)]
    after = [record(seed=s, train_seconds=0.5 if s % 2 else 2.0) for s in range(6)]
    assert row_of(changes(frame_of(before), frame_of(after)), "train_seconds")["verdict"] == "not decided"


def test_a_count_that_differs_in_one_pair_alone_is_a_change(record, frame_of):
    """One of three is worse, and one worse and one better are neither; a metric is no count."""
    runs = [record(seed=s, nfe_forward=20, metric_value=0.9) for s in range(3)]
    found = changes(frame_of(runs), frame_of([record(nfe_forward=26, metric_value=0.8), *runs[1:]]))
    assert row_of(found, "nfe_forward")["verdict"] == "worse"
    assert row_of(found, "metric_value")["verdict"] == "not decided"
    both = [record(nfe_forward=26), record(seed=1, nfe_forward=14), runs[2]]
    assert row_of(changes(frame_of(runs), frame_of(both)), "nfe_forward")["verdict"] == "changed"


def test_failures_are_listed_and_not_averaged(record, frame_of):
    """A run that now fails is in the list of statuses, and in no median; runs of one side are counted."""
    bad = record(seed=1, status=Status.DIVERGED, message="x")
    found = changes(frame_of([record(), record(seed=1), record(seed=2)]), frame_of([record(), bad, record(seed=3)]))
    assert found.statuses[["seed", "before", "after"]].to_numpy().tolist() == [[1, "ok", "diverged"]]
    assert row_of(found, "nfe_forward")["n"] == 1
    assert (found.common, found.only_before, found.only_after) == (2, 1, 1)
    assert "1 runs ended otherwise" in " ".join(found.sentences())


def test_times_of_unlike_machines_are_refused(record, frame_of):
    """Counts and errors are compared, times are not, and a sentence says so; unless they are asked for."""
    runs = [record(seed=s) for s in range(3)]
    found = changes(frame_of(runs), frame_of(on(OTHER, runs)))
    assert "train_seconds" not in set(found.table["column"])
    assert "peak_bytes" in set(found.table["column"])
    assert "cpu Other CPU" in found.left_out
    asked = changes(frame_of(runs), frame_of(on(OTHER, runs)), across_machines=True)
    assert "train_seconds" in set(asked.table["column"])
    assert asked.left_out == ""


def test_nothing_in_common(record, frame_of):
    """No pair, an empty table, a page all the same."""
    found = changes(frame_of([record()]), frame_of([record(seed=1)]))
    assert found.table.empty
    assert "None can be compared: the sets differ in seed (0 / 1)." in found.sentences()
    assert "No run of both sets ended ok in both." in comparison.page(found, "a", "b")


def test_other_file_of_the_users_or_another_suite_is_the_same_run(record, frame_of):
    """What changed in the file is the question; that it did is said."""
    before = frame_of([record(settings={"code": "aa", "suite": "old"}, saved_bytes=100)])
    after = frame_of([record(settings={"code": "bb", "suite": "new"}, saved_bytes=150)])
    found = changes(before, after)
    assert (found.common, found.only_before, found.only_after, found.other_code) == (1, 0, 0, 1)
    (row,) = found.table[found.table["column"] == "saved_bytes"].to_dict("records")
    assert (row["change"], row["verdict"]) == (1.5, "worse")
    assert any("own file of the method or task differs in 1 of them" in line for line in found.sentences())


def test_infinite_values_on_both_sides_are_the_same(record, frame_of):
    """Infinity to infinity is no change, infinity to a number is one for the better."""
    worst = [record(gradient_relative_error=math.inf)]
    assert row_of(changes(frame_of(worst), frame_of(worst)), "gradient_relative_error")["verdict"] == "same"
    found = changes(frame_of(worst), frame_of([record(gradient_relative_error=1.0)]))
    assert row_of(found, "gradient_relative_error")["verdict"] == "better"


def test_table_and_page_are_written_and_escaped(record, frame_of, tmp_path):
    """Three files; names full of markup are text."""
    odd = "my.py:<b>|x|"
    found = changes(frame_of([record(method=odd)]), frame_of([record(method=odd, nfe_forward=99)]))
    files = comparison.write(found, "results/<a>", "b", tmp_path / "out")
    assert [f.name for f in files] == ["changes.md", "changes.csv", "changes.html"]
    html = files[2].read_text(encoding="utf-8")
    assert "my.py:&lt;b&gt;|x|" in html
    assert "results/&lt;a&gt;" in html
    assert "<b>" not in html
    assert r"\|x\|" in files[0].read_text(encoding="utf-8")
    assert len(pd.read_csv(files[1])) == len(found.table)
    (tmp_path / "taken").touch()
    with pytest.raises(ResultsError, match=r"--out .*expected a folder that can be written"):
        comparison.write(found, "a", "b", tmp_path / "taken")


def test_several_folders_are_one_result_set(quick, write_results, tmp_path):
    """Runs of all folders, each once; times stay where the machine is the same."""
    first = write_results(quick[:10], folder=tmp_path / "a")
    second = write_results(quick[8:], folder=tmp_path / "b")
    frame = load(first, second)
    assert len(frame) == len(quick)
    assert frame["train_seconds"].notna().all()
    with pytest.raises(ResultsError, match="expected at least one folder"):
        load()


def test_times_of_unlike_folders_are_missing_and_said(quick, write_results, tmp_path, caplog):
    """Every time is NA, nothing else is, and the log says why and what keeps them."""
    folders = (
        write_results(quick[:10], folder=tmp_path / "a"),
        write_results(on(OTHER, quick[10:]), folder=tmp_path / "b"),
    )
    with caplog.at_level(logging.WARNING):
        frame = load(*folders)
    assert frame[[c.name for c in TIMINGS]].isna().all(axis=None)
    assert frame["peak_bytes"].notna().all()
    assert "times do not compare across machines; --across-machines" in caplog.text
    assert load(*folders, across_machines=True)["train_seconds"].notna().all()
    assert {c.name: str(frame[c.name].dtype) for c in TIMINGS} == {
        c.name: str(load(folders[0])[c.name].dtype) for c in TIMINGS
    }


def test_records_without_a_machine_do_not_count_as_another(quick, frame_of):
    """A failed run may lack its machine; that is no second machine."""
    frame = frame_of([*quick[:3], *on({}, quick[3:5])])
    assert without_times(frame)["train_seconds"].notna().all()


def test_command(quick, write_results, tmp_path, capsys):
    """The command prints what changed, writes the page beside B, and as JSON gives the numbers."""
    first, second = write_results(quick, folder=tmp_path / "a"), write_results(quick, folder=tmp_path / "b")
    compare_results(first, second)
    assert "28 runs are in both result sets" in capsys.readouterr().out
    assert (second / "changes" / "changes.html").stat().st_size > 0
    compare_results(first, second, out=tmp_path / "c", as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert {row["verdict"] for row in printed["changes"]} == {"same"}
