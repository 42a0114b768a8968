"""What sets an explicit solver's steps, and the advice of a solver: against rates that are known."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from odegrad.advice.comparison import compare_gradients
from odegrad.datasets.nets.stiff_fields import ProtheroRobinsonField, VanDerPolField
from odegrad.diagnosis.costates import BatchedField
from odegrad.diagnosis.prediction import diagnose
from odegrad.diagnosis.solver_choice import SolverChoice, Taken, choose_solver
from odegrad.diagnosis.verdict import sentences
from odegrad.methods.solvers.solver import make_solver
from odegrad.user.models import Model


def _chosen(field: nn.Module, y0: Any, end: float, solver: str = "dopri5", **options: Any) -> Any:
    start = torch.tensor(y0, dtype=torch.float64)
    ts = torch.tensor([0.0, end], dtype=torch.float64)
    return choose_solver(BatchedField(field, start), start, ts, make_solver(solver, rtol=1e-5, atol=1e-6, **options))


def test_a_fast_decay_binds_explicit_steps_and_an_implicit_solver_is_advised() -> None:
    """At a rate of 400 the solution is a cosine: 400 / 3.3 steps by stability, a dozen by accuracy."""
    found = _chosen(ProtheroRobinsonField(400.0), [[1.0]], 1.0)
    assert found.by_stability is True
    assert found.explicit.steps == pytest.approx(400.0 / 3.307, rel=0.15)
    assert found.implicit.steps <= 20
    assert found.implicit_pays is True
    # Of one state a Jacobian is one pull-back, once per step.
    assert found.implicit.products == found.implicit.steps
    assert found.sentence().startswith(f"Explicit steps are bound by stability ({found.bound} of {found.judged} looked")
    assert found.sentence().endswith("; take kencarp4.")
    assert found.to_dict()["implicit"]["steps"] == found.implicit.steps


@pytest.mark.parametrize(
    ("field", "start", "end"),
    [(ProtheroRobinsonField(3.0), [[1.0]], 3.0), (VanDerPolField(1.0), [[2.0, 0.0], [1.0, 1.0]], 4.0)],
    ids=["slow decay", "van der Pol, mu = 1"],
)
def test_accuracy_sets_the_steps_where_nothing_is_stiff(field: nn.Module, start: Any, end: float) -> None:
    """No implicit solve is begun."""
    found = _chosen(field, start, end)
    assert (found.by_stability, found.implicit) == (False, None)
    assert found.sentence().endswith("stay with dopri5.")


def test_what_cannot_be_told_is_undecided() -> None:
    """A share between; states too large for a Jacobian; an implicit solver that fails; costs that are no less."""
    between = SolverChoice(Taken("dopri5", 20, 120), 20, 7, None)
    assert between.by_stability is None
    assert between.sentence() == "Whether an implicit solver pays is undecided: 7 of 20 steps are bound by stability."
    large = _chosen(ProtheroRobinsonField(3.0), [[1.0] * 200], 1.0)
    assert large.by_stability is None
    assert "undecided: of 200 numbers per sample no Jacobian is formed" in large.sentence()
    dear = SolverChoice(Taken("dopri5", 20, 120), 20, 20, Taken("kencarp4", 15, 200, 45))
    assert dear.sentence().endswith("200 f calls and 45 products against 120 f calls; dopri5 costs less all the same.")

    class Mixes(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -300.0 * (y - torch.cos(t)) + (y - y.mean(0))

    mixed = _chosen(Mixes(), [[1.0], [1.2], [0.9]], 1.0)
    assert mixed.by_stability is True
    assert "and kencarp4 is undecided: field: its samples depend on each other" in mixed.sentence()


def test_fixed_steps_and_implicit_solvers_have_nothing_to_choose() -> None:
    assert _chosen(ProtheroRobinsonField(3.0), [[1.0]], 1.0, num_steps=5) is None
    assert _chosen(ProtheroRobinsonField(3.0), [[1.0]], 1.0, "kencarp4") is None


@pytest.mark.parametrize("rate", [3.0, 600.0])
def test_diagnosis_and_comparison_advise_the_solver(rate: float) -> None:
    """The diagnosis always says what sets the steps; the comparison where that is not accuracy."""
    field, y0 = ProtheroRobinsonField(rate), torch.ones(1, 1, dtype=torch.float64)
    ts = torch.tensor([0.0, 0.1], dtype=torch.float64)
    found = diagnose("cosine", Model(field, y0, ts), methods=["naive"], with_bounds=False)
    assert found.choice is not None
    assert found.choice.sentence() in sentences(found)
    notes = compare_gradients(field, y0, ts, gradients=["naive"], rounds=1).notes
    assert any(note == found.choice.sentence() for note in notes) is (rate > 100.0)
