"""Which solver a check runs a method with, and which naive gradient it is held against."""

import dataclasses

import torch
from torch import Tensor

from odegrad.checks.problems import gradient
from odegrad.contracts import GradientMethod, equivalent_solver
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.implicit.tableau import Implicit
from odegrad.methods.solvers.rosenbrock.tableau import Rosenbrock
from odegrad.methods.solvers.solver import OneStepSolver, make_solver
from odegrad.user.models import Loss

LOW_ORDER = 2
"""Up to this order a tight tolerance takes very many steps."""


def fixed_solver(method: GradientMethod, solver: OneStepSolver, num_steps: int) -> OneStepSolver:
    """Return rk4 with ``num_steps`` per output interval, or ``solver`` in fixed steps.

    The latter where it is implicit, or the method takes no rk4.
    """
    if solver.implicit:
        return dataclasses.replace(solver, num_steps=num_steps)
    rk4 = make_solver("rk4", num_steps=num_steps)
    return rk4 if method.refuses(rk4) is None else dataclasses.replace(solver, num_steps=num_steps)


def for_mixed_samples(solver: OneStepSolver) -> OneStepSolver:
    """Return ``solver`` for a field whose samples depend on each other, which an implicit one takes as one matrix."""
    scheme = solver.scheme
    if not isinstance(scheme, Implicit | Rosenbrock):
        return solver
    return dataclasses.replace(solver, scheme=dataclasses.replace(scheme, linear="dense"))


def within_reach(solver: OneStepSolver, tolerance: float) -> float:
    """Return ``tolerance``, or the tightest that a solver of low order meets in reasonable time."""
    return tolerance if solver.order > LOW_ORDER else max(tolerance, 1e-6)


def at_tolerance(solver: OneStepSolver, tolerance: float) -> OneStepSolver:
    """Return ``solver`` at ``tolerance``, or at the tightest within reach."""
    value = within_reach(solver, tolerance)
    return solver.with_tolerances(value, value)


def naive_gradient(
    method: GradientMethod,
    field: torch.nn.Module,
    solver: OneStepSolver,
    y0: Tensor | tuple[Tensor, ...],
    ts: Tensor,
    loss: Loss,
) -> Tensor:
    """Return naive's gradient of the solution that ``method`` computes with ``solver``."""
    return gradient(Naive(), field, equivalent_solver(method, solver), y0, ts, loss)
