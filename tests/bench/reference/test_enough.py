"""A reference that is only as good as its verdict needs: what it says of itself is true, and it costs less."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from odegrad.binding import solve_with
from odegrad.reference import reference as references
from odegrad.reference.accuracy import accuracy, enough, largest_error
from odegrad.reference.allowance import Allowance
from odegrad.reference.grids import Budget, BudgetSpentError
from odegrad.reference.reference import reference
from odegrad.reference.subject import in_float64, of_problem
from odegrad.reference.two_ways import both, relative_distance
from odegrad.registry import build_gradient, build_solver, build_task
from odegrad.user.models import Model

WANTED = enough(1e-5)


def problem_of(task, size="tiny"):
    return build_task(task).build(size, 0, torch.device("cpu"), torch.float64)


class Latent(nn.Module):
    """A net 4-20-4 as a latent ODE has it."""

    def __init__(self, activation):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Parameter(torch.randn(20, 4, generator=generator, dtype=torch.float64) / 2.0)
        self.outer = nn.Parameter(torch.randn(4, 20, generator=generator, dtype=torch.float64) / math.sqrt(20.0))
        self.activation = activation

    def forward(self, t, y):
        return self.activation(y @ self.inner.T) @ self.outer.T


def latent(activation, batch=4):
    generator = torch.Generator().manual_seed(1)
    y0 = torch.randn(batch, 4, generator=generator, dtype=torch.float64).requires_grad_()
    ts = torch.linspace(0.0, 2.0, 6, dtype=torch.float64)
    return in_float64(Model(Latent(activation), y0, ts, lambda ys: ys.square().mean()))


def test_enough_is_a_hundredth_of_what_is_accurate():
    """At 1e-5 the verdict falls at 1e-4; no tolerance asks for less than a thousandth."""
    assert pytest.approx(1e-6) == enough(1e-5)
    assert enough(1.0) == largest_error(None, 1.0) / 100.0 == 1e-3


@pytest.mark.parametrize("activation", [torch.tanh, nn.functional.elu, torch.relu])
def test_what_it_says_of_itself_is_true(activation):
    """Held against adaptive steps at 1e-11 or tighter, which find kinks: the error told is no smaller than the true."""
    subject = latent(activation)
    found = reference(subject, wanted=WANTED)
    tight = solve_with(build_gradient("naive"), build_solver("dopri5", 1e-11, 1e-11))
    assert found.reason == ""
    assert relative_distance(found.gradient, subject.gradient(tight)) <= found.error
    assert found.error <= {torch.tanh: 1e-8, nn.functional.elu: 1e-5, torch.relu: 1e-2}[activation]


def test_half_smooth_fields_have_a_reference_where_rounding_was_not_to_be_had():
    """ELU's second derivative jumps: no number of cuts brings the gradient to rounding, and none is needed."""
    subject = latent(nn.functional.elu)
    assert reference(subject, budget=20_000).gradient is None
    found = reference(subject, wanted=WANTED, budget=20_000)
    assert accuracy(1e-5, found.error, largest_error(1e-5, 1e-5)) == "accurate"
    assert accuracy(1e-3, found.error, largest_error(1e-5, 1e-5)) == "inaccurate"


def test_smooth_fields_cost_less():
    """A refinement is left out, and the costate is solved less tightly."""
    subject = latent(torch.tanh)
    exact, cheap = reference(subject), reference(subject, wanted=WANTED)
    assert cheap.calls < 0.6 * exact.calls
    assert relative_distance(cheap.gradient, exact.gradient) <= cheap.error + exact.error


@pytest.mark.parametrize("task", ["equilibrium", "quiet_start"])
def test_resting_states_do_not_fool_it_either(task):
    """The closed form lies within what is told, which is enough."""
    problem = problem_of(task)
    true = torch.cat([g.reshape(-1) for g in problem.true_gradient(problem.probe_batch())])
    found = reference(of_problem(problem), wanted=WANTED)
    assert relative_distance(found.gradient, true) <= max(found.error, 1e-12)
    assert found.error <= WANTED


def test_planted_fault_is_seen(monkeypatch):
    """The two ways still have to agree: the referee takes the one without the fault."""

    def with_fault(subject, budget, wanted):
        ways = both(subject, budget, wanted)
        return dataclasses.replace(ways, costate=1.001 * ways.costate)

    subject = of_problem(problem_of("rotation"))
    sound = reference(subject)
    monkeypatch.setattr(references, "both", with_fault)
    found = reference(subject, wanted=WANTED)
    assert relative_distance(found.gradient, sound.gradient) <= found.error + sound.error
    assert found.error <= WANTED


def test_time_that_is_over_is_a_reason():
    """No call is made behind the end, and the sentence says which limit was met."""
    found = reference(latent(torch.tanh), wanted=WANTED, seconds=1e-9)
    assert (found.gradient, found.error, found.calls) == (None, None, 0)
    assert found.reason == "its reference takes more than 1e-09 s"


def test_what_is_used_of_a_budget_is_the_larger_share():
    """Of calls or of seconds; an allowance of none is never over."""
    budget = Budget(limit=4)
    for _ in range(3):
        budget.spend()
    assert budget.used() == 0.75
    budget.spend()
    with pytest.raises(BudgetSpentError, match="more than 4 f calls"):
        budget.spend()
    assert Budget(limit=4, seconds=1e-9).used() > 1.0
    assert not Allowance().over()
    assert Allowance(1e-9).over()
    assert Allowance(1000.0).left(0.5) == pytest.approx(500.0, abs=5.0)
