"""Whatever stands in a file of ours is accepted, or answered with one clear sentence: never with a bare exception."""

import contextlib
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odegrad.errors import BaselineError, HistoryError, ResultsError, SuiteError
from odegrad.gate.baseline import Baseline, read_baseline
from odegrad.history.line import Line
from odegrad.history.store import lines_of
from odegrad.records.columns import COLUMNS
from odegrad.records.lines import encode, sealed
from odegrad.records.record import Record, Run, Status
from odegrad.records.shard import RECORDS
from odegrad.records.store import read_statuses
from odegrad.reports.frame import from_rows, load
from odegrad.suites.schema import SuiteFile, validate

SCALARS = (
    st.none() | st.booleans() | st.floats() | st.text(max_size=8)
    | st.integers() | st.sampled_from([2**63, -(2**70), 10**400, 1e308, "a\ud800", "=cmd", "\n", "ok"])
)  # fmt: skip
VALUES = st.recursive(SCALARS, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=4), x, max_size=3))
ROW = Record(Run("s", "digits", "tiny", "naive", "adam", "dopri5", 0, 1e-3, 1e-3, 1), Status.OK).to_row()
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def answered(error, read, *arguments):
    """Return what ``read`` returns, or None if it is refused with one sentence that says where."""
    try:
        return read(*arguments)
    except error as refusal:
        said = str(refusal)
    assert len(said) > 20
    assert "Traceback" not in said
    return None


@FUZZ
@given(st.dictionaries(st.sampled_from([column.name for column in COLUMNS]), VALUES, max_size=4), st.booleans())
def test_records_are_read_by_runner_and_report_alike(changes, with_checksum):
    """The runner goes on with what the report reads; both refuse the same, and say it."""
    row = ROW | changes
    with contextlib.suppress(ValueError), tempfile.TemporaryDirectory() as name:
        line = sealed(row) if with_checksum else json.dumps(row).encode() + b"\n"
        (Path(name) / RECORDS).write_bytes(line)
        statuses = answered(ResultsError, read_statuses, Path(name))
        frame = answered(ResultsError, load, name)
        assert with_checksum or (statuses is None) == (frame is None)


@FUZZ
@given(st.binary(max_size=60), st.integers(0, 2000), st.booleans())
def test_bytes_in_a_records_file_are_records_or_a_sentence(noise, place, instead):
    """Noise inside of a line, and in its place."""
    line = encode(Record.from_row(ROW))
    place %= len(line)
    data = line + (noise if instead else line[:place] + noise + line[place:]) + b"\n" + line
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / RECORDS).write_bytes(data)
        answered(ResultsError, read_statuses, Path(name))
        answered(ResultsError, load, name)


@FUZZ
@given(st.dictionaries(st.sampled_from(sorted(SuiteFile.model_fields)), VALUES))
def test_suites_are_accepted_or_a_sentence(data):
    """Values of any type at any key."""
    answered(SuiteError, validate, data, "mine.toml")
    whole = {"name": "mine", "methods": ["naive"], "solvers": [{"name": "rk4"}], "tasks": [{"name": "linear"}]}
    answered(SuiteError, validate, whole | data, "mine.toml")


@FUZZ
@given(st.sampled_from(["schema", "suite", "machine", "bands", "reasons", "runs"]), VALUES, st.binary(max_size=20))
def test_baselines_are_accepted_or_a_sentence(key, value, noise):
    """Values of any type at any key, and noise behind them."""
    whole = json.loads(Baseline("mine", {"cpu": "x"}, {"a run": {"status": "ok", "vjps": 3}}).text())
    with contextlib.suppress(ValueError), tempfile.TemporaryDirectory() as name:
        path = Path(name) / "gate.json"
        path.write_bytes(json.dumps(whole | {key: value}).encode())
        answered(BaselineError, read_baseline, path, "mine")
        path.write_bytes(json.dumps(whole).encode() + noise)
        answered(BaselineError, read_baseline, path, "mine")
        path.write_bytes(noise)
        answered(BaselineError, read_baseline, path, "mine")


@FUZZ
@given(st.sampled_from(sorted(Line.__dataclass_fields__)), VALUES, st.binary(max_size=40))
def test_history_lines_are_read_or_left_out(make_history_line, key, value, noise):
    """A broken line is left out and said; the lines beside it are there."""
    whole = make_history_line.text().encode()
    with contextlib.suppress(ValueError):
        broken = json.dumps(json.loads(whole) | {key: value}).encode()
        found = answered(HistoryError, lines_of, b"\n".join([whole, broken, noise.replace(b"\n", b""), whole]), "x")
        assert found is None or found.count(make_history_line) >= 2


@pytest.fixture(scope="module")
def make_history_line():
    return Line(
        commit="a" * 40, date="2026-01-01T00:00:00+00:00", order=1, parent=None, suite="mine", run="linear/tiny",
        device="cpu", status="ok", machine={"cpu": "x"}, metrics={"nfe_forward": 26}, times={},
    )  # fmt: skip


@pytest.mark.parametrize("depth", [1000, 100_000])
def test_deep_arrays_are_a_sentence_everywhere(tmp_path, depth):
    """In records, baselines and histories."""
    deep = "[" * depth + "]" * depth
    (tmp_path / RECORDS).write_text(f'{{"run_id": "ab", "status": "ok", "x": {deep}}}\n')
    (tmp_path / "gate.json").write_text(deep)
    answered(ResultsError, read_statuses, tmp_path)
    answered(ResultsError, load, tmp_path)
    answered(BaselineError, read_baseline, tmp_path / "gate.json", "mine")
    assert lines_of(deep.encode(), "x") == []


def test_the_row_that_is_changed_is_a_record():
    """Otherwise nothing above would be accepted."""
    assert len(from_rows([ROW])) == 1
