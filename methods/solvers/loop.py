"""The loops that every gradient method stands on: adaptive or fixed steps, and the replay of recorded ones.

A loop yields the accepted steps; who walks it takes from each what is wanted, before asking for the next.

Times and step sizes are Python floats: one read of the device per attempted step. The last output time is the end of a
step, and so is every other one unless the solver reads them from its dense output. The field is never called outside
the interval.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from odegrad.methods.fields.surroundings import inside_derivative
from odegrad.methods.solvers.control import StepSize
from odegrad.methods.solvers.dynamics import Dynamics, FlatField
from odegrad.methods.solvers.loops.adaptive import AdaptiveLoop
from odegrad.methods.solvers.loops.fixed import FixedLoop
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.stepper import AcceptedStep, GridStep, Stepper
from odegrad.methods.solvers.steppers import graph_stepper, plain_stepper
from odegrad.methods.solvers.tangent import controlled_stepper


def integrate(dynamics: Dynamics, solver: OneStepSolver, y0: Tensor, ts: Sequence[float]) -> Tensor:
    """Solve without a graph and return the states ``[K, d]`` at ``ts``, the first of which is ``y0``."""
    with torch.no_grad():
        return _walked(y0, steps(dynamics, solver, y0, ts))


def integrate_with_graph(field: FlatField, solver: OneStepSolver, y0: Tensor, ts: Sequence[float]) -> Tensor:
    """Solve with the graph of every accepted step and return ``[K, d]``; step sizes are constants to autograd.

    Where autograd is off there is no graph, and nothing is done for one, if no forward derivative is taken either.
    """
    if not (torch.is_grad_enabled() or inside_derivative()):
        return integrate(field, solver, y0, ts)
    return _walked(y0, steps_with_graph(field, solver, y0, ts))


def _walked(y0: Tensor, walk: Iterator[AcceptedStep]) -> Tensor:
    ys = [y0[None]]
    for step in walk:
        ys += step.ys
    return torch.cat(ys)


@torch.no_grad()
def steps(
    dynamics: Dynamics, solver: OneStepSolver, y0: Tensor, ts: Sequence[float], size: StepSize | None = None
) -> Iterator[AcceptedStep]:
    """Solve without a graph from ``y0 [d]`` and yield the accepted steps; each holds the outputs that it reaches.

    A known ``size`` is taken for the first step; the one after the last step is left in it.
    """
    if isinstance(dynamics, FlatField):
        stepper = controlled_stepper(solver, dynamics, y0, with_graph=False)
    else:
        stepper = plain_stepper(solver, dynamics, y0)
    yield from _loop(stepper, dynamics, solver, y0, ts, size)


def steps_with_graph(
    field: FlatField, solver: OneStepSolver, y0: Tensor, ts: Sequence[float]
) -> Iterator[AcceptedStep]:
    """Solve from ``y0 [d]`` and yield the accepted steps with their graph."""
    stepper = controlled_stepper(solver, field, y0.detach(), with_graph=True)
    return _loop(stepper, field, solver, y0, ts, None)


def replay(field: FlatField, solver: OneStepSolver, x: Tensor, grid: Sequence[GridStep], d: int) -> Tensor:
    """Redo the steps of ``grid`` from the carried vector ``x`` and return the last one; s f calls per step."""
    for x_next in replayed(field, solver, x, grid, d):
        x = x_next
    return x


def replayed(field: FlatField, solver: OneStepSolver, x: Tensor, grid: Sequence[GridStep], d: int) -> Iterator[Tensor]:
    """Redo the steps of ``grid`` from the carried vector ``x`` and yield it after each; s f calls per step."""
    stepper = plain_stepper(solver, field, x[:d])
    for i, step in enumerate(grid):
        stepper.repeat(step)
        x = stepper.attempt(step.t, step.h, step.t_next, x, whole=i < len(grid) - 1)
        stepper.accept()
        yield x


def replayed_with_graph(
    field: FlatField, solver: OneStepSolver, x: Tensor, grid: Sequence[GridStep], d: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Redo the steps of ``grid`` from the carried vector ``x`` with a graph; s f calls per step.

    Yield the carried vector after each, and the outputs ``[m, d]`` inside of it if there are any.
    """
    stepper = graph_stepper(solver, field, x[:d].detach())
    for step in grid:
        stepper.repeat(step)
        x_next = stepper.attempt(step.t, step.h, step.t_next, x, whole=bool(step.thetas))
        inside = stepper.dense(x, step.h, step.thetas) if step.thetas else None
        stepper.accept()
        x = x_next
        yield x, inside


def _loop(
    stepper: Stepper,
    dynamics: Dynamics,
    solver: OneStepSolver,
    y0: Tensor,
    ts: Sequence[float],
    size: StepSize | None,
) -> Iterator[AcceptedStep]:
    kind = AdaptiveLoop if solver.adaptive else FixedLoop
    return kind(stepper, dynamics, solver, y0.numel(), ts, size or solver.carried or StepSize()).steps(y0)
