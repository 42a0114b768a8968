"""``odegrad diagnose``: names, tables, JSON, training and the log-norm law, through the command line."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from odegrad.advice.examine import examine, law
from odegrad.diagnosis.probe import largest_norms
from odegrad.errors import UsageError
from odegrad.registry import build_task

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


def test_a_task_is_trained_and_diagnosed() -> None:
    """The norms before training are those of the untrained problem; each table has its rows."""
    found = examine("contracting", train=8, methods=["naive", "adjoint"])
    assert found.trained is not None
    assert list(found.trained["iteration"]) == list(range(9))
    problem = build_task("contracting").build("tiny", 0, torch.device("cpu"), torch.float64)
    fresh = largest_norms(problem)
    first = found.trained.iloc[0]
    assert (first["mu_2"], first["mu_2_minus"]) == pytest.approx((fresh.mu_2, fresh.mu_2_minus), rel=1e-12)
    titles = [title for title, rows in found.tables() if rows]
    assert len(titles) == 3
    assert len(found.eigenvalues()) == 8 * 2 * sum(len(n.times) for n in found.diagnosis.norms)


def test_stages_and_errors_are_told_as_they_come() -> None:
    """The observed errors come before the bounds that take longest."""
    lines: list[str] = []
    examine("linear", methods=["naive", "mali"], tell=lines.append)
    told = [line for line in lines if line.startswith(("naive: off by", "mali: off by"))]
    assert len(told) == 2
    assert lines.index(told[1]) < lines.index("taking the bounds on the interpolation's errors")


def test_no_time_leaves_what_cannot_be_left_out() -> None:
    """Norms and growth are there; errors and bounds are not, and the last sentence says so."""
    found = examine("linear", methods=["naive", "interpolation"], budget=1e-9)
    diagnosis = found.diagnosis
    assert diagnosis.growth.forward[1] != 0.0
    assert (diagnosis.reference_error, [o.observed for o in diagnosis.outcomes]) == (None, [None, None])
    assert all(o.verdict == "not observed: the budget of 1e-09 s was spent" for o in diagnosis.outcomes)
    assert {b.letter for b in diagnosis.bounds} == {"B"}
    assert found.sentences()[-1] == (
        "The budget of 1e-09 s was spent: the error of naive, interpolation was not observed and the bounds on the "
        "interpolation's errors were not taken. A larger budget does it."
    )
    assert found.to_dict()["notes"] == [found.sentences()[-1]]
    with pytest.raises(UsageError, match="budget: expected a positive number of seconds or None, got -1"):
        examine("linear", budget=-1.0)


def test_largest_norms_of_a_linear_task_are_its_matrix() -> None:
    """``contracting`` is y' = A y: norms and integrals are eigenvalues of A's symmetric part."""
    problem: Any = build_task("contracting").build("default", 0, torch.device("cpu"), torch.float64)
    weight = next(problem.model.parameters()).detach()
    low, high = torch.linalg.eigvalsh((weight + weight.T) / 2).tolist()
    found = largest_norms(problem)
    assert (found.mu_2, found.mu_2_minus) == pytest.approx((high, -low), rel=1e-9)
    assert (found.integral, found.integral_minus) == pytest.approx((high, -low), rel=1e-9)  # over one unit of time


def test_law_has_slope_one_for_the_adjoint_and_none_for_the_others() -> None:
    table = law()
    adjoint = table[table["gradient"] == "adjoint"].set_index("exponent")["observed"]
    assert 0.8 <= math.log(adjoint[40] / adjoint[20]) / 20 <= 1.3
    rest = table[table["gradient"] != "adjoint"]
    assert rest["observed"].max() < 1e-5
    assert rest["predicted"].isna().all()
    predicted = table[table["gradient"] == "adjoint"].set_index("exponent")["predicted"]
    assert predicted[10] == pytest.approx(1e-6 * math.exp(10.0))
    assert (adjoint < predicted).all()


def test_stiff_model_is_called_stiff(run_main: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Van der Pol's oscillator by the example's file: stiff, contracting or mixed, no step back for the adjoint."""
    shutil.copy(EXAMPLES / "stiff_model.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = ("--gradients", "naive,adjoint,interpolation", "--figure", "out.svg")
    code, out, _ = run_main("diagnose", "stiff_model.py:build", *arguments)
    assert code == 0
    assert "They are stiff" in out
    assert "adjoint (failed: solver dopri5: at t = " in out
    assert "safe as observed, not as predicted" in out
    assert (tmp_path / "out.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_json_holds_everything(run_main: Any) -> None:
    code, out, _ = run_main("diagnose", "linear", "--gradients", "naive", "--json")
    found = json.loads(out)
    assert code == 0
    assert set(found) >= {"growth", "times", "bounds", "methods", "verdict", "steps"}
    assert [m["gradient"] for m in found["methods"]] == ["naive"]
    assert found["methods"][0]["predicted"] is None


def test_law_is_printed_and_drawn(run_main: Any, tmp_path: Path) -> None:
    code, out, _ = run_main("diagnose", "--law", "--gradients", "naive", "--figure", str(tmp_path / "law.png"))
    assert code == 0
    assert out.count("naive") >= 6
    assert (tmp_path / "law.png").stat().st_size > 1_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diagnose"], "error: NAME, --law: expected one of them"),
        (["diagnose", "circls"], "error: unknown task 'circls': did you mean 'circles'"),
        (["diagnose", "circles", "--gradients", "niave"], "error: unknown gradient method 'niave'"),
        (["diagnose", "circles", "--size", "huge"], "error: unknown size of task 'circles'"),
        (["diagnose", "circles", "--figure", "a.gif"], "error: --figure a.gif: expected a name that ends in"),
        (["diagnose", "stiff_model.py:build", "--train", "3"], "error: --train 3: expected 0 for a model"),
        (["diagnose", "--law", "--gradients", "mali"], "error: mali: expected a method for dopri5"),
    ],
)
def test_wrong_usage_is_one_message(
    run_main: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    shutil.copy(EXAMPLES / "stiff_model.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    code, out, error = run_main(*arguments)
    assert (code, out) == (2, "")
    assert message in error
