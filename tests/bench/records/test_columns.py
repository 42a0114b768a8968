"""The columns of a record: each is measured where it says, is whole, and arrives wherever columns are listed."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from odegrad.measuring.passes import run_pass
from odegrad.records.columns import COLUMN_OF, COLUMNS, GATED, WORKER, Compared, ShownAs
from odegrad.records.record import PASSES, Run
from odegrad.records.rounds import merge
from odegrad.reports.units import TEXTS
from odegrad.running.worker import Worker

ROOT = Path(__file__).parents[3]
TASK = f"{Path(__file__).parents[1] / 'tiny_task.py'}:Tiny"
UNITS = {
    "iterations",
    "Jacobians",
    "systems",
    "solves",
    "rows",
    "rounds",
    "",
    "s",
    "B",
    "FLOP",
    "calls",
    "steps",
    "time",
    "1/time",
}
NUMBERS = {"int64", "float64"}


def test_every_column_is_measured_by_the_pass_that_it_names():
    """The passes of a small run, each by itself, measure the columns that name them and no other."""
    run = Run("", TASK, "tiny", "naive", "sgd", "dopri5", 0, 1e-8, 1e-8, 4, dtype="float64")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "run"
        scratch.mkdir()
        found = {name: run_pass(name, run, str(scratch), lambda _message: None) for name in PASSES}
    found["time"] = merge([found["time"]])
    said = {name: {column.name for column in COLUMNS if column.measured_by == name} for name in PASSES}
    assert {name: set(columns) for name, columns in found.items()} == said
    assert {column.measured_by for column in COLUMNS} == {"", WORKER, *PASSES}


def test_the_worker_adds_its_own_columns():
    """Around a run without a pass it measures what it says, and nothing else."""
    run = Run("", TASK, "tiny", "naive", "sgd", "dopri5", 0, 1e-8, 1e-8, 4)
    measured = Worker((), "").measure(run, {}, lambda _message: None).measured
    assert set(measured) == {column.name for column in COLUMNS if column.measured_by == WORKER}


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_a_column_is_whole(column):
    """Unit and name agree, what is compared can be compared, and a number is shown as one."""
    assert column.unit in UNITS
    assert column.unit == "s" or "_seconds" not in column.name
    assert column.unit == "B" or "_bytes" not in column.name
    assert column.meaning
    assert column.measured or column.compared is Compared.NOT
    assert column.deterministic or column.compared not in GATED
    assert (column.compared is Compared.TIME) <= (column.unit == "s")
    assert (column.compared is Compared.BITS) <= (column.dtype == "string")
    if column.compared not in {Compared.NOT, Compared.BITS}:
        assert column.dtype in NUMBERS
        assert column.higher_is_better is not None or column.name == "metric_value"  # whose direction the task says
    assert (column.band > 0.0) == (column.compared in GATED - {Compared.BITS})
    assert (column.shown_as is not ShownAs.TEXT) == (column.dtype in NUMBERS)
    assert column.dtype in NUMBERS or not column.summarised
    assert column.heading


def test_names_are_unique_and_every_way_to_show_is_written():
    """One definition a column; a value of each kind has a text."""
    assert len(COLUMN_OF) == len(COLUMNS)
    assert set(TEXTS) == set(ShownAs)
    values = {ShownAs.TEXT: "naive", ShownAs.ERROR: 1.234e-7, ShownAs.MEMORY: 4_560_000, ShownAs.DURATION: 0.00789}
    shown = {kind: TEXTS[kind](values.get(kind, 12.3456)) for kind in ShownAs}
    assert shown == {
        ShownAs.TEXT: "naive", ShownAs.COUNT: "12.3", ShownAs.NUMBER: "12.3", ShownAs.METRIC: "12.35",
        ShownAs.ERROR: "1.2e-07", ShownAs.MEMORY: "4.56 MB", ShownAs.DURATION: "7.89 ms",
    }  # fmt: skip


TOY = f"""
import importlib.util, json
from pathlib import Path

from odegrad.records import columns

toy = columns.Column(
    "toy_calls", "int64", "calls", "calls of a toy", "count", columns.Compared.EXACT, 0.25, columns.ShownAs.COUNT,
    "toys", False, summarised=True,
)
columns.COLUMNS = (*columns.COLUMNS, toy)
columns.COLUMN_OF = {{column.name: column for column in columns.COLUMNS}}

from odegrad.gate.baseline import default_bands, entry_of
from odegrad.records.record import Record, Run, Status
from odegrad.reports.frame import from_rows
from odegrad.reports.summary import summary
from odegrad.reports.tables.changes import changes
from odegrad.reports.tables.columns import of_record
from odegrad.running.worker import MEASURED
from odegrad.testing import fixture, numbers

spec = importlib.util.spec_from_file_location("make_columns", "{ROOT / "tests" / "make_columns.py"}")
page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(page)

count = numbers.count_built
numbers.count_built = lambda built, folder, told: count(built, folder, told) | {{"toy_calls": 7}}
found = fixture.GradientBenchmark(Path())("naive", "linear", benchmark=False)

run = Run("mine", "linear", "tiny", "naive", "adam", "dopri5", 0, 1e-3, 1e-3, 5, method="naive")
record = Record(run, Status.OK, "", {{"toy_calls": 7}}, {{}})
frame = from_rows([record.to_row()])
later = from_rows([Record(run, Status.OK, "", {{"toy_calls": 14}}, {{}}).to_row()])
compared = changes(frame, later).table
print(json.dumps({{
    "docs": [line for line in page.page().splitlines() if "toy_calls" in line],
    "row": Record.from_row(record.to_row()).measured,
    "worker": "toy_calls" in MEASURED,
    "dtype": str(frame["toy_calls"].dtype),
    "band": default_bands()["toy_calls"],
    "baseline": entry_of(record, record)["toy_calls"],
    "fixture": [found.toy_calls, found.to_dict()["toy_calls"]],
    "median": summary(frame)["toy_calls"].tolist(),
    "page": [of_record("toy_calls").heading, of_record("toy_calls").text(7.0), of_record("toy_calls").hint],
    "change": compared[compared["column"] == "toy_calls"][["change", "verdict"]].to_numpy().tolist(),
}}))
"""


def test_one_more_column_arrives_everywhere():
    """Added to ``COLUMNS`` and nowhere else, a column stands in every list that is made from them."""
    done = subprocess.run(
        [sys.executable, "-c", TOY], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "docs": ["| `toy_calls` | int64 | calls | calls of a toy | count | exact, 0.25 | lower | yes |"],
        "row": {"toy_calls": 7},
        "worker": True,
        "dtype": "Int64",
        "band": 0.25,
        "baseline": 7,
        "fixture": [7, 7],
        "median": [7.0],
        "page": ["toys", "7", "calls of a toy"],
        "change": [[2.0, "worse"]],
    }


def test_every_comparison_is_explained():
    """The page of columns says what each way to compare means."""
    text = (ROOT / "docs" / "columns.md").read_text(encoding="utf-8")
    assert all(f"`{way}`" in text for way in Compared)
