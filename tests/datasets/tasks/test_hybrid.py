"""Bouncing, firing and dosing against their closed forms: what is predicted, and its gradient by every method."""

import pytest
import torch
from torch import Tensor

from odegrad.binding import solve_with
from odegrad.contracts import Solve
from odegrad.datasets.problems.hybrid.ball import Ball, ball_heights
from odegrad.datasets.problems.hybrid.neuron import Neuron, firing_period
from odegrad.datasets.problems.hybrid.patients import Patients, log_concentrations
from odegrad.datasets.problems.hybrid.problem import HybridModel, HybridProblem
from odegrad.registry import build_gradient, build_solver, build_task

NAMES = ("bouncing_ball", "integrate_and_fire", "dosing")
METHODS = ("naive", "symplectic_adjoint", "adjoint", "interpolation")


def solving(name: str) -> Solve:
    return solve_with(build_gradient(name), build_solver("dopri5", 1e-9, 1e-11))


def closed_form(model: HybridModel, inputs: Tensor) -> Tensor:
    if isinstance(model, Ball):
        times = torch.tensor(model.times, dtype=inputs.dtype)
        return ball_heights(inputs, model.restitution, model.field.gravity, times)[0]
    if isinstance(model, Neuron):
        return firing_period(inputs, model.field.weight, model.field.time_constant)
    assert isinstance(model, Patients)
    return log_concentrations(model, inputs)


@pytest.mark.parametrize("size", ["tiny", "default"])
@pytest.mark.parametrize("name", NAMES)
def test_predictions_and_gradients_are_those_of_the_closed_form(name: str, size: str) -> None:
    """The events' times are differentiated: without them the ball's gradient would be off by its own size."""
    problem = build_task(name).build(size, 0, torch.device("cpu"), torch.float64)
    assert isinstance(problem, HybridProblem)
    model, (inputs, targets) = problem.hybrid, problem.probe_batch()
    parameters = list(model.parameters())
    true = closed_form(model, inputs)
    known = torch.autograd.grad(((true - targets) ** 2).mean(), parameters)
    for method in METHODS if size == "tiny" else ("aca",):
        found = model.predicted(solving(method), inputs)
        torch.testing.assert_close(found, true, rtol=1e-7, atol=1e-8)
        got = torch.autograd.grad(problem.loss(solving(method), (inputs, targets)), parameters)
        for ours, theirs in zip(got, known, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_ball_comes_to_rest() -> None:
    """With little restitution the flights accumulate before the last time, and the ball lies still behind."""
    ball = Ball(9.81, 0.3, [0.3, 0.6, 1.0, 2.0]).double()
    inputs = torch.tensor([1.0], dtype=torch.float64)
    heights = ball.predicted(solving("naive"), inputs)
    torch.testing.assert_close(heights, closed_form(ball, inputs), rtol=1e-6, atol=1e-6)
    assert heights[2:].tolist() == [0.0, 0.0]


def test_true_heights_are_those_of_the_textbook() -> None:
    """A ball from 1 under g = 2 falls for 1, comes up to e^2 and is there after 1 + e."""
    times = torch.tensor([0.5, 1.0 + 0.5, 1.0 + 1.0], dtype=torch.float64)
    one, half, g = (torch.tensor(x, dtype=torch.float64) for x in ([1.0], 0.5, 2.0))
    torch.testing.assert_close(ball_heights(one, half, g, times)[0], torch.tensor([0.75, 0.25, 0.0]).double())
