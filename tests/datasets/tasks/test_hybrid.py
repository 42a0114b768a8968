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
from odegrad.errors import EventError, UnsupportedError
from odegrad.reference.reference import reference
from odegrad.reference.subject import of_problem
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


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_is_the_gradient_of_the_closed_form(name: str) -> None:
    """Its two ways cut the recorded steps up to each event finer, and find the event anew along them."""
    problem = build_task(name).build("tiny", 0, torch.device("cpu"), torch.float64)
    assert isinstance(problem, HybridProblem)
    inputs, targets = problem.probe_batch()
    parameters = list(problem.model.parameters())
    known = torch.autograd.grad(((closed_form(problem.hybrid, inputs) - targets) ** 2).mean(), parameters)
    found = reference(of_problem(problem))
    assert found.gradient is not None
    assert found.error is not None
    assert found.error <= 1e-10
    torch.testing.assert_close(found.gradient, torch.cat([g.reshape(-1) for g in known]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["mali", "reversible_rk", "torchdiffeq_adjoint"])
def test_methods_that_cannot_end_at_events_say_why(name: str) -> None:
    """No dense output to look for one in, or another library's solve; the row holds the sentence."""
    problem = build_task("bouncing_ball").build("tiny", 0, torch.device("cpu"), torch.float64)
    solver = build_solver("alf" if name == "mali" else "dopri5", 1e-4, 1e-4)
    with pytest.raises(UnsupportedError, match=r"event_fn: .*(no dense output|another library)"):
        problem.loss(solve_with(build_gradient(name), solver), problem.batch(0))


def test_a_neuron_that_never_fires_is_an_error() -> None:
    """Its input is too small: there is no event up to the latest time at which one is looked for."""
    with pytest.raises(EventError, match="rises through zero nowhere up to t_max = 50"):
        Neuron(0.5, 0.7).double().predicted(solving("naive"), torch.tensor([1.5], dtype=torch.float64))


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
