"""Pieces of pull-backs that several methods share: one f call's, and the route that keeps the end only."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odegrad.methods.backward.entry import Route
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.loop import integrate
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.stepper import GridStep, Step


def add_to(total: Sequence[Tensor], pulled: Sequence[Tensor | None]) -> None:
    """Add the pulled-back parameters, where there are any, to ``total`` in place."""
    pairs = [(g, p) for g, p in zip(total, pulled, strict=True) if p is not None]
    if pairs:
        torch._foreach_add_([g for g, _ in pairs], [p for _, p in pairs])


def pull_call(
    field: FlatField, t: float, y: Tensor, a: Tensor, parameters: Sequence[Tensor], total: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return ``f(t, y)`` and ``f_y^T a``, ``[d]`` each, and add ``f_theta^T a`` to ``total``: one call with a graph."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        dy = field(t, y)
    if not dy.requires_grad:
        return dy, torch.zeros_like(y)
    of_state, *of_parameters = torch.autograd.grad(dy, (y, *parameters), a, allow_unused=True)
    add_to(total, of_parameters)
    return dy.detach(), torch.zeros_like(y) if of_state is None else of_state


class EndKept(Route):
    """Keeps the last carried vector ``[2d]`` and the steps' times: a pull-back inverts the steps from there."""

    def __init__(self, field: FlatField, solver: OneStepSolver, times: Sequence[float]) -> None:
        super().__init__(field, solver, times)
        self.grid: list[GridStep] = []

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep the end."""
        last: list[Tensor] = []

        def keep(step: Step) -> None:
            self.grid.append(step.place)
            if self.ends is not None:
                self.ends.record(step)
            last[:] = [step.x_next]

        ys = integrate(self.field, self.solver, y0, self.times, keep)
        return ys, (last[0],)
