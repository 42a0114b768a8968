"""Closed forms: the solution solves the equation, the closed-form gradient is the limit of every method's."""

from functools import partial
from typing import Any

import pytest
import torch

from odegrad.checks.problems import StepLog
from odegrad.datasets.problems.known_solution import ClosedForm
from odegrad.datasets.tasks.closed_form import Contracting, Linear, Logistic, Rotation
from odegrad.datasets.tasks.stiff import ProtheroRobinson
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

CPU = torch.device("cpu")
TASKS: list[ClosedForm] = [Linear(), Logistic(), Rotation(), Contracting(), ProtheroRobinson()]
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.info.name)
each_size = pytest.mark.parametrize("size", ["tiny", "default"])


def build(task: ClosedForm, size: str = "tiny") -> Any:
    return task.build(size, 0, CPU, torch.float64)


def solver(name: str, tolerance: float) -> Any:
    return partial(build_gradient(name), solver=make_solver("dopri5", rtol=tolerance, atol=tolerance))


def solved(name: str, tolerance: float) -> Any:
    method = solver(name, tolerance)
    return lambda field, y0, ts: method(field=field, y0=y0, ts=ts)


@each_task
@each_size
def test_solution_starts_at_y0_and_its_derivative_is_the_field(task: ClosedForm, size: str) -> None:
    """Checked by automatic differentiation in time, at every output time."""
    problem = build(task, size)
    starts, _ = problem.probe_batch()
    torch.testing.assert_close(problem.truth.solution(starts, problem.ts)[0], starts, rtol=1e-13, atol=1e-14)
    for t in problem.ts[1:]:

        def at(s: torch.Tensor) -> torch.Tensor:
            end: torch.Tensor = problem.truth.solution(starts, torch.stack([problem.ts[0], s]))[1]
            return end

        y, rate = torch.autograd.functional.jvp(at, t, torch.ones_like(t))
        torch.testing.assert_close(rate, problem.truth(t, y), rtol=1e-9, atol=1e-11)


@each_task
@each_size
def test_closed_form_gradient_is_the_limit_of_naive_backprop(task: ClosedForm, size: str) -> None:
    problem = build(task, size)
    batch = problem.probe_batch()
    truth = torch.cat([g.reshape(-1) for g in problem.true_gradient(batch)])
    loss = problem.loss(solved("naive", 1e-11), batch)
    found = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(problem.model.parameters()))])
    assert float((found - truth).norm() / truth.norm()) <= 1e-8


@each_task
def test_the_true_field_has_no_loss_and_the_initial_one_has(task: ClosedForm) -> None:
    problem = build(task)
    assert problem.loss(solved("naive", 1e-10), problem.probe_batch()).item() > 1e-4
    with torch.no_grad():
        for mine, true in zip(problem.model.parameters(), problem.truth.parameters(), strict=True):
            mine.copy_(true)
    assert problem.loss(solved("naive", 1e-10), problem.probe_batch()).item() <= 1e-15


@pytest.mark.filterwarnings("ignore::odegrad.errors.InaccurateGradientWarning")
def test_contracting_breaks_what_solves_the_state_backwards_and_nothing_else() -> None:
    """At the default size, rtol 1e-6: the adjoint's gradient is far off, the others' is exact to the tolerance."""
    problem = build(Contracting(), "default")
    batch = problem.probe_batch()
    truth = torch.cat([g.reshape(-1) for g in problem.true_gradient(batch)])
    errors = {}
    for name in ("naive", "aca", "interpolation", "adjoint"):
        loss = problem.loss(solved(name, 1e-6), batch)
        found = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(problem.model.parameters()))])
        errors[name] = float((found - truth).norm() / truth.norm())
    assert max(errors["naive"], errors["aca"], errors["interpolation"]) <= 1e-3
    assert errors["adjoint"] >= 0.05


def test_an_implicit_solver_takes_few_steps_where_an_explicit_one_would_take_millions() -> None:
    """At the paper size, rates of 1e3 and 1e6: the gradient is the closed form's to the tolerance."""
    problem = build(ProtheroRobinson(), "paper")
    batch = problem.probe_batch()
    log = StepLog()
    implicit = make_solver("kencarp4", rtol=1e-6, atol=1e-8).observed_by(log)
    loss = problem.loss(lambda field, y0, ts: build_gradient("aca")(field, implicit, y0, ts), batch)
    found = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(problem.model.parameters()))])
    truth = torch.cat([g.reshape(-1) for g in problem.true_gradient(batch)])
    assert float((found - truth).norm() / truth.norm()) <= 1e-5
    assert len(log.ends) <= 200
