"""What a plan says of cost and refusals before anything runs."""

import json

import pytest

from odegrad.measuring.passes import run_pass
from odegrad.running.planning import forecast, plan_rows
from odegrad.suites.suite import cell_of, load_suite

SUITE = """
name = "planned"
seeds = [0, 1]
methods = [
    "naive", "adjoint", "mali", "torchdiffeq_naive", "forward_sensitivity",
    {gradient = "torchdiffeq_naive", optimizer = "snopt"},
]

[[solvers]]
name = "dopri5"

[[tasks]]
name = "circles"
size = "tiny"
iterations = 3
"""


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "planned.toml").write_text(SUITE)
    return load_suite(str(tmp_path / "planned.toml"))


def test_plan_says_what_the_count_pass_will_find_and_what_is_refused(suite, tmp_path):
    """Predicted bytes are those that the run records; refusals have their reasons; what is unknown is None."""
    runs = suite.runs()
    found = {run.method: forecast(runs, tmp_path)[cell_of(run)] for run in runs}
    by_method = {run.method: run for run in runs if run.seed == 0}
    for name in ("naive", "adjoint"):
        counted = run_pass("count", by_method[name], str(tmp_path), lambda _message: None)
        assert found[name].peak_bytes == counted["predicted_peak_bytes"]
        assert found[name].train_seconds > 0
        assert found[name].refused == ""
    assert found["mali"].refused.startswith("mali cannot use solver dopri5")
    assert found["torchdiffeq_naive+snopt"].refused == (
        "torchdiffeq_naive offers no curvature samples, which snopt needs"
    )
    assert (found["torchdiffeq_naive"].train_seconds, found["torchdiffeq_naive"].peak_bytes) == (None, None)
    assert found["forward_sensitivity"].train_seconds is None


def test_what_is_refused_ends_so(suite, tmp_path):
    """A run that the plan refuses ends as unsupported, with the same words."""
    runs = {run.method: run for run in suite.runs()}
    expected = forecast([runs["mali"]], tmp_path)[cell_of(runs["mali"])]
    with pytest.raises(Exception, match=expected.refused.split(":")[0]):
        run_pass("count", runs["mali"], str(tmp_path), lambda _message: None)


def test_grid_is_shown_once_a_cell(suite):
    """The seeds of a cell are counted, not repeated."""
    rows = plan_rows(suite.runs(), {})
    assert len(rows) == 6
    assert {row["runs"] for row in rows} == {2}


def test_rows_of_one_solver_with_other_options_are_told_apart(tmp_path):
    """By the options, in brackets."""
    text = SUITE.replace("[[solvers]]", '[[solvers]]\noptions = { batch = "per_sample" }', 1)
    (tmp_path / "apart.toml").write_text(text)
    rows = plan_rows(load_suite(str(tmp_path / "apart.toml")).runs(), {})
    assert "dopri5[batch=per_sample]" in {row["solver"] for row in rows}


def test_trials_take_as_long_as_they_are(suite, tmp_path):
    """Of a suite that tunes by 3 iterations for runs of 12, a trial is forecast at a quarter of a run's seconds."""
    text = SUITE.replace("iterations = 3", "iterations = 12").replace(
        "[[solvers]]", "tuning = {iterations = 3}\n[[solvers]]"
    )
    (tmp_path / "tuned.toml").write_text(text)
    tuned = load_suite(str(tmp_path / "tuned.toml"))
    rows = plan_rows([*tuned.trials(), *tuned.runs()], forecast(tuned.runs(), tmp_path))
    seconds = {(row["stage"], row["method"]): row["train s"] for row in rows}
    for method in ("naive", "adjoint"):
        assert seconds["tuning", method] == pytest.approx(seconds["run", method] / 4, rel=1e-2)


def test_plan_on_the_command_line(run_main, suite, tmp_path, monkeypatch):
    """The JSON holds every run with its forecast."""
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_main("plan", "planned.toml", "--device", "cpu", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["run_id"] for row in rows] == [run.run_id for run in suite.runs()]
    assert all(row["predicted_refused"] for row in rows if row["method"] == "mali")


def test_device_that_is_not_there_is_said(suite, tmp_path, monkeypatch):
    """Before anything is built."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    runs = suite.runs("cuda")
    assert {each.refused for each in forecast(runs, tmp_path).values()} == {"no CUDA device on this machine"}
