"""The loops that every gradient method stands on: adaptive or fixed steps, and the replay of a recorded grid.

Times and step sizes are Python floats: one read of the device per attempted step. Every output time is the end of a
step, and the field is never called outside the interval.
"""

import abc
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from odegrad.errors import NonFiniteError, StepSizeUnderflowError, TooManyStepsError
from odegrad.methods.solvers.dynamics import Dynamics, FlatField
from odegrad.methods.solvers.solver import RungeKutta
from odegrad.methods.solvers.step import GraphStepper, PlainStepper, Step, Stepper

Grid = list[tuple[float, float, float]]
"""Accepted steps ``(t, h, t_next)`` in order."""

OnStep = Callable[[Step], None]
"""Called on every accepted step."""


def integrate(
    dynamics: Dynamics, solver: RungeKutta, y0: Tensor, ts: Sequence[float], on_step: OnStep | None = None
) -> list[Tensor]:
    """Solve without a graph and return the states ``[d]`` at ``ts``, the first of which is ``y0``."""
    with torch.no_grad():
        stepper = PlainStepper(dynamics, solver.tableau, y0)
        return _solve(stepper, dynamics, solver, y0, ts, on_step)


def integrate_with_graph(field: FlatField, solver: RungeKutta, y0: Tensor, ts: Sequence[float]) -> list[Tensor]:
    """Solve with the graph of every accepted step; step sizes are constants to autograd."""
    return _solve(GraphStepper(field, solver.tableau, y0.detach()), field, solver, y0, ts, None)


def replay_with_graph(field: FlatField, solver: RungeKutta, y: Tensor, grid: Grid) -> Tensor:
    """Redo the steps of ``grid`` from ``y [d]`` with a graph and return the last state; s f calls a step."""
    stepper = GraphStepper(field, solver.tableau, y.detach())
    for t, h, t_next in grid:
        y = stepper.attempt(t, h, t_next, y, evaluate_last=False)
        stepper.accept()
    return y


def _solve(
    stepper: Stepper,
    dynamics: Dynamics,
    solver: RungeKutta,
    y0: Tensor,
    ts: Sequence[float],
    on_step: OnStep | None,
) -> list[Tensor]:
    kind = _AdaptiveLoop if solver.adaptive else _FixedLoop
    loop = kind(stepper, dynamics, solver, on_step)
    ys = [y0]
    for t, t_end in itertools.pairwise(ts):
        ys.append(loop.advance(t, t_end, ys[-1], ts[-1]))
    return ys


class _Loop(abc.ABC):
    """What adaptive and fixed stepping share."""

    def __init__(self, stepper: Stepper, dynamics: Dynamics, solver: RungeKutta, on_step: OnStep | None) -> None:
        self.stepper = stepper
        self.dynamics = dynamics
        self.solver = solver
        self.on_step = on_step

    @abc.abstractmethod
    def advance(self, t: float, t_end: float, y: Tensor, t_last: float) -> Tensor:
        """Solve from ``t`` to the output time ``t_end`` and return the state ``[d]`` there."""

    def _accept(self, t: float, h: float, t_next: float, y: Tensor, y_next: Tensor) -> None:
        if self.solver.observer is not None:
            self.solver.observer.accepted(t, h)
        if self.on_step is not None:
            self.on_step(Step(t, h, t_next, y, y_next, self.stepper.stages))
        self.stepper.accept()


class _FixedLoop(_Loop):
    def advance(self, t: float, t_end: float, y: Tensor, t_last: float) -> Tensor:  # noqa: ARG002
        n = self.solver.steps_between(t, t_end)
        h = (t_end - t) / n
        start = t
        for i in range(n):
            t_next = t_end if i == n - 1 else start + (i + 1) * h
            y_next = self.stepper.attempt(t, h, t_next, y)
            self._accept(t, h, t_next, y, y_next)
            t, y = t_next, y_next
        if y.device.type == "cpu" and not bool(torch.isfinite(y.detach()).all()):
            raise NonFiniteError(
                f"solver {self.solver.name}: the state is not finite at t = {t_end:g} after {n} fixed steps of "
                f"h = {h:g}; take smaller steps, or an adaptive solver such as dopri5"
            )
        return y


class _AdaptiveLoop(_Loop):
    def __init__(self, stepper: Stepper, dynamics: Dynamics, solver: RungeKutta, on_step: OnStep | None) -> None:
        super().__init__(stepper, dynamics, solver, on_step)
        self.h: float | None = None
        self.attempts = 0

    def advance(self, t: float, t_end: float, y: Tensor, t_last: float) -> Tensor:
        control, order = self.solver.controller, self.solver.tableau.order
        h = self._first(t, t_last, y) if self.h is None else self.h
        while t != t_end:
            h, t_next = self._land(t, h, t_end)
            y_next = self.stepper.attempt(t, h, t_next, y)
            with torch.no_grad():
                error = self.stepper.stages.error(h)
                ratio = control.error_ratio(self.dynamics, error, y.detach(), y_next.detach())
            if ratio <= 1.0:
                self._accept(t, h, t_next, y, y_next)
                t, y = t_next, y_next
            elif self.solver.observer is not None:
                self.solver.observer.rejected(t, h)
            self._count(t, t_end, h, ratio)
            h = control.next_step(h, ratio, order)
        self.h = h
        return y

    def _first(self, t: float, t_last: float, y: Tensor) -> float:
        self.stepper.begin(t, y)
        if self.solver.first_step is not None:
            size = self.solver.first_step
        else:
            control, order = self.solver.controller, self.solver.tableau.order
            with torch.no_grad():
                f0 = self.stepper.stages.k[0]
                size = control.first_step(self.dynamics, t, t_last - t, y.detach(), f0, order)
        return math.copysign(size, t_last - t)

    def _land(self, t: float, h: float, t_end: float) -> tuple[float, float]:
        """Return the step, cut to end at ``t_end``, and its end."""
        if abs(h) >= abs(t_end - t):
            return t_end - t, t_end
        if t + h == t:
            raise StepSizeUnderflowError(
                f"solver {self.solver.name}: at t = {t:g} the step {h:g} no longer changes the time; the problem is "
                "stiff or singular there: loosen rtol and atol, or regularise the vector field"
            )
        return h, t + h

    def _count(self, t: float, t_end: float, h: float, ratio: float) -> None:
        self.attempts += 1
        if not math.isfinite(ratio) and abs(h) < 1e-10 * max(abs(t), abs(t_end)):
            raise NonFiniteError(
                f"solver {self.solver.name}: the field or the state is not finite just after t = {t:g} (step "
                f"{self.attempts}, h = {h:g}); check the parameters for NaN, clip gradients, or bound the vector field"
            )
        if self.attempts >= self.solver.max_steps and t != t_end:
            raise TooManyStepsError(
                f"solver {self.solver.name}: {self.attempts} steps were attempted and t = {t:g} is reached of "
                f"{t_end:g}, h = {h:g}; the problem may be stiff: loosen rtol and atol, or raise max_steps"
            )
