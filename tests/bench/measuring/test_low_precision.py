"""Runs whose field, or all of them, computes in 16 bits: what is certified, what is left out, and their ids."""

import dataclasses

import pytest

from odegrad.errors import SuiteError
from odegrad.gate.baseline import run_name
from odegrad.measuring.building import build
from odegrad.measuring.passes import count, measure_memory, time_pass
from odegrad.records.record import Record, Run, Status
from odegrad.suites.suite import load_suite

RUN = Run(
    suite="low", task="linear", size="tiny", gradient="aca", optimizer="adam", solver="rk4", seed=0, rtol=1e-3,
    atol=1e-3, iterations=1, solver_options=(("num_steps", 2),),
)  # fmt: skip
LOW = dataclasses.replace(RUN, precision="bfloat16")


def _counted(run, tmp_path):
    scratch = tmp_path / "scratch" / "run"
    scratch.mkdir(parents=True)
    return count(run, scratch, lambda _message: None)


def test_a_low_field_is_certified_as_it_is(tmp_path):
    """P6: its rounding is in the error against the float64 reference, none in that against naive's low field."""
    low, plain = _counted(LOW, tmp_path / "low"), _counted(RUN, tmp_path / "plain")
    assert plain["gradient_relative_error"] < low["gradient_relative_error"]
    assert abs(low["gradient_relative_error"] - plain["gradient_relative_error"]) > 1e-5
    assert low["gradient_method_error"] <= 1e-6
    assert low["gradient_accuracy"] in ("accurate", "inaccurate")


def test_all_in_the_low_type_is_certified_as_it_is(tmp_path):
    """And is further off than the field alone."""
    whole = _counted(
        dataclasses.replace(RUN, dtype="bfloat16", solver_options=(("num_steps", 32),)), tmp_path / "whole"
    )
    low = _counted(dataclasses.replace(LOW, solver_options=(("num_steps", 32),)), tmp_path / "low")
    assert whole["gradient_relative_error"] > low["gradient_relative_error"]


def test_seconds_of_emulated_kernels_are_left_out(tmp_path):
    """With the word why; memory is measured as ever."""
    assert time_pass(LOW, tmp_path, lambda _message: None) == {"taints": "emulated"}
    assert time_pass(dataclasses.replace(RUN, dtype="float16"), tmp_path, lambda _m: None) == {"taints": "emulated"}
    assert measure_memory(build(LOW))["saved_bytes"] > 0


def test_the_id_counts_it_only_where_it_is_set():
    """Older results keep their ids, and a record its precision."""
    assert RUN.run_id == dataclasses.replace(RUN, precision="").run_id != LOW.run_id
    assert Record.from_row(Record(LOW, Status.OK).to_row()).run == LOW
    row = Record(RUN, Status.OK).to_row()
    del row["precision"]
    assert Record.from_row(row).run == RUN
    assert run_name(LOW) != run_name(RUN)


SUITE = """
name = "low"
methods = ["naive", "aca"]
dtype = "float32"
precision = ["", "bfloat16", "float16"]

[[solvers]]
name = "rk4"
options = { num_steps = 2 }

[[tasks]]
name = "linear"
size = "tiny"
"""


def test_precision_is_an_axis_of_a_suite(tmp_path):
    """And no option of a solver there, by which results could not be told apart."""
    path = tmp_path / "low.toml"
    path.write_text(SUITE)
    runs = load_suite(str(path)).runs()
    assert sorted({run.precision for run in runs}) == ["", "bfloat16", "float16"]
    assert len({run.run_id for run in runs}) == len(runs) == 6
    path.write_text(SUITE.replace("num_steps = 2", 'num_steps = 2, precision = "bfloat16"'))
    with pytest.raises(SuiteError, match=r'solvers.0 .*write precision = "bfloat16" at the top'):
        load_suite(str(path))
    path.write_text(SUITE.replace('"float16"]', '"half"]'))
    with pytest.raises(SuiteError, match=r"precision.2: expected '', 'bfloat16' or 'float16', got 'half'"):
        load_suite(str(path))
    path.write_text(SUITE.replace('"float16"]', '"bfloat16"]'))
    with pytest.raises(SuiteError, match=r"precision.2: expected entries that differ"):
        load_suite(str(path))
