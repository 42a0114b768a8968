"""A user's own method and problem, typed by the contracts alone: mypy reads this file as it reads theirs."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import pytest
import torch
from torch import Tensor, nn

from odegrad.contracts import (
    GradientMethod,
    Problem,
    Solve,
    Solver,
    Split,
    State,
    StateT,
    StepObserver,
    Training,
    Traits,
    VectorField,
    equivalent_solver,
)
from odegrad.errors import UnsupportedError
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.gradients.reversible_rk import ReversibleRK
from odegrad.methods.peers.torchdiffeq import TorchdiffeqNaive
from odegrad.methods.solvers.solver import OneStepSolver, make_solver

Pair = tuple[Tensor, Tensor]
TS = torch.tensor([0.0, 1.0])


class Decay(nn.Module):
    """``dy/dt = -y``, of a tensor or of each part of a tuple."""

    def forward(self, _t: Tensor, y: State) -> State:
        return -y if isinstance(y, Tensor) else tuple(-part for part in y)


@dataclass(frozen=True)
class Mine:
    """A method that hands on to naive."""

    traits: ClassVar[Traits] = dataclasses.replace(Naive.traits, name="mine")

    def __call__(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        return Naive()(field, solver, y0, ts)

    def refuses(self, solver: Solver) -> str | None:
        return None if solver.adaptive else "it wants adaptive steps"


class Fit:
    """A problem whose batches are pairs of states and targets."""

    def __init__(self) -> None:
        self.model: nn.Module = Decay()
        self.fields: Sequence[nn.Module] = [self.model]
        self.training = Training(1, {})

    def batch(self, iteration: int) -> Pair:
        return torch.full((2, 3), float(iteration)), torch.zeros(2, 3)

    def probe_batch(self) -> Pair:
        return self.batch(1)

    def loss(self, solve: Solve, batch: Pair) -> Tensor:
        start, target = batch
        return (solve(Decay(), start, TS)[-1] - target).square().mean()

    def evaluate(self, solve: Solve, split: Split = "test") -> float:
        return float(self.loss(solve, self.batch(2 if split == "test" else 3)))

    def dynamics(self, batch: Pair) -> tuple[VectorField, State, Tensor]:
        return Decay(), batch[0], TS


class OtherSolver(Solver):
    """A solver of somebody else's."""

    name = "other"
    adaptive = True

    def observed_by(self, observer: StepObserver) -> Self:
        return self


def test_a_state_comes_back_in_its_own_kind() -> None:
    """A tensor gives a tensor, a tuple a tuple of as many parts: no cast, and exp(-1) in each."""
    method: GradientMethod = Mine()
    solver = make_solver("dopri5", rtol=1e-6, atol=1e-6)
    tensor: Tensor = method(Decay(), solver, torch.ones(2), TS)
    first, second = method(Decay(), solver, (torch.ones(2), torch.ones(3)), TS)
    for ys, shape in ((tensor, (2, 2)), (first, (2, 2)), (second, (2, 3))):
        assert ys.shape == shape
        torch.testing.assert_close(ys[-1], torch.full(shape[1:], -1.0).exp(), rtol=1e-5, atol=0.0)


def test_a_problem_names_what_its_batches_are() -> None:
    """Whoever takes a problem hands its batches on without looking inside."""
    problem: Problem[Pair] = Fit()
    opaque: Problem = problem

    def solve(field: VectorField, y0: StateT, ts: Tensor) -> StateT:
        return Mine()(field, make_solver("dopri5", rtol=1e-6, atol=1e-6), y0, ts)

    expected = torch.tensor(-2.0).exp().item()
    assert opaque.loss(solve, opaque.probe_batch()).item() == pytest.approx(expected, rel=1e-5)
    assert problem.evaluate(solve) == pytest.approx(4 * expected, rel=1e-5)


@pytest.mark.parametrize("method", [Naive(), TorchdiffeqNaive()], ids=lambda m: m.traits.name)
def test_a_solver_of_another_kind_is_refused(method: GradientMethod) -> None:
    """The methods here take the steps themselves, with their own solvers: any other gets a reason, not a crash."""
    other = OtherSolver()
    assert "make_solver" in (method.refuses(other) or "")
    with pytest.raises(UnsupportedError, match="cannot use solver other: it takes the steps itself"):
        method(Decay(), other, torch.ones(2), TS)


def test_an_equivalent_solver_is_of_the_same_kind() -> None:
    """Reversible Runge-Kutta solves with the wrapped method; another kind of solver it cannot wrap."""
    wrapped: OneStepSolver = equivalent_solver(ReversibleRK(), make_solver("rk4", num_steps=2))
    assert wrapped.name == "reversible_rk4"
    assert equivalent_solver(Naive(), wrapped) is wrapped
    with pytest.raises(UnsupportedError, match="reversible_rk cannot use solver other"):
        equivalent_solver(ReversibleRK(), OtherSolver())
